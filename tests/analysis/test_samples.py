"""What is said of samples beside data, against loops in float64.

Modules: modelpar/analysis/bits, modelpar/analysis/frequencies, modelpar/analysis/components,
modelpar/analysis/linkage, modelpar/analysis/nearest
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelpar.analysis import nearest
from modelpar.analysis.bits import packed_rows
from modelpar.analysis.components import Components
from modelpar.analysis.frequencies import chosen_units, compare_statistics, one_hot, pair_statistics, states_of
from modelpar.analysis.linkage import linkage_decay, pairs_between, r_squared


@pytest.mark.parametrize("weighted", [False, True])
def test_pair_statistics_are_those_of_loops(weighted: bool) -> None:
    rng = np.random.default_rng(1)
    n, n_sites, Q = 1100, 4, 3  # more than are floats at a time
    states = rng.integers(0, Q, (n, n_sites))
    weights = rng.uniform(0, 1, n) if weighted else None
    w = np.ones(n) if weights is None else weights
    result = pair_statistics(states, Q, weights)
    assert math.isclose(result.n, w.sum())
    expected = []
    for i in range(n_sites):
        for j in range(i + 1, n_sites):
            for a in range(Q):
                for b in range(Q):
                    f = (w * ((states[:, i] == a) & (states[:, j] == b))).sum() / w.sum()
                    expected.append(f - result.frequencies[i, a] * result.frequencies[j, b])
    assert np.allclose(result.frequencies[2, 1], (w * (states[:, 2] == 1)).sum() / w.sum())
    assert np.allclose(result.pairs, expected, atol=1e-6)
    assert np.array_equal(states_of(one_hot(states, Q), Q), states)


def test_pairs_of_neurons_and_their_comparison() -> None:
    rng = np.random.default_rng(2)
    common = rng.random((4000, 1)) < 0.3
    data, samples = ((rng.random((4000, 6)) < 0.2 + 0.4 * common).astype(np.uint8) for _ in range(2))
    of_data = pair_statistics(data, 1)
    assert np.allclose(of_data.connected, np.cov(data.T, ddof=0), atol=1e-6)
    result = compare_statistics(of_data, pair_statistics(samples, 1))
    assert math.isclose(result.site_frequency_error, np.abs(data.mean(0) - samples.mean(0)).max(), rel_tol=1e-6)
    i, j = np.triu_indices(6, 1)
    x, y = (np.cov(z.T, ddof=0)[i, j] for z in (data, samples))
    assert math.isclose(result.pairs.r, np.corrcoef(x, y)[0, 1], abs_tol=1e-4)
    assert math.isclose(result.pairs.slope, np.polyfit(x, y, 1)[0], abs_tol=1e-4)


def test_units_that_are_chosen() -> None:
    assert chosen_units(5, 5).tolist() == [0, 1, 2, 3, 4]
    some = chosen_units(1000, 10)
    assert len(set(some)) == 10
    assert (np.diff(some) > 0).all()
    with pytest.raises(ValueError, match="weights"):
        pair_statistics(np.zeros((2, 3), int), 2, np.zeros(2))


@pytest.mark.parametrize("shape", [(200, 12), (30, 50)])
@pytest.mark.parametrize("weighted", [False, True])
def test_principal_components(shape: tuple[int, int], weighted: bool) -> None:
    """Of few and of many units: the directions are those of the covariance, and samples are put into the same basis."""
    rng = np.random.default_rng(3)
    data = rng.normal(size=shape) * np.linspace(5, 1, shape[1])
    w = rng.uniform(0.5, 1, shape[0]) if weighted else np.ones(shape[0])
    result = Components.of(data, 3, w if weighted else None)
    values, vectors = np.linalg.eigh(np.cov(data.T, aweights=w, ddof=0))
    assert np.allclose(result.explained, values[::-1][:3] / values.sum())
    assert np.allclose(np.abs((result.directions * vectors[:, ::-1][:, :3]).sum(axis=0)), 1)
    assert (result.directions[np.abs(result.directions).argmax(axis=0), range(3)] > 0).all()
    other = rng.normal(size=(5, shape[1]))
    assert np.allclose(result.project(other), (other - np.average(data, axis=0, weights=w)) @ result.directions)


def test_components_of_too_little() -> None:
    with pytest.raises(ValueError, match="2 samples"):
        Components.of(np.zeros((1, 3)))
    assert Components.of(np.ones((4, 3))).explained.tolist() == [0, 0]


def test_linkage_is_that_of_loops() -> None:
    rng = np.random.default_rng(4)
    n, n_sites = 70, 40
    values = np.empty((n, n_sites), np.uint8)
    values[:, 0] = rng.random(n) < 0.5
    for k in range(1, n_sites):  # each site copies the one before it, with mistakes
        values[:, k] = np.where(rng.random(n) < 0.9, values[:, k - 1], rng.random(n) < 0.5)
    values[:, 7] = 1  # never varies
    positions, edges = np.sort(rng.uniform(0, 100, n_sites)), np.array([0.0, 5, 20, 100, 101])
    expected: list[list[float]] = [[] for _ in edges[1:]]
    for i in range(n_sites):
        for j in range(i + 1, n_sites):
            if 7 not in (i, j):
                which = np.searchsorted(edges, positions[j] - positions[i], side="right") - 1
                expected[which].append(np.corrcoef(values[:, i], values[:, j])[0, 1] ** 2)
    result = linkage_decay(values, positions, edges)
    assert result.pairs.tolist() == [len(some) for some in expected]
    assert np.allclose(result.r_squared[:3], [np.mean(some) for some in expected[:3]])
    assert math.isnan(result.r_squared[3])
    drawn = linkage_decay(values, positions, edges, pairs_per_bin=100)
    assert drawn.pairs[:3].tolist() == [min(len(some), 100) for some in expected[:3]]
    assert np.isnan(r_squared(packed_rows(values.T), n, np.array([7]), np.array([0])))[0]
    with pytest.raises(ValueError, match="ascending"):
        linkage_decay(values, positions[::-1], edges)


def test_pairs_are_drawn_evenly_and_once() -> None:
    rng, positions = np.random.default_rng(5), np.arange(1000.0)
    i, j = pairs_between(positions, 10, 20, 300, rng)
    assert len({*zip(i, j, strict=True)}) == 300
    assert set(j - i) == set(range(10, 20))
    i, j = pairs_between(positions[:5], 0, 2, 100, rng)
    assert [*zip(i, j, strict=True)] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert len(pairs_between(positions[:0], 0, 2, 100, rng)[0]) == 0


def accuracy_of_loops(a: np.ndarray, b: np.ndarray) -> float:
    """The part of ``a``."""
    total = 0.0
    for i, x in enumerate(a):
        other = min(int((x != y).sum()) for y in b)
        own = min(int((x != y).sum()) for k, y in enumerate(a) if k != i)
        total += 1.0 if other > own else 0.5 if other == own else 0.0
    return total / len(a)


@pytest.mark.parametrize("n_units", [5, 64, 300])
def test_adversarial_accuracy_is_that_of_loops(n_units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "WORDS", 2)  # of 300 units there are several pieces
    rng = np.random.default_rng(6)
    a, b = rng.random((37, n_units)) < 0.5, rng.random((37, n_units)) < 0.45
    result = nearest.adversarial_accuracy(packed_rows(a), packed_rows(b))
    assert math.isclose(result.truth, accuracy_of_loops(a, b))
    assert math.isclose(result.synthetic, accuracy_of_loops(b, a))


def test_copies_and_sets_of_two_sizes() -> None:
    a = packed_rows(np.random.default_rng(7).random((20, 100)) < 0.5)
    assert nearest.adversarial_accuracy(a, a) == nearest.Accuracy(0.0, 0.0)
    with pytest.raises(ValueError, match="same size"):
        nearest.adversarial_accuracy(a, a[:5])
