"""Products of bytes on the tiles of AMX (Intel, from Sapphire Rapids on); see ``kernels.llvm.vectors``.

A processor with AMX has eight tiles of 16 rows of 64 bytes.  One instruction multiplies a tile of 16 x 64 bytes by one
of 64 x 16 and adds to 16 x 16 int32, which wrap.  A weight in fixed point is split into three bytes, its limbs, and the
states that it is multiplied with are bytes 0 or 1.

``HAS_TILES`` tells whether numba can compile these instructions for this processor.  Whether this process may run them
is up to the kernel of the operating system: :func:`allowed`.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from modelpar.kernels.llvm.vectors import (
    FEATURES,
    FLOAT32,
    I1,
    I16,
    I32,
    I64,
    LANE32,
    LANES,
    compiled,
    constant,
    function,
    load,
    prefetch,
    spread,
)  # fmt: skip

TILE = 1024  # bytes
DEPTH = 64  # bytes of a row of a tile, and units that one product sums over
LIMBS = 3  # of a weight: bytes 0 and 1 are unsigned, byte 2 is signed

HAS_TILES = compiled() and {"amx-tile", "amx-int8", "avx512f", "avx512bw"} <= FEATURES

_I8 = ir.IntType(8)
_OCTET, _NOTHING = _I8.as_pointer(), ir.VoidType()
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux on x86-64


@functools.cache
def allowed() -> bool:
    """Ask the system, once, to let this process and its threads use tiles; without leave they are illegal."""
    if not HAS_TILES or sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)
    except (OSError, AttributeError):
        return False


class _Tiles:
    """The instructions on tiles, by number.

    These intrinsics take constant numbers, not values of type x86_amx: LLVM then allocates no tiles and configures
    nothing.  As far as it knows they read and write memory, so that their order is kept.
    """

    def __init__(self, b: ir.IRBuilder) -> None:
        self.b = b

    def _call(self, name: str, *arguments: ir.Value) -> None:
        kinds = [argument.type for argument in arguments]
        self.b.call(function(self.b, f"llvm.x86.{name}", _NOTHING, *kinds), arguments)

    def _number(self, tile: int) -> ir.Constant:
        return ir.Constant(_I8, tile)

    def zero(self, tile: int) -> None:
        self._call("tilezero", self._number(tile))

    def load(self, tile: int, address: ir.Value) -> None:
        self._call("tileloadd64", self._number(tile), self.b.inttoptr(address, _OCTET), ir.Constant(I64, DEPTH))

    def store(self, tile: int, address: ir.Value, stride: int = DEPTH) -> None:
        self._call("tilestored64", self._number(tile), self.b.inttoptr(address, _OCTET), ir.Constant(I64, stride))

    def multiply(self, signs: str, total: int, first: int, second: int) -> None:
        """total += first @ second; signs: s or u, of the bytes of both"""
        self._call(f"tdpb{signs}d", *(self._number(tile) for tile in (total, first, second)))


@contextmanager
def _times(b: ir.IRBuilder, n: ir.Value, name: str) -> Iterator[ir.Value]:
    """A loop of ``n`` rounds, at least one, around the code of the block, which gets the number of the round."""
    with _rounds(b, ir.Constant(I64, 0), n, name) as number:
        yield number


@contextmanager
def _range(b: ir.IRBuilder, start: ir.Value, stop: ir.Value, name: str) -> Iterator[ir.Value]:
    """A loop over the numbers ``start .. stop - 1``, of which there may be none."""
    some, after = b.append_basic_block(f"some_{name}"), b.append_basic_block(f"no_more_{name}")
    b.cbranch(b.icmp_signed("<", start, stop), some, after)
    b.position_at_end(some)
    with _rounds(b, start, stop, name) as number:
        yield number
    b.branch(after)
    b.position_at_end(after)


@contextmanager
def _rounds(b: ir.IRBuilder, start: ir.Value, stop: ir.Value, name: str) -> Iterator[ir.Value]:
    before, loop, after = b.block, b.append_basic_block(name), b.append_basic_block(f"after_{name}")
    b.branch(loop)
    b.position_at_end(loop)
    number = b.phi(I64)
    number.add_incoming(start, before)
    yield number
    following = b.add(number, ir.Constant(I64, 1))
    number.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, stop), loop, after)
    b.position_at_end(after)


def _values(context: Any, b: ir.IRBuilder, kind: Any, values: ir.Value) -> list[ir.Value]:
    """The integers of a tuple, as int64."""
    return [
        context.cast(b, value, of, types.int64)
        for value, of in zip(cgutils.unpack_tuple(b, values, len(kind)), kind, strict=True)
    ]


@intrinsic
def configure(typingctx: Any, address: Any) -> Any:
    """Let this thread use tiles, by the 64 bytes of a configuration; until ``release``."""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        b.call(function(b, "llvm.x86.ldtilecfg", _NOTHING, _OCTET), [b.inttoptr(args[0], _OCTET)])
        return context.get_dummy_value()

    return types.void(types.intp), build


@intrinsic
def release(typingctx: Any) -> Any:
    """Give the tiles back: the system no longer has to save them when it switches threads."""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        b.call(function(b, "llvm.x86.tilerelease", _NOTHING), [])
        return context.get_dummy_value()

    return types.void(), build


def _multiplier(n_columns: int, *, up: bool) -> Any:
    """Return the intrinsic ``multiply_tiles`` for ``n_columns`` tiles of 16 samples, 1 or 2.

    up   the states are the first operand, samples x inputs, and the limbs the second one, inputs x units: weights whose
         inputs are rows of W become limbs as they lie in memory, and so do those of units that are rows with the limbs
         as the first operand
    """

    @intrinsic
    def multiply_tiles(typingctx: Any, product: Any) -> Any:
        """out [limb, column] (16, 16) int32 = limbs of 16 units times the states of 16 samples; up: states times limbs

        product  (limbs, states, column_stride, n_steps, out): addresses of [step, limb] tiles and of [column, step]
                 ones, columns so many bytes apart; steps, at least 1, of 64 inputs each; address of
                 LIMBS * n_columns tiles
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            _multiply(b, _values(context, b, product, args[0]), n_columns, up=up)
            return context.get_dummy_value()

        return types.void(product), build

    return multiply_tiles


def _writer(n_rows: int, *, up: bool) -> Any:
    """Return the intrinsic ``multiply_and_write`` for 2 tiles of 16 samples: so many rows of limbs in each step."""

    @intrinsic
    def multiply_and_write(typingctx: Any, product: Any, written: Any, scale: Any, beyond: Any) -> Any:
        """As ``multiply_tiles``, and make limbs of the weights of other units meanwhile.

        written  (source, row, step, group, ahead, target, stride, shift, first, n_steps), of at least 1 step and at
                 most those of the product.  Item q, from the first one on, is row r = q >> shift of the units
                 j = q - (r << shift): ``write_limbs`` makes it from the address source + r row + step + 64 j, with the
                 same group, for tile j of those so many bytes apart.  ``ahead`` bytes after these weights are those
                 that are asked for, to be there when they are made limbs
        beyond   as in ``write_limbs``
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            items = _Items(b, _values(context, b, written, args[1]), args[2], args[3], n_rows)
            _multiply(b, _values(context, b, product, args[0]), 2, items, up=up)
            return context.get_dummy_value()

        return types.void(product, written, types.float32, types.intp), build

    return multiply_and_write


def _multiply(
    b: ir.IRBuilder, product: list[ir.Value], n_columns: int, items: _Items | None = None, *, up: bool
) -> None:
    """The code of a multiplication.

    A step goes through its products back and forth, so that two tiles suffice for operands.  Between two of them stand
    some instructions of the limbs: the processor looks ahead over few instructions on tiles only.
    """
    planes, bits, column_stride, n_steps, out = product
    tiles, (a, x), n_products = _Tiles(b), (6, 7), LIMBS * n_columns
    for total in range(n_products):
        tiles.zero(total)
    with _times(b, n_steps, "steps") as step:
        here = b.add(planes, b.mul(step, ir.Constant(I64, LIMBS * TILE)))
        there = b.add(bits, b.mul(step, ir.Constant(I64, TILE)))
        beside, n_parts = (iter(()), 0) if items is None else (items.of_step(step), PARTS * items.n_rows)
        loaded, n_done = None, 0
        for limb in range(LIMBS):
            tiles.load(a, b.add(here, ir.Constant(I64, limb * TILE)))
            for column in range(n_columns) if limb % 2 == 0 else reversed(range(n_columns)):
                if loaded != column:
                    tiles.load(x, b.add(there, b.mul(column_stride, ir.Constant(I64, column))))
                    loaded = column
                top, total = limb == LIMBS - 1, limb * n_columns + column
                if up:
                    tiles.multiply("us" if top else "uu", total, x, a)
                else:
                    tiles.multiply("su" if top else "uu", total, a, x)
                n_done += 1
                for _ in range(n_parts * (n_done - 1) // n_products, n_parts * n_done // n_products):
                    next(beside)
    for total in range(n_products):
        tiles.store(total, b.add(out, ir.Constant(I64, total * TILE)))


class _Items:
    """The limbs that a multiplication writes beside; see ``multiply_and_write``."""

    def __init__(
        self, b: ir.IRBuilder, written: list[ir.Value], scale: ir.Value, beyond: ir.Value, n_rows: int
    ) -> None:
        (self.source, self.row, self.step, self.group, self.ahead, self.target, self.stride, self.shift, self.first,
         self.n_steps) = written  # fmt: skip
        self.b, self.n_rows, self.limbs = b, n_rows, _Limbs(b, scale, beyond, self.source)

    def of_step(self, step: ir.Value) -> Iterator[None]:
        """The instructions of a step, in PARTS * n_rows parts; of the last step where there is none of this number."""
        b = self.b
        last = b.sub(self.n_steps, ir.Constant(I64, 1))
        step = b.select(b.icmp_signed("<", step, last), step, last)
        source = b.add(self.source, b.mul(step, self.step))
        target = b.add(self.target, b.mul(step, ir.Constant(I64, LIMBS * TILE)))
        for k in range(self.n_rows):
            item = b.add(self.first, ir.Constant(I64, k))
            row = b.ashr(item, self.shift)
            tile = b.sub(item, b.shl(row, self.shift))
            at = b.add(b.add(source, b.mul(row, self.row)), b.mul(tile, ir.Constant(I64, DEPTH)))
            to = b.add(b.add(target, b.mul(row, ir.Constant(I64, DEPTH))), b.mul(tile, self.stride))
            yield from self.limbs.parts(at, self.group, to)
            for line in range(DEPTH // LANES):
                prefetch(b, b.add(b.add(at, self.ahead), b.mul(self.group, ir.Constant(I64, line))))
            yield


PARTS = 3  # of the instructions of a row of limbs


def _add_row(
    b: ir.IRBuilder, products: ir.Value, row: ir.Value, sums: ir.Value, row_stride: ir.Value, column_stride: ir.Value,
    shift: ir.Value, n_columns: int,
) -> None:  # fmt: skip
    """One row of ``add_products``.   shift: (16,) int32"""
    at = b.add(products, b.mul(row, ir.Constant(I64, DEPTH)))
    to = b.add(sums, b.mul(row, row_stride))
    for column in range(n_columns):
        total = None
        for limb in range(LIMBS):
            part = load(b, b.add(at, ir.Constant(I64, (limb * n_columns + column) * TILE)), LANE32, 64)
            total = b.add(total, b.shl(part, constant(LANE32, 8 * limb))) if limb else part
        pointer = b.inttoptr(b.add(to, b.mul(column_stride, ir.Constant(I64, column))), LANE32.as_pointer())
        b.store(b.add(b.load(pointer, align=64), b.shl(total, shift)), pointer, align=64)


def _adder(n_columns: int) -> Any:
    """Return the intrinsic ``add_products`` for ``n_columns`` tiles of 16 samples."""

    @intrinsic
    def add_products(typingctx: Any, products: Any, sums: Any, row_stride: Any, column_stride: Any, shift: Any) -> Any:
        """sums += (sum over limbs of products << 8 limb) << shift

        products   address of [limb, column] tiles
        sums       address of n_columns blocks of (16, 16) int32, so many bytes apart, with rows so many bytes apart;
                   64-byte aligned
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            products, sums, row_stride, column_stride, shift = args
            more = spread(b, b.trunc(shift, I32), LANE32)
            with _times(b, ir.Constant(I64, LANES), "rows") as row:
                _add_row(b, products, row, sums, row_stride, column_stride, more, n_columns)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), build

    return add_products


# by the samples / 16; where limbs are written beside, of 32 samples, by the rows of a step
multiply_1, multiply_2 = _multiplier(1, up=False), _multiplier(2, up=False)
multiply_up_1, multiply_up_2 = _multiplier(1, up=True), _multiplier(2, up=True)
write_1, write_2, write_4 = (_writer(n, up=False) for n in (1, 2, 4))
write_up_1, write_up_2, write_up_4 = (_writer(n, up=True) for n in (1, 2, 4))
add_products_1, add_products_2 = _adder(1), _adder(2)


# Which of four groups of 16 inputs the four bytes of a lane belong to.  The order is that in which shifts and
# selections within lanes put them, without a shuffle; states are laid out likewise.
ORDER = (0, 2, 1, 3)
NARROW = 1 << 22  # integers from -NARROW to NARROW - 1 fit in the limbs of write_limbs
_MAGIC = 1.5 * 2.0**23  # adding it leaves the nearest integer, plus NARROW, in the lowest 23 bits


class _Limbs:
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
        bytes_ = ir.VectorType(_I8, DEPTH)
        top = b.sub(b.bitcast(rows[2], bytes_), ir.Constant(bytes_, [ir.Constant(_I8, NARROW >> 16)] * DEPTH))
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
        _Limbs(b, scale, beyond, source).write(source, group, target)
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
        kind = ir.VectorType(_I8, DEPTH)
        pointer = b.inttoptr(args[0], kind.as_pointer())
        first = b.insert_element(ir.Constant(kind, ir.Undefined), b.trunc(args[2], _I8), ir.Constant(I32, 0))
        values = b.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, DEPTH), None))
        chosen = b.select(b.bitcast(args[1], ir.VectorType(I1, DEPTH)), values, ir.Constant(kind, None))
        b.store(b.or_(b.load(pointer, align=DEPTH), chosen), pointer, align=DEPTH)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64, types.intp), build


def square(row_bytes: int) -> Any:
    """Return the intrinsic ``multiply_square``, whose results lie in rows ``row_bytes`` apart."""

    @intrinsic
    def multiply_square(typingctx: Any, a: Any, a_stride: Any, x: Any, x_stride: Any, n_steps: Any, out: Any) -> Any:
        """out (32 units, 32 units) int32 = signed bytes (32 units, samples) times unsigned ones (samples, 32 units)

        a, x     addresses of [16 units, step] tiles, of 64 samples each, and bytes from 16 units to the next 16
        n_steps  at least 1
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_stride, x, x_stride, n_steps, out = args
            tiles = _Tiles(b)
            for total in range(4):
                tiles.zero(total)
            with _times(b, n_steps, "steps") as step:
                at = b.mul(step, ir.Constant(I64, TILE))
                tiles.load(4, b.add(a, at))
                tiles.load(6, b.add(x, at))
                tiles.multiply("su", 0, 4, 6)
                tiles.load(7, b.add(b.add(x, x_stride), at))
                tiles.multiply("su", 1, 4, 7)
                tiles.load(5, b.add(b.add(a, a_stride), at))
                tiles.multiply("su", 3, 5, 7)
                tiles.multiply("su", 2, 5, 6)
            for total in range(4):
                corner = total // 2 * LANES * row_bytes + total % 2 * DEPTH
                tiles.store(total, b.add(out, ir.Constant(I64, corner)), row_bytes)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), build

    return multiply_square
