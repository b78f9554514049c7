"""Rectified units in vectors, against SciPy: quantiles, draws, moments and cumulants, with and without compilation.

Modules: modelpar/kernels/sampling/normal_tail, modelpar/kernels/sampling/rectified
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import special, stats

from modelpar.kernels import threads
from modelpar.kernels.sampling import normal_tail, philox, rectified
from modelpar.machine.compilation import njit
from modelpar.streams import Purpose, Stream
from modelpar.units.hidden.kinds import KINDS

STREAM = Stream(5, 0, Purpose.HIDDEN)
Z = np.concatenate([-np.logspace(5, 1, 9), np.linspace(-40, 40, 33), [-1e-9, 0.0, 1e-9, 100.0]])
THRESHOLDS = np.array([-100.0, -7.0, -0.4, 0.0, 0.3, 5.0, 100.0])
ASYMMETRIES = np.array([0.0, 0.4, -2.0, 15.0])
EACH = np.array([(t, a) for t in THRESHOLDS for a in ASYMMETRIES]).T


@njit()
def quantiles(z, s, out):  # type: ignore[no-untyped-def]
    for i in range(len(z)):
        b = abs(z[i])
        ratio, first = normal_tail.mills(b)
        e = normal_tail.exp(-0.5 * b * b) if z[i] > 0 else 1.0
        out[i] = normal_tail.exceeded(z[i], b, ratio, first, e, s)


def survival(z, y):
    """The probability beyond y of the density in proportion to exp(-y^2 / 2 + z y), y >= 0."""
    root, far = np.sqrt(0.5), np.minimum(z, 0)
    tail = np.exp(-0.5 * y * y + far * y) * special.erfcx((y - far) * root) / special.erfcx(-far * root)
    return np.where(z < 0, tail, special.ndtr(z - y) / special.ndtr(np.maximum(z, 0)))


@pytest.mark.parametrize("s", [2.0**-33, 1e-6, 0.02, 0.3, 0.5, 0.8, 0.97, 1 - 1e-6, 1 - 2.0**-33])
def test_quantiles(s: float) -> None:
    """7 digits, and near 0 as much of the probability before."""
    y = np.empty_like(Z)
    quantiles(Z, s, y)
    assert (y >= 0).all()
    error = 2e-7 * y + 1e-11 * np.minimum(1.0, 1 / np.abs(Z + 1e-300))
    low, high = survival(Z, y + error), survival(Z, np.maximum(y - error, 0))
    assert (low <= s * (1 + 1e-12)).all()
    assert (high >= s * (1 - 1e-12)).all()


def test_moments_and_cumulants() -> None:
    """In tails and between, where SciPy's own differences have their digits."""
    x = np.linspace(-120, 120, 77)[None, :].repeat(EACH.shape[1], axis=0)
    plain, sides = KINDS["drelu"].given(x, EACH), KINDS["drelu"].sides(EACH)
    means, sums = rectified.moments_of(x, sides)
    np.testing.assert_allclose(means, plain.mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(means, rectified.means_of(x, sides))
    gradient = KINDS["drelu"].gradient(EACH, sums)
    np.testing.assert_allclose(gradient, plain.gradient().sum(axis=2), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(rectified.cumulant_sums(x, sides), plain.cumulant().sum(axis=0), rtol=1e-12)
    single = rectified.means_of(x.astype(np.float32), sides)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, means, rtol=1e-5, atol=1e-5)
    z, one = np.concatenate([Z, np.linspace(-3, 3, 41)])[None, :], KINDS["relu"].sides(np.zeros((0, 1)))
    wide = KINDS["relu"].given(z, np.zeros((0, 1)))
    np.testing.assert_allclose(rectified.means_of(z, one), wide.mean(), rtol=1e-11)
    np.testing.assert_allclose(rectified.cumulant_sums(z, one), wide.cumulant()[0], rtol=1e-13, atol=1e-13)


def test_draws_have_the_distribution() -> None:
    """Kolmogorov and Smirnov: distribution functions of the values are uniform, at all thresholds and asymmetries."""
    n = 3000
    at = np.array([-150.0, -4.0, 0.0, 0.5, 90.0])
    shape = EACH.repeat(len(at), axis=1)
    x = np.tile(at, EACH.shape[1])[:, None].repeat(n, axis=1)
    sides = KINDS["drelu"].sides(shape)
    h = rectified.draw_values(x, sides, philox.draw_of(STREAM, np.arange(len(x)), 0, *x.shape))
    scale_up, shift_up, scale_down, shift_down = sides.T[:, :, None]
    up, down = x * scale_up + shift_up, shift_down - x * scale_down
    odds = [0.5 * z * z + special.log_ndtr(z) + np.log(scale) for z, scale in ((up, scale_up), (down, scale_down))]
    p, q = (special.expit(odds[i] - odds[1 - i]) for i in range(2))
    above = 1 - p * survival(up, np.maximum(h, 0) / scale_up)
    below = q * survival(down, np.maximum(-h, 0) / scale_down)
    worst = min(stats.kstest(row, "uniform").pvalue for row in np.where(h > 0, above, below))
    assert worst > 1e-3 / len(x)
    assert abs((h < 0).mean(axis=1) - q[:, 0]).max() < 4 * np.sqrt(0.25 / n)


def test_a_value_depends_on_its_unit_and_sample_alone() -> None:
    rng = np.random.default_rng(3)
    x, ids = rng.normal(0, 4, (5, 1500)), np.array([4, 1, 9, 7, 30])
    sides = KINDS["drelu"].sides(rng.normal(0, 1, (2, 5)))

    def values(units, samples, first):
        part = np.ascontiguousarray(x[units, samples])
        draw = philox.draw_of(STREAM, ids[units], first, *part.shape)
        return rectified.draw_values(part, np.ascontiguousarray(sides[units]), draw)

    everything = slice(None)
    whole = values(everything, everything, 7)
    np.testing.assert_array_equal(values(slice(1, 4), slice(1013, 1110), 1020), whole[1:4, 1013:1110])
    np.testing.assert_array_equal(values(everything, slice(0, 300), np.arange(7, 307)), whole[:, :300])
    threads.set_threads(3)
    try:
        np.testing.assert_array_equal(values(everything, everything, 7), whole)
    finally:
        threads.set_threads(1)


def test_the_same_bytes_compiled_and_interpreted() -> None:
    """This test runs with NUMBA_DISABLE_JIT=1 too."""
    x = (np.arange(-600, 600).reshape(3, 400) * np.array([[1 / 64], [1 / 8], [1.0]])).astype(np.float32)
    sides = np.array([[1.25, -0.5, 0.75, -0.25], [0.5, 3.0, 1.25, 3.0], [1.0, 0.0, 0.0, -1000.0]])
    means, sums = rectified.moments_of(x, sides)
    values = rectified.draw_values(x, sides, philox.draw_of(STREAM, np.arange(3), 5, *x.shape))
    total = hashlib.sha256()
    for array in (values, means, sums, rectified.cumulant_sums(x, sides)):
        total.update(np.ascontiguousarray(array).tobytes())
    assert total.hexdigest()[:16] == "67cdf3a9c5929ecb"


def test_what_is_not_a_number_stays_so() -> None:
    x, sides = np.array([[np.nan, 1.0]]), np.ones((1, 4))
    draw = philox.draw_of(STREAM, np.arange(1), 0, 1, 2)
    for row in (rectified.draw_values(x, sides, draw)[0], rectified.means_of(x, sides)[0],
                rectified.cumulant_sums(x, sides)):  # fmt: skip
        assert np.isnan(row).tolist() == [True, False]
