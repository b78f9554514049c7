"""The scikit-learn estimators over many ranks: one seed, one model, and errors on all ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import open_dataset
from modelpar.errors import ModelparError
from tests.networks import grids

pytest.importorskip("sklearn")

from sklearn.base import clone

from modelpar.sklearn import DBNClassifier, RBMTransformer

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def digits():
    """(X in [0, 1], labels) of 150 of the embedded digits"""
    split = open_dataset("digits").train
    X = np.empty((64, 150))
    split.table.columns(np.arange(64)).fill(split.rows[:150], X)
    return np.ascontiguousarray(X.T) / 16, split.labels[:150]


def test_transformer_is_the_same_at_every_grid(comm, agree, digits):
    X, _ = digits
    alone = RBMTransformer(13, n_iter=2, random_state=3, dtype="float64", persistent=True)
    expected = clone(alone).fit(X)
    for shards, replicas in grids(comm):
        rbm = clone(alone).set_params(comm=comm, model_shards=shards, replicas=replicas).fit(X)
        assert rbm.comm is comm
        agree(np.allclose(rbm.components_, expected.components_, rtol=0, atol=1e-10), f"{shards} x {replicas}")
        agree(np.allclose(rbm.transform(X[:7]), expected.transform(X[:7]), rtol=0, atol=1e-10))
        agree(np.allclose(rbm.score_samples(X[:7]), expected.score_samples(X[:7]), rtol=1e-9))
        agree(np.array_equal(rbm.h_samples_, expected.h_samples_))
        agree(np.array_equal(rbm.gibbs(X[:7]), clone(alone).fit(X).gibbs(X[:7])))
        rbm.partial_fit(X[:50])
        agree(np.array_equal(comm.bcast(rbm.components_), rbm.components_), "ranks have the same arrays")


def test_classifier_is_the_same_at_every_grid(comm, agree, digits):
    X, y = digits
    alone = DBNClassifier((17, 9), rbm_n_iter=1, max_iter=2, random_state=3, dtype="float64", early_stopping=True)
    expected = clone(alone).fit(X, y).predict_proba(X)
    for shards, replicas in grids(comm):
        model = clone(alone).set_params(comm=comm, model_shards=shards, replicas=replicas).fit(X, y)
        agree(np.allclose(model.predict_proba(X), expected, rtol=0, atol=1e-8), f"{shards} x {replicas}")


def test_a_seed_of_chance_is_shared(comm, agree, digits):
    rbm = RBMTransformer(5, n_iter=1, comm=comm).fit(digits[0])
    agree(np.array_equal(comm.bcast(rbm.components_), rbm.components_))


def test_what_is_wrong_on_one_rank_is_raised_on_all(comm, digits):
    X = digits[0].copy()
    if comm.rank == comm.size - 1:
        X[0, 0] = np.nan
    with pytest.raises((ValueError, ModelparError), match="NaN"):
        RBMTransformer(5, comm=comm).fit(X)


def test_ranks_with_different_data(comm, digits):
    X = digits[0][: 100 + comm.rank]
    if comm.size > 1:
        with pytest.raises(ValueError, match="differ between the ranks"):
            RBMTransformer(5, comm=comm).fit(X)


def test_a_grid_that_does_not_fit(comm, digits):
    with pytest.raises(ValueError, match=f"model shards do not divide the {comm.size}"):
        RBMTransformer(5, comm=comm, model_shards=comm.size + 1).fit(digits[0])


def test_alone_beside_the_others(comm, digits):
    """Without a communicator an estimator is this rank's own business, whatever the others do."""
    if comm.rank == 0:
        assert RBMTransformer(5, n_iter=1, comm=MPI.COMM_SELF).fit_transform(digits[0]).shape == (150, 5)


# what differs on the last rank -> what the message names
DIFFERENT = {
    "rows": "the values of X",
    "labels": "the values of y",
    "names of classes": "classes",
    "epochs": "max_iter is 1 on ranks? 0",
    "seed": "random_state is 3 on ranks? 0",
    "generator": "random_state is",
    "another method": "fit on ranks? 0",
    "grid": "model_shards is None on ranks? 0",
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_refused_on_all_ranks(comm, agree, digits, what):
    """A split without a seed is the usual way to get there: shapes agree, rows do not."""
    if comm.size == 1:
        return
    X, y = digits
    odd = comm.rank == comm.size - 1
    settings = {"hidden_layer_sizes": (5,), "rbm_n_iter": 0, "max_iter": 1, "random_state": 3, "comm": comm}
    if odd:
        y = {"labels": y[::-1], "names of classes": np.where(y == 9, 10, y)}.get(what, y)
        X = X[::-1] if what == "rows" else X
        settings |= {"epochs": {"max_iter": 2}, "seed": {"random_state": 4}, "grid": {"model_shards": 1}}.get(what, {})
    if what == "generator":
        settings["random_state"] = np.random.RandomState(comm.rank)
    method = DBNClassifier(**settings).fit
    if what == "another method" and odd:
        method = RBMTransformer(5, comm=comm).partial_fit
    with pytest.raises(ValueError, match=DIFFERENT[what]) as refused:
        method(X, y)
    agree(comm.bcast(str(refused.value)) == str(refused.value))
    agree(str(comm.size - 1) in str(refused.value))


def test_fitted_models_that_differ(comm, digits):
    if comm.size == 1:
        return
    X, y = digits
    odd = comm.rank == comm.size - 1
    settings = {"random_state": 3, "dtype": "float64"}
    rbm = RBMTransformer(5, n_iter=1, **settings).fit(X).set_params(comm=comm)
    rbm.components_[2, 3] += odd
    with pytest.raises(ValueError, match="components_"):
        rbm.transform(X[:5])
    rbm.components_[2, 3] -= odd
    with pytest.raises(ValueError, match="the values of X"):
        rbm.transform(X[:20] + odd / 10)
    with pytest.raises(ValueError, match="the values of X"):
        rbm.score_samples(X[:20] + odd / 10)
    rbm.random_state_ = np.random.RandomState(7 + odd)
    with pytest.raises(ValueError, match="random_state is"):
        rbm.gibbs(X[:20])
    begun = RBMTransformer(5, persistent=True, **settings).partial_fit(X[: 100 - 10 * odd])
    begun.set_params(comm=comm)
    with pytest.raises(ValueError, match=r"passes\.samples is 100 on ranks? 0"):
        begun.partial_fit(X)
    model = DBNClassifier((5,), rbm_n_iter=0, max_iter=1, **settings).fit(X, y).set_params(comm=comm)
    model.coefs_[1][0, 0] += odd
    with pytest.raises(ValueError, match=r"coefs_\[1\]"):
        model.predict(X[:5])


def test_a_rank_that_was_not_fitted(comm, digits):
    rbm = RBMTransformer(5, n_iter=1, random_state=1)
    if comm.rank < comm.size - 1:
        rbm.fit(digits[0])
    with pytest.raises(ValueError, match="not fitted"):
        rbm.set_params(comm=comm).transform(digits[0])
