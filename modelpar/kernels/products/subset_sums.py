"""Sums of weights over the units that are on: the products of a weight matrix with packed states, in integers.

A weight counts as the nearest multiple of ``1 / scale``, a power of two (:func:`fixed_point_scale`), as int32.  Sums of
integers are the same in any order, so a pre-activation has the same bits however its inputs are grouped, split over
shards or spread over threads.  A sum that exceeds int32 would wrap; ``bounds`` says by which scale none does.

    up      sums[j, s] = sum over i of fixed(W[i, j]) * bit[i, s]
    down    sums[i, s] = sum over j of fixed(W[i, j]) * bit[j, s]

Four kernels compute the same numbers: subset sums looked up in registers (AVX-512) or in tables in the first-level
cache (any processor, in ``tables``), rows added for lists of active units (sparse states), and products of bytes (AMX,
in ``tiles``).  All work on panels of 64 outgoing units, and on some 500 weights of each at a time, which are first
written as integers to the second-level cache.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from modelpar.kernels import threads
from modelpar.kernels.llvm.calls import address_of, caller
from modelpar.kernels.llvm.subset_sums import (
    CODE_BITS,
    UNITS,
    add_listed_rows,
    fixed_quads,
    lookup_step,
    or_where,
)  # fmt: skip
from modelpar.kernels.llvm.vectors import LANES, address, lowest_bit
from modelpar.kernels.products.aligned import aligned_int32, aligned_scratch, pad
from modelpar.kernels.products.tables import (
    BLOCK,
    PANEL,
    add_transposed,
    fixed_vectors,
    no_vectors_yet,
    prepare_vectors,
    sum_panel_by_tables,
)
from modelpar.kernels.products.tiles import (
    SCRATCH,
    WEIGHTS_ON_TILES,
    bits_in_tiles,
    no_limbs_yet,
    prepare_limbs,
    sum_panel_by_tiles,
)
from modelpar.kernels.states import Packed
from modelpar.machine.compilation import njit

FRACTION_BITS = 20  # of a weight's fraction, in layers of up to 4096 units: sums wrap at 2048
WEIGHTS = max(PANEL * BLOCK, WEIGHTS_ON_TILES)  # int32 that a panel needs for weights in another form
AHEAD = 8  # chunks of 15 prepared integers that are prefetched while one is processed
CODES, LISTS, TILES = range(3)  # forms of states: codes of 15 bits, lists of those that are on, bytes
FORMS = {"registers": CODES, "tables": CODES, "lists": LISTS, "tiles": TILES}  # that the kernels take

_NO_CODES, _NO_OFFSETS, _NO_UNITS = np.empty((0, 0), np.uint16), np.empty((0, 0), np.int64), np.empty(0, np.int32)
NO_INTEGERS = np.empty((0, 0), np.int32)  # in place of those of ``integers``


def fixed_point_scale(n_units: int) -> np.float32:
    """Return the number by which weights are multiplied before rounding, for sums over a layer of ``n_units``.

    2^20 up to 4096 units, and less for wider layers, such that no sum wraps as long as |w| is at most 1/2 on average.
    ``n_units`` are those of all shards: the scale is the same on each.  Where weights are larger it is that of more
    units (``bounds.units_for``).
    """
    return np.float32(2.0 ** (FRACTION_BITS - max(0, (max(n_units, 1) - 1).bit_length() - 12)))


def operands(kernel: str, W: npt.NDArray[Any], states: Packed, up: bool, n_inputs: int) -> tuple[Any, ...]:
    """Return the first arguments of the compiled loops over panels of a product, up to the batch size.

    ``n_inputs``: units of the layer that is summed over, on all shards
    """
    words = states.rows
    codes, offsets, units = _NO_CODES, _NO_OFFSETS, _NO_UNITS
    if kernel == "lists":
        offsets, units = lists_of(words, states.batch)
    elif kernel == "tiles":
        codes = bits_in_tiles(words, states.batch, up)
    else:
        codes = codes_of(words)
    scale = fixed_point_scale(n_inputs)
    return entry(kernel), W, NO_INTEGERS, up, states.n_units, scale, codes, offsets, units, states.batch


@njit(cache=True, nogil=True)
def no_weights_yet():  # type: ignore[no-untyped-def]
    """Scratch for the weights of panels that follow each other, int32 (WEIGHTS,)"""
    weights = aligned_scratch(WEIGHTS)
    weights[:SCRATCH] = 0  # what tiles take for notes of the panel before
    return weights


@njit(cache=True, nogil=True)
def codes_of(words):  # type: ignore[no-untyped-def]
    """Bits of 15 units of a sample as one code: words (units, n_words) uint64 -> codes (chunks, 64 n_words) uint16."""
    n_units, n = words.shape
    n_chunks = (n_units + CODE_BITS - 1) // CODE_BITS
    raw = np.zeros(n_chunks * n * 64 + 32, np.uint16)
    skip = (-address(raw) % 64) // 2
    codes = raw[skip : skip + n_chunks * n * 64].reshape(n_chunks, n * 64)
    for chunk in range(n_chunks):
        first = chunk * CODE_BITS
        start = address(codes) + chunk * n * 128
        for k in range(min(CODE_BITS, n_units - first)):
            for w in range(n):
                or_where(words[first + k, w], start + w * 128, np.uint16(1 << k))
    return codes


@njit(cache=True, nogil=True)
def lists_of(words, batch):  # type: ignore[no-untyped-def]
    """Active units of every sample, ascending: words (units, n_words) -> (offsets (blocks, batch + 1), units).

    The list of sample s in block ``b`` of incoming units is units[offsets[b, s] : offsets[b, s + 1]].
    """
    n_units, n = words.shape
    n_blocks = max(1, (n_units + BLOCK - 1) // BLOCK)
    offsets = np.zeros((n_blocks, batch + 1), np.int64)
    one, zero = np.uint64(1), np.uint64(0)
    for i in range(n_units):
        counts = offsets[i // BLOCK]
        for w in range(n):
            word = words[i, w]
            while word != zero:
                counts[64 * w + lowest_bit(word) + 1] += 1
                word &= word - one
    total = 0
    for b in range(n_blocks):
        offsets[b, 0] = total
        for s in range(batch):
            offsets[b, s + 1] += offsets[b, s]
        total = offsets[b, batch]
    units = np.empty(total, np.int32)
    at = offsets.copy()
    for i in range(n_units):
        ends = at[i // BLOCK]
        for w in range(n):
            word = words[i, w]
            while word != zero:
                s = 64 * w + lowest_bit(word)
                units[ends[s]] = i % BLOCK
                ends[s] += 1
                word &= word - one
    return offsets, units


@njit(cache=True, nogil=True)
def fixed_rows(W, first, n_units, low, high, scale, weights):  # type: ignore[no-untyped-def]
    """weights[u, i] (PANEL, BLOCK) = W[first + u, low + i] in fixed point; zero up to the end of the last chunk"""
    end = (high - low + CODE_BITS - 1) // CODE_BITS * CODE_BITS
    for u in range(n_units):
        row, target = W[first + u, low:high], weights[u]
        for i in range(len(row)):
            target[i] = np.int32(np.rint(row[i] * scale))
        target[high - low : end] = 0


@njit(cache=True, nogil=True)
def fixed_columns_in_quads(W, first, n_units, low, high, scale, weights):  # type: ignore[no-untyped-def]
    """weights[u // 4, i, u % 4] (PANEL / 4, BLOCK, 4) = W[low + i, first + u] in fixed point, zero likewise.

    The weights of 4 units and 15 rows are then adjacent in memory, as ``lookup_step`` needs them.
    """
    end = (high - low + CODE_BITS - 1) // CODE_BITS * CODE_BITS
    start, stride = address(W) + 4 * first, W.strides[0]
    target, quad = address(weights), weights.strides[0]
    if n_units == PANEL:
        for i in range(low, high):
            for g in range(PANEL // LANES):
                fixed_quads(start + i * stride + 64 * g, target + (i - low) * 16 + 4 * g * quad, quad, scale)
    else:
        for i in range(low, high):
            for u in range(n_units):
                weights[u // 4, i - low, u % 4] = np.int32(np.rint(W[i, first + u] * scale))
    weights[:, high - low : end] = 0


def integers_of(W: npt.NDArray[Any], kernel: str, up: bool, n_inputs: int) -> npt.NDArray[np.int32]:
    """Return all weights as the kernel needs them for one direction, made once for several products.

    Without rows where this kernel has no use for them: it then makes them block by block.
    """
    if kernel not in _PREPARED:
        return NO_INTEGERS
    scale, n_out = fixed_point_scale(n_inputs), W.shape[1] if up else W.shape[0]
    array_for, fill = _PREPARED[kernel]
    integers, too_wide = array_for(W, up), []

    def work(start: int, stop: int) -> None:
        too_wide.append(fill(W, up, start, stop, scale, integers))

    threads.split(n_out, PANEL, work, align=PANEL)
    return NO_INTEGERS if any(too_wide) else integers


def _no_integers_yet(W: npt.NDArray[Any], up: bool) -> npt.NDArray[np.int32]:
    """Return zeros for all weights of one direction in fixed point, which ``prepare`` fills.

    Of W (n_in, n_out) with ``up``: (quads of units, 4 n), a row with the weights of a quad for one input after the
    other; of W (n_out, n_in): (units, n).  n: inputs up to the end of the last chunk.
    """
    n_in, n_out = W.shape if up else W.shape[::-1]
    quads, n = -(-n_out // UNITS), -(-n_in // CODE_BITS) * CODE_BITS
    return np.zeros((quads, UNITS * n) if up else (UNITS * quads, n), np.int32)


@njit(cache=True, nogil=True)
def prepare(W, up, start, stop, scale, integers):  # type: ignore[no-untyped-def]
    """Fill the ``integers`` of the units ``start .. stop - 1``; start is a multiple of UNITS."""
    n_in = W.shape[0] if up else W.shape[1]
    n, low = integers.shape[1] // UNITS, start - start  # 0, but not a constant, for which numba would compile again
    for first in range(start, stop, PANEL):
        n_units = min(PANEL, stop - first)
        if up:
            quads = integers[first // UNITS : (first + n_units + UNITS - 1) // UNITS]
            fixed_columns_in_quads(W, first, n_units, low, n_in, scale, quads.reshape(quads.shape[0], n, UNITS))
        else:
            fixed_rows(W, first, n_units, low, n_in, scale, integers[first : first + n_units])


@njit(cache=True, nogil=True)
def sum_panel_in_registers(W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums):  # type: ignore[no-untyped-def]
    """sums (PANEL, pad(batch)) += the panel's sums; weights: scratch (WEIGHTS,), both 64-byte aligned

    integers: those of all weights, as ``prepare`` makes them, or without rows: then W's are made block by block
    """
    n_vectors = sums.shape[1] // LANES
    start, stride = address(W), W.strides[0]
    codes_at, sums_at, length = address(codes), address(sums), integers.strides[0]
    block = weights[: PANEL * BLOCK]
    quads, rows = block.reshape(PANEL // UNITS, BLOCK, UNITS), block.reshape(PANEL, BLOCK)
    prepared = len(integers) > 0
    unit, row = (4, 4 * UNITS) if up else (length if prepared else BLOCK * 4, 4)
    group = (length if up else UNITS * length) if prepared else BLOCK * UNITS * 4
    for low in range(0, n_in, BLOCK):
        high = min(low + BLOCK, n_in)
        # the next of this block's integers are prefetched, or while this block is processed the next one's weights
        step, ahead, line = 0, 0, 64 if up else unit
        weights_at = address(weights)
        if prepared:
            weights_at = address(integers) + first // UNITS * group + low * row
        elif up:
            fixed_columns_in_quads(W, first, n_units, low, high, scale, quads)
            ahead = start + high * stride + 4 * first if high < n_in else start + 4 * (first + PANEL)
            step = stride
        else:
            fixed_rows(W, first, n_units, low, high, scale, rows)
            ahead = start + first * stride + 4 * high if high < n_in else start + (first + PANEL) * stride
            line = stride
        count = 0
        for u in range(0, n_units, UNITS):
            for chunk in range((high - low + CODE_BITS - 1) // CODE_BITS):
                here = weights_at + u // UNITS * group + chunk * CODE_BITS * row
                if prepared:
                    fetch = here + AHEAD * CODE_BITS * row
                elif step:
                    fetch = ahead + count * step
                else:
                    fetch = ahead + (count % 16) * 4 * line + (count // 16) * 64
                lookup_step(
                    here, unit, row, codes_at + (low // CODE_BITS + chunk) * codes.strides[0],
                    sums_at + u * sums.strides[0], sums.strides[0], n_vectors, fetch, line,
                )  # fmt: skip
                count += 1


@njit(cache=True, nogil=True)
def sum_panel_by_lists(W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums):  # type: ignore[no-untyped-def]
    """As in registers, from lists of active units (``lists_of``): a row of 64 weights is added for each"""
    by_sample = aligned_int32(pad(batch) * PANEL)
    block_at, sums_at, active_at = address(weights), address(by_sample), address(active)
    unit = n_units // n_units  # 1, but not a constant, for which numba would compile again
    for low in range(0, n_in, BLOCK):
        high = min(low + BLOCK, n_in)
        fixed_vectors(W, up, first, n_units, low, high, scale, weights, low - low, unit * LANES, unit * PANEL)
        bounds = offsets[low // BLOCK]
        for s in range(batch):
            n = bounds[s + 1] - bounds[s]
            if n:
                add_listed_rows(sums_at + s * 4 * PANEL, block_at, active_at + 4 * bounds[s], n)
    add_transposed(by_sample, first - first, unit * PANEL, n_units, batch, sums, first - first)


_FLOATS, _INTEGERS = types.Array(types.float32, 2, "C"), types.Array(types.int32, 2, "C")
_CODES, _OFFSETS = types.Array(types.uint16, 2, "C"), types.Array(types.int64, 2, "C")
_LIST = types.Array(types.int32, 1, "C")
SUM_PANEL = types.void(
    _FLOATS, _INTEGERS, types.boolean, types.int64, types.int64, types.int64, types.float32, _CODES, _OFFSETS, _LIST,
    types.int64, _LIST, _INTEGERS,
)  # fmt: skip
_FUNCTIONS = {
    "registers": sum_panel_in_registers,
    "tables": sum_panel_by_tables,
    "lists": sum_panel_by_lists,
    "tiles": sum_panel_by_tiles,
}
# kernels for which weights can be prepared: an array for them, and what fills it (true: this kernel cannot use them)
_PREPARED = {
    "registers": (_no_integers_yet, prepare),
    "tables": (no_vectors_yet, prepare_vectors),
    "tiles": (no_limbs_yet, prepare_limbs),
}
_call = caller(SUM_PANEL)


@functools.cache
def entry(kernel: str) -> int:
    """Return the address of a kernel, which is compiled now where it is not yet.

    The processor must have its instructions (``dispatch.available``).
    """
    return address_of(_FUNCTIONS[kernel], SUM_PANEL)


@njit(cache=True, nogil=True)
def sum_panel(kernel, W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums):  # type: ignore[no-untyped-def]
    """sums (PANEL, pad(batch)) += sums of the units ``first .. first + n_units - 1``, at most PANEL, by one kernel

    kernel   its ``entry``
    Of integers, codes, offsets and active only those that the kernel needs are read.
    """
    if batch > 0 and n_in > 0:
        _call(
            kernel,
            (W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums),
        )
