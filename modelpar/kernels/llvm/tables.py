"""Vector operations of subset sums in tables in the first-level cache; see ``kernels.llvm.vectors``.

A table has a row of WIDTH bytes for each of the 32 subsets of five inputs: their summed weights for 32 units, or their
summed values for 64 units in int16.  Six of them, 24 KiB, fit in every processor's first-level cache.  No instruction
is needed but loads and additions, which every processor has in its widest vectors.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm.subset_sums import BITS, CODE_BITS, GROUPS
from modelpar.kernels.llvm.vectors import FLOAT32, I16, I32, I64, LANE16, LANE32, LANES, function, load, spread

WIDTH = 128  # bytes of a row
PART = 64  # bytes of a row that are written at a time
TABLE = WIDTH << BITS  # bytes
STEP = 2 * CODE_BITS  # inputs whose tables exist at a time: those of two codes
TABLES = 2 * GROUPS


def _writer(bits: int) -> Any:
    """Return the intrinsic ``write_table`` for integers of so many bits."""
    lanes = ir.VectorType(ir.IntType(bits), 8 * PART // bits)

    @intrinsic
    def write_table(typingctx: Any, source: Any, row_stride: Any, target: Any) -> Any:
        """Rows c of target = sum over k of row k of source where bit k of c is set: PART bytes of each of 32 rows

        source   address of five rows, ``row_stride`` apart; target: of the table's rows; all at multiples of PART
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            source, row_stride, target = args
            rows = [load(b, b.add(source, b.mul(row_stride, ir.Constant(I64, k))), lanes, PART) for k in range(BITS)]

            def write(first: int, subset: int, total: ir.Value) -> None:  # a sum is stored and, soon, forgotten
                address = b.add(target, ir.Constant(I64, subset * WIDTH))
                b.store(total, b.inttoptr(address, lanes.as_pointer()), align=PART)
                for k in range(first, BITS):
                    write(k + 1, subset | 1 << k, b.add(total, rows[k]) if subset else rows[k])

            write(0, 0, ir.Constant(lanes, None))
            return context.get_dummy_value()

        return types.void(*[types.intp] * 3), build

    return write_table


def _adder(bits: int) -> Any:
    """Return the intrinsic ``add_looked_up`` for integers of so many bits."""
    lanes = ir.VectorType(ir.IntType(bits), 8 * PART // bits)

    @intrinsic
    def add_looked_up(typingctx: Any, tables: Any, first: Any, second: Any, n: Any, sums: Any) -> Any:
        """sums[s] += the rows of all tables that the codes of s name, s = 0 .. n - 1

        first, second   addresses of codes uint16 (n,), of three tables each
        sums            address of n rows of WIDTH bytes, as those of the tables at multiples of 64; n at least 1
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            tables, first, second, n, sums = args
            before, loop, after = b.block, b.append_basic_block("rows"), b.append_basic_block("after")
            b.branch(loop)
            b.position_at_end(loop)
            s = b.phi(I64)
            s.add_incoming(ir.Constant(I64, 0), before)
            row = b.add(sums, b.mul(s, ir.Constant(I64, WIDTH)))
            pointers = [b.inttoptr(b.add(row, ir.Constant(I64, part)), lanes.as_pointer())
                        for part in range(0, WIDTH, PART)]  # fmt: skip
            totals = [b.load(pointer, align=PART) for pointer in pointers]
            for i, codes in enumerate((first, second)):
                code = b.zext(load(b, b.add(codes, b.mul(s, ir.Constant(I64, 2))), I16, 2), I64)
                for g in range(GROUPS):
                    offset = b.mul(b.and_(b.lshr(code, ir.Constant(I64, BITS * g)), ir.Constant(I64, (1 << BITS) - 1)),
                                   ir.Constant(I64, WIDTH))  # fmt: skip
                    at = b.add(b.add(tables, ir.Constant(I64, (GROUPS * i + g) * TABLE)), offset)
                    totals = [b.add(total, load(b, b.add(at, ir.Constant(I64, PART * part)), lanes, PART))
                              for part, total in enumerate(totals)]  # fmt: skip
            for pointer, total in zip(pointers, totals, strict=True):
                b.store(total, pointer, align=PART)
            following = b.add(s, ir.Constant(I64, 1))
            s.add_incoming(following, loop)
            b.cbranch(b.icmp_signed("<", following, n), loop, after)
            b.position_at_end(after)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), build

    return add_looked_up


write_table, add_looked_up = _writer(32), _adder(32)
write_table_16, add_looked_up_16 = _writer(16), _adder(16)


@intrinsic
def write_values(typingctx: Any, words: Any, stride: Any, planes: Any, bit: Any, sign: Any, target: Any) -> Any:
    """target (16,) int16 = sign times sum over planes of 2^p (bit ``bit`` of words[p, j])

    words   address of uint32 [p, j], 16 columns j, planes ``stride`` bytes apart, at least one
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        words, stride, planes, bit, sign, target = args
        shift, one = spread(b, b.trunc(bit, I32), LANE32), ir.Constant(LANE32, [ir.Constant(I32, 1)] * LANES)
        before, loop, after = b.block, b.append_basic_block("planes"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)  # from the highest plane down
        plane, value = b.phi(I64), b.phi(LANE32)
        plane.add_incoming(planes, before)
        value.add_incoming(ir.Constant(LANE32, None), before)
        fewer = b.sub(plane, ir.Constant(I64, 1))
        word = load(b, b.add(words, b.mul(fewer, stride)), LANE32, 4)
        more = b.or_(b.shl(value, one), b.and_(b.lshr(word, shift), one))
        plane.add_incoming(fewer, loop)
        value.add_incoming(more, loop)
        b.cbranch(b.icmp_signed(">", fewer, ir.Constant(I64, 0)), loop, after)
        b.position_at_end(after)
        signed = b.mul(b.trunc(more, LANE16), spread(b, b.trunc(sign, I16), LANE16))
        b.store(signed, b.inttoptr(target, LANE16.as_pointer()), align=PART // 2)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), build


def _widener(*, add: bool) -> Any:
    """Return the intrinsic ``widen``; add: what is there is added to."""

    @intrinsic
    def widen(typingctx: Any, source: Any, target: Any) -> Any:
        """target (64,) int32 = source (64,) int16, both at multiples of 64"""

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            source, target = args
            for k in range(0, WIDTH // 2, LANES):
                values = b.sext(load(b, b.add(source, ir.Constant(I64, 2 * k)), LANE16, 2 * LANES), LANE32)
                pointer = b.inttoptr(b.add(target, ir.Constant(I64, 4 * k)), LANE32.as_pointer())
                b.store(b.add(b.load(pointer, align=64), values) if add else values, pointer, align=64)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), build

    return widen


widen, add_widened = _widener(add=False), _widener(add=True)


@intrinsic
def fixed_16(typingctx: Any, source: Any, target: Any, scale: Any) -> Any:
    """16 floats times ``scale``, rounded to int32 (halves to even).

    source   address of float32 (16,); target: of int32 (16,) at a multiple of 64; they may be the same
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, target, scale = args
        scaled = b.fmul(load(b, source, FLOAT32, 4), spread(b, scale, FLOAT32))
        rint = function(b, "llvm.rint.v16f32", FLOAT32, FLOAT32)
        b.store(b.fptosi(b.call(rint, [scaled]), LANE32), b.inttoptr(target, LANE32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.float32), build
