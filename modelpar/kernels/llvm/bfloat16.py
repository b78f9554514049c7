"""Products of numbers in bfloat16, in pairs, and the tiles of such pairs; see ``kernels.llvm.vectors``.

A bfloat16 number is the upper half of a float32.  One instruction multiplies 16 pairs by 16 pairs and adds to 16
float32 (AVX-512 BF16; AMD from Zen 4 on, Intel from Cooper Lake on), another one a tile of 16 rows of 16 pairs by
another (AMX).

A tile has 16 rows of 16 pairs, 1 KiB.  As the first operand of a product its rows are outer units and its lanes pairs
of summed ones; as the second one its rows are pairs, and its lanes outer units.  Each is the other's transpose.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm.tile_bytes import DEPTH, TILE
from modelpar.kernels.llvm.tiles import values
from modelpar.kernels.llvm.vectors import (
    FEATURES,
    FLOAT32,
    I32,
    I64,
    LANE16,
    LANE32,
    LANES,
    compiled,
    constant,
    function,
    load,
    spread,
    times,
)  # fmt: skip

HAS_PAIRS = compiled() and {"avx512bf16", "avx512f", "avx512bw"} <= FEATURES
HAS_PAIR_TILES = compiled() and {"amx-tile", "amx-bf16", "avx512f", "avx512bw"} <= FEATURES

WIDEST = 3  # tiles of columns of ``multiply_pairs``: with 8 rows 24 sums, which leaves registers for operands
_HALF = LANES // 2  # rows at a time
_AHEAD = 4  # pairs of summed units in a round of the loop
ROUND = 2 * _AHEAD


def _rounded(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """float32 as int32 whose upper halves are the nearest bfloat16, of two the even one; NaN stays NaN.   x: LANE32"""
    even = b.and_(b.lshr(x, constant(LANE32, 16)), constant(LANE32, 1))
    nearest = b.add(b.add(x, constant(LANE32, 0x7FFF)), even)
    magnitude = b.and_(x, constant(LANE32, 0x7FFFFFFF))
    no_number = b.icmp_unsigned(">", magnitude, constant(LANE32, 0x7F800000))
    return b.select(no_number, b.or_(x, constant(LANE32, 0x400000)), nearest)


@intrinsic
def pair_rows(typingctx: Any, first: Any, second: Any, target: Any) -> Any:
    """target (16,) pairs = numbers of the first row of 16 float32 with those of the second

    All are addresses; target on a 64-byte boundary.
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        low, high = (_rounded(b, load(b, row, LANE32, 4)) for row in args[:2])
        pairs = b.or_(b.lshr(low, constant(LANE32, 16)), b.and_(high, constant(LANE32, 0xFFFF0000)))
        b.store(pairs, b.inttoptr(args[2], LANE32.as_pointer()), align=DEPTH)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), build


@intrinsic
def pair_neighbours(typingctx: Any, source: Any, target: Any) -> Any:
    """target (16,) pairs = each of 32 float32 with the next one

    Both are addresses; target on a 64-byte boundary.
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for half in range(2):
            numbers = _rounded(b, load(b, b.add(args[0], ir.Constant(I64, half * DEPTH)), LANE32, 4))
            upper = b.trunc(b.lshr(numbers, constant(LANE32, 16)), LANE16)
            address = b.add(args[1], ir.Constant(I64, half * DEPTH // 2))
            b.store(upper, b.inttoptr(address, LANE16.as_pointer()), align=DEPTH // 2)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), build


@intrinsic
def round_16(typingctx: Any, source: Any, target: Any) -> Any:
    """target (16,) float32 = the nearest bfloat16 numbers; both are addresses"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        upper = b.and_(_rounded(b, load(b, args[0], LANE32, 4)), constant(LANE32, 0xFFFF0000))
        b.store(upper, b.inttoptr(args[1], LANE32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), build


def _multiplier(n_columns: int) -> Any:
    """Return the intrinsic ``multiply_pairs`` for so many tiles of 16 columns, at most WIDEST."""

    @intrinsic
    def multiply_pairs(typingctx: Any, product: Any, alpha: Any, beta: Any) -> Any:
        """out = alpha * products of 16 rows with 16 n_columns columns + beta * out, which is not read where beta is 0

        product  (a, columns, stride, n_rounds, out, out_stride): address of tiles of rows; of tiles of 16 columns, and
                 bytes from these to the next 16 columns; rounds, at least 1, of ROUND summed units each; address of
                 float32 (16, 16 n_columns) whose rows are so many bytes apart
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, columns, stride, n_rounds, out, out_stride = values(context, b, product, args[0])
            alpha, beta = (spread(b, scalar, FLOAT32) for scalar in args[1:])
            streams = [b.add(columns, b.mul(stride, ir.Constant(I64, c))) for c in range(n_columns)]
            for half in range(LANES // _HALF):
                first = b.add(a, ir.Constant(I64, half * _HALF * DEPTH))
                results = [[b.fmul(alpha, x) for x in row] for row in _sums_of_pairs(b, first, streams, n_rounds)]
                with b.if_else(b.fcmp_ordered("==", args[2], ir.Constant(ir.FloatType(), 0.0))) as (is_zero, is_not):
                    for block, keeps in ((is_zero, False), (is_not, True)):
                        with block:
                            for r, row in enumerate(results):
                                at = b.add(out, b.mul(out_stride, ir.Constant(I64, half * _HALF + r)))
                                for c, result in enumerate(row):
                                    pointer = b.inttoptr(b.add(at, ir.Constant(I64, c * DEPTH)), FLOAT32.as_pointer())
                                    kept = b.fmul(beta, b.load(pointer, align=4)) if keeps else None
                                    b.store(b.fadd(result, kept) if keeps else result, pointer, align=4)
            return context.get_dummy_value()

        return types.void(product, types.float32, types.float32), build

    return multiply_pairs


def _sums_of_pairs(b: ir.IRBuilder, a: ir.Value, streams: list[ir.Value], n_rounds: ir.Value) -> list[list[ir.Value]]:
    """The sums [row][tile of columns] of 8 rows of tiles."""
    # LLVM's own type is bfloat, which llvmlite has not; LLVM converts calls of the older signature
    dot = function(b, "llvm.x86.avx512bf16.dpbf16ps.512", FLOAT32, FLOAT32, LANE32, LANE32)
    zero = ir.Constant(FLOAT32, [ir.Constant(ir.FloatType(), 0.0)] * LANES)
    before = b.block
    with times(b, n_rounds, "pairs") as number:
        loop = b.block
        begun = [[b.phi(FLOAT32) for _ in streams] for _ in range(_HALF)]
        sums = [list(row) for row in begun]
        tile = b.mul(b.lshr(number, ir.Constant(I64, 2)), ir.Constant(I64, TILE))
        lanes = b.mul(b.and_(number, ir.Constant(I64, LANES // _AHEAD - 1)), ir.Constant(I64, 4 * _AHEAD))
        here = b.add(a, b.add(tile, lanes))
        there = b.mul(number, ir.Constant(I64, _AHEAD * DEPTH))
        for k in range(_AHEAD):
            columns = [load(b, b.add(b.add(s, there), ir.Constant(I64, k * DEPTH)), LANE32, DEPTH) for s in streams]
            for r in range(_HALF):
                row = spread(b, load(b, b.add(here, ir.Constant(I64, r * DEPTH + 4 * k)), I32, 4), LANE32)
                for c, column in enumerate(columns):
                    sums[r][c] = b.call(dot, [sums[r][c], row, column])
        for phis, totals in zip(begun, sums, strict=True):
            for phi, total in zip(phis, totals, strict=True):
                phi.add_incoming(zero, before)
                phi.add_incoming(total, loop)
    return sums


multiply_pairs_1, multiply_pairs_2, multiply_pairs_3 = (_multiplier(n) for n in (1, 2, 3))
