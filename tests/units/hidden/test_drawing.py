"""Kinds of hidden units against quadrature: cumulants, moments, gradients, draws, and their tails.

Modules: modelpar/units/hidden/protocol, modelpar/units/hidden/kinds, modelpar/units/hidden/gaussian,
    modelpar/units/hidden/relu, modelpar/units/hidden/drelu, modelpar/units/hidden/truncated
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from modelpar.streams import Purpose, Stream
from modelpar.units.hidden import cumulant_sums, drawn, hidden_units, truncated
from modelpar.units.hidden.kinds import KINDS
from tests.reference_real import potential

INPUTS = np.array([-6.0, -1.3, 0.0, 0.4, 2.0, 7.0])
SHAPES = {"gaussian": [()], "relu": [()], "drelu": [(0.0, 0.0), (0.7, 0.4), (-1.5, -0.8), (2.0, 3.0)]}
CASES = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]
each_case = pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)


def integral(kind, shape, x, f):
    """int f(h) exp(x h - U(h)) dh on both sides of 0."""

    def weight(h):
        return f(h) * np.exp(x * h - potential(kind, np.array(h), *shape))

    low = 0.0 if kind == "relu" else -60.0
    pieces = [(a, b) for a, b in ((-60, -20), (-20, -8), (-8, 0), (0, 8), (8, 20), (20, 60)) if a >= low]
    return sum(integrate.quad(weight, a, b, epsabs=0, epsrel=1e-11, limit=200)[0] for a, b in pieces)


def given(kind, shape, x):
    return KINDS[kind].given(np.asarray(x, float)[None, :], np.array(shape, float).reshape(-1, 1))


@each_case
def test_cumulants_and_moments_are_integrals(kind, shape):
    it = given(kind, shape, INPUTS)
    mass = np.array([integral(kind, shape, x, lambda h: 1.0) for x in INPUTS])
    first = np.array([integral(kind, shape, x, lambda h: h) for x in INPUTS]) / mass
    second = np.array([integral(kind, shape, x, lambda h: h * h) for x in INPUTS]) / mass
    np.testing.assert_allclose(it.cumulant()[0], np.log(mass), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(it.mean()[0], first, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(it.variance()[0], second - first**2, rtol=1e-6)


@each_case
def test_the_gradient_is_that_of_the_cumulant(kind, shape):
    """Of the shape parameters by central differences; of the input it is the mean, and of that the variance."""
    it, step = given(kind, shape, INPUTS), 1e-5

    def slope(f, up, down):
        return (f(up) - f(down)) / (2 * step)

    numeric = slope(lambda x: given(kind, shape, x).cumulant(), INPUTS + step, INPUTS - step)
    np.testing.assert_allclose(it.mean(), numeric, rtol=1e-6, atol=1e-8)
    numeric = slope(lambda x: given(kind, shape, x).mean(), INPUTS + step, INPUTS - step)
    np.testing.assert_allclose(it.variance(), numeric, rtol=1e-6, atol=1e-8)
    for i, row in enumerate(it.gradient()):
        move = step * np.eye(len(shape))[i]
        numeric = slope(lambda s: given(kind, s, INPUTS).cumulant(), np.array(shape) + move, np.array(shape) - move)
        np.testing.assert_allclose(row[0], numeric[0], rtol=1e-6, atol=1e-8)


@each_case
def test_draws_have_the_distribution(kind, shape):
    """Kolmogorov and Smirnov, with the distribution function by quadrature at 200 quantiles; draws keyed by unit."""
    n, x = 4000, np.array([-2.0, 0.3, 3.0])
    inputs = np.repeat(x[:, None], n, axis=1)
    ids = np.array([4, 1, 9])
    columns = np.repeat(np.array(shape, float).reshape(-1, 1), 3, axis=1)
    stream = Stream(5, 0, Purpose.HIDDEN)
    both = drawn(KINDS[kind], inputs, columns, stream, ids, 3, means=True, gradient=True)
    again = drawn(KINDS[kind], inputs[1:2, 7:], columns[:, 1:2], stream, ids[1:2], 10)
    np.testing.assert_array_equal(again.values[0], both.values[1, 7:])
    for row, at in zip(both.values, x, strict=True):
        grid = np.quantile(row, np.linspace(0, 1, 101))
        edges = np.concatenate([[0.0 if kind == "relu" else -60.0], grid[:-1]])
        mass = integral(kind, shape, at, lambda h: 1.0)

        def density(h, at=at, mass=mass):
            return np.exp(at * h - potential(kind, np.array(h), *shape)) / mass

        parts = [integrate.quad(density, a, b, points=[0] if a < 0 < b else None)[0]
                 for a, b in zip(edges, grid, strict=True)]  # fmt: skip
        distance = np.abs(np.cumsum(parts) - np.linspace(0, 1, 101)).max()
        assert stats.kstwobign.sf(distance * np.sqrt(n)) > 1e-3
    np.testing.assert_allclose(both.means, given(kind, shape, x).mean().T.repeat(n, 1), rtol=1e-12)
    np.testing.assert_allclose(both.gradient, n * given(kind, shape, x).gradient()[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_overflows_far_out(kind, dtype):
    x = np.array([[-3e4, -700.0, -60.0, 60.0, 700.0, 3e4]] * 2, dtype)
    shape = np.array([[3.0, -3.0], [20.0, -20.0]][: len(KINDS[kind].learned)], dtype).reshape(-1, 2)
    it = KINDS[kind].given(x, shape)
    for values in (it.cumulant(), it.mean(), it.variance(), it.gradient()):
        assert np.isfinite(values).all()
    assert (it.variance() >= 0).all()
    stream = Stream(5, 0, Purpose.HIDDEN)
    values = drawn(KINDS[kind], x, shape, stream, np.array([0, 1]), 0).values
    assert np.isfinite(values).all()
    assert values.dtype == dtype
    if kind == "relu":
        assert (values >= 0).all()
    total = cumulant_sums(KINDS[kind], x, shape)
    np.testing.assert_allclose(total, it.cumulant().sum(axis=0))


def test_truncated_normals_in_the_tail():
    """Series and scaled error functions meet: against the integral in the variable t = -z y."""
    for z in (-49.9, -50.1, -999.0, -1001.0, -1e5):
        mass = integrate.quad(lambda t, z=z: np.exp(-t - t * t / (2 * z * z)), 0, 60, epsabs=0, epsrel=1e-12)[0]
        mean = integrate.quad(lambda t, z=z: t * np.exp(-t - t * t / (2 * z * z)), 0, 60, epsabs=0, epsrel=1e-12)[0]
        log_mass = truncated.log_mass(np.array([z]))
        np.testing.assert_allclose(log_mass, np.log(mass / -z), rtol=1e-12)
        first, second = truncated.moments(np.array([z]), log_mass)
        np.testing.assert_allclose(first, mean / mass / -z, rtol=1e-9)
        np.testing.assert_allclose(second, 1 + z * first if z > -50 else 2 / z**2 * (1 - 5 / z**2), rtol=1e-4)


def test_the_kinds_have_names():
    assert hidden_units("bernoulli") is None
    assert [hidden_units(name).name for name in KINDS] == ["gaussian", "relu", "drelu"]
