"""Moments against NumPy, and the measures that are made of them.

Modules: modelpar/diagnosis/overfitting
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelpar.diagnosis.moments import compare, moments, random_triples, three_body
from modelpar.diagnosis.overfitting import free_energy_gap
from modelpar.diagnosis.sampling import in_proportion


@pytest.mark.parametrize("kind", ["states", "values"])
def test_moments_are_those_of_numpy(kind):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, (7, 501)).astype(np.uint8) if kind == "states" else rng.normal(1000, 1, (7, 501))
    result = moments(x)
    assert result.n == 501
    assert np.allclose(result.means, x.mean(axis=1), rtol=1e-12)
    assert np.allclose(result.covariances, np.cov(x, ddof=0), rtol=1e-9, atol=1e-12)
    assert np.allclose(result.pairs, [np.cov(x, ddof=0)[i, j] for i in range(7) for j in range(i + 1, 7)], atol=1e-12)


def test_agreement_of_a_line_with_noise():
    rng = np.random.default_rng(4)
    x = rng.normal(2, 3, 500)
    y = 0.5 * x + 1 + rng.normal(0, 0.2, 500)
    result = compare(x, y)
    assert math.isclose(result.slope, np.polyfit(x, y, 1)[0], rel_tol=1e-9)
    assert math.isclose(result.r, np.corrcoef(x, y)[0, 1], rel_tol=1e-9)
    assert math.isclose(result.rms, np.sqrt(np.mean((x - y) ** 2)), rel_tol=1e-12)
    constant = compare(np.ones(5), np.arange(5.0))
    assert math.isnan(constant.slope)
    assert math.isnan(constant.r)


def test_three_body_correlations():
    """Of a, b and their exclusive or, pairs are independent, and the triple is not: +-1/8."""
    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 2, (2, 40_000)).astype(np.uint8)
    values = np.stack([a, b, a ^ b, rng.integers(0, 2, 40_000)])
    triples = random_triples(4, 100, 0)
    assert triples.tolist() == [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]
    assert np.allclose(three_body(values, triples), [-1 / 8, 0, 0, 0], atol=0.004)
    centred = values - values.mean(axis=1, keepdims=True)
    assert np.allclose(three_body(values, triples), [centred[list(t)].prod(axis=0).mean() for t in triples], atol=1e-12)
    many = random_triples(30, 500, 1)
    assert many.shape == (500, 3)
    assert all(len(set(t)) == 3 for t in many.tolist())
    assert random_triples(2, 10, 0).shape == (0, 3)


def test_the_gap_of_free_energies():
    result = free_energy_gap(np.array([1.0, 3.0]), np.array([4.0, 6.0, 5.0]))
    assert result.gap == 3.0
    assert math.isclose(result.error, math.sqrt(2 / 2 + 1 / 3))
    assert math.isnan(free_energy_gap(np.zeros(0), np.ones(3)).gap)


def test_weights_are_as_so_many_copies():
    """Whole weights against each sample as often as its weight says."""
    rng = np.random.default_rng(8)
    x, weights = rng.integers(0, 2, (6, 90)).astype(np.uint8), rng.integers(1, 5, 90).astype(float)
    copies, triples = np.repeat(x, weights.astype(int), axis=1), random_triples(6, 100, 0)
    result, expected = moments(x, weights), moments(copies)
    assert np.allclose(result.means, expected.means, rtol=1e-12)
    assert np.allclose(result.covariances, expected.covariances, atol=1e-12)
    assert math.isclose(result.n, weights.sum() ** 2 / (weights**2).sum())
    assert np.allclose(three_body(x, triples, weights), three_body(copies, triples), atol=1e-12)
    assert np.array_equal(in_proportion(np.array([1.0, 0.0, 2.0, 1.0]), 8), [0, 0, 2, 2, 2, 2, 3, 3])
    a, b = rng.normal(0, 1, 90), rng.normal(1, 1, 50)
    gap = free_energy_gap(a, b, weights)
    assert math.isclose(gap.gap, b.mean() - np.repeat(a, weights.astype(int)).mean(), rel_tol=1e-12)
    alike = free_energy_gap(a, b, np.full(90, 3.0), np.ones(50))
    assert math.isclose(alike.error, free_energy_gap(a, b).error, rel_tol=1e-12)
