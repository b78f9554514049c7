"""Bounds of sums of weights, and that no kernel wraps by the scale that is chosen by them."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels.products import bounds, dispatch
from modelpar.kernels.products.bounds import MOST, STEPS, largest_sum_of, signed_sums, units_for
from modelpar.kernels.products.product import Product, plain_sums
from modelpar.kernels.products.subset_sums import fixed_point_scale
from modelpar.kernels.states import pack
from tests.kernels.products.test_product import KERNELS, allocate


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (7, 5), (1030, 3), (3, 2070)], ids=str)
def test_sums_of_either_sign(shape, dtype, n_threads, monkeypatch):
    monkeypatch.setattr(bounds, "GRAIN", 16)
    W = np.random.default_rng(shape).normal(0, 2, shape).astype(dtype)
    odd = [np.nan, np.inf, -np.inf, 5000.0]
    W.reshape(-1)[: min(W.size, 4)] = odd[: min(W.size, 4)]
    steps = np.array([MOST if not abs(w) < 1000 else int(abs(np.float32(w)) * STEPS) + 1 for w in W.flat], np.int64)
    steps = steps.reshape(shape)
    positive = np.where(W > 0, steps, 0)
    rows, columns, largest = signed_sums(W)
    assert np.array_equal(rows.T, [positive.sum(axis=1), (steps - positive).sum(axis=1)])
    assert np.array_equal(columns, [positive.sum(axis=0), (steps - positive).sum(axis=0)])
    assert largest == steps.max(initial=0)


@pytest.mark.parametrize("n_units", [1, 784, 4096, 4097, 65536, 65537])
def test_a_scale_holds_its_largest_sum_with_all_roundings(n_units):
    most = n_units
    while fixed_point_scale(most + 1) == fixed_point_scale(n_units):
        most = max(most + 1, 1 << most.bit_length() - 1)
    scale = float(fixed_point_scale(n_units))
    assert largest_sum_of(n_units) * scale + most / 2 < 2**31
    assert units_for(n_units, largest_sum_of(n_units)) == n_units, "a scale became coarser without need"
    for bound in (largest_sum_of(n_units) + 1, 1e4, 1e9):
        assert largest_sum_of(units_for(n_units, bound)) >= bound
    assert fixed_point_scale(units_for(n_units, largest_sum_of(n_units) + 1)) == scale / 2


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("n", [4096, 65536])
def test_large_sums_are_right_by_every_kernel(kernel, up, n, monkeypatch):
    """4096 units with weights of 0.51, or 65536: the sums of those that are on are beyond those of the usual scale."""
    monkeypatch.setenv(dispatch.VARIABLE, kernel)
    W = np.full((n, 2), 0.51, np.float32)
    W[:, 1] *= -1
    columns, on = signed_sums(W)[1], np.ones((n, 3), bool)
    on[: n // 2, 1] = False
    room = units_for(n, columns.max() / STEPS)
    assert room > n, "the case shows nothing"
    product = Product(W if up else np.ascontiguousarray(W.T), pack(on), up, room, integer_sums=True)
    sums = plain_sums(product.sums(allocate), room)
    np.testing.assert_allclose(sums, W.T.astype(np.float64) @ on, rtol=1e-4)
