"""Vector operations of the statistics: ANDed words and counted ones, updates; see ``kernels.llvm.vectors``."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm.vectors import (
    FEATURES,
    I32,
    I64,
    LANE32,
    LANES,
    LINE,
    compiled,
    constant,
    function,
    load,
    prefetch,
    spread,
    times,
)  # fmt: skip

HAS_COUNT = compiled() and "avx512vpopcntdq" in FEATURES  # an instruction that counts the ones of each lane


def _count_tile(rows: int, *, alone: bool = False) -> Any:
    """Return the intrinsic for tiles of this many rows, which keeps their counts in registers.

    alone   only the model's phase is counted, with negative sign; v0 and s0 are not read
    """

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
            ones = function(b, "llvm.ctpop.v16i32", LANE32, LANE32)
            zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
            starts = [(b.add(v0, offset), b.add(v1, offset))
                      for offset in (b.mul(row_stride, ir.Constant(I64, r)) for r in range(rows))]  # fmt: skip
            before = b.block
            outer, inner, next_plane, after = (
                b.append_basic_block(name) for name in ("plane", "word", "next", "after")
            )
            b.branch(outer)

            b.position_at_end(outer)  # from the highest plane down: counts are doubled, then the plane's are added
            remaining = b.phi(I64)
            remaining.add_incoming(planes, before)
            kept = [b.phi(LANE32) for _ in range(rows)]
            plane = b.mul(b.mul(b.sub(remaining, one), n_words), word_stride)
            doubled = [b.shl(count, constant(LANE32, 1)) for count in kept]
            b.branch(inner)

            b.position_at_end(inner)
            w = b.phi(I64)
            w.add_incoming(zero, outer)
            running = [b.phi(LANE32) for _ in range(rows)]
            offset = b.add(plane, b.mul(w, word_stride))
            plus = None if alone else load(b, b.add(s0, offset), LANE32, 4)
            minus = load(b, b.add(s1, offset), LANE32, 4)
            at = b.mul(w, ir.Constant(I64, 4))
            sums = []
            for count, (first, second) in zip(running, starts, strict=True):
                total = count
                if plus is not None:
                    on = b.call(ones, [b.and_(spread(b, load(b, b.add(first, at), I32, 4), LANE32), plus)])
                    total = b.add(total, on)
                off = b.call(ones, [b.and_(spread(b, load(b, b.add(second, at), I32, 4), LANE32), minus)])
                sums.append(b.sub(total, off))
            following = b.add(w, one)
            w.add_incoming(following, inner)
            for count, before_loop, total in zip(running, doubled, sums, strict=True):
                count.add_incoming(before_loop, outer)
                count.add_incoming(total, inner)
            b.cbranch(b.icmp_signed("<", following, n_words), inner, next_plane)

            b.position_at_end(next_plane)
            fewer = b.sub(remaining, one)
            remaining.add_incoming(fewer, next_plane)
            for count, total in zip(kept, sums, strict=True):
                count.add_incoming(ir.Constant(LANE32, None), before)
                count.add_incoming(total, next_plane)
            b.cbranch(b.icmp_signed(">", fewer, zero), outer, after)

            b.position_at_end(after)
            for r, total in enumerate(sums):
                address = b.add(counts, b.mul(count_stride, ir.Constant(I64, r)))
                b.store(total, b.inttoptr(address, LANE32.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10), build

    return count_tile


TILE = 4  # rows
count_tile, count_tile_row = _count_tile(TILE), _count_tile(1)
count_model_tile, count_model_row = _count_tile(TILE, alone=True), _count_tile(1, alone=True)


def _transposer(*, add: bool) -> Any:
    """Return the intrinsic ``transpose``; add: what is there is added to."""

    @intrinsic
    def transpose(typingctx: Any, source: Any, source_stride: Any, target: Any, target_stride: Any) -> Any:
        """target[r, c] = source[c, r] for 16 rows of 16 int32; strides in bytes, the target's rows at multiples of 64

        In each of four rounds, rows whose numbers differ in one bit exchange the lanes that differ in this bit.
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            source, source_stride, target, target_stride = args
            rows = [load(b, b.add(source, b.mul(source_stride, ir.Constant(I64, r))), LANE32, 4) for r in range(LANES)]
            for bit in (1, 2, 4, 8):
                low = ir.Constant(LANE32, [ir.Constant(I32, i + LANES - bit if i & bit else i) for i in range(LANES)])
                high = ir.Constant(LANE32, [ir.Constant(I32, i + LANES if i & bit else i + bit) for i in range(LANES)])
                for r in range(LANES):
                    if not r & bit:
                        pair = rows[r], rows[r + bit]
                        rows[r], rows[r + bit] = (b.shuffle_vector(*pair, lanes) for lanes in (low, high))
            for r, row in enumerate(rows):
                address = b.add(target, b.mul(target_stride, ir.Constant(I64, r)))
                pointer = b.inttoptr(address, LANE32.as_pointer())
                b.store(b.add(b.load(pointer, align=64), row) if add else row, pointer, align=64)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 4), build

    return transpose


transpose_16, add_transposed_16 = _transposer(add=False), _transposer(add=True)


@intrinsic
def update_vectors(typingctx: Any, W: Any, V: Any, counts: Any, n: Any, carry: Any, gain: Any, shrink: Any,
                   ahead: Any) -> Any:  # fmt: skip
    """V = carry * V + gain * counts; V -= shrink * W; W += V, of 16 n weights, as ``update.update_row`` does one

    W, V     addresses of numbers of the type of carry, gain and shrink
    counts   address of int32
    n        at least 1
    ahead    bytes from here to those of W and V that are asked for meanwhile
    """

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        W, V, counts, n, *scalars, ahead = args
        kind = ir.VectorType(scalars[0].type, LANES)
        carry, gain, shrink = (spread(b, scalar, kind) for scalar in scalars)
        width = signature.args[4].bitwidth // 8 * LANES
        with times(b, n, "vectors") as i:
            at = b.mul(i, ir.Constant(I64, width))
            w_at, v_at = b.add(W, at), b.add(V, at)
            for line in range(0, width, LINE):
                for array in (w_at, v_at):
                    prefetch(b, b.add(b.add(array, ahead), ir.Constant(I64, line)))
            count = b.sitofp(load(b, b.add(counts, b.mul(i, ir.Constant(I64, 4 * LANES))), LANE32, 4), kind)
            w, v = (load(b, array, kind, 4) for array in (w_at, v_at))
            v = b.fadd(b.fmul(carry, v), b.fmul(gain, count))
            v = b.fsub(v, b.fmul(shrink, w))
            b.store(v, b.inttoptr(v_at, kind.as_pointer()), align=4)
            b.store(b.fadd(w, v), b.inttoptr(w_at, kind.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4, carry, carry, carry, types.intp), build
