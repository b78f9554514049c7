"""Sums on tiles beyond what tests/kernels/products/test_subset_sums.py asks of every kernel: their forms of states and
weights, and weights of more than 23 bits.

Modules: modelpar/kernels/llvm/tiles, modelpar/kernels/llvm/tile_bytes
"""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba.extending import intrinsic

from modelpar.kernels.llvm.bfloat16 import HAS_PAIR_TILES
from modelpar.kernels.llvm.tile_bytes import DEPTH, LIMBS, NARROW, ORDER
from modelpar.kernels.llvm.tiles import HAS_TILES, PAIRS, Tiles, allowed, configure, release
from modelpar.kernels.llvm.vectors import address, compiled
from modelpar.kernels.products import draw, subset_sums, tiles
from modelpar.kernels.states import pack

SCALE = np.float32(2.0**20)
needs_tiles = pytest.mark.skipif(not allowed(), reason="this processor, or system, has no tiles")


def test_tiles_are_asked_for() -> None:
    assert not allowed() or (HAS_TILES and compiled())
    assert tiles.self_test() == allowed()


def product_of_tiles(signs, first, second, total):
    """One instruction: total += first @ second, all of them of 1 KiB."""

    @intrinsic
    def multiply(typingctx, first, second, total):
        def build(context, b, signature, args):
            of = Tiles(b)
            for tile, place in enumerate((args[2], *args[:2])):
                of.load(tile, place)
            of.multiply(signs, 0, 1, 2)
            of.store(0, args[2])
            return context.get_dummy_value()

        return numba.types.void(*[numba.types.intp] * 3), build

    @numba.njit
    def work(shape, first, second, total):
        configure(address(shape))
        multiply(address(first), address(second), address(total))
        release()

    work(tiles.CONFIGURATION, first, second, total)


def test_tiles_that_err_are_reported(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tiles, "allowed", lambda: True)
    monkeypatch.setattr(tiles, "_sums_are_right", lambda: False)
    assert not tiles.self_test.__wrapped__()
    assert capfd.readouterr().err == (
        "modelpar: the tiles of this processor (AMX) give wrong sums of weights: other kernels are used\n"
    )


@needs_tiles
@pytest.mark.parametrize("signs", ["uu", "us", "su", "ss"])
def test_the_instruction_on_bytes(signs: str) -> None:
    """Sums wrap; the second operand has groups of four numbers that are summed."""
    rng = np.random.default_rng(4)
    first, second = (rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), (16, 64)) for _ in range(2))
    total = rng.integers(-(2**31), 2**31, (16, 16)).astype(np.int32)
    total[:3] = 2**31 - 1
    a, b = (x.view(np.int8) if sign == "s" else x for x, sign in zip((first, second), signs, strict=True))
    b = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16)
    expected = (total + a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32)
    product_of_tiles(signs, first, second, total)
    assert np.array_equal(total, expected)


@pytest.mark.skipif(not (HAS_PAIR_TILES and allowed()), reason="this processor, or system, has no such tiles")
def test_the_instruction_on_pairs() -> None:
    """Even and odd terms are summed apart, each sum is rounded, and numbers below the normal ones count as zero."""

    def normal(x):  # type: ignore[no-untyped-def]
        return np.where(abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)

    rng = np.random.default_rng(5)
    a, b = (rng.normal(size=(16, 32)).astype(np.float32).view(np.uint32) & 0xFFFF0000 for _ in range(2))
    a, b = (x.view(np.float32) * np.float32(2) ** -rng.integers(0, 75, x.shape) for x in (a, b))
    a[3, 5], b[2, 7], a[4] = 2.0**-127, -(2.0**-130), 2.0**-100
    total = (rng.normal(size=(16, 16)) * 2.0 ** -rng.integers(0, 140, (16, 16))).astype(np.float32)
    first, second = ((x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for x in (a, b))
    a, b = (normal((x.astype(np.uint32) << 16).view(np.float32)) for x in (first, second))
    sums = np.zeros((2, 16, 16), np.float32)
    for k in range(16):
        for odd in range(2):  # the product is a float32: fused with the sum, it is rounded once
            product = a[:, 2 * k + odd, None].astype(np.float64) * b[k, odd::2]
            sums[odd] = normal((sums[odd] + product).astype(np.float32))
    expected = normal(normal(total) + normal(sums[0] + sums[1]))
    product_of_tiles(PAIRS, first, second, total)
    assert np.array_equal(total, expected)


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
