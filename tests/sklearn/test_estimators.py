"""The scikit-learn estimators: the contract of scikit-learn itself, and their numbers against NumPy and the engine.

Modules: modelpar/sklearn/arrays, modelpar/sklearn/base, modelpar/sklearn/classifier, modelpar/sklearn/transformer
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import warnings
from decimal import Decimal
from fractions import Fraction

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
from modelpar.errors import TrainingError
from modelpar.model.backprop import softmax
from modelpar.sklearn import DBNClassifier, RBMTransformer

# networks that are trained for a moment have one answer to all
pytestmark = pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")

# check of scikit-learn -> why it may fail
DRAWN = "minibatches are drawn in proportion to the weights, and an epoch has as many samples as have any weight"
EXPECTED_FAILURES: dict[tuple[type, str], dict[str, str]] = {
    (RBMTransformer, "float32"): {
        "check_sample_weight_equivalence_on_dense_data": DRAWN,
        "check_sample_weight_equivalence_on_sparse_data": DRAWN,
    },
    (DBNClassifier, "float32"): {
        "check_methods_sample_order_invariance": "to 1e-7: a BLAS may sum a sample at another place otherwise, and a "
        "last bit of float32 is 6e-8 (the check holds in float64)"
    },
}


@pytest.mark.slow
@parametrize_with_checks(
    [RBMTransformer(), RBMTransformer(hidden="drelu"), DBNClassifier(), DBNClassifier(dtype="float64")],
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
        rbm = RBMTransformer(40, random_state=seed, persistent=True, batch_size=20, learning_rate=0.05)
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


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_weights_of_samples(small, method):
    """Samples of weight 0 are as if they were not there, equal weights as none; others change what is learned."""
    X, _ = small
    kept = np.arange(len(X)) % 3 > 0

    def components(X, weights=None):
        model = RBMTransformer(12, n_iter=3, random_state=4, batch_size=20)
        return getattr(model, method)(X, sample_weight=weights).components_

    np.testing.assert_array_equal(components(X, 2.5 * kept), components(X[kept]))
    assert not np.array_equal(components(X, np.arange(len(X))), components(X))
    with pytest.raises(ValueError, match="sample_weight have the value -1"):
        components(X, -kept.astype(float))
    with pytest.raises(ValueError, match="sample_weight are 3 numbers"):
        components(X, np.ones(3))


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
    ("parameters", "expected"),
    [
        ({"rbm_learning_rate": -1}, "rbm_learning_rate is -1, but must be at least 0"),
        ({"learning_rate_init": -1}, "learning_rate_init is -1"),
        ({"hidden_layer_sizes": (4, 0)}, "hidden_layer_sizes has a layer of 0 units"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"random_state": -1}, "random_state is -1, but must be at least 0"),
        ({"random_state": True}, "random_state is True"),
        ({"hidden_layer_sizes": (4, 2.5)}, "hidden_layer_sizes has a layer of 2.5 units"),
        ({"hidden_layer_sizes": ()}, r"hidden_layer_sizes is \(\), but must be an integer, or several"),
        ({"hidden_layer_sizes": "4"}, "hidden_layer_sizes is '4'"),
        ({"batch_size": 0}, "batch_size is 0, but must be at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5, but must be an integer or 'auto'"),
        ({"max_iter": np.int64(-3)}, "max_iter is -3, but must be at least 0"),
        ({"max_iter": np.float64(3)}, "max_iter is 3.0, but must be an integer"),
        ({"rbm_n_iter": True}, "rbm_n_iter is True, but must be an integer"),
        ({"rbm_gaussian_learning_rate": "a"}, "rbm_gaussian_learning_rate is 'a'"),
        ({"alpha": -1}, "alpha is -1, but must be at least 0"),
        ({"alpha": "much"}, "alpha is 'much', but must be a finite number"),
        ({"momentum": None}, "momentum is None, but must be a finite number"),
        ({"momentum": 1}, "momentum is 1, but must be below 1"),
        ({"statistics": 9}, "statistics is 9, but must be one of 1, 2"),
        ({"early_stopping": "no"}, "early_stopping is 'no', but must be true or false"),
        ({"early_stopping": True, "n_iter_no_change": 0}, "n_iter_no_change is 0, but must be at least 1"),
        ({"early_stopping": True, "validation_fraction": 2}, "validation_fraction is 2, but must be below 1"),
        ({"dtype": "float16"}, "dtype is 'float16', but must be one of float32, float64"),
        ({"model_shards": "two"}, "model_shards is 'two', but must be an integer"),
        ({"model_shards": 3}, "3 model shards"),
        ({"comm": 3}, "comm is 3, but must be a communicator"),
        ({"comm": MPI.COMM_NULL}, "comm is COMM_NULL, but must be a communicator"),
        ({"visible": "binary"}, "visible is 'binary', but must be one of auto, bernoulli, gaussian"),
    ],
)
def test_wrong_parameters(small, parameters, expected):
    with pytest.raises(ValueError, match=expected) as refused:
        quick(**parameters).fit(*small)
    assert "--" not in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"n_components": 0}, "n_components is 0, but must be at least 1"),
        ({"n_components": 2.5}, "n_components is 2.5, but must be an integer"),
        ({"n_iter": -1}, "n_iter is -1, but must be at least 0"),
        ({"learning_rate": -1}, "learning_rate is -1, but must be at least 0"),
        ({"momentum": "a"}, "momentum is 'a'"),
        ({"gibbs_steps": 0}, "gibbs_steps is 0, but must be at least 1"),
        ({"persistent": "yes"}, "persistent is 'yes', but must be true or false"),
        ({"statistics": "many"}, "statistics is 'many'"),
        ({"visible": "x"}, "visible is 'x', but must be one of auto, bernoulli, spin, categorical:Q, gaussian"),
    ],
)
def test_wrong_parameters_of_the_transformer(small, parameters, expected):
    for method in ("fit",) if "n_iter" in parameters else ("fit", "partial_fit"):  # which makes one pass
        with pytest.raises(ValueError, match=expected) as refused:
            getattr(RBMTransformer(**{"random_state": 1, **parameters}), method)(small[0])
        assert "--" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_breakdown_names_the_rate_that_was_too_high(small):
    X, y = small
    with pytest.raises(TrainingError, match=r"use a smaller learning_rate$"):
        RBMTransformer(10, n_iter=2, learning_rate=1e4, random_state=1).fit(X * 9 - 3)
    with pytest.raises(TrainingError, match=r"use a smaller rbm_gaussian_learning_rate$"):
        quick(rbm_gaussian_learning_rate=1e4).fit(X * 9 - 3, y)
    with pytest.raises(TrainingError, match=r"use a smaller rbm_learning_rate$"):
        quick(rbm_learning_rate=1e5).fit(X, y)
    with pytest.raises(TrainingError, match=r"use a smaller learning_rate_init$"):
        quick(rbm_n_iter=0, learning_rate_init=1e5).fit(X, y)


def test_numbers_of_any_kind_make_the_same_model(small):
    """As lists of NumPy's arrays hand them over; the parameters stay what they were given as."""
    X, y = small
    plain = {"hidden_layer_sizes": (9, 7), "rbm_n_iter": 1, "max_iter": 2, "batch_size": 20, "rbm_learning_rate": 0.125,
             "momentum": 0.5, "alpha": 0.25, "dropout": 0.25, "n_iter_no_change": 3, "validation_fraction": 0.25,
             "early_stopping": True, "statistics": "3", "random_state": 5}  # fmt: skip
    given = {"hidden_layer_sizes": np.array([9, 7]), "rbm_n_iter": np.int8(1), "max_iter": np.array(2),
             "batch_size": np.uint8(20), "rbm_learning_rate": np.float32(0.125), "momentum": Fraction(1, 2),
             "alpha": np.array(0.25), "dropout": Decimal("0.25"), "n_iter_no_change": np.int64(3),
             "validation_fraction": np.float16(0.25), "early_stopping": np.True_, "statistics": np.int64(3),
             "random_state": np.uint16(5)}  # fmt: skip
    model = clone(DBNClassifier(**given))
    expected = quick(**plain).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(model.fit(X, y).predict_proba(X), expected)
    assert model.get_params()["max_iter"] is model.max_iter
    assert type(model.max_iter) is np.ndarray
    rbm = RBMTransformer(np.int64(9), n_iter=np.uint8(2), learning_rate=np.float32(0.125), persistent=np.True_,
                         gibbs_steps=np.array(1), statistics=1, random_state=np.array(4)).fit(X)  # fmt: skip
    same = RBMTransformer(9, n_iter=2, learning_rate=0.125, persistent=True, statistics="1", random_state=4).fit(X)
    np.testing.assert_array_equal(rbm.components_, same.components_)
    assert type(rbm.n_iter_) is int


def test_statistics_change_what_is_learned(small):
    X, y = small
    made = [RBMTransformer(9, n_iter=1, statistics=k, random_state=4).fit(X).components_ for k in (1, 4, "float")]
    assert not np.array_equal(made[0], made[1])
    assert not np.array_equal(made[1], made[2])
    np.testing.assert_array_equal(made[1], RBMTransformer(9, n_iter=1, random_state=4).fit(X).components_)
    models = [quick(statistics=k).fit(X, y).intercepts_visible_[0] for k in (1, "float")]
    assert not np.array_equal(*models)


def test_seeds(small):
    X, _ = small
    for make in (lambda: np.random.RandomState(3), lambda: np.random.default_rng(3)):
        first, second = (RBMTransformer(4, n_iter=1, random_state=make()).fit(X) for _ in range(2))
        np.testing.assert_array_equal(first.components_, second.components_)
    with pytest.raises(ValueError, match="seed"):
        RBMTransformer(4, n_iter=1, random_state="today").fit(X)


@pytest.mark.parametrize("values", [np.arange(1, 4), np.array([1, 2], np.uint8), range(1, 3)], ids=repr)
def test_grid_search_over_numbers_of_numpy(small, values):
    X, y = small
    model = quick(hidden_layer_sizes=(5,), rbm_n_iter=0)
    search = GridSearchCV(model, {"max_iter": values}, cv=2, error_score="raise").fit(X, y)
    assert search.best_estimator_.n_iter_ in values


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


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::scipy.sparse.SparseEfficiencyWarning")
def test_every_form_of_X_is_the_same(small):
    X, y = small
    X = X.astype(np.float32)
    row, column = np.nonzero(X)
    halves = X[row, column] / 2
    order = np.argsort(np.tile(row, 2), kind="stable")
    starts = np.concatenate([[0], np.cumsum(2 * np.bincount(row, minlength=len(X)))])
    doubled = scipy.sparse.csr_array((np.tile(halves, 2)[order], np.tile(column, 2)[order], starts), shape=X.shape)
    alone = RBMTransformer(9, n_iter=1, random_state=1)
    wanted = clone(alone).fit(X).components_
    before = doubled.data.copy()
    kinds = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")
    forms = [getattr(scipy.sparse, f"{kind}_matrix")(X) for kind in kinds]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        forms += [
            doubled,
            np.asfortranarray(X),
            X[::-1][::-1],
            X.astype(">f4"),
            X.tolist(),
            np.asmatrix(X),
            np.ma.array(X),
        ]
    for form in forms:
        assert np.array_equal(clone(alone).fit(form).components_, wanted)
    assert np.array_equal(doubled.data, before)
    # entries that are below 1 each, and are 1.2 together
    beyond = scipy.sparse.csr_array(([0.6, 0.6, 0.5], [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    assert (
        RBMTransformer(2, n_iter=1).fit(beyond).visible_ == RBMTransformer(2, n_iter=1).fit(beyond.toarray()).visible_
    )
    for estimator in (RBMTransformer(2), DBNClassifier((2,))):
        with pytest.raises(ValueError, match="masked"):
            estimator.fit(np.ma.masked_less(X, 0.5), y)
    fitted = clone(alone).fit(X)
    for wrong in (X[:, 1:], scipy.sparse.csr_array(X[:, 1:])):
        for method in (fitted.transform, fitted.gibbs, fitted.score_samples):
            with pytest.raises(ValueError, match="63 features"):
                method(wrong)


@pytest.mark.parametrize("form", [np.uint8, ">i4", np.float64, str, bool, "O"])
def test_labels_of_every_type(small, form):
    X, y = small
    y = (y % 2).astype(str if form == "O" else form).astype(form)
    model = DBNClassifier((5,), rbm_n_iter=1, max_iter=1, random_state=0).fit(X, y)
    plain = DBNClassifier((5,), rbm_n_iter=1, max_iter=1, random_state=0).fit(X, small[1] % 2)
    assert np.array_equal(model.coefs_[0], plain.coefs_[0])
    assert set(model.predict(X)) <= set(y)
