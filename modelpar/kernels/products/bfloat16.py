"""Products of dense matrices in bfloat16: operands are rounded to the nearest, of two to the even; sums are float32.

Three ways to the same products, but for the order of sums: on tiles (AMX), by instructions on pairs (AVX-512 BF16), and
by the BLAS with rounded operands, where the processor has neither.  Operands become tiles of pairs
(``kernels.llvm.bfloat16``): the second one as a whole, the first one a block of rows at a time, which stays in the
second-level cache while it meets all columns.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.bfloat16 import (
    HAS_PAIR_TILES,
    HAS_PAIRS,
    ROUND,
    WIDEST,
    multiply_pairs_1,
    multiply_pairs_2,
    multiply_pairs_3,
    pair_neighbours,
    pair_rows,
)
from modelpar.kernels.llvm.counts import transpose_16
from modelpar.kernels.llvm.tile_bytes import DEPTH, TILE
from modelpar.kernels.llvm.tiles import PAIRS, allowed, configure, release, square
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products import dense
from modelpar.kernels.products.aligned import aligned_int32, aligned_scratch
from modelpar.kernels.products.tiles import CONFIGURATION
from modelpar.machine.compilation import njit, report

FloatArray = npt.NDArray[Any]

STEP = 2 * LANES  # summed units of a tile
RATES = 0.15, 0.005  # nanoseconds of a number that is packed, and of a multiplication, on a core of 2024
_STEPS = 32  # of a block: of a row of tiles 32 KiB, of a block of rows 256 KiB
_ROWS = 128
_BLOCK = _ROWS * _STEPS * LANES  # pairs of such a block
SQUARE = 2 * LANES  # rows and columns of a product of four tiles

WAYS = ("tiles", "pairs", "blas")

_multiply_square = square(4 * SQUARE, PAIRS)


def matmul(a: FloatArray, b: FloatArray, out: FloatArray, alpha: float = 1.0, beta: float = 0.0) -> None:
    """As ``dense.matmul`` with a and b rounded to bfloat16, but for those of float64.  Raises ValueError as it does."""
    if out.dtype != np.float32:
        dense.matmul(a, b, out, alpha, beta)
        return
    m, k, n = dense.check(a, b, out)
    (rows, rows_by_unit), (columns, columns_by_unit) = _by_unit(a, "a"), _by_unit(b.T, "b")
    chosen = way()
    if chosen == "blas" or m == 0 or k == 0 or n == 0:
        dense.matmul(_rounded_operand(a), _rounded_operand(b), out, alpha, beta)
        return
    n_steps = (k + STEP - 1) // STEP
    packed = aligned_scratch((n + SQUARE - 1) // SQUARE * 2 * n_steps * TILE // 4).reshape(-1, n_steps * TILE // 4)
    of_pack, of_product = (threads.rows_worth_waking(k * rate) for rate in (RATES[0], RATES[1] * n))
    multiply = multiply_rows_on_tiles if chosen == "tiles" else multiply_rows
    scalars = np.float32(alpha), np.float32(beta)

    def pack(start: int, stop: int) -> None:
        pack_pairs(columns, columns_by_unit, start, stop, 0, k, True, packed[start // LANES :])

    def work(start: int, stop: int) -> None:
        multiply(rows, rows_by_unit, packed, start, stop, *scalars, out)

    threads.split(n, of_pack, pack, align=LANES)
    threads.split(m, of_product, work, align=SQUARE)


def rounded(x: FloatArray) -> FloatArray:
    """Return float32 numbers as the nearest bfloat16 ones, of two the even one; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    no_number = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    chosen = np.where(no_number, bits | np.uint32(0x400000), nearest) & np.uint32(0xFFFF0000)
    return chosen.view(np.float32)


def _rounded_operand(x: FloatArray) -> FloatArray:
    return rounded(x) if x.flags.c_contiguous else rounded(x.T).T


def _by_unit(x: FloatArray, name: str) -> tuple[FloatArray, bool]:
    """Return x (units, summed) as it lies in memory, and whether its rows are units there.  Raises ValueError."""
    if not x.flags.aligned:
        raise ValueError(f"{name} would be copied: it is not aligned")
    if x.flags.c_contiguous:
        return x, True
    if x.flags.f_contiguous:
        return x.T, False
    raise ValueError(f"{name} would be copied: strides {x.strides} of shape {x.shape} are of neither order")


@functools.cache
def way() -> str:
    """Return how this process makes products in bfloat16, one of WAYS; tiles that give wrong ones are reported."""
    if HAS_PAIR_TILES and allowed():
        if self_test(multiply_rows_on_tiles):
            return "tiles"
        report("the tiles of this processor (AMX) give wrong products of bfloat16 numbers: they are made otherwise")
    return "pairs" if HAS_PAIRS else "blas"


def self_test(multiply: Any) -> bool:
    """Whether products of small integers, which bfloat16 has, are right: by ``multiply_rows`` or that on tiles."""
    rng = np.random.default_rng(0)
    m, k, n = 35, 1100, 37
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((m, k), (k, n)))
    n_steps = (k + STEP - 1) // STEP
    packed = aligned_scratch(4 * n_steps * TILE // 4).reshape(4, -1)
    pack_pairs(b, False, 0, n, 0, k, True, packed)
    out = np.ones((m, n), np.float32)
    multiply(a, True, packed, 0, m, np.float32(2), np.float32(-1), out)
    return bool(np.array_equal(out, 2 * (a.astype(np.float64) @ b) - 1))


@njit(cache=True, nogil=True)
def pack_pairs(x, by_unit, first, stop, low, high, second, tiles):  # type: ignore[no-untyped-def]
    """Tiles of pairs [16 units, step] of the units ``first .. stop - 1`` and the summed ones ``low .. high - 1``.

    x        (units, summed) float32 where ``by_unit``, else (summed, units)
    second   whether they are the second operand of a product
    tiles    (rows, bytes / 4) int32 that begin on a 64-byte boundary; what is not there is 0
    """
    n_steps, row = (high - low + STEP - 1) // STEP, x.strides[0]
    scratch = aligned_int32(STEP * LANES + TILE // 4)
    floats, middle = scratch.view(np.float32), address(scratch) + 4 * STEP * LANES
    turned = second == by_unit
    n_groups = (stop - first + LANES - 1) // LANES
    for item in range(n_groups * n_steps):  # in the order in which x lies in memory
        if by_unit:
            group, step = item // n_steps, item % n_steps
        else:
            group, step = item % n_groups, item // n_groups
        u, k = first + group * LANES, low + step * STEP
        n, m = min(LANES, stop - u), min(STEP, high - k)
        target = address(tiles) + group * tiles.strides[0] + step * TILE
        made = middle if turned else target
        source, stride = address(x) + (u * row + 4 * k if by_unit else k * row + 4 * u), row
        if n < LANES or m < STEP:  # nothing after the end of x is read
            floats[: STEP * LANES] = 0
            stride = 4 * (STEP if by_unit else LANES)
            source = address(scratch)
            if by_unit:
                for r in range(n):
                    for c in range(m):
                        floats[r * STEP + c] = x[u + r, k + c]
            else:
                for r in range(m):
                    for c in range(n):
                        floats[r * LANES + c] = x[k + r, u + c]
        for r in range(LANES):
            if by_unit:
                pair_neighbours(source + r * stride, made + r * DEPTH)
            else:
                pair_rows(source + 2 * r * stride, source + (2 * r + 1) * stride, made + r * DEPTH)
        if turned:
            transpose_16(middle, DEPTH, target, DEPTH)


@njit(cache=True, nogil=True)
def _add(results, width, n, m, alpha, beta, out, i, j):  # type: ignore[no-untyped-def]
    """out[i : i + n, j : j + m] = alpha * results + beta * out; results: rows of ``width``"""
    for r in range(n):
        row = out[i + r]
        at = r * width
        if beta == 0:
            for c in range(m):
                row[j + c] = alpha * results[at + c]
        else:
            for c in range(m):
                row[j + c] = alpha * results[at + c] + beta * row[j + c]


@njit(cache=True, nogil=True)
def multiply_rows(a, by_unit, columns, start, stop, alpha, beta, out):  # type: ignore[no-untyped-def]
    """out[start:stop] = alpha * a[start:stop] @ b + beta * out[start:stop]

    a         (rows, summed) where ``by_unit``, else (summed, rows)
    columns   tiles of b as ``pack_pairs`` makes them
    """
    n_sums, n, wide = a.shape[1] if by_unit else a.shape[0], out.shape[1], columns.strides[0]
    rows = aligned_scratch(_BLOCK).reshape(_ROWS // LANES, _BLOCK * LANES // _ROWS)
    scratch = aligned_int32(WIDEST * LANES * LANES)
    results = scratch.view(np.float32)
    for low in range(0, n_sums, _STEPS * STEP):
        high = min(low + _STEPS * STEP, n_sums)
        n_rounds, carry = (high - low + ROUND - 1) // ROUND, beta if low == 0 else np.float32(1)
        for first in range(start, stop, _ROWS):
            last = min(first + _ROWS, stop)
            pack_pairs(a, by_unit, first, last, low, high, False, rows)
            j = 0
            while j < n:
                left = (n - j + LANES - 1) // LANES  # 4 are 2 and 2: a single one has too few sums at a time
                width = 2 if left == 2 or left == 4 else min(left, WIDEST)
                b = address(columns) + j // LANES * wide + low // STEP * TILE
                m = min(width * LANES, n - j)
                for i in range(first, last, LANES):
                    here, whole = address(rows) + (i - first) // LANES * rows.strides[0], True
                    to, apart = address(out) + i * out.strides[0] + 4 * j, out.strides[0]
                    if last - i < LANES or m < width * LANES:
                        whole, to, apart = False, address(scratch), width * DEPTH
                    product = here, b, wide, n_rounds, to, apart
                    factor, kept = (alpha, carry) if whole else (np.float32(1), np.float32(0))
                    if width == 1:
                        multiply_pairs_1(product, factor, kept)
                    elif width == 2:
                        multiply_pairs_2(product, factor, kept)
                    else:
                        multiply_pairs_3(product, factor, kept)
                    if not whole:
                        _add(results, width * LANES, min(LANES, last - i), m, alpha, carry, out, i, j)
                j += width * LANES


@njit(cache=True, nogil=True)
def multiply_rows_on_tiles(a, by_unit, columns, start, stop, alpha, beta, out):  # type: ignore[no-untyped-def]
    """As ``multiply_rows``, with ``columns`` of a whole number of ``SQUARE``."""
    n_sums, n, wide = a.shape[1] if by_unit else a.shape[0], out.shape[1], columns.strides[0]
    rows = aligned_scratch(_BLOCK).reshape(_ROWS // LANES, _BLOCK * LANES // _ROWS)
    scratch = aligned_int32(SQUARE * SQUARE)
    results, at = scratch.view(np.float32), address(scratch)
    configure(address(CONFIGURATION))
    for low in range(0, n_sums, _STEPS * STEP):
        high = min(low + _STEPS * STEP, n_sums)
        n_steps, carry = (high - low + STEP - 1) // STEP, beta if low == 0 else np.float32(1)
        for first in range(start, stop, _ROWS):
            last = min(first + _ROWS, stop)
            pack_pairs(a, by_unit, first, last, low, high, False, rows)
            for j in range(0, n, SQUARE):
                b = address(columns) + j // LANES * wide + low // STEP * TILE
                for i in range(first, last, SQUARE):
                    here = address(rows) + (i - first) // LANES * rows.strides[0]
                    _multiply_square(here, rows.strides[0], b, wide, n_steps, at)
                    _add(results, SQUARE, min(SQUARE, last - i), min(SQUARE, n - j), alpha, carry, out, i, j)
    release()
