"""Autocorrelation against series whose own is known, and against sums over pairs of sweeps."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.diagnosis.autocorrelation import autocorrelation, integrated_time, sweeps_below


def autoregressive(a: float, n: int, units: int, chains: int) -> np.ndarray:
    """x(t) = a x(t - 1) + noise at equilibrium, (sweeps, units, chains): rho(t) = a^t."""
    rng = np.random.default_rng(3)
    x = np.empty((n, units, chains))
    x[0] = rng.normal(size=(units, chains))
    for t in range(1, n):
        x[t] = a * x[t - 1] + np.sqrt(1 - a * a) * rng.normal(size=(units, chains))
    return x


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9])
def test_an_autoregressive_series(a):
    """tau = 1 + 2 sum a^t = (1 + a) / (1 - a)"""
    rho = autocorrelation(autoregressive(a, 2000, 8, 40), 2000)
    assert np.allclose(rho[:30], a ** np.arange(30), atol=0.02)
    tau, window = integrated_time(rho)
    # what is left beyond a window of five taus is a part exp(-10) at most; the sum of its lags has a spread of 2 %
    assert abs(tau / ((1 + a) / (1 - a)) - 1) < 0.06
    assert 5 * tau <= window < 5 * tau + 1
    assert sweeps_below(rho) == (1 if a == 0 else int(np.floor(-1 / np.log(a))) + 1)


def test_pairs_of_sweeps_by_hand():
    """Units of different means and variances, some constant; every lag up to the last, where one pair is left."""
    rng = np.random.default_rng(5)
    x = (rng.random((17, 6, 3)) < np.array([0, 0.1, 0.3, 0.5, 0.9, 1])[None, :, None]).astype(np.uint8)
    x = np.repeat(x, 2, axis=0)
    y = x - x.mean(axis=(0, 2))[None, :, None]
    expected = np.array([(y[: len(y) - t] * y[t:]).sum() / (len(y) - t) for t in range(len(y))])
    assert np.allclose(autocorrelation(x, len(x)), expected / expected[0], atol=1e-12)


def test_chains_that_stay_are_not_independent():
    """Their mean over all chains is not their own, so nothing falls, and no window is wide enough."""
    stuck = np.repeat(np.random.default_rng(1).integers(0, 2, (1, 5, 40)), 50, axis=0)
    rho = autocorrelation(stuck, 50)
    assert np.allclose(rho, 1)
    assert integrated_time(rho) == (pytest.approx(99), None)
    assert sweeps_below(rho) is None


def test_units_that_never_vary_have_none():
    assert autocorrelation(np.ones((9, 3, 4), np.uint8), 9) is None
    assert autocorrelation(np.full((9, 3, 4), 0.1, np.float32), 9) is None
