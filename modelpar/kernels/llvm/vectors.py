"""Vectors of 16 lanes: types and building blocks of LLVM code, and what the processor can do.

The modules of this package define functions that numba cannot express in Python, as LLVM instructions (numba's
intrinsics).  Their arguments are addresses (:func:`address`) and strides in bytes.  All of
them but ``subset_sums.lookup_step`` are plain LLVM vector code, which runs on every processor.  None of them exists
with NUMBA_DISABLE_JIT: callers then have an alternative in NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.extending import intrinsic

LANES = 16  # of 32 bits: a vector register of 512 bits
LINE = 64  # bytes of a line of the caches

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
LANE16 = ir.VectorType(I16, LANES)
LANE32 = ir.VectorType(I32, LANES)
FLOAT32 = ir.VectorType(ir.FloatType(), LANES)


def compiled() -> bool:
    """Whether numba compiles; with NUMBA_DISABLE_JIT its functions run as plain Python."""
    return not config.DISABLE_JIT  # type: ignore[attr-defined]


def _processor_features() -> set[str]:
    """Return the features of the processor that numba compiles for: NUMBA_CPU_FEATURES, or the host's.

    Without AVX where numba leaves that out: by NUMBA_ENABLE_AVX=0, or where ``/proc/cpuinfo`` is there and names none,
    as in a container that hides it.
    """
    chosen, features = config.CPU_NAME, config.CPU_FEATURES  # type: ignore[attr-defined]
    if features:
        return {word[1:] for word in features.split(",") if word.startswith("+")}
    if chosen:
        return set()
    host = {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}
    return host if config.ENABLE_AVX else {name for name in host if not name.startswith("avx")}  # type: ignore[attr-defined]


FEATURES = _processor_features()


def load(b: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    return b.load(b.inttoptr(address, kind.as_pointer()), align=align)


def function(b: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
    """Return the LLVM intrinsic of this name, declared in the module where it is not yet."""
    return b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(result, arguments), name)


def constant(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * LANES)


def spread(b: ir.IRBuilder, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
    """Return a vector with the scalar in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = b.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(first, undefined, constant(LANE32, 0))


@contextmanager
def times(b: ir.IRBuilder, n: ir.Value, name: str) -> Iterator[ir.Value]:
    """A loop of ``n`` rounds, at least one, around the code of the block, which gets the number of the round."""
    before, loop, after = b.block, b.append_basic_block(name), b.append_basic_block("after")
    b.branch(loop)
    b.position_at_end(loop)
    number = b.phi(I64)
    number.add_incoming(ir.Constant(I64, 0), before)
    yield number
    following = b.add(number, ir.Constant(I64, 1))
    number.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, n), loop, after)
    b.position_at_end(after)


@intrinsic
def count_bits(typingctx: Any, word: Any) -> Any:
    """Number of ones in a word of 64 bits, int64"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return b.ctpop(args[0])

    return types.int64(types.uint64), build


@intrinsic
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """Position of the lowest bit that is set, int64; ``word`` is not 0"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return b.cttz(args[0], ir.Constant(I1, 1))

    return types.int64(types.uint64), build


@intrinsic
def address(typingctx: Any, array: Any) -> Any:
    """Address of the first element of an array, int64

    numba's ``array.ctypes.data`` is unsigned, and the sum of an unsigned and a signed integer is a float64.
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return b.ptrtoint(context.make_array(signature.args[0])(context, b, args[0]).data, I64)

    return types.int64(array), build


def prefetch(b: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for the cache line at an address, which will be needed soon, into the second-level cache."""
    octet = I8.as_pointer()
    of_line = function(b, "llvm.prefetch.p0i8", ir.VoidType(), octet, I32, I32, I32)
    b.call(of_line, [b.inttoptr(address, octet), *(ir.Constant(I32, n) for n in (0, 2, 1))])
