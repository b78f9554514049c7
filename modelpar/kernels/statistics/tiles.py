"""Statistics of packed states on tiles: one more way to the integers of ``statistics.counts``.

States and k-bit values become bytes, those of the model's states with a minus sign, so that both phases are one product
over samples and no bit planes: 8-bit values take as long as 1-bit ones.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.calls import address_of
from modelpar.kernels.llvm.counts import transpose_16
from modelpar.kernels.llvm.tile_bytes import DEPTH, TILE, set_bytes
from modelpar.kernels.llvm.tiles import allowed, configure, release, square
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products.aligned import aligned_int32, aligned_scratch
from modelpar.kernels.products.tiles import CONFIGURATION
from modelpar.kernels.states import Words
from modelpar.kernels.statistics.counts import COUNT_ROWS
from modelpar.machine.compilation import njit, report

ROWS, COLUMNS = 32, 1024  # of C at once
OF_WORD = 4.0  # nanoseconds for a word of 64 bits, as bytes
Bits = npt.NDArray[np.uint64]
Array = npt.NDArray[Any]

NO_BITS, NO_VALUES = np.empty((0, 0), np.uint64), np.empty((0, 0, 0, 0), np.uint32)

_multiply = square(4 * (COLUMNS + LANES))


@functools.cache
def entry() -> int:
    """Return the address of ``count_rows_on_tiles``."""
    return address_of(count_rows_on_tiles, COUNT_ROWS)


def signed_bytes(words0: Bits, words1: Bits) -> Array:
    """Bits of both phases (units, n) uint64 as bytes 1 and -1 -> (16 units, [step, unit, 64 samples]) uint64"""
    n_units, n_steps = len(words0), words0.shape[1] + words1.shape[1]
    out = _no_tiles_yet(n_units, n_steps * TILE // 4).view(np.uint64)
    grain = threads.rows_worth_waking(1 + OF_WORD * n_steps)
    threads.split(n_units, grain, lambda start, stop: fill_signed_bytes(words0, words1, out, start, stop), LANES)
    return out


def bytes_of_values(words0: Words, words1: Words) -> Array:
    """Bit planes (units, planes, n) of both phases as bytes -> (16 units, 1, [step, 4 samples], 16 units) uint32"""
    n_units, planes, n0 = words0.shape
    n_steps = n0 + words1.shape[2]
    tiles = _no_tiles_yet(n_units, n_steps * TILE // 4).view(np.uint32)
    out = tiles.reshape(len(tiles), 1, n_steps * LANES, LANES)
    grain = threads.rows_worth_waking(1 + OF_WORD * n_steps * planes)
    threads.split(n_units, grain, lambda start, stop: fill_bytes_of_values(words0, words1, out, start, stop), LANES)
    return out


def _no_tiles_yet(n_units: int, width: int) -> npt.NDArray[np.int32]:
    """Tiles of 16 units (tiles, width) of whole blocks of ROWS units.

    Each thread fills its own, and writes to no other's memory: lines that another core has just written take longer.
    """
    n_tiles = -(-n_units // ROWS) * (ROWS // LANES)
    return aligned_scratch(n_tiles * width).reshape(n_tiles, width)


@njit(cache=True, nogil=True)
def fill_signed_bytes(words0, words1, out, start, stop):  # type: ignore[no-untyped-def]
    """The units ``start .. stop - 1`` of ``signed_bytes``; start is a multiple of 16."""
    n0, n1 = words0.shape[1], words1.shape[1]
    out[start // LANES : (stop + LANES - 1) // LANES] = 0
    for i in range(start, stop):
        at = address(out) + i // LANES * out.strides[0] + i % LANES * DEPTH
        for w in range(n0):
            set_bytes(at + w * TILE, words0[i, w], 1)
        for w in range(n1):
            set_bytes(at + (n0 + w) * TILE, words1[i, w], -1)


@njit(cache=True, nogil=True)
def fill_bytes_of_values(words0, words1, out, start, stop):  # type: ignore[no-untyped-def]
    """The units ``start .. stop - 1`` of ``bytes_of_values``; start is a multiple of 16."""
    planes, n0, n1 = words0.shape[1], words0.shape[2], words1.shape[2]
    values = aligned_int32(TILE // 4)
    for first in range(start, stop, LANES):
        target = address(out) + first // LANES * out.strides[0]
        for step in range(n0 + n1):
            words, w = (words0, step) if step < n0 else (words1, step - n0)
            values[:] = 0
            for j in range(min(LANES, stop - first)):
                for p in range(planes):
                    set_bytes(address(values) + j * DEPTH, words[first + j, p, w], 1 << p)
            transpose_16(address(values), DEPTH, target + step * TILE, DEPTH)


@njit(cache=True, nogil=True)
def count_rows_on_tiles(v, s, no_bits, no_values, first, n_rows, low, high, counts):  # type: ignore[no-untyped-def]
    """As ``counts.count_rows``, of up to ROWS rows, with v from signed_bytes and s from bytes_of_values.

    first   a multiple of ROWS, low too
    """
    n_steps = s.shape[2] // LANES
    if n_steps == 0:  # a replica without samples; the loop over steps runs at least once
        counts[:] = 0
        return
    configure(address(CONFIGURATION))
    rows, out = address(v) + first // LANES * v.strides[0], address(counts)
    for j in range(low, high, ROWS):
        columns = address(s) + j // LANES * s.strides[0]
        _multiply(rows, v.strides[0], columns, s.strides[0], n_steps, out + 4 * (j - low))
    release()


@functools.cache
def self_test() -> bool:
    """Whether this process may use tiles, and statistics on them are those of integers in NumPy; where these differ, it
    is reported."""
    if not allowed():
        return False
    if not (right := _counts_are_right()):
        report("the tiles of this processor (AMX) give wrong statistics: other kernels are used")
    return right


def _counts_are_right() -> bool:
    rng = np.random.default_rng(0)
    shape, planes, n_words = (37, 70), 8, 2
    samples = 64 * n_words
    v = rng.integers(0, 2, (2, shape[0], samples), np.uint8)
    s = rng.integers(0, 1 << planes, (2, shape[1], samples), np.uint8)
    s_words = _packed(np.stack([s >> p & 1 for p in range(planes)], axis=2))
    a, x = signed_bytes(*_packed(v)), bytes_of_values(*s_words)
    counts = aligned_int32(ROWS * (COLUMNS + LANES)).reshape(ROWS, COLUMNS + LANES)
    wide = v.astype(np.int64), s.astype(np.int64).transpose(0, 2, 1)
    expected = wide[0][0] @ wide[1][0] - wide[0][1] @ wide[1][1]
    for first in range(0, shape[0], ROWS):
        n = min(ROWS, shape[0] - first)
        count_rows_on_tiles(a, x, NO_BITS, NO_VALUES, first, n, 0, shape[1], counts)
        if not np.array_equal(counts[:n, : shape[1]], expected[first : first + n]):
            return False
    return True


def _packed(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    return np.packbits(bits, axis=-1, bitorder="little").view(np.uint64)
