"""Vector operations of sums over listed connections; see ``kernels.llvm.vectors``.

A weight is added in those of 16 lanes whose sample has its unit on.  With AVX-512 this is one masked addition whose
mask is the bits of the states.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm.vectors import I1, I16, I32, I64, LANE32, LANES, load, spread

TILE = 4  # units of a tile times its words of 64 samples: 16 of 32 registers hold sums
MASK = ir.VectorType(I1, LANES)
PER_WORD = 4  # vectors of 16 samples


def _masked_sums(units: int, n_words: int) -> Any:
    """Return the intrinsic for tiles of ``units`` units and ``n_words`` words of samples."""

    @intrinsic
    def masked_sums(typingctx: Any, words: Any, stride: Any, weights: Any, n: Any, sums: Any) -> Any:
        """sums[u, s] = sum over k of weights[k, u] where bit s of words[., k] is set

        words    address of uint64 [w, k] at w * stride + 8 k: samples 64 w .. 64 w + 63 of unit k
        weights  address of int32 [k, units]
        n        incoming units, at least 1
        sums     address of int32 [u, 64 n_words], 64-byte aligned
        """

        def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            words, stride, weights, n, sums = args
            starts = [b.add(words, b.mul(stride, ir.Constant(I64, w))) for w in range(n_words)]
            before, loop, after = b.block, b.append_basic_block("units"), b.append_basic_block("after")
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(I64)
            k.add_incoming(ir.Constant(I64, 0), before)
            totals = [[b.phi(LANE32) for _ in range(n_words * PER_WORD)] for _ in range(units)]
            at = b.mul(k, ir.Constant(I64, 8))
            masks = [
                b.bitcast(load(b, b.add(b.add(start, at), ir.Constant(I64, 2 * part)), I16, 2), MASK)
                for start in starts for part in range(PER_WORD)
            ]  # fmt: skip
            row = b.add(weights, b.mul(k, ir.Constant(I64, 4 * units)))
            following = b.add(k, ir.Constant(I64, 1))
            k.add_incoming(following, loop)
            ends = []
            for u, lanes in enumerate(totals):
                weight = spread(b, load(b, b.add(row, ir.Constant(I64, 4 * u)), I32, 4), LANE32)
                for total, mask in zip(lanes, masks, strict=True):
                    end = b.select(mask, b.add(total, weight), total)
                    total.add_incoming(ir.Constant(LANE32, None), before)
                    total.add_incoming(end, loop)
                    ends.append(end)
            b.cbranch(b.icmp_signed("<", following, n), loop, after)
            b.position_at_end(after)
            for i, end in enumerate(ends):
                pointer = b.inttoptr(b.add(sums, ir.Constant(I64, 4 * LANES * i)), LANE32.as_pointer())
                b.store(end, pointer, align=64)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), build

    return masked_sums


sums_4x1, sums_2x2, sums_1x4 = _masked_sums(4, 1), _masked_sums(2, 2), _masked_sums(1, 4)
sums_2x1, sums_1x2, sums_1x1 = _masked_sums(2, 1), _masked_sums(1, 2), _masked_sums(1, 1)
