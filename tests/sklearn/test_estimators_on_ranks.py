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
