"""Sums of weights over the units that are on, as products of bytes on tiles: one more way to the same integers.

A weight in fixed point that fits in 23 bits is ``b0 + 2^8 b1 + 2^16 b2``, with unsigned bytes b0 and b1 and a signed
one, b2.  Each of them times the states, which are bytes 0 and 1, is a product of tiles, and the sums wrap as those of
int32 do.  Blocks with wider weights go through the tiles twice: with the weights modulo 2^24, and with what is left.

While the tiles multiply 16 units of a block of inputs, the weights of the next 16 are made limbs, and the products
before are added up: three kinds of work that use different parts of the processor, in one loop of instructions.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels.llvm.counts import transpose_16
from modelpar.kernels.llvm.tile_bytes import DEPTH, LIMBS, TILE, write_bits, write_limbs, write_wide_limbs
from modelpar.kernels.llvm.tiles import (
    add_products_1,
    add_products_2,
    allowed,
    configure,
    multiply_1,
    multiply_2,
    multiply_up_1,
    multiply_up_2,
    release,
    write_1,
    write_2,
    write_4,
    write_up_1,
    write_up_2,
    write_up_4,
)
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products.aligned import aligned_int32, any_set, pad
from modelpar.machine.compilation import njit, report

NARROW_LIMBS, LOW_LIMBS, HIGH_LIMBS = 0, 1, 2  # of weights that fit, of wide ones, of what is left of these
PANEL = 64  # outgoing units at a time
# Of 64 incoming units, whose limbs for 16 outgoing ones stay in the first-level cache: beside limbs that are made
# meanwhile, and where none are.
STEPS, PREPARED_STEPS = 7, 8
WHOLE = 13  # such steps, of all inputs: one block, whose limbs leave that cache, in place of two whose sums are added
BLOCK_BYTES = WHOLE * LIMBS * TILE  # of these limbs
STAGE_BYTES = PANEL // LANES * BLOCK_BYTES  # of those of a panel
# Where things lie in the scratch of a panel, in steps of 4 bytes: the products of six tiles, 64 rows of 16 weights (or
# 16 of 64), what is left of wide weights, what is there of the next panel.
_ROWS, _LEFT, _NEXT, SCRATCH = 1536, 2560, 2576, 2592
WEIGHTS_ON_TILES = SCRATCH + 2 * STAGE_BYTES // 4  # int32 that a panel needs, and leaves for the next one
CONFIGURATION = np.array([1, *[0] * 15, *[DEPTH, 0] * 8, *[0] * 16, *[LANES] * 8, *[0] * 8], np.uint8)  # eight tiles


@njit(cache=True, nogil=True)
def bits_in_tiles(words, batch, up):  # type: ignore[no-untyped-def]
    """Bits of units and samples as bytes: words (units, n) uint64 -> uint16 (tiles of 16 samples, 512 steps)

    A tile has 64 units.  As the second operand of a product of tiles it is 16 units x 16 samples of four bytes, of the
    same number in four groups of units; as the first one, ``up``, 16 samples x 16 units of four bytes, of units that
    follow each other.  The four are in the ORDER of the limbs of weights.
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
                i, apart = step * DEPTH + (4 * row if up else row), 1 if up else LANES
                a, b, c = i + apart, i + 2 * apart, i + 3 * apart
                if c < n_units:
                    w0, w1, w2, w3 = words[i, w], words[b, w], words[a, w], words[c, w]
                else:
                    w0, w1 = words[i, w] if i < n_units else zero, words[b, w] if b < n_units else zero
                    w2, w3 = words[a, w] if a < n_units else zero, zero
                write_bits(at + step * TILE + row * DEPTH, shift, w0, w1, w2, w3)
            if up:
                transpose_16(at + step * TILE, DEPTH, at + step * TILE, DEPTH)
    return tiles


@njit(cache=True, nogil=True)
def source_of(W, up, first, low):  # type: ignore[no-untyped-def]
    """(address, bytes from row to row, from step to step, from group to group) of the weights of 16 units for 64
    inputs from ``low`` on, as ``multiply_and_write`` takes them: a row is a unit or, ``up``, four inputs"""
    row = W.strides[0]
    if up:
        return address(W) + low * row + 4 * first, 4 * row, DEPTH * row, row
    return address(W) + first * row + 4 * low, row, 4 * DEPTH, 4 * LANES


@njit(cache=True, nogil=True)
def _write(source, group, target, scale, way, left):  # type: ignore[no-untyped-def]
    if way == NARROW_LIMBS:
        write_limbs(source, group, target, scale, left)
    else:
        write_wide_limbs(source, group, target, scale, 24 if way == HIGH_LIMBS else 0)


@njit(cache=True, nogil=True)
def limbs_of_units(W, up, first, n_units, low, n_steps, scale, way, target, stride, scratch, begin):  # type: ignore[no-untyped-def]
    """Split the weights of the units ``first ..`` for the inputs ``low .. low + 64 n_steps - 1`` into limbs.

    begin            row of 16 whole units that is the first one: those before are there
    target, stride   address of [16 units][step][limb] tiles, and bytes from 16 units to the next 16
    way              NARROW_LIMBS, where it is noted in ``scratch`` that some weights do not fit; LOW_LIMBS, those of
                     weights modulo 2^24; or HIGH_LIMBS, what is left of them
    Inputs that are not there have weights of 0; units that are not there have any.
    """
    n_in = W.shape[0] if up else W.shape[1]
    floats = scratch.view(np.float32)
    rows, left = address(scratch) + 4 * _ROWS, address(scratch) + 4 * _LEFT
    for step in range(n_steps):
        i, tile = low + step * DEPTH, target + step * LIMBS * TILE
        n = min(DEPTH, n_in - i)
        whole = n_units // LANES if n == DEPTH else 0  # groups of 16
        source, row, _, group = source_of(W, up, first, i)
        for r in range(begin, LANES):
            for g in range(whole):
                at = source + r * row + (g * DEPTH if up else g * LANES * row)
                _write(at, group, tile + g * stride + r * DEPTH, scale, way, left)
        for u in range(whole * LANES, n_units, LANES):  # nothing after the end of W is read
            m = min(LANES, n_units - u)
            scratch[_ROWS:_LEFT] = 0
            if up:
                for r in range(n):
                    for k in range(m):
                        floats[_ROWS + r * LANES + k] = W[i + r, first + u + k]
            else:
                for k in range(m):
                    for r in range(n):
                        floats[_ROWS + k * DEPTH + r] = W[first + u + k, i + r]
            for r in range(LANES if up else m):
                _write(rows + r * 4 * DEPTH, 4 * LANES, tile + u // LANES * stride + r * DEPTH, scale, way, left)


@njit(cache=True, nogil=True)
def wide(scratch):  # type: ignore[no-untyped-def]
    """Whether some weights were not narrow since the last call."""
    some = np.int32(0)
    for k in range(_LEFT, _LEFT + LANES):
        some |= scratch[k]
        scratch[k] = 0
    return some >> 23 != 0


@njit(cache=True, nogil=True)
def _multiply_and_write(turned, n, product, written, scale, beyond):  # type: ignore[no-untyped-def]
    """n   rows of each step that are written: 1, 2 or 4"""
    if turned:
        if n == 1:
            write_up_1(product, written, scale, beyond)
        elif n == 2:
            write_up_2(product, written, scale, beyond)
        else:
            write_up_4(product, written, scale, beyond)
    elif n == 1:
        write_1(product, written, scale, beyond)
    elif n == 2:
        write_2(product, written, scale, beyond)
    else:
        write_4(product, written, scale, beyond)


@njit(cache=True, nogil=True)
def _multiply_units(turned, limbs, bits, totals, shift, written, items, scale, scratch):  # type: ignore[no-untyped-def]
    """Multiply the limbs of 16 units with all states, and make some of others meanwhile.

    turned   whether the limbs are the second operand
    limbs    address of [step, limb] tiles
    bits     (address, bytes from 16 samples to the next 16, steps, tiles of 16 samples)
    totals   (address, row_stride, column_stride) of the sums, as ``add_products`` has them; they are added to
    written  as ``multiply_and_write`` has it, but for the first item
    items    (first, items of a step in each call, end)
    Returns the first item that is left.
    """
    states, states_stride, n_steps, n_tiles = bits
    sums, row_stride, column_stride = totals
    source, row, step, group, ahead, target, stride, across, n_written = written
    beyond, out = address(scratch) + 4 * _LEFT, address(scratch)
    item, each, end = items
    for tile in range(0, n_tiles, 2):
        product = limbs, states + tile * states_stride, states_stride, n_steps, out
        total = sums + tile * column_stride
        if tile + 1 == n_tiles:
            if turned:
                multiply_up_1(product)
            else:
                multiply_1(product)
            add_products_1(out, total, row_stride, column_stride, shift)
            continue
        if item + each <= end:
            beside = source, row, step, group, ahead, target, stride, across, item, n_written
            _multiply_and_write(turned, each, product, beside, scale, beyond)
            item += each
        elif turned:
            multiply_up_2(product)
        else:
            multiply_2(product)
        add_products_2(out, total, row_stride, column_stride, shift)
    return item


@njit(cache=True, nogil=True)
def sum_panel_by_tiles(W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums):  # type: ignore[no-untyped-def]
    """As in registers, from states in tiles (``bits_in_tiles``) and limbs that are prepared or made stage by stage.

    Upwards, limbs that are not prepared are the second operand; sums are then in blocks of 16 samples x 16 units until
    the end, each where it belongs.  A stage is a block of inputs of all units, for a row of W has a weight of each:
    what lies together in memory is read together.  Else it is a block of inputs of 16 units.  The last stage makes the
    limbs of the next panel's first one: panels whose ``weights`` are the same array are of the same W and follow each
    other.
    """
    scratch, n = weights[:SCRATCH], sums.shape[1]
    stages = address(weights) + 4 * SCRATCH
    n_out = W.shape[1] if up else W.shape[0]
    prepared, n_steps = len(integers) > 0, (n_in + DEPTH - 1) // DEPTH
    at_most = PREPARED_STEPS if prepared else STEPS
    n_blocks = 1 if n_steps <= WHOLE else (n_steps + at_most - 1) // at_most
    n_groups = (n_units + LANES - 1) // LANES
    turned = up and not prepared
    row, column = 4 * n, DEPTH
    nothing = n_in - n_in  # 0, but not a constant, for which numba would compile again
    together = n_groups if turned else nothing + 1  # groups of 16 units in a stage
    n_stages, n_pairs = n_blocks * (n_groups // together), n // LANES // 2
    each = nothing + (1 if n_pairs >= LANES else 2 if n_pairs >= LANES // 2 else 4)  # items of a call
    if turned and any_set(sums.reshape(-1)):
        _turn_blocks(sums)
    configure(address(CONFIGURATION))
    parity = nothing
    if not prepared:
        if scratch[_NEXT] == first + 1:
            parity += scratch[_NEXT + 1]
        else:
            limbs_of_units(
                W, up, first, min(together * LANES, n_units), nothing, n_steps // n_blocks, scale, nothing, stages,
                BLOCK_BYTES, scratch, nothing,
            )  # fmt: skip
    for stage in range(n_stages):
        block, begin_group = stage * together // n_groups, stage * together % n_groups
        begin, end = block * n_steps // n_blocks, (block + 1) * n_steps // n_blocks
        here, there = stages + (stage + parity) % 2 * STAGE_BYTES, stages + (stage + parity + 1) % 2 * STAGE_BYTES
        bits = address(codes) + begin * TILE, codes.strides[0], end - begin, n // LANES
        last, too_wide = stage == n_stages - 1, not prepared and wide(scratch)
        # of the next stage: its inputs, its units, whose limbs are made meanwhile where none is missing
        next_block = (stage + 1) * together // n_groups
        next_first = first + (stage + 1) * together % n_groups * LANES
        n_next = min(together * LANES, first + n_units - next_first)
        if last:
            next_block, next_first = nothing, first + PANEL
            n_next = min(PANEL if up else LANES, n_out - next_first)
        next_begin, next_end = next_block * n_steps // n_blocks, (next_block + 1) * n_steps // n_blocks
        n_written = min(end - begin, min(next_end, n_in // DEPTH) - next_begin)
        across = nothing + (2 if n_next == 4 * LANES else 1 if n_next == 2 * LANES else 0)
        beside = not (prepared or too_wide) and n_next == LANES << across and n_written > 0
        source, row_bytes, step, lanes = source_of(W, up, next_first, next_begin * DEPTH)
        ahead = row_bytes
        if not up:
            after = stage + 2
            after_begin = after // n_groups * n_steps // n_blocks
            later, _, _, _ = source_of(W, up, first + after % n_groups * LANES, after_begin * DEPTH)
            ahead = later - source
        written = source, row_bytes, step, lanes, ahead, there, BLOCK_BYTES, across, n_written
        item = nothing
        for k in range(together):
            group = begin_group + k
            limbs = here + k * BLOCK_BYTES
            if prepared:
                limbs = address(integers) + (first // LANES + group) * integers.strides[0] + begin * LIMBS * TILE
            of_group = address(sums) + group * LANES * row, row, column
            if too_wide:
                low = first + group * LANES
                for way in range(nothing + LOW_LIMBS, HIGH_LIMBS + 1):
                    limbs_of_units(
                        W, up, low, min(LANES, first + n_units - low), begin * DEPTH, end - begin, scale, way, limbs,
                        BLOCK_BYTES, scratch, nothing,
                    )  # fmt: skip
                    shift = 24 if way == HIGH_LIMBS else 0
                    _multiply_units(turned, limbs, bits, of_group, shift, written, (item, each, item), scale, scratch)
            else:
                items = item, each, LANES << across if beside else nothing
                item = _multiply_units(turned, limbs, bits, of_group, nothing, written, items, scale, scratch)
        if not prepared and n_next > 0:  # what could not be made meanwhile
            done = n_written if beside else nothing
            limbs_of_units(
                W, up, next_first, n_next, next_begin * DEPTH, done, scale, nothing, there, BLOCK_BYTES, scratch,
                item >> across,
            )  # fmt: skip
            limbs_of_units(
                W, up, next_first, n_next, (next_begin + done) * DEPTH, next_end - next_begin - done, scale, nothing,
                there + done * LIMBS * TILE, BLOCK_BYTES, scratch, nothing,
            )  # fmt: skip
    scratch[_NEXT], scratch[_NEXT + 1] = first + PANEL + 1, (n_stages + parity) % 2
    release()
    if turned:
        _turn_blocks(sums)


@njit(cache=True, nogil=True)
def _turn_blocks(sums):  # type: ignore[no-untyped-def]
    """Turn each block of 16 x 16 of sums (PANEL, n), where it is."""
    row = sums.strides[0]
    for u in range(0, sums.shape[0], LANES):
        for s in range(0, sums.shape[1], LANES):
            at = address(sums) + u * row + 4 * s
            transpose_16(at, row, at, row)


def no_limbs_yet(W: npt.NDArray[Any], up: bool) -> npt.NDArray[np.int32]:
    """Return an array for the limbs of all weights of one direction, which ``prepare_limbs`` fills.

    (16 outgoing units, tiles), on a 64-byte boundary.
    """
    n_in, n_out = W.shape if up else W.shape[::-1]
    rows, width = -(-n_out // LANES), -(-n_in // DEPTH) * LIMBS * TILE // 4
    return aligned_int32(rows * width).reshape(rows, width)


@njit(cache=True, nogil=True)
def prepare_limbs(W, up, start, stop, scale, limbs):  # type: ignore[no-untyped-def]
    """Fill the limbs of the units ``start .. stop - 1``, start a multiple of 16; whether some weights are too wide.

    They are the first operand in both directions: turned once, they need no sums turned in each product.
    """
    scratch, none = aligned_int32(SCRATCH), start - start  # 0, but not a constant, for which numba would compile again
    n_in = W.shape[0] if up else W.shape[1]
    n_steps = (n_in + DEPTH - 1) // DEPTH
    for first in range(start, stop, LANES):
        target, n_units = address(limbs) + first // LANES * limbs.strides[0], min(LANES, stop - first)
        if up:
            _limbs_of_columns(W, first, n_units, n_steps, scale, target, scratch)
        else:
            limbs_of_units(
                W, up, first, n_units, none, n_steps, scale, none, target, limbs.strides[0], scratch, none
            )  # fmt: skip
    return wide(scratch)


@njit(cache=True, nogil=True)
def _limbs_of_columns(W, first, n_units, n_steps, scale, target, scratch):  # type: ignore[no-untyped-def]
    """Limbs of up to 16 units that are columns of W, for all inputs, as of units that are rows."""
    floats, turned, left = scratch.view(np.float32), address(scratch) + 4 * _ROWS, address(scratch) + 4 * _LEFT
    for step in range(n_steps):
        i, tile = step * DEPTH, target + step * LIMBS * TILE
        n = min(DEPTH, W.shape[0] - i)
        source, row = address(W) + i * W.strides[0] + 4 * first, W.strides[0]
        if n < DEPTH or n_units < LANES:  # nothing after the end of W is read
            source, row = address(scratch), 4 * LANES
            scratch[: DEPTH * LANES] = 0
            for r in range(n):
                for k in range(n_units):
                    floats[r * LANES + k] = W[i + r, first + k]
        for k in range(DEPTH // LANES):
            transpose_16(source + k * LANES * row, row, turned + 4 * LANES * k, 4 * DEPTH)
        for u in range(n_units):
            write_limbs(turned + 4 * DEPTH * u, 4 * LANES, tile + u * DEPTH, scale, left)


@functools.cache
def self_test() -> bool:
    """Whether this process may use tiles, and sums on them are those of integers in NumPy; where these differ, it is
    reported."""
    if not allowed():
        return False
    if not (right := _sums_are_right()):
        report("the tiles of this processor (AMX) give wrong sums of weights: other kernels are used")
    return right


def _sums_are_right() -> bool:
    """Of narrow and of wide weights, in both directions."""
    rng = np.random.default_rng(0)
    n_in, n_out, batch, scale = 130, 37, 35, np.float32(1 << 20)
    bits = rng.integers(0, 2, (n_in, batch)).astype(np.uint8)
    padded = np.zeros((n_in, 64), np.uint8)
    padded[:, :batch] = bits
    words = np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
    none, weights = np.empty((0, 0), np.int32), aligned_int32(WEIGHTS_ON_TILES)
    for up, size in ((True, 0.1), (False, 0.1), (True, 100.0), (False, 100.0)):
        W = rng.normal(0, size, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
        sums = aligned_int32(PANEL * pad(batch)).reshape(PANEL, pad(batch))
        codes, no_offsets, no_units = bits_in_tiles(words, batch, up), np.empty((0, 0), np.int64), np.empty(0, np.int32)
        sum_panel_by_tiles(
            W, none, up, n_in, 0, n_out, scale, codes, no_offsets, no_units, batch, weights, sums
        )  # fmt: skip
        fixed = np.rint((W.T if up else W) * scale).astype(np.int64)
        if not np.array_equal(sums[:n_out, :batch], (fixed @ bits).astype(np.int32)):
            return False
    return True
