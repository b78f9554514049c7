"""Sums on tiles beyond what tests/kernels/products/test_subset_sums.py asks of every kernel: their forms of states and
weights, and weights of more than 23 bits.

Modules: modelpar/kernels/llvm/tiles, modelpar/kernels/llvm/tile_bytes
"""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels.llvm.tile_bytes import DEPTH, LIMBS, NARROW, ORDER
from modelpar.kernels.llvm.tiles import HAS_TILES, allowed
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import draw, subset_sums, tiles
from modelpar.kernels.states import pack

SCALE = np.float32(2.0**20)
needs_tiles = pytest.mark.skipif(not allowed(), reason="this processor, or system, has no tiles")


def test_tiles_are_asked_for() -> None:
    assert not allowed() or (HAS_TILES and compiled())
    assert tiles.self_test() == allowed()


@pytest.mark.skipif(not compiled(), reason="compiled only")
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(("n_units", "batch"), [(1, 1), (64, 16), (67, 33), (130, 70)])
def test_states_as_bytes(n_units: int, batch: int, up: bool) -> None:
    bits = np.random.default_rng(0).random((n_units, batch)) < 0.5
    got = tiles.bits_in_tiles(pack(bits).rows, batch, up).view(np.uint8)
    steps = -(-n_units // DEPTH)
    padded = np.zeros((steps * DEPTH, -(-batch // 16) * 16), np.uint8)
    padded[:n_units, :batch] = bits
    if up:  # tile, step, sample, quad of units, unit
        expected = padded.reshape(steps, 16, 4, -1, 16)[:, :, ORDER].transpose(3, 0, 4, 1, 2)
    else:  # tile, step, unit, sample, group of units
        expected = padded.reshape(steps, 4, 16, -1, 16)[:, ORDER].transpose(3, 0, 2, 4, 1)
    assert np.array_equal(got.reshape(expected.shape), expected)


@needs_tiles
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(("n_in", "n_out"), [(5, 3), (64, 64), (100, 70), (700, 17)])
def test_limbs_that_are_prepared_are_the_weights(up: bool, n_in: int, n_out: int) -> None:
    W = np.random.default_rng(1).normal(0, 1, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
    limbs = subset_sums.integers_of(W, "tiles", up, n_in).view(np.uint8)
    steps = -(-n_in // DEPTH)
    tiles_of_limb = limbs.reshape(-1, steps, LIMBS, 16, 16, 4)[..., np.argsort(ORDER)].transpose(2, 0, 1, 3, 4, 5)
    whole = tiles_of_limb.transpose(0, 1, 3, 2, 5, 4)  # units x 16, step, unit, input, group of inputs
    low, middle, top = (np.ascontiguousarray(x).reshape(-1, steps * DEPTH) for x in whole)
    fixed = low.astype(np.int64) + middle.astype(np.int64) * 256 + top.view(np.int8).astype(np.int64) * 65536
    assert np.array_equal(fixed[:n_out, :n_in], np.rint((W.T if up else W) * SCALE))
    assert not fixed[:n_out, n_in:].any()


@needs_tiles
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("widest", [3.9999995, 4.0, -4.0, -4.00001, 8.0, -8.0001, 2047.9, -2048.0])
def test_weights_of_more_than_23_bits(up: bool, widest: float) -> None:
    """They are multiplied in two passes, and never prepared."""
    rng = np.random.default_rng(2)
    W = rng.normal(0, 0.1, (600, 70) if up else (70, 600)).astype(np.float32)
    W[(590, 3) if up else (3, 590)] = widest
    bits = rng.random((600, 40)) < 0.5
    bits[590] = True
    fixed = np.rint((W.T if up else W).astype(np.float64) * 2.0**20).astype(np.int64)
    out = np.zeros((70, 40), np.int32)
    draw.incoming_sums(*subset_sums.operands("tiles", W, pack(bits), up, 600), 0, 70, out)
    assert np.array_equal(out, (fixed @ bits).astype(np.int32))
    narrow = fixed.min() >= -NARROW and fixed.max() < NARROW
    assert (len(subset_sums.integers_of(W, "tiles", up, 600)) > 0) == narrow


@needs_tiles
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(("n_in", "n_out"), [(512, 64), (1100, 130), (784, 150), (1030, 16)])
@pytest.mark.parametrize("batch", [100, 200, 256, 530])
def test_limbs_that_are_made_while_others_are_multiplied(up: bool, n_in: int, n_out: int, batch: int) -> None:
    """Each way to divide them between calls, with whole and ragged stages, some of them of wide weights."""
    rng = np.random.default_rng(3)
    W = rng.normal(0, 0.1, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
    bits = rng.random((n_in, batch)) < 0.5
    for widest in (0.0, 9.5):
        W[(600 % n_in, n_out // 2) if up else (n_out // 2, 600 % n_in)] += widest
        fixed = np.rint((W.T if up else W).astype(np.float64) * 2.0**20).astype(np.int64)
        out = np.zeros((n_out, batch), np.int32)
        draw.incoming_sums(*subset_sums.operands("tiles", W, pack(bits), up, n_in), 0, n_out, out)
        assert np.array_equal(out, (fixed @ bits).astype(np.int32))
