"""Weights and states as the bytes that tiles multiply; see ``kernels.llvm.tiles``.

A weight in fixed point is split into three bytes, its limbs, each of which goes into a tile of its own; bits of states
become bytes 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm.vectors import (
    FLOAT32,
    I1,
    I8,
    I16,
    I32,
    I64,
    LANE32,
    LANES,
    constant,
    function,
    load,
    spread,
)  # fmt: skip

TILE = 1024  # bytes
DEPTH = 64  # bytes of a row of a tile, and units that one product sums over
LIMBS = 3  # of a weight: bytes 0 and 1 are unsigned, byte 2 is signed
PARTS = 3  # of the instructions of a row of limbs

# Which of four groups of 16 inputs the four bytes of a lane belong to.  The order is that in which shifts and
# selections within lanes put them, without a shuffle; states are laid out likewise.
ORDER = (0, 2, 1, 3)
NARROW = 1 << 22  # integers from -NARROW to NARROW - 1 fit in the limbs of write_limbs
_MAGIC = 1.5 * 2.0**23  # adding it leaves the nearest integer, plus NARROW, in the lowest 23 bits


class Limbs:
    """What all rows of limbs need, made once."""

    def __init__(self, b: ir.IRBuilder, scale: ir.Value, beyond: ir.Value, source: ir.Value) -> None:
        """source   an address: its highest bits are 0, which LLVM does not know"""
        self.b, self.beyond = b, beyond
        self.scale = spread(b, scale, FLOAT32)
        self.zero = b.trunc(b.lshr(source, ir.Constant(I64, 48)), I32)

    def write(self, source: ir.Value, group: ir.Value, target: ir.Value) -> None:
        """As ``write_limbs``."""
        for _ in self.parts(source, group, target):
            pass

    def parts(self, source: ir.Value, group: ir.Value, target: ir.Value) -> Iterator[None]:
        """The same in PARTS parts, before the end of the last of which the caller may add what it likes."""
        b = self.b
        fma = function(b, "llvm.fma.v16f32", FLOAT32, FLOAT32, FLOAT32, FLOAT32)
        magic = ir.Constant(FLOAT32, [ir.Constant(ir.FloatType(), _MAGIC)] * LANES)
        left, x = load(b, self.beyond, LANE32, 4), []
        for k in range(DEPTH // LANES):
            weights = load(b, b.add(source, b.mul(group, ir.Constant(I64, k))), FLOAT32, 4)
            x.append(b.bitcast(b.call(fma, [weights, self.scale, magic]), LANE32))
            left = b.or_(left, b.xor(x[k], constant(LANE32, 0x4B000000)))
        b.store(left, b.inttoptr(self.beyond, LANE32.as_pointer()), align=4)
        yield
        rows = _bytes_of_lanes(b, x, self.zero)
        yield
        bytes_ = ir.VectorType(I8, DEPTH)
        top = b.sub(b.bitcast(rows[2], bytes_), ir.Constant(bytes_, [ir.Constant(I8, NARROW >> 16)] * DEPTH))
        for limb, row in enumerate((*rows[:2], top)):
            address = b.add(target, ir.Constant(I64, limb * TILE))
            b.store(row, b.inttoptr(address, row.type.as_pointer()), align=DEPTH)


@intrinsic
def write_limbs(typingctx: Any, source: Any, group: Any, target: Any, scale: Any, beyond: Any) -> Any:
    """Split 64 narrow weights in fixed point into limbs: 64 bytes each, TILE apart.

    Byte 4 t + k is of weight t of group ORDER[k].

    source   address of four groups of 16 float32, so many bytes apart
    beyond   address of int32 (16,), of which bits above 22 are set where a weight is not narrow
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, group, target, scale, beyond = args
        Limbs(b, scale, beyond, source).write(source, group, target)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.float32, types.intp), build


def _bytes_of_lanes(b: ir.IRBuilder, x: list[ir.Value], zero: ir.Value) -> list[ir.Value]:
    """Bytes 0, 1 and 2 of the lanes of four vectors, each as one vector whose lanes are in ORDER.

    zero   an int32 of which LLVM does not know that it is 0: shifts and masks that it knows become permutations of
           bytes, which take three times as long
    """
    halves = ir.VectorType(I16, 2 * LANES)

    def hidden(value: int) -> ir.Value:
        return spread(b, b.xor(zero, ir.Constant(I32, value)), LANE32)

    def chosen(low: ir.Value, high: ir.Value, mask: ir.Value) -> ir.Value:
        return b.xor(high, b.and_(b.xor(low, high), mask))

    def by_halves(shift: Any, value: ir.Value) -> ir.Value:
        return b.bitcast(shift(b.bitcast(value, halves), b.bitcast(eights, halves)), LANE32)

    lower, even, sixteen, eights = (hidden(value) for value in (0xFFFF, 0x00FF00FF, 16, 0x00080008))
    p, q = (chosen(x[k], b.shl(x[k + 1], sixteen), lower) for k in (0, 2))
    upper_p, upper_q = (chosen(b.lshr(x[k], sixteen), x[k + 1], lower) for k in (0, 2))
    return [
        chosen(p, by_halves(b.shl, q), even),
        chosen(by_halves(b.lshr, p), q, even),
        chosen(upper_p, by_halves(b.shl, upper_q), even),
    ]


@intrinsic
def write_wide_limbs(typingctx: Any, source: Any, group: Any, target: Any, scale: Any, shift: Any) -> Any:
    """As ``write_limbs``, of weights of up to 32 bits.

    shift    0: the limbs, with the third signed, are a weight modulo 2^24; 24: they are what is left of it, over 2^24
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, group_bytes, target, scale, shift = args
        rint = function(b, "llvm.rint.v16f32", FLOAT32, FLOAT32)
        many, eight = spread(b, scale, FLOAT32), constant(LANE32, 8)
        chosen = b.icmp_signed("!=", shift, ir.Constant(I64, 0))
        x = []
        for k in range(DEPTH // LANES):
            weights = load(b, b.add(source, b.mul(group_bytes, ir.Constant(I64, k))), FLOAT32, 4)
            fixed = b.fptosi(b.call(rint, [b.fmul(weights, many)]), LANE32)
            rest = b.sub(fixed, b.ashr(b.shl(fixed, eight), eight))
            x.append(b.select(chosen, b.ashr(rest, constant(LANE32, 24)), fixed))
        for limb in range(LIMBS):
            row = ir.Constant(LANE32, None)
            for k, group in enumerate(ORDER):
                byte = b.and_(b.lshr(x[group], constant(LANE32, 8 * limb)), constant(LANE32, 0xFF))
                row = b.or_(row, b.shl(byte, constant(LANE32, 8 * k)))
            b.store(row, b.inttoptr(b.add(target, ir.Constant(I64, limb * TILE)), LANE32.as_pointer()), align=DEPTH)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.float32, types.intp), build


@intrinsic
def write_bits(typingctx: Any, target: Any, shift: Any, w0: Any, w1: Any, w2: Any, w3: Any) -> Any:
    """target [sample, unit] of 16 x 4 bytes = the bits ``shift .. shift + 15`` of the words of four units"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        target, shift, *words = args
        total = nothing = ir.Constant(LANE32, None)
        for k, word in enumerate(words):
            chosen = b.bitcast(b.trunc(b.lshr(word, shift), I16), ir.VectorType(I1, LANES))
            total = b.or_(total, b.select(chosen, constant(LANE32, 1 << 8 * k), nothing))
        b.store(total, b.inttoptr(target, LANE32.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(types.intp, *[types.uint64] * 5), build


@intrinsic
def set_bytes(typingctx: Any, target: Any, word: Any, value: Any) -> Any:
    """target (64,) uint8 |= value where the word's bits are set; target on a 64-byte boundary"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(I8, DEPTH)
        pointer = b.inttoptr(args[0], kind.as_pointer())
        first = b.insert_element(ir.Constant(kind, ir.Undefined), b.trunc(args[2], I8), ir.Constant(I32, 0))
        values = b.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, DEPTH), None))
        chosen = b.select(b.bitcast(args[1], ir.VectorType(I1, DEPTH)), values, ir.Constant(kind, None))
        b.store(b.or_(b.load(pointer, align=DEPTH), chosen), pointer, align=DEPTH)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64, types.intp), build
