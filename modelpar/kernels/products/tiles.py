"""Sums of weights over the units that are on, as products of bytes on tiles: one more way to the same integers.

A weight in fixed point that fits in 23 bits is ``b0 + 2^8 b1 + 2^16 b2``, with unsigned bytes b0 and b1 and a signed
one, b2.  Each of them times the states, which are bytes 0 and 1, is a product of tiles, and the sums wrap as those of
int32 do.  Blocks with wider weights go through the tiles twice: with the weights modulo 2^24, and with what is left.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels.llvm.counts import transpose_16
from modelpar.kernels.llvm.tiles import (
    DEPTH,
    LIMBS,
    TILE,
    add_products_1,
    add_products_2,
    allowed,
    configure,
    multiply_1,
    multiply_2,
    release,
    write_bits,
    write_limbs,
    write_wide_limbs,
)
from modelpar.kernels.llvm.vectors import LANES, address, fetch
from modelpar.kernels.products.aligned import aligned_int32, pad
from modelpar.machine.compilation import njit

NARROW_LIMBS, LOW_LIMBS, HIGH_LIMBS = 0, 1, 2  # of weights that fit, of wide ones, of what is left of these
PANEL = 64  # outgoing units at a time
STEPS = 8  # of 64 incoming units, whose limbs for 16 outgoing ones stay in the first-level cache
# Where things lie in the scratch of a panel, in steps of 4 bytes: the products of six tiles, 64 rows of 16 weights (or
# one of 64), these rows transposed, what is left of wide weights.
_ROWS, _TURNED, _LEFT, SCRATCH = 1536, 2560, 3584, 3600
CONFIGURATION = np.array([1, *[0] * 15, *[DEPTH, 0] * 8, *[0] * 16, *[LANES] * 8, *[0] * 8], np.uint8)  # eight tiles


@njit(cache=True, nogil=True)
def bits_in_tiles(words, batch):  # type: ignore[no-untyped-def]
    """Bits of units and samples as bytes: words (units, n) uint64 -> uint16 (tiles of 16 samples, 512 steps)

    A tile has 64 units in 16 rows of four, in the ORDER of the limbs of weights, and in a row 16 samples of four units
    each, as the instruction reads them.
    """
    n_units = words.shape[0]
    n_tiles, n_steps = (batch + LANES - 1) // LANES, (n_units + DEPTH - 1) // DEPTH
    width = n_steps * TILE // 2
    raw = np.empty(n_tiles * width + 32, np.uint16)
    skip = (-address(raw) % 64) // 2
    tiles = raw[skip : skip + n_tiles * width].reshape(n_tiles, width)
    zero = np.uint64(0)
    for tile in range(n_tiles):
        at, w, shift = address(tiles) + tile * tiles.strides[0], tile >> 2, np.uint64(tile % 4 * LANES)
        for step in range(n_steps):
            for row in range(LANES):
                i = step * DEPTH + row
                if i + 48 < n_units:
                    w0, w1, w2, w3 = words[i, w], words[i + 32, w], words[i + 16, w], words[i + 48, w]
                else:
                    w0, w1 = words[i, w] if i < n_units else zero, words[i + 32, w] if i + 32 < n_units else zero
                    w2, w3 = words[i + 16, w] if i + 16 < n_units else zero, zero
                write_bits(at + step * TILE + row * DEPTH, shift, w0, w1, w2, w3)
    return tiles


@njit(cache=True, nogil=True)
def _write(source, target, scale, way, left):  # type: ignore[no-untyped-def]
    if way == NARROW_LIMBS:
        write_limbs(source, target, scale, left)
    else:
        write_wide_limbs(source, target, scale, 24 if way == HIGH_LIMBS else 0)


@njit(cache=True, nogil=True)
def limbs_of_block(W, up, first, n_units, low, n_steps, scale, way, target, stride, scratch):  # type: ignore[no-untyped-def]
    """Split the weights of the units ``first ..`` for the inputs ``low .. low + 64 n_steps - 1`` into limbs.

    target, stride   address of [16 units][step][limb] tiles, and bytes from 16 units to the next 16
    way              NARROW_LIMBS, where it is noted in ``scratch`` that some weights do not fit; LOW_LIMBS, those of
                     weights modulo 2^24; or HIGH_LIMBS, what is left of them
    Inputs that are not there have weights of 0; units that are not there have any.
    """
    n_in = W.shape[0] if up else W.shape[1]
    start, row = address(W), W.strides[0]
    base = address(scratch)
    floats = scratch.view(np.float32)
    rows, turned, left = base + 4 * _ROWS, base + 4 * _TURNED, base + 4 * _LEFT
    for step in range(n_steps):
        i = low + step * DEPTH
        n = min(DEPTH, n_in - i)
        for sub in range(0, n_units, LANES):
            tile = target + sub // LANES * stride + step * LIMBS * TILE
            m = min(LANES, n_units - sub)
            if up:
                source, source_stride = start + i * row + 4 * (first + sub), row
                if n < DEPTH or m < LANES:  # nothing after the end of W is read
                    source, source_stride = rows, 4 * LANES
                    for r in range(DEPTH):
                        for u in range(LANES):
                            there = r < n and u < m
                            floats[_ROWS + r * LANES + u] = W[i + r, first + sub + u] if there else np.float32(0)
                if i + 2 * DEPTH <= n_in:  # the next inputs' rows lie far apart: the processor does not foresee them
                    for r in range(sub, sub + LANES):
                        for line in range(0, 4 * PANEL, DEPTH):
                            fetch(start + (i + DEPTH + r) * row + 4 * first + line)
                for k in range(0, DEPTH, LANES):
                    transpose_16(source + k * source_stride, source_stride, turned + 4 * k, 4 * DEPTH)
                for u in range(m):
                    _write(turned + 4 * DEPTH * u, tile + DEPTH * u, scale, way, left)
            else:
                for u in range(m):
                    source = start + (first + sub + u) * row + 4 * i
                    if n < DEPTH:
                        source = rows
                        for r in range(DEPTH):
                            floats[_ROWS + r] = W[first + sub + u, i + r] if r < n else np.float32(0)
                    _write(source, tile + DEPTH * u, scale, way, left)


@njit(cache=True, nogil=True)
def fetch_rows(W, first, low, part, n_parts):  # type: ignore[no-untyped-def]
    """Ask for a part of the weights of the rows ``first ..``, a panel, and the columns ``low ..``, a block of inputs.

    Asked for while tiles are multiplied, they are there when they are split.
    """
    row = W.strides[0]
    n, width = min(PANEL, W.shape[0] - first), 4 * min(STEPS * DEPTH, W.shape[1] - low)
    at = address(W) + first * row + 4 * low
    for r in range(part * n // n_parts, (part + 1) * n // n_parts):
        for line in range(0, width, DEPTH):
            fetch(at + r * row + line)


@njit(cache=True, nogil=True)
def wide(scratch):  # type: ignore[no-untyped-def]
    """Whether some weights were not narrow since the last call."""
    some = np.int32(0)
    for k in range(_LEFT, _LEFT + LANES):
        some |= scratch[k]
        scratch[k] = 0
    return some >> 23 != 0


@njit(cache=True, nogil=True)
def sum_panel_by_tiles(W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums):  # type: ignore[no-untyped-def]
    """As in registers, from states in tiles (``bits_in_tiles``) and limbs that are prepared or made block by block."""
    scratch = aligned_int32(SCRATCH)
    products, n_tiles = address(scratch), sums.shape[1] // LANES
    prepared, n_steps = len(integers) > 0, (n_in + DEPTH - 1) // DEPTH
    n_blocks = (n_steps + STEPS - 1) // STEPS
    configure(address(CONFIGURATION))
    for block in range(n_blocks):  # of about the same size
        begin, end = block * n_steps // n_blocks, (block + 1) * n_steps // n_blocks
        limbs, stride = address(weights), (end - begin) * LIMBS * TILE
        if prepared:
            limbs, stride = address(integers) + first // LANES * integers.strides[0], integers.strides[0]
            limbs += begin * LIMBS * TILE
        next_first, next_low = (first, end * DEPTH) if end < n_steps else (first + n_units, 0)
        part, n_parts = 0, (n_units + LANES - 1) // LANES * ((n_tiles + 1) // 2)
        way = begin - begin + NARROW_LIMBS  # not a constant, for which numba would compile limbs_of_block again
        if not prepared:
            limbs_of_block(W, up, first, n_units, begin * DEPTH, end - begin, scale, way, limbs, stride, scratch)
            if wide(scratch):
                way += LOW_LIMBS
        while way <= HIGH_LIMBS:
            if way > NARROW_LIMBS:
                limbs_of_block(W, up, first, n_units, begin * DEPTH, end - begin, scale, way, limbs, stride, scratch)
            shift = 24 if way == HIGH_LIMBS else 0
            for sub in range(0, n_units, LANES):
                here = limbs + sub // LANES * stride
                for tile in range(0, n_tiles, 2):
                    bits = address(codes) + tile * codes.strides[0] + begin * TILE
                    total = address(sums) + sub * sums.strides[0] + tile * DEPTH
                    if not prepared and not up and way < HIGH_LIMBS:
                        fetch_rows(W, next_first, next_low, part, n_parts)
                        part += 1
                    if tile + 1 < n_tiles:
                        multiply_2(here, bits, codes.strides[0], end - begin, products)
                        add_products_2(products, total, sums.strides[0], shift)
                    else:
                        multiply_1(here, bits, codes.strides[0], end - begin, products)
                        add_products_1(products, total, sums.strides[0], shift)
            way += HIGH_LIMBS + 1 if way == NARROW_LIMBS else 1
    release()


def no_limbs_yet(W: npt.NDArray[Any], up: bool) -> npt.NDArray[np.int32]:
    """Return an array for the limbs of all weights of one direction, which ``prepare_limbs`` fills.

    (16 outgoing units, tiles), on a 64-byte boundary.
    """
    n_in, n_out = W.shape if up else W.shape[::-1]
    rows, width = -(-n_out // LANES), -(-n_in // DEPTH) * LIMBS * TILE // 4
    return aligned_int32(rows * width).reshape(rows, width)


@njit(cache=True, nogil=True)
def prepare_limbs(W, up, start, stop, scale, limbs):  # type: ignore[no-untyped-def]
    """Fill the limbs of the units ``start .. stop - 1``, start a multiple of 16; whether some weights are too wide."""
    scratch = aligned_int32(SCRATCH)
    n_in = W.shape[0] if up else W.shape[1]
    target = address(limbs) + start // LANES * limbs.strides[0]
    n_steps = (n_in + DEPTH - 1) // DEPTH
    none = start - start  # 0, but not a constant, for which numba would compile again
    way = none + NARROW_LIMBS
    limbs_of_block(W, up, start, stop - start, none, n_steps, scale, way, target, limbs.strides[0], scratch)
    return wide(scratch)


@functools.cache
def self_test() -> bool:
    """Whether this process may use tiles, and sums on them are those of integers in NumPy: of narrow and of wide
    weights, in both directions."""
    if not allowed():
        return False
    rng = np.random.default_rng(0)
    n_in, n_out, batch, scale = 130, 37, 35, np.float32(1 << 20)
    bits = rng.integers(0, 2, (n_in, batch)).astype(np.uint8)
    padded = np.zeros((n_in, 64), np.uint8)
    padded[:, :batch] = bits
    words = np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
    none, weights = np.empty((0, 0), np.int32), aligned_int32(PANEL * STEPS * LIMBS * LANES)
    for up, size in ((True, 0.1), (False, 0.1), (True, 100.0), (False, 100.0)):
        W = rng.normal(0, size, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
        sums = aligned_int32(PANEL * pad(batch)).reshape(PANEL, pad(batch))
        codes, no_offsets, no_units = bits_in_tiles(words, batch), np.empty((0, 0), np.int64), np.empty(0, np.int32)
        sum_panel_by_tiles(
            W, none, up, n_in, 0, n_out, scale, codes, no_offsets, no_units, batch, weights, sums
        )  # fmt: skip
        fixed = np.rint((W.T if up else W) * scale).astype(np.int64)
        if not np.array_equal(sums[:n_out, :batch], (fixed @ bits).astype(np.int32)):
            return False
    return True
