"""Vector operations of sums over subsets of weights; see ``kernels.llvm.vectors``.

:func:`lookup_step` needs AVX-512, which ``HAS_LOOKUP`` tells.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm.vectors import (
    FEATURES,
    FLOAT32,
    I1,
    I16,
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
)  # fmt: skip

BITS = 5  # weights whose 32 subset sums fill two registers
GROUPS = 3  # tables of one step
CODE_BITS = BITS * GROUPS  # weights, and bits of a code, of one step
UNITS = 4  # units of one step: with three tables each they fill 24 of 32 registers
ROW = 64  # units of the rows that tables and lists add

HAS_LOOKUP = compiled() and {"avx512f", "avx512bw"} <= FEATURES


def _subset_sums(b: ir.IRBuilder, weights: list[ir.Value]) -> tuple[ir.Value, ir.Value]:
    """Return two registers: lane c of the first is the sum of those of the first 4 weights whose bit is set in c, and
    lane c of the second is this sum plus the fifth weight."""
    sums = ir.Constant(LANE32, None)
    for k, weight in enumerate(weights[:4]):
        chosen = ir.Constant(ir.VectorType(I1, LANES), [ir.Constant(I1, c >> k & 1) for c in range(LANES)])
        sums = b.select(chosen, b.add(sums, weight), sums)
    return sums, b.add(sums, weights[4])


def _tree(b: ir.IRBuilder, terms: list[ir.Value]) -> ir.Value:
    """Return the sum of the terms, added pairwise."""
    while len(terms) > 1:
        terms = [b.add(*terms[k : k + 2]) if k + 1 < len(terms) else terms[k] for k in range(0, len(terms), 2)]
    return terms[0]


@intrinsic
def lookup_step(typingctx: Any, weights: Any, unit_stride: Any, row_stride: Any, codes: Any, sums: Any,
                sum_stride: Any, n_vectors: Any, ahead: Any, ahead_stride: Any) -> Any:  # fmt: skip
    """sums[u, s] += sum over i of weights[u, i] * bit i of codes[s], for 4 units and 15 weights

    weights   address of int32 [u, i] at u * unit_stride + i * row_stride
    codes     address of uint16 (16 n_vectors,), 64-byte aligned
    sums      address of int32 [u, s] at u * sum_stride + 4 s, 64-byte aligned rows
    n_vectors at least 1
    ahead     address of 4 cache lines, ahead_stride apart, to prefetch

    The 32 subset sums of 5 weights of one unit are in two registers; an AVX-512 permutation (vpermt2d) looks up the
    sums of 16 samples at once by 5 bits of their codes: the method of the four Russians (Arlazarov, Dinic, Kronrod and
    Faradzhev 1970).
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        weights, unit_stride, row_stride, codes, sums, sum_stride, n_vectors, ahead, ahead_stride = args
        permute = function(b, "llvm.x86.avx512.vpermi2var.d.512", LANE32, LANE32, LANE32, LANE32)
        octet = ir.IntType(8).as_pointer()
        fetch = function(b, "llvm.prefetch.p0i8", ir.VoidType(), octet, I32, I32, I32)
        for line in range(4):
            address = b.inttoptr(b.add(ahead, b.mul(ahead_stride, ir.Constant(I64, line))), octet)
            b.call(fetch, [address, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])
        tables = []
        for u in range(UNITS):
            unit = b.add(weights, b.mul(unit_stride, ir.Constant(I64, u)))
            for g in range(GROUPS):
                offsets = [b.mul(row_stride, ir.Constant(I64, BITS * g + k)) for k in range(BITS)]
                tables.append(_subset_sums(b, [spread(b, load(b, b.add(unit, offset), I32, 4), LANE32)
                                               for offset in offsets]))  # fmt: skip
        before, loop, after = b.block, b.append_basic_block("vectors"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(I64)
        i.add_incoming(ir.Constant(I64, 0), before)
        code = b.zext(load(b, b.add(codes, b.mul(i, ir.Constant(I64, 2 * LANES))), LANE16, 2 * LANES), LANE32)
        digits = [code] + [b.lshr(code, constant(LANE32, BITS * g)) for g in range(1, GROUPS)]
        for u in range(UNITS):
            row = b.add(sums, b.mul(sum_stride, ir.Constant(I64, u)))
            pointer = b.inttoptr(b.add(row, b.mul(i, ir.Constant(I64, 4 * LANES))), LANE32.as_pointer())
            terms = [b.call(permute, [tables[u * GROUPS + g][0], digits[g], tables[u * GROUPS + g][1]])
                     for g in range(GROUPS)]  # fmt: skip
            b.store(b.add(b.load(pointer, align=4 * LANES), _tree(b, terms)), pointer, align=4 * LANES)
        following = b.add(i, ir.Constant(I64, 1))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, n_vectors), loop, after)
        b.position_at_end(after)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9), build


@intrinsic
def fixed_quads(typingctx: Any, source: Any, target: Any, quad_stride: Any, scale: Any) -> Any:
    """16 floats times ``scale``, rounded to int32 (halves to even), as 4 quads ``quad_stride`` apart.

    source of float32 (16,); target, at a multiple of 16, of int32 [quad, 4]
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, target, quad_stride, scale = args
        scaled = b.fmul(load(b, source, FLOAT32, 4), spread(b, scale, FLOAT32))
        rint = function(b, "llvm.rint.v16f32", FLOAT32, FLOAT32)
        integers = b.fptosi(b.call(rint, [scaled]), LANE32)
        quad = ir.VectorType(I32, 4)
        for k in range(4):
            lanes = ir.Constant(quad, [ir.Constant(I32, 4 * k + lane) for lane in range(4)])
            part = b.shuffle_vector(integers, ir.Constant(LANE32, ir.Undefined), lanes)
            address = b.add(target, b.mul(quad_stride, ir.Constant(I64, k)))
            b.store(part, b.inttoptr(address, quad.as_pointer()), align=16)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.float32), build


@intrinsic
def or_where(typingctx: Any, word: Any, target: Any, value: Any) -> Any:
    """target[s] |= value where bit s of ``word`` is set, s = 0 .. 63; target: address of uint16 (64,), aligned"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word, target, value = args
        many = ir.VectorType(I16, 64)
        undefined = ir.Constant(many, ir.Undefined)
        first = b.insert_element(undefined, value, ir.Constant(I32, 0))
        same = b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, 64), [ir.Constant(I32, 0)] * 64))
        chosen = b.select(b.bitcast(word, ir.VectorType(I1, 64)), same, ir.Constant(many, None))
        pointer = b.inttoptr(target, many.as_pointer())
        b.store(b.or_(b.load(pointer, align=64), chosen), pointer, align=64)
        return context.get_dummy_value()

    return types.void(types.uint64, types.intp, types.uint16), build


@intrinsic
def add_row(typingctx: Any, target: Any, source: Any, row: Any) -> Any:
    """target = source + row: addresses of int32 (64,), aligned"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for part in range(0, 4 * ROW, 4 * LANES):
            target, source, row = (b.add(address, ir.Constant(I64, part)) for address in args)
            total = b.add(load(b, source, LANE32, 64), load(b, row, LANE32, 64))
            b.store(total, b.inttoptr(target, LANE32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), build


@intrinsic
def add_table_rows(typingctx: Any, total: Any, first: Any, second: Any, third: Any) -> Any:
    """total += first + second + third: addresses of int32 (64,), aligned"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for part in range(0, 4 * ROW, 4 * LANES):
            addresses = [b.add(address, ir.Constant(I64, part)) for address in args]
            sums = _tree(b, [load(b, address, LANE32, 64) for address in addresses])
            b.store(sums, b.inttoptr(addresses[0], LANE32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), build


@intrinsic
def add_listed_rows(typingctx: Any, total: Any, rows: Any, listed: Any, n: Any) -> Any:
    """total += the sum of the listed rows; the total is kept in registers.

    total: address of int32 (64,), rows: of int32 [row, 64], both aligned; listed: of int32 (n,), n at least 1
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        total, rows, listed, n = args
        pointers = [b.inttoptr(b.add(total, ir.Constant(I64, part)), LANE32.as_pointer())
                    for part in range(0, 4 * ROW, 4 * LANES)]  # fmt: skip
        begin = [b.load(pointer, align=64) for pointer in pointers]
        before, loop, after = b.block, b.append_basic_block("rows"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        k = b.phi(I64)
        k.add_incoming(ir.Constant(I64, 0), before)
        sums = [b.phi(LANE32) for _ in pointers]
        row = b.zext(load(b, b.add(listed, b.mul(k, ir.Constant(I64, 4))), I32, 4), I64)
        at = b.add(rows, b.mul(row, ir.Constant(I64, 4 * ROW)))
        more = [b.add(s, load(b, b.add(at, ir.Constant(I64, 64 * part)), LANE32, 64)) for part, s in enumerate(sums)]
        following = b.add(k, ir.Constant(I64, 1))
        k.add_incoming(following, loop)
        for s, first, then in zip(sums, begin, more, strict=True):
            s.add_incoming(first, before)
            s.add_incoming(then, loop)
        b.cbranch(b.icmp_signed("<", following, n), loop, after)
        b.position_at_end(after)
        for pointer, value in zip(pointers, more, strict=True):
            b.store(value, pointer, align=64)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), build
