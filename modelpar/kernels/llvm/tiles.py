"""Products of bytes on the tiles of AMX (Intel, from Sapphire Rapids on); see ``kernels.llvm.vectors``.

A processor with AMX has eight tiles of 16 rows of 64 bytes.  One instruction multiplies a tile of 16 x 64 bytes by one
of 64 x 16 and adds to 16 x 16 int32, which wrap.  Of weights and states ``kernels.llvm.tile_bytes`` makes the bytes.

``HAS_TILES`` tells whether numba can compile these instructions for this processor.  Whether this process may run them
is up to the kernel of the operating system: :func:`allowed`.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from modelpar.kernels.llvm.tile_bytes import DEPTH, LIMBS, PARTS, TILE, Limbs
from modelpar.kernels.llvm.vectors import (
    FEATURES,
    I8,
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
    times,
)  # fmt: skip

HAS_TILES = compiled() and {"amx-tile", "amx-int8", "avx512f", "avx512bw"} <= FEATURES

PAIRS = "pairs"  # the signs of bfloat16 numbers
_OCTET, _NOTHING = I8.as_pointer(), ir.VoidType()
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


class Tiles:
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
        return ir.Constant(I8, tile)

    def zero(self, tile: int) -> None:
        self._call("tilezero", self._number(tile))

    def load(self, tile: int, address: ir.Value) -> None:
        self._call("tileloadd64", self._number(tile), self.b.inttoptr(address, _OCTET), ir.Constant(I64, DEPTH))

    def store(self, tile: int, address: ir.Value, stride: int = DEPTH) -> None:
        self._call("tilestored64", self._number(tile), self.b.inttoptr(address, _OCTET), ir.Constant(I64, stride))

    def multiply(self, signs: str, total: int, first: int, second: int) -> None:
        """total += first @ second; signs: s or u, of the bytes of both; ``pairs``: they are pairs of bfloat16"""
        name = "tdpbf16ps" if signs == PAIRS else f"tdpb{signs}d"
        self._call(name, *(self._number(tile) for tile in (total, first, second)))


def values(context: Any, b: ir.IRBuilder, kind: Any, values: ir.Value) -> list[ir.Value]:
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
            _multiply(b, values(context, b, product, args[0]), n_columns, up=up)
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
            items = _Items(b, values(context, b, written, args[1]), args[2], args[3], n_rows)
            _multiply(b, values(context, b, product, args[0]), 2, items, up=up)
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
    tiles, (a, x), n_products = Tiles(b), (6, 7), LIMBS * n_columns
    for total in range(n_products):
        tiles.zero(total)
    with times(b, n_steps, "steps") as step:
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
        self.b, self.n_rows, self.limbs = b, n_rows, Limbs(b, scale, beyond, self.source)

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
            with times(b, ir.Constant(I64, LANES), "rows") as row:
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


def square(row_bytes: int, signs: str = "su") -> Any:
    """Return the intrinsic ``multiply_square``, whose results lie in rows ``row_bytes`` apart.   signs: of operands"""

    @intrinsic
    def multiply_square(typingctx: Any, a: Any, a_stride: Any, x: Any, x_stride: Any, n_steps: Any, out: Any) -> Any:
        """out (32 units, 32 units) int32 = signed bytes (32 units, samples) times unsigned ones (samples, 32 units)

        Of pairs, float32 = bfloat16 numbers times such numbers.
        a, x     addresses of [16 units, step] tiles, of 64 samples each, and bytes from 16 units to the next 16
        n_steps  at least 1
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_stride, x, x_stride, n_steps, out = args
            tiles = Tiles(b)
            for total in range(4):
                tiles.zero(total)
            with times(b, n_steps, "steps") as step:
                at = b.mul(step, ir.Constant(I64, TILE))
                tiles.load(4, b.add(a, at))
                tiles.load(6, b.add(x, at))
                tiles.multiply(signs, 0, 4, 6)
                tiles.load(7, b.add(b.add(x, x_stride), at))
                tiles.multiply(signs, 1, 4, 7)
                tiles.load(5, b.add(b.add(a, a_stride), at))
                tiles.multiply(signs, 3, 5, 7)
                tiles.multiply(signs, 2, 5, 6)
            for total in range(4):
                corner = total // 2 * LANES * row_bytes + total % 2 * DEPTH
                tiles.store(total, b.add(out, ir.Constant(I64, corner)), row_bytes)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), build

    return multiply_square
