"""Vector operations of what follows a product: sigmoid, random words, draws, packing; see ``kernels.llvm.vectors``."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm import exponential
from modelpar.kernels.llvm.vectors import (
    FLOAT32,
    I1,
    I16,
    I32,
    I64,
    LANE32,
    LANES,
    constant,
    function,
    load,
    spread,
    times,
)  # fmt: skip


def _uniform(b: ir.IRBuilder, words: ir.Value) -> ir.Value:
    """Return the upper 24 bits of 16 random words as floats in [0, 1)."""
    top = b.lshr(load(b, words, LANE32, 4), constant(LANE32, 8))
    unit = ir.Constant(FLOAT32, [ir.Constant(ir.FloatType(), 2.0**-24)] * LANES)
    return b.fmul(b.sitofp(top, FLOAT32), unit)


def _mask(b: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    return b.zext(b.bitcast(lanes, I16), I64)


@intrinsic
def draw_16(typingctx: Any, p: Any, words: Any) -> Any:
    """16 bits: draw < p of 16 samples.   p: address of float32 (16,); words: of random uint32 (16,)"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _mask(b, b.fcmp_ordered("<", _uniform(b, args[1]), load(b, args[0], FLOAT32, 4)))

    return types.uint64(types.intp, types.intp), build


@intrinsic
def round_16(typingctx: Any, p: Any, words: Any, levels: Any, keep: Any, planes: Any, stride: Any, n: Any) -> Any:
    """ceil(p * levels - draw) of 16 samples, p * levels rounded to integers without bias: bits of these in n planes.

    p: address of float32 (16,); words: of random uint32 (16,); levels: float32; keep: uint64, the samples to keep;
    planes: address of 16 bits, those of the other planes so many bytes apart, n at least 1
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        p, words, levels, keep, planes, stride, n = args
        y = b.fmul(load(b, p, FLOAT32, 4), spread(b, levels, FLOAT32))
        floor = function(b, "llvm.floor.v16f32", FLOAT32, FLOAT32)
        low = b.call(floor, [y])
        up = b.fcmp_ordered("<", _uniform(b, words), b.fsub(y, low))
        integers = b.add(b.fptosi(low, LANE32), b.zext(up, LANE32))
        kept = b.trunc(keep, I16)
        with times(b, n, "planes") as k:
            bit = b.and_(integers, spread(b, b.shl(ir.Constant(I32, 1), b.trunc(k, I32)), LANE32))
            bits = b.and_(b.bitcast(b.icmp_unsigned("!=", bit, ir.Constant(LANE32, None)), I16), kept)
            b.store(bits, b.inttoptr(b.add(planes, b.mul(stride, k)), I16.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.float32, types.uint64, *[types.intp] * 3), build


@intrinsic
def store_16(typingctx: Any, address: Any, bits: Any) -> Any:
    """Store the lower 16 bits of a uint64 at an address."""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        b.store(b.trunc(args[1], I16), b.inttoptr(args[0], I16.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64), build


@intrinsic
def load_16(typingctx: Any, address: Any) -> Any:
    """Load 16 bits from an address, as uint64."""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return b.zext(load(b, args[0], I16, 2), I64)

    return types.uint64(types.intp), build


@intrinsic
def squared_error_16(typingctx: Any, p: Any, bits: Any) -> Any:
    """Sum over 16 samples of (bit - p)^2, each rounded to a multiple of 2^-20; in units of 2^-20.

    p: address of float32 (16,); bits: the lower 16 of uint64
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        p = load(b, args[0], FLOAT32, 4)
        one = ir.Constant(FLOAT32, [ir.Constant(ir.FloatType(), 1.0)] * LANES)
        steps = ir.Constant(FLOAT32, [ir.Constant(ir.FloatType(), 2.0**20)] * LANES)
        half = ir.Constant(FLOAT32, [ir.Constant(ir.FloatType(), 0.5)] * LANES)
        state = b.bitcast(b.trunc(args[1], I16), ir.VectorType(I1, LANES))
        miss = b.select(state, b.fsub(one, p), p)
        integers = b.fptosi(b.fadd(b.fmul(b.fmul(miss, miss), steps), half), LANE32)
        add = function(b, "llvm.vector.reduce.add.v16i32", I32, LANE32)
        return b.sext(b.call(add, [integers]), I64)

    return types.int64(types.intp, types.uint64), build


@intrinsic
def sigmoid_of_sums_16(typingctx: Any, sums: Any, step: Any, bias: Any, out: Any) -> Any:
    """out = sigmoid(step * sums + bias) of 16 samples, by the same operations as ``epilogue.sigmoid32``.

    sums: address of int32 (16,); step, bias: float32; out: address of float32 (16,); both at multiples of 64
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sums, step, bias, out = args
        x = b.fmul(b.sitofp(load(b, sums, LANE32, 64), FLOAT32), spread(b, step, FLOAT32))
        y = _sigmoid(b, b.fadd(x, spread(b, bias, FLOAT32)))
        b.store(y, b.inttoptr(out, FLOAT32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(types.intp, types.float32, types.float32, types.intp), build


@intrinsic
def exp_16(typingctx: Any, x: Any, top: Any, out: Any) -> Any:
    """out = exp(x - top) of 16 samples, by the operations of ``epilogue.sigmoid32``.

    x, top, out: addresses of float32 (16,)
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        x, top, out = args
        y = _exponential(b, b.fsub(load(b, x, FLOAT32, 4), load(b, top, FLOAT32, 4)))
        b.store(y, b.inttoptr(out, FLOAT32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), build


@intrinsic
def accumulated_16(typingctx: Any, sums: Any, addends: Any, thresholds: Any) -> Any:
    """sums += addends of 16 samples; 16 bits: threshold < sum.

    sums, addends, thresholds: addresses of float32 (16,)
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sums, addends, thresholds = args
        total = b.fadd(load(b, sums, FLOAT32, 4), load(b, addends, FLOAT32, 4))
        b.store(total, b.inttoptr(sums, FLOAT32.as_pointer()), align=4)
        return _mask(b, b.fcmp_ordered("<", load(b, thresholds, FLOAT32, 4), total))

    return types.uint64(types.intp, types.intp, types.intp), build


def _same(value: Any) -> ir.Constant:
    return ir.Constant(FLOAT32, [ir.Constant(ir.FloatType(), float(value))] * LANES)


def _sigmoid(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return b.fdiv(_same(1.0), b.fadd(_same(1.0), _exponential(b, b.fneg(x))))


def _exponential(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    v = b.select(b.fcmp_ordered(">", v, _same(exponential.HIGH_32)), _same(exponential.HIGH_32), v)
    v = b.select(b.fcmp_ordered("<", v, _same(exponential.LOW_32)), _same(exponential.LOW_32), v)
    rounded = b.fadd(b.fmul(v, _same(exponential.LOG2E_32)), _same(exponential.ROUND_32))
    n = b.fsub(rounded, _same(exponential.ROUND_32))
    f = b.fsub(b.fsub(v, b.fmul(n, _same(exponential.LN2_HIGH_32))), b.fmul(n, _same(exponential.LN2_LOW_32)))
    exponent = b.add(b.bitcast(rounded, LANE32), constant(LANE32, int(exponential.BIAS_32)))
    power = b.bitcast(b.shl(exponent, constant(LANE32, int(exponential.SHIFT_32))), FLOAT32)
    series = _same(exponential.SERIES_32[0])
    for coefficient in exponential.SERIES_32[1:]:
        series = b.fadd(b.fmul(series, f), _same(coefficient))
    return b.fmul(power, b.fadd(b.fadd(b.fmul(series, b.fmul(f, f)), f), _same(1.0)))


@intrinsic
def philox_32(typingctx: Any, block: Any, unit: Any, tag: Any, key0: Any, key1: Any, out: Any) -> Any:
    """The words of 8 consecutive counters of Philox4x32-10, by ``kernels.sampling.philox``: 32 samples of a unit.

    block, unit, tag, key0, key1: uint64; out: address of uint32 (32,)
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        eight = ir.VectorType(I64, 8)

        def same(value: ir.Value) -> ir.Value:
            undefined = ir.Constant(eight, ir.Undefined)
            first = b.insert_element(undefined, value, ir.Constant(I32, 0))
            return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, 8), [ir.Constant(I32, 0)] * 8))

        def eight_of(value: int) -> ir.Constant:
            return ir.Constant(eight, [ir.Constant(I64, value)] * 8)

        def upper(value: ir.Value) -> ir.Value:  # in the lower halves; a shift would wait for the unit that multiplies
            odd = ir.Constant(LANE32, [ir.Constant(I32, i | 1) for i in range(LANES)])
            lanes = b.bitcast(value, LANE32)
            return b.bitcast(b.shuffle_vector(lanes, lanes, odd), eight)

        block, unit, tag, key0, key1, out = args
        low, half = eight_of(0xFFFFFFFF), eight_of(32)
        block = b.add(same(block), ir.Constant(eight, [ir.Constant(I64, i) for i in range(8)]))
        c0, c1, c2, c3 = b.and_(block, low), b.lshr(block, half), same(unit), same(tag)
        for i in range(10):
            # a round key is a scalar; products use the lower halves only, so nothing else needs masking
            k0 = same(b.and_(b.add(key0, ir.Constant(I64, i * 0x9E3779B9)), ir.Constant(I64, 0xFFFFFFFF)))
            k1 = same(b.and_(b.add(key1, ir.Constant(I64, i * 0xBB67AE85)), ir.Constant(I64, 0xFFFFFFFF)))
            p0 = b.mul(b.and_(c0, low), eight_of(0xD2511F53))
            p1 = b.mul(b.and_(c2, low), eight_of(0xCD9E8D57))
            c0, c1 = b.xor(b.xor(upper(p1), c1), k0), p1
            c2, c3 = b.xor(b.xor(upper(p0), c3), k1), p0
        pairs = ir.Constant(LANE32, [ir.Constant(I32, i + 15 * (i % 2)) for i in range(LANES)])  # 0, 16, 2, 18, ...
        words = [b.bitcast(c, LANE32) for c in (c0, c1, c2, c3)]
        even, odd = (b.bitcast(b.shuffle_vector(*words[k : k + 2], pairs), eight) for k in (0, 2))
        for part in range(2):
            lanes = [4 * part + k // 2 + 8 * (k % 2) for k in range(8)]
            mixed = b.shuffle_vector(
                even, odd, ir.Constant(ir.VectorType(I32, 8), [ir.Constant(I32, i) for i in lanes])
            )
            b.store(mixed, b.inttoptr(b.add(out, ir.Constant(I64, 64 * part)), eight.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 5, types.intp), build
