"""Draws of categorical sites against a softmax in float64, with and without compilation.

Modules: modelpar/kernels/sampling/softmax, modelpar/kernels/statistics/sites
"""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels.products.product import Sampled, Sampler
from modelpar.kernels.sampling import softmax
from modelpar.kernels.states import pack, unpack
from modelpar.kernels.statistics.sites import centre_sites
from modelpar.streams import Purpose, Stream

CASES = pytest.mark.parametrize(
    ("sites", "categories", "batch"), [(1, 2, 1), (7, 5, 64), (3, 21, 130), (2, 300, 65), (4, 4, 1100), (0, 3, 5)]
)


def inputs(sites: int, categories: int, batch: int, spread: float = 2.0):
    """(summed inputs (units, batch) float32, biases)"""
    rng = np.random.default_rng(sites + categories)
    units = sites * categories
    return rng.normal(0, spread, (units, batch)).astype(np.float32), rng.normal(0, 1, units).astype(np.float32)


def probabilities(x, bias, categories):
    wide = (x.astype(np.float64) + bias[:, None]).reshape(-1, categories, x.shape[1])
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).reshape(x.shape)


def drawn(x, bias, categories, samples=17, dtype=np.float32, target=None) -> Sampled:
    ids = np.arange(len(bias)) + 5 * categories
    stream = Stream(3, 0, Purpose.VISIBLE, 2)
    sampler = Sampler(bias, ids, stream, samples, means=True, target=target, categories=categories)
    return sampler.of_sums(x.astype(dtype), 1)


@CASES
def test_means_are_those_of_a_softmax(sites: int, categories: int, batch: int) -> None:
    x, bias = inputs(sites, categories, batch)
    p = probabilities(x, bias, categories)
    for dtype, error in ((np.float32, 3e-6), (np.float64, 1e-14)):
        assert np.abs(drawn(x, bias, categories, dtype=dtype).means - p).max(initial=0) < error


@CASES
def test_states_are_one_hot_and_those_of_numpy(sites: int, categories: int, batch: int) -> None:
    x, bias = inputs(sites, categories, batch)
    states = drawn(x, bias, categories).states
    assert (unpack(states).reshape(sites, categories, batch).sum(axis=1) == 1).all()
    ids, words = np.arange(len(bias)) + 5 * categories, Stream(3, 0, Purpose.VISIBLE, 2).words
    plain = softmax.sample_sites(x + bias[:, None], categories, ids, words, 17)
    assert np.array_equal(states.words, plain.words)


def test_a_part_of_the_samples_has_the_same_states() -> None:
    x, bias = inputs(3, 6, 200)
    whole = unpack(drawn(x, bias, 6).states)
    part = unpack(drawn(np.ascontiguousarray(x[:, 70:]), bias, 6, samples=17 + 70).states)
    named = unpack(drawn(np.ascontiguousarray(x[:, 70:]), bias, 6, samples=np.arange(87, 217)).states)
    assert np.array_equal(whole[:, 70:], part)
    assert np.array_equal(part, named)


def test_frequencies_are_the_probabilities() -> None:
    x, bias = inputs(2, 4, 1)
    n = 40_000
    states = unpack(drawn(np.repeat(x, n, axis=1), bias, 4).states).mean(axis=1)
    p = probabilities(x, bias, 4)[:, 0]
    assert (np.abs(states - p) < 5 * np.sqrt(p * (1 - p) / n)).all()


def test_what_cannot_be_is_never_drawn() -> None:
    x = np.full((4, 500), -200, np.float32)
    x[2] = 300
    assert (unpack(drawn(x, np.zeros(4, np.float32), 4).states)[2] == 1).all()


def test_errors_are_those_against_the_target() -> None:
    x, bias = inputs(5, 7, 100)
    target = np.eye(7)[np.random.default_rng(2).integers(0, 7, (5, 100))].transpose(0, 2, 1).reshape(35, 100)
    error = drawn(x, bias, 7, target=pack(target)).error
    assert error == pytest.approx(((probabilities(x, bias, 7) - target) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 5, 1500])
def test_rows_of_a_site_are_centred(dtype: type, columns: int) -> None:
    W = np.random.default_rng(1).normal(size=(12, columns)).astype(dtype)
    expected = W.astype(np.float64).reshape(4, 3, columns)
    expected = (expected - expected.mean(axis=1, keepdims=True)).reshape(12, columns)
    centre_sites(W, 3)
    assert np.abs(W - expected).max() < (1e-6 if dtype == np.float32 else 1e-14)


def test_log_sums_are_those_of_exponentials() -> None:
    x, _ = inputs(3, 4, 9)
    expected = np.log(np.exp(x.astype(np.float64)).reshape(3, 4, 9).sum(axis=1))
    assert np.abs(softmax.log_sums_of_sites(x, 4) - expected).max() < 1e-12
    assert np.isfinite(softmax.log_sums_of_sites(x * 1000, 4)).all()
