"""Kernels that turn rows of a table into a units-first minibatch: gather, shift, scale and transpose in one pass.

Bytes (grey values, states) take a faster way: eight samples by eight units are transposed inside eight 64-bit words
(three rounds of masked swaps; Warren, Hacker's Delight, 2nd ed. 2012, section 7-3, here for bytes), which the compiler
vectorises over units.  Panels of 256 units keep a gathered row's part in a few neighbouring cache lines: with 64 the
time of rows scattered over a large table doubles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]

UNITS = 256  # units of a panel, a multiple of 8
SAMPLES = 64  # samples of a panel, a multiple of 8

_SWAP_8 = np.uint64(0x00FF00FF00FF00FF)
_SWAP_16 = np.uint64(0x0000FFFF0000FFFF)
_SWAP_32 = np.uint64(0x00000000FFFFFFFF)
_8, _16, _32 = np.uint64(8), np.uint64(16), np.uint64(32)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _swap(low, high, mask, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    moved = ((low >> shift) ^ high) & mask
    return low ^ (moved << shift), high ^ moved


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _transpose(words: Array, out: Array) -> None:
    """Transpose 8 x 8 blocks of bytes.   words, out (8, n) uint64

    Byte b of words[s, w] becomes byte s of out[b, w].
    """
    r0, r1, r2, r3, r4, r5, r6, r7 = words[0], words[1], words[2], words[3], words[4], words[5], words[6], words[7]
    o0, o1, o2, o3, o4, o5, o6, o7 = out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]
    for w in range(len(r0)):
        x0, x1 = _swap(r0[w], r1[w], _SWAP_8, _8)
        x2, x3 = _swap(r2[w], r3[w], _SWAP_8, _8)
        x4, x5 = _swap(r4[w], r5[w], _SWAP_8, _8)
        x6, x7 = _swap(r6[w], r7[w], _SWAP_8, _8)
        x0, x2 = _swap(x0, x2, _SWAP_16, _16)
        x1, x3 = _swap(x1, x3, _SWAP_16, _16)
        x4, x6 = _swap(x4, x6, _SWAP_16, _16)
        x5, x7 = _swap(x5, x7, _SWAP_16, _16)
        o0[w], o4[w] = _swap(x0, x4, _SWAP_32, _32)
        o1[w], o5[w] = _swap(x1, x5, _SWAP_32, _32)
        o2[w], o6[w] = _swap(x2, x6, _SWAP_32, _32)
        o3[w], o7[w] = _swap(x3, x7, _SWAP_32, _32)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _touch(source: Array, rows: Array, first: int, n: int) -> np.uint8:
    """Load one byte of every cache line that the panel needs.

    These loads wait for memory together; those of the copies that follow would wait one after the other.
    """
    touched = np.uint8(0)
    for row_id in rows:
        row = source[row_id]
        for u in range(first, first + n, 64):
            touched |= row[u]
    return touched


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def transpose_panel(source: Array, rows: Array, columns: Array, adjacent: bool, tile: Array, transposed: Array) -> None:
    """The bytes of at most 64 rows and 256 columns, columns first; those of the last group of 8 rows are filled up.

    source (n, width), tile (64, 256) uint8; transposed (8, 8, 32) uint64: byte s % 8 of [s // 8, u % 8, u // 8] is the
    value of row s in column u.  All rows are copied in one call, by loops over unsigned indices: assignments of slices
    took three quarters of the time.
    """
    n_samples, n_units = len(rows), len(columns)
    if adjacent:
        begin = np.uint64(columns[0])
        tile[0, 0] = _touch(source, rows, columns[0], n_units)
        for s in range(n_samples):
            row, target = source[rows[s]], tile[s]
            for u in range(n_units):
                target[u] = row[begin + np.uint64(u)]
    else:
        for s in range(n_samples):
            row, target = source[rows[s]], tile[s]
            for u in range(n_units):
                target[u] = row[columns[u]]
    words = tile.view(np.uint64)
    for group in range((n_samples + 7) // 8):
        _transpose(words[8 * group : 8 * group + 8], transposed[group])


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def fill_bytes(
    source: Array, rows: Array, columns: Array, adjacent: bool, offset: Array, scale: Array, out: Array
) -> None:
    """out = ((source[rows][:, columns] - offset) / scale).T

    source (n, width) uint8; rows (batch,), columns (units,) int64; offset, scale (units,) of out's type;
    out (units, batch).  ``adjacent``: the columns are neighbours in ascending order.
    """
    tile = np.zeros((SAMPLES, UNITS), np.uint8)
    transposed = np.empty((SAMPLES // 8, 8, UNITS // 8), np.uint64)
    line = np.empty(SAMPLES, np.uint8)
    line_words = line.view(np.uint64)
    for first_sample in range(0, len(rows), SAMPLES):
        n_samples = min(SAMPLES, len(rows) - first_sample)
        for first_unit in range(0, len(columns), UNITS):
            n_units = min(UNITS, len(columns) - first_unit)
            wanted = columns[first_unit : first_unit + n_units]
            transpose_panel(source, rows[first_sample : first_sample + n_samples], wanted, adjacent, tile, transposed)
            for u in range(n_units):
                for group in range((n_samples + 7) // 8):
                    line_words[group] = transposed[group, u & 7, u >> 3]
                shift, divisor = offset[first_unit + u], scale[first_unit + u]
                target = out[first_unit + u, first_sample : first_sample + n_samples]
                for s in range(n_samples):
                    target[s] = (line[s] - shift) / divisor


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def fill_floats(source: Array, rows: Array, columns: Array, offset: Array, scale: Array, out: Array) -> None:
    """out = ((source[rows][:, columns] - offset) / scale).T in float64 arithmetic

    source (n, width) float; rows (batch,), columns (units,) int64; offset, scale (units,) float64; out (units, batch).
    """
    tile = np.empty(SAMPLES * SAMPLES, source.dtype)
    for first_unit in range(0, len(columns), SAMPLES):
        n_units = min(SAMPLES, len(columns) - first_unit)
        wanted = columns[first_unit : first_unit + n_units]
        for first_sample in range(0, len(rows), SAMPLES):
            n_samples = min(SAMPLES, len(rows) - first_sample)
            for s in range(n_samples):
                row = source[rows[first_sample + s]]
                part = tile[s * SAMPLES : s * SAMPLES + n_units]
                for u in range(n_units):
                    part[u] = row[wanted[u]]
            for u in range(n_units):
                shift, divisor = offset[first_unit + u], scale[first_unit + u]
                target = out[first_unit + u, first_sample : first_sample + n_samples]
                for s in range(n_samples):
                    target[s] = (tile[s * SAMPLES + u] - shift) / divisor


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def fill_sparse(
    indptr: Array, indices: Array, data: Array, rows: Array, offset: Array, scale: Array, out: Array
) -> None:
    """out = ((matrix[rows].toarray() - offset) / scale).T in float64 arithmetic, for a CSR matrix

    indptr (n + 1,), indices (entries,), data (entries,); rows (batch,) int64; offset, scale (units,) float64;
    out (units, batch).
    """
    for u in range(out.shape[0]):
        out[u, :] = (0.0 - offset[u]) / scale[u]
    for s in range(len(rows)):
        for entry in range(indptr[rows[s]], indptr[rows[s] + 1]):
            u = indices[entry]
            out[u, s] = (data[entry] - offset[u]) / scale[u]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def threshold(values: Array, level: float) -> None:
    """values = (values > float32(level)), in place.   values (units, batch)

    In float32 a grey value of 51 is not above 0.2, as should be; 51 / 255 in float32 is above 0.2 in float64.
    """
    above = np.float32(level)
    for u in range(values.shape[0]):
        for s in range(values.shape[1]):
            values[u, s] = 1.0 if values[u, s] > above else 0.0


def arithmetic_of(raw: np.dtype[Any], out: Array, offset: Array | None) -> np.dtype[Any]:
    """The type in which values are scaled: that of ``out`` for bytes, whose quotients it rounds right, else float64.

    A mean that is taken from bytes must keep what float32 would lose beside a small deviation.
    """
    return out.dtype if raw == np.uint8 and (offset is None or not np.any(offset)) else np.dtype(np.float64)


def affine(
    n_units: int, batch: int, out: Array, dtype: Any, offset: Array | None, scale: Array | None
) -> tuple[Array, Array]:
    """Offset and scale as a kernel takes them.  Raises ValueError where the shapes do not fit."""
    if out.shape != (n_units, batch) or not out.flags.c_contiguous:
        raise ValueError(f"the minibatch to fill is {out.shape}, but must be C-contiguous ({n_units}, {batch})")
    offset = np.zeros(n_units, dtype) if offset is None else np.array(offset, dtype)
    scale = np.ones(n_units, dtype) if scale is None else np.array(scale, dtype)
    if offset.shape != (n_units,) or scale.shape != (n_units,):
        raise ValueError(f"offset {offset.shape} and scale {scale.shape} must be ({n_units},)")
    return offset, scale
