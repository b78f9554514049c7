"""What numba cannot say in Python: a few vector operations of 16 lanes, written as LLVM instructions.

Arguments are addresses (``array.ctypes.data`` inside compiled code) in bytes.  All but :func:`lookup_step` are plain
LLVM vector code that every processor can run, in as many instructions as it needs; :func:`lookup_step` needs AVX-512,
which ``HAS_LOOKUP`` tells.  None of this exists with NUMBA_DISABLE_JIT: callers have another way then.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.extending import intrinsic

from modelpar.kernels import exponential

LANES = 16  # of 32 bits: a vector register of 512
BITS = 5  # weights whose 32 subset sums fill two registers
GROUPS = 3  # tables of one step
CHUNK = BITS * GROUPS  # weights, and bits of a code, of one step
UNITS = 4  # units of one step: with three tables each they fill 24 of 32 registers

_I1, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
_LANE16 = ir.VectorType(_I16, LANES)
_LANE32 = ir.VectorType(_I32, LANES)
_FLOAT32 = ir.VectorType(ir.FloatType(), LANES)


def compiled() -> bool:
    """Whether numba compiles, or its functions run as plain Python (NUMBA_DISABLE_JIT)."""
    return not config.DISABLE_JIT  # type: ignore[attr-defined]


def _processor_features() -> set[str]:
    """Of the processor that numba compiles for, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES may choose."""
    chosen, features = config.CPU_NAME, config.CPU_FEATURES  # type: ignore[attr-defined]
    if features:
        return {word[1:] for word in features.split(",") if word.startswith("+")}
    if chosen:
        return set()
    return {name for name, there in llvmlite.binding.get_host_cpu_features().items() if there}


FEATURES = _processor_features()
HAS_LOOKUP = compiled() and {"avx512f", "avx512bw"} <= FEATURES


def _at(b: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    return b.load(b.inttoptr(address, kind.as_pointer()), align=align)


def _function(b: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
    """An instruction that LLVM knows by a name."""
    return b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(result, arguments), name)


def _same(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * LANES)


def _spread(b: ir.IRBuilder, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
    """All lanes the same."""
    nowhere = ir.Constant(kind, ir.Undefined)
    first = b.insert_element(nowhere, scalar, ir.Constant(_I32, 0))
    return b.shuffle_vector(first, nowhere, _same(_LANE32, 0))


def _subset_sums(b: ir.IRBuilder, weights: list[ir.Value]) -> tuple[ir.Value, ir.Value]:
    """Two registers: lane c of the first is the sum of those of 4 weights whose bit is set in c; in the second, with
    the fifth weight."""
    sums = ir.Constant(_LANE32, None)
    for k, weight in enumerate(weights[:4]):
        chosen = ir.Constant(ir.VectorType(_I1, LANES), [ir.Constant(_I1, c >> k & 1) for c in range(LANES)])
        sums = b.select(chosen, b.add(sums, weight), sums)
    return sums, b.add(sums, weights[4])


def _tree(b: ir.IRBuilder, terms: list[ir.Value]) -> ir.Value:
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
    ahead     address of 4 cache lines, ahead_stride apart, to be fetched for later

    The 32 subset sums of 5 weights of one unit lie in two registers; an AVX-512 permutation (vpermt2d) looks up
    those of 16 samples at once by 5 bits of their codes.  The table method is that of the "four Russians" (Arlazarov,
    Dinic, Kronrod and Faradzhev 1970).
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        weights, unit_stride, row_stride, codes, sums, sum_stride, n_vectors, ahead, ahead_stride = args
        permute = _function(b, "llvm.x86.avx512.vpermi2var.d.512", _LANE32, _LANE32, _LANE32, _LANE32)
        octet = ir.IntType(8).as_pointer()
        fetch = _function(b, "llvm.prefetch.p0i8", ir.VoidType(), octet, _I32, _I32, _I32)
        for line in range(4):
            address = b.inttoptr(b.add(ahead, b.mul(ahead_stride, ir.Constant(_I64, line))), octet)
            b.call(fetch, [address, ir.Constant(_I32, 0), ir.Constant(_I32, 2), ir.Constant(_I32, 1)])
        tables = []
        for u in range(UNITS):
            unit = b.add(weights, b.mul(unit_stride, ir.Constant(_I64, u)))
            for g in range(GROUPS):
                places = [b.mul(row_stride, ir.Constant(_I64, BITS * g + k)) for k in range(BITS)]
                tables.append(_subset_sums(b, [_spread(b, _at(b, b.add(unit, place), _I32, 4), _LANE32)
                                               for place in places]))  # fmt: skip
        before, loop, after = b.block, b.append_basic_block("vectors"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(_I64)
        i.add_incoming(ir.Constant(_I64, 0), before)
        code = b.zext(_at(b, b.add(codes, b.mul(i, ir.Constant(_I64, 2 * LANES))), _LANE16, 2 * LANES), _LANE32)
        digits = [code] + [b.lshr(code, _same(_LANE32, BITS * g)) for g in range(1, GROUPS)]
        for u in range(UNITS):
            row = b.add(sums, b.mul(sum_stride, ir.Constant(_I64, u)))
            place = b.inttoptr(b.add(row, b.mul(i, ir.Constant(_I64, 4 * LANES))), _LANE32.as_pointer())
            looked = [b.call(permute, [tables[u * GROUPS + g][0], digits[g], tables[u * GROUPS + g][1]])
                      for g in range(GROUPS)]  # fmt: skip
            b.store(b.add(b.load(place, align=4 * LANES), _tree(b, looked)), place, align=4 * LANES)
        following = b.add(i, ir.Constant(_I64, 1))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, n_vectors), loop, after)
        b.position_at_end(after)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9), build


@intrinsic
def fixed_quads(typingctx: Any, source: Any, target: Any, quad_stride: Any, scale: Any) -> Any:
    """16 floats times ``scale``, rounded to int32 (halves to even), as 4 quads that lie ``quad_stride`` apart.

    source of float32 (16,); target, at a multiple of 16, of int32 [quad, 4]
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, target, quad_stride, scale = args
        scaled = b.fmul(_at(b, source, _FLOAT32, 4), _spread(b, scale, _FLOAT32))
        rint = _function(b, "llvm.rint.v16f32", _FLOAT32, _FLOAT32)
        whole = b.fptosi(b.call(rint, [scaled]), _LANE32)
        quad = ir.VectorType(_I32, 4)
        for k in range(4):
            lanes = ir.Constant(quad, [ir.Constant(_I32, 4 * k + lane) for lane in range(4)])
            part = b.shuffle_vector(whole, ir.Constant(_LANE32, ir.Undefined), lanes)
            place = b.add(target, b.mul(quad_stride, ir.Constant(_I64, k)))
            b.store(part, b.inttoptr(place, quad.as_pointer()), align=16)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.float32), build


@intrinsic
def or_where(typingctx: Any, word: Any, target: Any, value: Any) -> Any:
    """target[s] |= value where bit s of ``word`` is set, s = 0 .. 63; target: address of uint16 (64,), aligned"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word, target, value = args
        many = ir.VectorType(_I16, 64)
        nowhere = ir.Constant(many, ir.Undefined)
        first = b.insert_element(nowhere, value, ir.Constant(_I32, 0))
        same = b.shuffle_vector(first, nowhere, ir.Constant(ir.VectorType(_I32, 64), [ir.Constant(_I32, 0)] * 64))
        chosen = b.select(b.bitcast(word, ir.VectorType(_I1, 64)), same, ir.Constant(many, None))
        place = b.inttoptr(target, many.as_pointer())
        b.store(b.or_(b.load(place, align=64), chosen), place, align=64)
        return context.get_dummy_value()

    return types.void(types.uint64, types.intp, types.uint16), build


def _uniform(b: ir.IRBuilder, words: ir.Value) -> ir.Value:
    """The upper 24 bits of 16 random words as floats in [0, 1)."""
    top = b.lshr(_at(b, words, _LANE32, 4), _same(_LANE32, 8))
    unit = ir.Constant(_FLOAT32, [ir.Constant(ir.FloatType(), 2.0**-24)] * LANES)
    return b.fmul(b.sitofp(top, _FLOAT32), unit)


def _mask(b: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    return b.zext(b.bitcast(lanes, _I16), _I64)


@intrinsic
def draw_16(typingctx: Any, p: Any, words: Any) -> Any:
    """16 bits: draw < p of 16 samples.   p: address of float32 (16,); words: of random uint32 (16,)"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _mask(b, b.fcmp_ordered("<", _uniform(b, args[1]), _at(b, args[0], _FLOAT32, 4)))

    return types.uint64(types.intp, types.intp), build


@intrinsic
def round_16(typingctx: Any, p: Any, words: Any, levels: Any, out: Any) -> Any:
    """out = ceil(p * levels - draw) of 16 samples: p * levels rounded to whole numbers without bias.

    p: address of float32 (16,); words: of random uint32 (16,); levels: float32; out: of int32 (16,)
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        p, words, levels, out = args
        y = b.fmul(_at(b, p, _FLOAT32, 4), _spread(b, levels, _FLOAT32))
        floor = _function(b, "llvm.floor.v16f32", _FLOAT32, _FLOAT32)
        low = b.call(floor, [y])
        up = b.fcmp_ordered("<", _uniform(b, words), b.fsub(y, low))
        whole = b.add(b.fptosi(low, _LANE32), b.zext(up, _LANE32))
        b.store(whole, b.inttoptr(out, _LANE32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.float32, types.intp), build


@intrinsic
def plane_16(typingctx: Any, values: Any, plane: Any) -> Any:
    """16 bits: bit ``plane`` of 16 values.   values: address of int32 (16,); plane: int32"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        bit = b.and_(b.lshr(_at(b, args[0], _LANE32, 4), _spread(b, args[1], _LANE32)), _same(_LANE32, 1))
        return _mask(b, b.icmp_unsigned("!=", bit, ir.Constant(_LANE32, None)))

    return types.uint64(types.intp, types.int32), build


@intrinsic
def squared_error_16(typingctx: Any, p: Any, bits: Any) -> Any:
    """Sum over 16 samples of (bit - p)^2, each rounded to a multiple of 2^-20, in these.

    p: address of float32 (16,); bits: the lower 16 of uint64
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        p = _at(b, args[0], _FLOAT32, 4)
        one = ir.Constant(_FLOAT32, [ir.Constant(ir.FloatType(), 1.0)] * LANES)
        fine = ir.Constant(_FLOAT32, [ir.Constant(ir.FloatType(), 2.0**20)] * LANES)
        half = ir.Constant(_FLOAT32, [ir.Constant(ir.FloatType(), 0.5)] * LANES)
        state = b.bitcast(b.trunc(args[1], _I16), ir.VectorType(_I1, LANES))
        miss = b.select(state, b.fsub(one, p), p)
        whole = b.fptosi(b.fadd(b.fmul(b.fmul(miss, miss), fine), half), _LANE32)
        add = _function(b, "llvm.vector.reduce.add.v16i32", _I32, _LANE32)
        return b.sext(b.call(add, [whole]), _I64)

    return types.int64(types.intp, types.uint64), build


def _count_tile(rows: int) -> Any:
    """The intrinsic for tiles of so many rows: their counts stay in registers while words and planes go by."""

    @intrinsic
    def count_tile(typingctx: Any, v0: Any, v1: Any, row_stride: Any, s0: Any, s1: Any, word_stride: Any,
                   n_words: Any, planes: Any, counts: Any, count_stride: Any) -> Any:  # fmt: skip
        """counts[r, j] = sum over words and planes of 2^p (ones(v0[r, w] & s0[p, w, j]) - ones(v1[r, w] & s1[p, w, j]))

        v0, v1   addresses of uint32 [r, w], rows ``row_stride`` apart
        s0, s1   addresses of uint32 [p, w, j], 16 columns j, words ``word_stride`` apart, plane after plane
        counts   address of int32 [r, j], rows ``count_stride`` apart
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            v0, v1, row_stride, s0, s1, word_stride, n_words, planes, counts, count_stride = args
            ones = _function(b, "llvm.ctpop.v16i32", _LANE32, _LANE32)
            zero, one = ir.Constant(_I64, 0), ir.Constant(_I64, 1)
            starts = [(b.add(v0, offset), b.add(v1, offset))
                      for offset in (b.mul(row_stride, ir.Constant(_I64, r)) for r in range(rows))]  # fmt: skip
            before = b.block
            outer, inner, next_plane, after = (
                b.append_basic_block(name) for name in ("plane", "word", "next", "after")
            )
            b.branch(outer)

            b.position_at_end(outer)  # from the highest plane down: counts are doubled, then the plane's are added
            left = b.phi(_I64)
            left.add_incoming(planes, before)
            kept = [b.phi(_LANE32) for _ in range(rows)]
            plane = b.mul(b.mul(b.sub(left, one), n_words), word_stride)
            doubled = [b.shl(count, _same(_LANE32, 1)) for count in kept]
            b.branch(inner)

            b.position_at_end(inner)
            w = b.phi(_I64)
            w.add_incoming(zero, outer)
            running = [b.phi(_LANE32) for _ in range(rows)]
            offset = b.add(plane, b.mul(w, word_stride))
            plus, minus = _at(b, b.add(s0, offset), _LANE32, 4), _at(b, b.add(s1, offset), _LANE32, 4)
            at = b.mul(w, ir.Constant(_I64, 4))
            sums = []
            for count, (first, second) in zip(running, starts, strict=True):
                on = b.call(ones, [b.and_(_spread(b, _at(b, b.add(first, at), _I32, 4), _LANE32), plus)])
                off = b.call(ones, [b.and_(_spread(b, _at(b, b.add(second, at), _I32, 4), _LANE32), minus)])
                sums.append(b.sub(b.add(count, on), off))
            following = b.add(w, one)
            w.add_incoming(following, inner)
            for count, before_loop, total in zip(running, doubled, sums, strict=True):
                count.add_incoming(before_loop, outer)
                count.add_incoming(total, inner)
            b.cbranch(b.icmp_signed("<", following, n_words), inner, next_plane)

            b.position_at_end(next_plane)
            fewer = b.sub(left, one)
            left.add_incoming(fewer, next_plane)
            for count, total in zip(kept, sums, strict=True):
                count.add_incoming(ir.Constant(_LANE32, None), before)
                count.add_incoming(total, next_plane)
            b.cbranch(b.icmp_signed(">", fewer, zero), outer, after)

            b.position_at_end(after)
            for r, total in enumerate(sums):
                place = b.add(counts, b.mul(count_stride, ir.Constant(_I64, r)))
                b.store(total, b.inttoptr(place, _LANE32.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10), build

    return count_tile


TILE = 4  # rows
count_tile, count_tile_row = _count_tile(TILE), _count_tile(1)


@intrinsic
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """Place of the lowest bit that is set, int64; ``word`` is not 0"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return b.cttz(args[0], ir.Constant(_I1, 1))

    return types.int64(types.uint64), build


@intrinsic
def sigmoid_of_sums_16(typingctx: Any, sums: Any, step: Any, bias: Any, out: Any) -> Any:
    """out = sigmoid(step * sums + bias) of 16 samples, in the very operations of ``epilogue.sigmoid32``.

    sums: address of int32 (16,); step, bias: float32; out: address of float32 (16,); both at multiples of 64
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sums, step, bias, out = args
        x = b.fmul(b.sitofp(_at(b, sums, _LANE32, 64), _FLOAT32), _spread(b, step, _FLOAT32))
        y = _sigmoid(b, b.fadd(x, _spread(b, bias, _FLOAT32)))
        b.store(y, b.inttoptr(out, _FLOAT32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(types.intp, types.float32, types.float32, types.intp), build


def _sigmoid(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    def same(value: Any) -> ir.Constant:
        return ir.Constant(_FLOAT32, [ir.Constant(ir.FloatType(), float(value))] * LANES)

    v = b.fneg(x)
    v = b.select(b.fcmp_ordered(">", v, same(exponential.HIGH_32)), same(exponential.HIGH_32), v)
    v = b.select(b.fcmp_ordered("<", v, same(exponential.LOW_32)), same(exponential.LOW_32), v)
    rounded = b.fadd(b.fmul(v, same(exponential.LOG2E_32)), same(exponential.ROUND_32))
    n = b.fsub(rounded, same(exponential.ROUND_32))
    f = b.fsub(b.fsub(v, b.fmul(n, same(exponential.LN2_HIGH_32))), b.fmul(n, same(exponential.LN2_LOW_32)))
    whole = b.add(b.bitcast(rounded, _LANE32), _same(_LANE32, int(exponential.BIAS_32)))
    power = b.bitcast(b.shl(whole, _same(_LANE32, int(exponential.SHIFT_32))), _FLOAT32)
    series = same(exponential.SERIES_32[0])
    for coefficient in exponential.SERIES_32[1:]:
        series = b.fadd(b.fmul(series, f), same(coefficient))
    exp = b.fadd(b.fadd(b.fmul(series, b.fmul(f, f)), f), same(1.0))
    return b.fdiv(same(1.0), b.fadd(same(1.0), b.fmul(power, exp)))


@intrinsic
def philox_32(typingctx: Any, block: Any, unit: Any, tag: Any, key0: Any, key1: Any, out: Any) -> Any:
    """The words of 8 consecutive counters of Philox4x32-10, as ``kernels.philox`` defines them: 32 samples of a unit.

    block, unit, tag, key0, key1: uint64; out: address of uint32 (32,)
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        eight = ir.VectorType(_I64, 8)

        def same(value: ir.Value) -> ir.Value:
            nowhere = ir.Constant(eight, ir.Undefined)
            first = b.insert_element(nowhere, value, ir.Constant(_I32, 0))
            return b.shuffle_vector(first, nowhere, ir.Constant(ir.VectorType(_I32, 8), [ir.Constant(_I32, 0)] * 8))

        def constant(value: int) -> ir.Constant:
            return ir.Constant(eight, [ir.Constant(_I64, value)] * 8)

        block, unit, tag, key0, key1, out = args
        low, half = constant(0xFFFFFFFF), constant(32)
        block = b.add(same(block), ir.Constant(eight, [ir.Constant(_I64, i) for i in range(8)]))
        c0, c1, c2, c3 = b.and_(block, low), b.lshr(block, half), same(unit), same(tag)
        for i in range(10):
            # a round key is a scalar; products look at the lower halves only, so nothing else needs masking
            k0 = same(b.and_(b.add(key0, ir.Constant(_I64, i * 0x9E3779B9)), ir.Constant(_I64, 0xFFFFFFFF)))
            k1 = same(b.and_(b.add(key1, ir.Constant(_I64, i * 0xBB67AE85)), ir.Constant(_I64, 0xFFFFFFFF)))
            p0 = b.mul(b.and_(c0, low), constant(0xD2511F53))
            p1 = b.mul(b.and_(c2, low), constant(0xCD9E8D57))
            c0, c1 = b.xor(b.xor(b.lshr(p1, half), c1), k0), p1
            c2, c3 = b.xor(b.xor(b.lshr(p0, half), c3), k1), p0
        even = b.or_(b.and_(c0, low), b.shl(c1, half))  # words 0 and 1 of every counter
        odd = b.or_(b.and_(c2, low), b.shl(c3, half))  # words 2 and 3
        for part in range(2):
            lanes = [4 * part + k // 2 + 8 * (k % 2) for k in range(8)]
            mixed = b.shuffle_vector(
                even, odd, ir.Constant(ir.VectorType(_I32, 8), [ir.Constant(_I32, i) for i in lanes])
            )
            b.store(mixed, b.inttoptr(b.add(out, ir.Constant(_I64, 64 * part)), eight.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 5, types.intp), build


ROW = 64  # units of the rows that tables and lists add


@intrinsic
def add_row(typingctx: Any, target: Any, source: Any, row: Any) -> Any:
    """target = source + row: addresses of int32 (64,), aligned"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for part in range(0, 4 * ROW, 4 * LANES):
            target, source, row = (b.add(address, ir.Constant(_I64, part)) for address in args)
            total = b.add(_at(b, source, _LANE32, 64), _at(b, row, _LANE32, 64))
            b.store(total, b.inttoptr(target, _LANE32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), build


@intrinsic
def add_table_rows(typingctx: Any, total: Any, first: Any, second: Any, third: Any) -> Any:
    """total += first + second + third: addresses of int32 (64,), aligned"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for part in range(0, 4 * ROW, 4 * LANES):
            places = [b.add(address, ir.Constant(_I64, part)) for address in args]
            sums = _tree(b, [_at(b, place, _LANE32, 64) for place in places])
            b.store(sums, b.inttoptr(places[0], _LANE32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), build


@intrinsic
def add_listed_rows(typingctx: Any, total: Any, rows: Any, listed: Any, n: Any) -> Any:
    """total += the sum of the rows that are listed; the total stays in registers meanwhile.

    total: address of int32 (64,), rows: of int32 [row, 64], both aligned; listed: of int32 (n,), n at least 1
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        total, rows, listed, n = args
        places = [b.inttoptr(b.add(total, ir.Constant(_I64, part)), _LANE32.as_pointer())
                  for part in range(0, 4 * ROW, 4 * LANES)]  # fmt: skip
        begin = [b.load(place, align=64) for place in places]
        before, loop, after = b.block, b.append_basic_block("rows"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        k = b.phi(_I64)
        k.add_incoming(ir.Constant(_I64, 0), before)
        sums = [b.phi(_LANE32) for _ in places]
        row = b.zext(_at(b, b.add(listed, b.mul(k, ir.Constant(_I64, 4))), _I32, 4), _I64)
        at = b.add(rows, b.mul(row, ir.Constant(_I64, 4 * ROW)))
        more = [b.add(s, _at(b, b.add(at, ir.Constant(_I64, 64 * part)), _LANE32, 64)) for part, s in enumerate(sums)]
        following = b.add(k, ir.Constant(_I64, 1))
        k.add_incoming(following, loop)
        for s, first, then in zip(sums, begin, more, strict=True):
            s.add_incoming(first, before)
            s.add_incoming(then, loop)
        b.cbranch(b.icmp_signed("<", following, n), loop, after)
        b.position_at_end(after)
        for place, value in zip(places, more, strict=True):
            b.store(value, place, align=64)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), build
