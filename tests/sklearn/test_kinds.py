"""RBMTransformer with every kind of visible and hidden units: features, samples and scores by their definitions."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from modelpar.sklearn import RBMTransformer
from modelpar.units.hidden.kinds import KINDS as REAL

pytestmark = pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")

HIDDEN = ("bernoulli", *REAL)
N, FEATURES, Q = 60, 5, 3
RNG = np.random.default_rng(6)
X_OF = {
    "bernoulli": (RNG.random((N, FEATURES)) < 0.4).astype(float),
    "spin": 2.0 * (RNG.random((N, FEATURES)) < 0.4) - 1,
    f"categorical:{Q}": RNG.integers(0, Q, (N, FEATURES)),
    "gaussian": RNG.normal(3, 2, (N, FEATURES)),
}


def fitted(visible: str, hidden: str = "bernoulli", **more) -> RBMTransformer:
    how = {"n_iter": 3, "random_state": 4, "dtype": "float64", **more}
    return RBMTransformer(4, visible=visible, hidden=hidden, **how).fit(X_OF[visible])


def activations(model: RBMTransformer, X) -> np.ndarray:
    """(samples, units) as the energy has them."""
    if ":" in model.visible_:
        return (np.asarray(X)[:, :, None] == np.arange(Q)).reshape(len(X), -1).astype(float)
    return (np.asarray(X, float) - model.input_offset_) / model.input_scale_


@pytest.mark.parametrize(("visible", "hidden"), list(itertools.product(X_OF, HIDDEN)))
def test_every_pair_of_kinds(visible: str, hidden: str) -> None:
    """Fit, features, samples, scores, clones and pickles; with weights of samples, and going on."""
    X, weights = X_OF[visible], RNG.random(N)
    model = RBMTransformer(4, visible=visible, hidden=hidden, n_iter=2, random_state=1)
    model.fit(X, sample_weight=weights)
    n_units = FEATURES * (Q if ":" in visible else 1)
    assert (model.visible_, model.n_features_in_, model.components_.shape) == (visible, FEATURES, (4, n_units))
    features = model.transform(X)
    assert features.shape == (N, 4)
    assert np.isfinite(features).all()
    assert list(model.get_feature_names_out()) == [f"rbmtransformer{k}" for k in range(4)]
    drawn, scores = model.gibbs(X), model.score_samples(X)
    assert drawn.shape == X.shape
    if visible != "gaussian":
        assert set(np.unique(drawn)) <= set(np.unique(X).astype(float))
    assert scores.shape == (N,)
    assert np.isfinite(scores).all()
    again, loaded = clone(model).fit(X, sample_weight=weights), pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.components_, model.components_)
    assert np.array_equal(loaded.transform(X), features)
    model.partial_fit(X)
    assert not np.array_equal(model.components_, again.components_)
    if visible != "gaussian":
        sparse = model.transform(scipy.sparse.csr_matrix(X))
        assert np.allclose(sparse, model.transform(X), atol=1e-6)


@pytest.mark.parametrize("visible", X_OF)
def test_features_are_those_of_numpy(visible: str) -> None:
    model, X = fitted(visible), X_OF[visible]
    inputs = activations(model, X) @ model.components_.T + model.intercept_hidden_
    assert np.allclose(model.transform(X), 1 / (1 + np.exp(-inputs)), atol=1e-12)


@pytest.mark.parametrize("visible", ["spin", f"categorical:{Q}"])
def test_scores_are_those_of_one_feature_given_the_others(visible: str) -> None:
    model, X = fitted(visible), X_OF[visible]
    states = (-1.0, 1.0) if visible == "spin" else range(Q)

    def minus_free_energy(X):
        v = activations(model, X)
        inputs = v @ model.components_.T + model.intercept_hidden_
        return v @ model.intercept_visible_ + np.logaddexp(0, inputs).sum(axis=-1)

    every = np.empty((N, FEATURES))  # by feature
    for feature in range(FEATURES):
        others = []
        for state in states:
            changed = np.array(X, float)
            changed[:, feature] = state
            others.append(minus_free_energy(changed))
        every[:, feature] = FEATURES * (minus_free_energy(X) - np.logaddexp.reduce(others, axis=0))
    nearest = np.abs(every - model.score_samples(X)[:, None]).min(axis=1)
    assert nearest.max() < 1e-9


def test_samples_are_those_of_the_conditionals() -> None:
    """Means of many single steps from one state of sites, against a sum over all hidden states."""
    model = fitted(f"categorical:{Q}")
    model.components_ = RNG.normal(0, 1.5, model.components_.shape)
    start = np.array([[0, 2, 1, 1, 0]])
    p = 1 / (1 + np.exp(-(activations(model, start) @ model.components_.T + model.intercept_hidden_)[0]))
    expected = np.zeros((FEATURES, Q))
    for h in map(np.array, itertools.product((0, 1), repeat=4)):
        inputs = (h @ model.components_ + model.intercept_visible_).reshape(FEATURES, Q)
        softmax = np.exp(inputs - inputs.max(axis=1, keepdims=True))
        expected += np.prod(np.where(h, p, 1 - p)) * softmax / softmax.sum(axis=1, keepdims=True)
    drawn = model.gibbs(np.repeat(start, 8000, axis=0))
    assert drawn.dtype == np.int64
    found = (drawn[:, :, None] == np.arange(Q)).mean(axis=0)
    assert np.abs(found - expected).max() < 4.5 * 0.5 / np.sqrt(8000)


def test_standardisation_is_by_weights() -> None:
    X, weights = X_OF["gaussian"], RNG.random(N)
    model = RBMTransformer(3, visible="gaussian", n_iter=1, random_state=1).fit(X, sample_weight=weights)
    mean = np.average(X, axis=0, weights=weights)
    assert np.allclose(model.input_offset_, mean, rtol=1e-12)
    assert np.allclose(model.input_scale_, np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights)), rtol=1e-12)


def test_words_of_a_pipeline() -> None:
    words = np.array(["red", "green", "blue"])[X_OF[f"categorical:{Q}"]]
    model = make_pipeline(OrdinalEncoder(), RBMTransformer(3, visible="categorical:3", n_iter=1)).fit(words)
    assert model.transform(words).shape == (N, 3)


@pytest.mark.parametrize(
    ("visible", "X", "message"),
    [
        ("spin", [[2.0, -1.0]], "spins need values from -1 to 1"),
        ("categorical:3", [[0, 3]], "integers from 0 to 2"),
        ("categorical:3", [[0, 0.5]], r"has the value 0.5 \(sample 0, site 1\)"),
        ("categorical:1", [[0, 1]], "a site has 2 to 1024 categories"),
        ("spins", [[0, 1]], "visible is 'spins', but must be one of auto, bernoulli, spin, categorical:Q, gaussian"),
        (3, [[0, 1]], "visible is 3, but must be one of auto, bernoulli"),
    ],
)
def test_mistakes_are_one_line(visible, X, message) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        RBMTransformer(2, visible=visible, n_iter=1).fit(X)
    assert "\n" not in str(refused.value)
    assert "--" not in str(refused.value)
