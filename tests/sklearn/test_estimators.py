"""The scikit-learn estimators: the contract of scikit-learn itself, and their numbers against NumPy and the engine."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse
from mpi4py import MPI

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from modelpar import Grid
from modelpar.model.backprop import softmax
from modelpar.sklearn import DBNClassifier, RBMTransformer

# networks that are trained for a moment have one answer to all
pytestmark = pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")

# check of scikit-learn -> why it may fail
EXPECTED_FAILURES: dict[tuple[type, str], dict[str, str]] = {
    (DBNClassifier, "float32"): {
        "check_methods_sample_order_invariance": "to 1e-7: a BLAS may sum a sample at another place otherwise, and a "
        "last bit of float32 is 6e-8 (the check holds in float64)"
    }
}


@parametrize_with_checks(
    [RBMTransformer(), DBNClassifier(), DBNClassifier(dtype="float64")],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES.get((type(estimator), estimator.dtype), {}),
)
def test_contract_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def small(digits):
    """(X in [0, 1], y) of a few digits"""
    X, _, y, _ = digits
    return X[:200] / 16, y[:200]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def quick(**parameters):
    settings = {"hidden_layer_sizes": (20, 12), "rbm_n_iter": 2, "max_iter": 3, "random_state": 5}
    return DBNClassifier(**{**settings, **parameters})


# ---- numbers


def test_classifier_in_a_pipeline(digits):
    X, X_test, y, y_test = digits
    names = np.array([f"digit {k}" for k in range(10)])
    model = make_pipeline(MinMaxScaler(), DBNClassifier((128, 128), random_state=1)).fit(X, names[y])
    assert model.score(X_test, names[y_test]) > 0.95
    assert model[-1].visible_ == "bernoulli"
    assert set(model.predict(X_test)) == set(names)


def test_transformer_helps_a_linear_model(digits):
    """On 64 binary features the pixels alone leave a linear model behind the features of an RBM."""
    X, X_test, y, y_test = digits
    X, X_test = (X > 8).astype(float), (X_test > 8).astype(float)
    plain = LogisticRegression(max_iter=2000).fit(X, y).score(X_test, y_test)
    model = make_pipeline(RBMTransformer(300, n_iter=30, random_state=0), LogisticRegression(max_iter=2000)).fit(X, y)
    assert model.score(X_test, y_test) > plain


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_are_those_of_numpy(small, dtype):
    X, _ = small
    rbm = RBMTransformer(30, n_iter=2, random_state=3, dtype=dtype).fit(X)
    expected = sigmoid(X @ rbm.components_.T.astype(float) + rbm.intercept_hidden_)
    assert rbm.transform(X).dtype == dtype
    np.testing.assert_allclose(rbm.transform(X), expected, atol=1e-6 if dtype == "float32" else 1e-13)


def test_gaussian_units_standardise(small):
    X = small[0] * 7 - 3
    rbm = RBMTransformer(10, n_iter=1, random_state=3, dtype="float64").fit(X)
    deviation = X.std(axis=0)
    v = (X - X.mean(axis=0)) / np.where(deviation > 1e-12, deviation, 1)
    assert rbm.visible_ == "gaussian"
    expected = sigmoid(v @ rbm.components_.T + rbm.intercept_hidden_)
    np.testing.assert_allclose(rbm.transform(X), expected, atol=1e-12)


def test_scores_are_the_pseudo_likelihood(small):
    """Against the definition: the score of a sample is that of one of its units, n log p(v_i | all others)."""
    X = (small[0][:20] > 0.5).astype(float)
    rbm = RBMTransformer(10, n_iter=3, random_state=3, dtype="float64").fit(X)

    def free_energy(v):
        inputs = v @ rbm.components_.T + rbm.intercept_hidden_
        return -v @ rbm.intercept_visible_ - np.logaddexp(0, inputs).sum(axis=-1)

    turned = X[:, None, :] + np.eye(64) * (1 - 2 * X[:, None, :])  # (samples, unit that is turned over, units)
    every = -64 * np.logaddexp(0, free_energy(X)[:, None] - free_energy(turned))
    scores = rbm.score_samples(X)
    nearest = np.abs(every - scores[:, None]).argmin(axis=1)
    np.testing.assert_allclose(every[np.arange(20), nearest], scores, rtol=1e-9)
    assert len(set(nearest)) > 5


def test_gibbs_samples_the_conditionals():
    """Mean of many single steps from one state, against sum over h of p(h | v) p(v' | h) by enumeration."""
    rbm = RBMTransformer(3, n_iter=0, random_state=0, dtype="float64").fit(np.eye(4))
    rng = np.random.default_rng(0)
    rbm.components_ = rng.normal(0, 2, (3, 4))
    rbm.intercept_hidden_, rbm.intercept_visible_ = rng.normal(size=3), rng.normal(size=4)
    v = np.array([1.0, 0.0, 1.0, 0.0])
    p = sigmoid(rbm.components_ @ v + rbm.intercept_hidden_)
    states = np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T
    weights = np.prod(np.where(states == 1, p, 1 - p), axis=1)
    expected = weights @ sigmoid(states @ rbm.components_ + rbm.intercept_visible_)
    drawn = rbm.gibbs(np.tile(v, (20000, 1)))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(axis=0), expected, atol=0.02)  # 5 standard deviations
    assert not np.array_equal(drawn, rbm.gibbs(np.tile(v, (20000, 1))))


def test_probabilities_are_the_networks(small):
    X, y = small
    model = quick().fit(X, y)
    with Grid(MPI.COMM_SELF) as grid:
        logits = model.network(grid).logits(np.ascontiguousarray(X.T, np.float32))
        softmax(logits)
    np.testing.assert_array_equal(model.predict_proba(X), logits.T)


def test_probabilities_are_those_of_numpy(small):
    X, y = small
    model = quick(dtype="float64").fit(X, y)
    a = X
    for W, c in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        a = sigmoid(a @ W + c)
    x = a @ model.coefs_[-1] + model.intercepts_[-1]
    expected = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-12)


# ---- life of an estimator


def test_sparse_and_dense_are_the_same(small):
    X, y = small
    for sparse in (scipy.sparse.csr_matrix(X), scipy.sparse.csc_array(X)):
        np.testing.assert_array_equal(quick().fit(sparse, y).predict_proba(sparse), quick().fit(X, y).predict_proba(X))
        rbm = RBMTransformer(8, n_iter=1, random_state=1).fit(sparse)
        np.testing.assert_array_equal(rbm.score_samples(sparse), rbm.score_samples(X))


def test_copies(small):
    X, y = small
    model = quick(comm=MPI.COMM_WORLD).fit(X, y)
    expected = model.predict_proba(X)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        np.testing.assert_array_equal(other.predict_proba(X), expected)
    assert pickle.loads(pickle.dumps(model)).comm is None
    assert copy.deepcopy(model).comm is model.comm is clone(model).comm
    assert not hasattr(clone(model), "coefs_")
    np.testing.assert_array_equal(clone(model).fit(X, y).predict_proba(X), expected)


def test_partial_fit_goes_on(small):
    """Passes by partial_fit lower the reconstruction error as fit's epochs do; momentum and chains are carried over."""
    X, _ = small
    ratios = []
    for seed in range(2, 8):
        rbm = RBMTransformer(40, random_state=seed, persistent=True, batch_size=20)
        errors = [reconstruction_error(rbm.partial_fit(X), X) for _ in range(10)]
        assert rbm.h_samples_.shape == (20, 40)
        assert rbm.n_iter_ == 10
        ratios.append(np.mean(errors[1:]) / errors[0])
    # A single chain's last error goes up and down by a tenth: all passes of six chains are judged.
    assert np.mean(ratios) < 0.95
    before = rbm.components_.copy()
    assert not np.array_equal(rbm.partial_fit(X[:1]).components_, before)


def reconstruction_error(rbm, X):
    h = sigmoid(X @ rbm.components_.T + rbm.intercept_hidden_)
    return np.mean((X - sigmoid(h @ rbm.components_ + rbm.intercept_visible_)) ** 2)


def test_fit_equals_passes_by_partial_fit(small):
    """Without momentum an epoch of fit and a pass of partial_fit are the same updates."""
    X, _ = small
    settings = {"n_components": 12, "momentum": 0.0, "random_state": 4, "batch_size": 20}
    fitted, passed = RBMTransformer(n_iter=3, **settings).fit(X), RBMTransformer(**settings)
    for _ in range(3):
        passed.partial_fit(X)
    np.testing.assert_allclose(passed.components_, fitted.components_, atol=1e-6)


def test_names_of_features(small):
    X, _ = small
    rbm = RBMTransformer(3, n_iter=1, random_state=0).fit(X)
    assert list(rbm.get_feature_names_out()) == ["rbmtransformer0", "rbmtransformer1", "rbmtransformer2"]


def test_early_stopping(small):
    X, y = small
    model = quick(early_stopping=True, n_iter_no_change=2, max_iter=50).fit(X, y)
    scores = model.validation_scores_
    assert model.n_iter_ == len(scores) == np.argmax(scores) + 1 + 2 < 50
    _, aside = train_test_split(np.arange(len(y)), test_size=0.1, stratify=y, random_state=5)
    assert model.score(X[aside], y[aside]) == model.best_validation_score_ == max(scores)  # the best ones are kept


def test_grid_search(small):
    X, y = small
    pipeline = make_pipeline(StandardScaler(), quick(max_iter=1))
    search = GridSearchCV(pipeline, {"dbnclassifier__dropout": [0, 0.2]}, cv=2)
    assert search.fit(X, y).best_score_ > 0


# ---- mistakes


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"rbm_learning_rate": -1}, "rbm_learning_rate is -1, but must be at least 0"),
        ({"learning_rate_init": -1}, "learning_rate_init is -1"),
        ({"hidden_layer_sizes": (4, 0)}, "hidden_layer_sizes has a layer of 0 units"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"random_state": -1}, "seed is -1"),
        ({"model_shards": 3}, "3 model shards"),
        ({"visible": "binary"}, "visible is 'binary'"),
    ],
)
def test_wrong_parameters(small, parameters, told):
    with pytest.raises(ValueError, match=told):
        quick(**parameters).fit(*small)


def test_values_that_do_not_fit_bernoulli_units(small):
    X, y = small
    with pytest.raises(ValueError, match=r"from -1 to 15.*MinMaxScaler"):
        quick(visible="bernoulli").fit(X * 16 - 1, y)
    assert quick(visible="bernoulli").fit(X + 1e-9, y).visible_ == "bernoulli"  # rounding of a scaler


def test_without_scikit_learn(monkeypatch):
    for name in [name for name in sys.modules if name == "modelpar.sklearn" or name.startswith("modelpar.sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'modelpar\[sklearn\]'"):
        importlib.import_module("modelpar.sklearn")
