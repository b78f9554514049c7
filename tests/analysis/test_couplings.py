"""Effective couplings against the mean over every state of the other sites."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from modelpar.analysis.couplings import bernoulli_variance, leading_order, mean_inputs, two_body, zero_sum

L, Q, H = 4, 3, 5


def model(scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(0, scale, (L * Q, H)), rng.normal(0, 1, H)


def enumerated(cumulant, W: np.ndarray, c: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Zero-sum couplings of sum_h cumulant(x_h), averaged over all states of the other sites, one by one."""
    J = np.zeros((L, Q, L, Q))
    for v in itertools.product(range(Q), repeat=L):
        energy = cumulant(c + sum(W[k * Q + a] for k, a in enumerate(v))).sum()
        for i, j in itertools.permutations(range(L), 2):
            others = np.prod([frequencies[k, v[k]] for k in range(L) if k not in (i, j)])
            J[i, v[i], j, v[j]] += energy * others
    return zero_sum(J)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


@pytest.mark.parametrize("scale", [0.3, 2.0])
@pytest.mark.parametrize("of", ["all states alike", "frequencies"])
def test_two_body_couplings_are_those_of_enumeration(scale: float, of: str) -> None:
    W, c = model(scale)
    alike = np.full((L, Q), 1 / Q)
    frequencies = alike if of == "all states alike" else np.random.default_rng(4).dirichlet(np.ones(Q), L)
    expected = enumerated(softplus, W, c, frequencies)
    given = None if of == "all states alike" else frequencies
    assert np.abs(two_body(W, c, Q, given, accuracy=1e-10) - expected).max() < 1e-10
    assert np.abs(two_body(W, c, Q, given) - expected).max() < 1e-6


def test_a_site_whose_waves_cancel_is_divided_out() -> None:
    """Of two states with weights pi apart the mean of e^(i t W) is 0 at t = 1, among others."""
    W = np.zeros((3 * 2, 1))
    W[0::2], W[1::2] = -np.pi / 2, np.pi / 2
    J = np.zeros((3, 2, 3, 2))
    for v in itertools.product(range(2), repeat=3):
        energy = softplus(sum(W[2 * k + a, 0] for k, a in enumerate(v)))
        for i, j in itertools.permutations(range(3), 2):
            J[i, v[i], j, v[j]] += energy / 2
    assert np.abs(two_body(W, np.zeros(1), 2) - zero_sum(J)).max() < 1e-6


def test_leading_order_is_the_limit_of_small_weights() -> None:
    W, c = model(1.0)
    frequencies, small = np.full((L, Q), 1 / Q), 1e-3
    leading = leading_order(W, Q, bernoulli_variance(mean_inputs(small * W, c, frequencies)))
    assert np.allclose(two_body(small * W, c, Q, accuracy=1e-14) / small**2, leading, atol=1e-3, rtol=0)


def test_leading_order_is_exact_for_gaussian_units() -> None:
    W, c = model(1.0)
    expected = enumerated(lambda x: x**2 / 2, W, c, np.full((L, Q), 1 / Q))
    assert np.allclose(leading_order(W, Q, np.ones(H)), expected)


def test_the_gauge_leaves_second_differences() -> None:
    J = np.random.default_rng(5).normal(size=(2, Q, 2, Q))
    gauged = zero_sum(J)
    assert np.allclose(gauged.sum(axis=1), 0)
    assert np.allclose(gauged.sum(axis=3), 0)
    for of in (J, gauged):
        of -= of[:, :1] + of[:, :, :, :1] - of[:, :1, :, :1]
    assert np.allclose(J, gauged)


@pytest.mark.parametrize(
    ("W", "c", "frequencies"),
    [
        (np.zeros((5, 2)), np.zeros(2), None),
        (np.zeros((6, 2)), np.zeros(3), None),
        (np.full((6, 2), np.nan), np.zeros(2), None),
        (np.zeros((6, 2)), np.zeros(2), np.ones((3, 2))),
    ],
)
def test_what_does_not_fit_is_refused(W: np.ndarray, c: np.ndarray, frequencies: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match=r"W of|not finite|frequencies of"):
        two_body(W, c, 3, frequencies)
