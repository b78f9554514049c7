"""Sums of weights over the units that are on, against NumPy's integers modulo 2^32.

Modules: modelpar/kernels/llvm/subset_sums, modelpar/kernels/llvm/vectors, modelpar/kernels/products/aligned,
modelpar/kernels/llvm/calls
"""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels.llvm import vectors
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import dispatch, draw, subset_sums
from modelpar.kernels.products.aligned import aligned_int32
from modelpar.kernels.states import pack

pytestmark = pytest.mark.skipif(not compiled(), reason="these kernels exist only compiled")

SCALE = np.float32(2.0**20)
KERNELS = [name for name in dispatch.available() if name != "blas"]
BATCHES = [(1, 1.0), (15, 0.1), (17, 0.5), (17, 0.0), (100, 0.5), (100, 1.0)]  # and the fraction of units that are on


def fixed_point(W, scale=SCALE):
    """The weights times the scale, rounded to the nearest integers, halves to even."""
    return np.rint(W.astype(np.float64) * float(scale)).astype(np.int64)


def wrapped(sums):
    """int64 -> int32 modulo 2^32."""
    return (sums & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def expected_sums(W, bits, up, scale=SCALE):
    steps = fixed_point(W, scale)
    return wrapped((steps.T if up else steps) @ bits.astype(np.int64))


def operands(n_in, n_out, batch, density, *, up, largest=1.0, seed=0):
    rng = np.random.default_rng([seed, n_in, n_out, batch])
    W = rng.uniform(-largest, largest, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
    return W, rng.random((n_in, batch)) < density


def sums_of(kernel, W, bits, *, up, scale=SCALE, bounds=None, out=None):
    """The kernel for the units between each pair of bounds, one after the other."""
    (n_in, batch), n_out = bits.shape, W.shape[1] if up else W.shape[0]
    out = np.full((n_out, batch), -7, np.int32) if out is None else out
    entry, _, _, _, _, _, *states = subset_sums.operands(kernel, W, pack(bits), up, n_in)
    arguments = (entry, W, subset_sums.NO_INTEGERS, up, n_in, scale, *states)
    for start, stop in bounds or [(0, n_out)]:
        draw.incoming_sums(*arguments, start, stop, out)
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("n_in", [1, 5, 15, 16, 511, 1021])
@pytest.mark.parametrize("n_out", [1, 65, 130])
@pytest.mark.parametrize(("batch", "density"), BATCHES)
def test_sums_equal_numpy(kernel, up, n_in, n_out, batch, density):
    W, bits = operands(n_in, n_out, batch, density, up=up)
    assert np.array_equal(sums_of(kernel, W, bits, up=up), expected_sums(W, bits, up))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("n_out", [3, 64, 66])
def test_sums_wrap_alike(kernel, up, n_out):
    W, bits = operands(700, n_out, 33, 0.5, up=up, largest=2047.0)
    steps = fixed_point(W)
    exact = (steps.T if up else steps) @ bits
    assert (abs(exact) > 2**31).mean() > 0.5
    assert np.array_equal(sums_of(kernel, W, bits, up=up), wrapped(exact))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("n_out", [7, 64])
def test_a_weight_is_the_nearest_step_and_halves_are_even(kernel, up, n_out):
    n_in = 20
    halves = (np.arange(n_in * n_out) - 300) / 2  # in steps
    near = np.nextafter(halves.astype(np.float32), np.where(np.arange(n_in * n_out) % 3, 1e9, -1e9).astype(np.float32))
    for steps in (halves.astype(np.float32), near):
        W = (steps / SCALE).reshape((n_in, n_out) if up else (n_out, n_in))
        one_by_one = sums_of(kernel, W, np.eye(n_in), up=up)
        assert np.array_equal(one_by_one, np.round(W * SCALE).T if up else np.round(W * SCALE))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("n_units", [4096, 4097, 100_000])
def test_a_wider_layer_has_wider_steps(kernel, up, n_units):
    W, bits = operands(40, 70, 20, 0.5, up=up)
    scale = subset_sums.fixed_point_scale(n_units)
    assert np.array_equal(sums_of(kernel, W, bits, up=up, scale=scale), expected_sums(W, bits, up, scale))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_any_split_of_the_units_gives_the_same(kernel, up):
    W, bits = operands(530, 200, 70, 0.3, up=up)
    expected = expected_sums(W, bits, up)
    for bounds in ([(0, 64), (64, 128), (128, 200)], [(137, 200), (0, 1), (1, 137)], [(0, 3), (3, 3), (3, 200)]):
        assert np.array_equal(sums_of(kernel, W, bits, up=up, bounds=bounds), expected)
    some = sums_of(kernel, W, bits, up=up, bounds=[(5, 75)])
    assert np.array_equal(some[5:75], expected[5:75])
    assert (np.delete(some, np.s_[5:75], axis=0) == -7).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(("n_in", "n_out"), [(3, 2), (16, 66), (511, 61), (600, 128)])
@pytest.mark.parametrize("batch", [3, 65])
def test_nothing_outside_is_read_or_written(kernel, up, n_in, n_out, batch):
    W, bits = operands(n_in, n_out, batch, 0.5, up=up)
    around = np.full((len(W) + 6, W.shape[1]), np.nan, np.float32)
    around[3:-3] = W
    results = np.full((n_out + 4, batch), -7, np.int32)
    sums_of(kernel, around[3:-3], bits, up=up, out=results[2:-2])
    assert np.array_equal(results[2:-2], expected_sums(W, bits, up))
    assert (results[:2] == -7).all()
    assert (results[-2:] == -7).all()
    assert np.array_equal(around[3:-3], W)
    assert np.isnan(around[:3]).all()
    assert np.isnan(around[-3:]).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("sizes", [(0, 5, 20), (5, 0, 20), (5, 70, 0)], ids=str)
def test_empty_sizes(kernel, up, sizes):
    W, bits = operands(*sizes, 0.5, up=up)
    assert np.array_equal(sums_of(kernel, W, bits, up=up), np.zeros((sizes[1], sizes[2])))


@pytest.mark.parametrize("kernel", KERNELS)
def test_panels_are_added_to_what_is_there(kernel):
    W, bits = operands(20, 64, 16, 0.5, up=True)
    sums = aligned_int32(64 * 16).reshape(64, 16)
    there = np.arange(64 * 16, dtype=np.int32).reshape(64, 16)
    sums[:] = there
    weights = subset_sums.no_weights_yet()
    entry, _, none, up, n_in, scale, *states = subset_sums.operands(kernel, W, pack(bits), True, 20)
    subset_sums.sum_panel(entry, W, none, up, n_in, 0, 64, scale, *states, weights, sums)
    assert np.array_equal(sums, there + expected_sums(W, bits, True))


# operands of the kernels


@pytest.mark.parametrize(
    ("n_units", "bits"),
    [(0, 20), (1, 20), (784, 20), (4096, 20), (4097, 19), (8192, 19), (8193, 18), (2**16, 16), (2**16 + 1, 15)],
)
def test_scale_by_width(n_units, bits):
    assert subset_sums.fixed_point_scale(n_units) == 2.0**bits
    assert isinstance(subset_sums.fixed_point_scale(n_units), np.float32)


@pytest.mark.parametrize("n_units", [0, 1, 14, 15, 16, 31, 511])
@pytest.mark.parametrize("batch", [0, 1, 64, 65])
def test_codes_hold_the_bits_of_15_units(n_units, batch):
    bits = np.random.default_rng(n_units).random((n_units, batch)) < 0.5
    codes = subset_sums.codes_of(pack(bits).rows)
    assert codes.dtype == np.uint16
    assert codes.shape == (-(-n_units // 15), 64 * -(-batch // 64))
    assert codes.ctypes.data % 64 == 0
    expected = [[sum(1 << k for k, on in enumerate(bits[low : low + 15, s]) if on) for s in range(batch)]
                for low in range(0, n_units, 15)]  # fmt: skip
    assert np.array_equal(codes[:, :batch], np.array(expected).reshape(len(codes), batch))
    assert not codes[:, batch:].any()


@pytest.mark.parametrize("n_units", [0, 1, 510, 511, 1021])
@pytest.mark.parametrize("batch", [0, 1, 64, 65])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_lists_hold_the_active_units_of_each_block(n_units, batch, density):
    bits = np.random.default_rng(n_units).random((n_units, batch)) < density
    offsets, units = subset_sums.lists_of(pack(bits).rows, batch)
    n_blocks = max(1, -(-n_units // 510))
    assert offsets.shape == (n_blocks, batch + 1)
    assert len(units) == bits.sum() == offsets[-1, -1]
    for block in range(n_blocks):
        for s in range(batch):
            listed = units[offsets[block, s] : offsets[block, s + 1]]
            assert listed.tolist() == np.flatnonzero(bits[510 * block : 510 * (block + 1), s]).tolist()


@pytest.mark.parametrize("avx", [True, False])
def test_no_feature_is_used_that_numba_leaves_out(avx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles without AVX where it finds none in ``/proc/cpuinfo``, which a container may hide."""
    monkeypatch.setattr(vectors.llvmlite.binding, "get_host_cpu_features", lambda: {"avx512f": True, "sse2": True})
    for name, value in (("ENABLE_AVX", avx), ("CPU_NAME", None), ("CPU_FEATURES", None)):
        monkeypatch.setattr(vectors.config, name, value)
    assert vectors._processor_features() == ({"avx512f", "sse2"} if avx else {"sse2"})
