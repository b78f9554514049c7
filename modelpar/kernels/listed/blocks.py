"""Blocks of listed connections (``kernels.listed.products``) over threads: products, statistics and updates of weights.

Without compilation NumPy computes the same in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.listed import products
from modelpar.kernels.listed.sampling import sample_blocks
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import bounds, fixed_point, subset_sums
from modelpar.kernels.products.draw import Loop
from modelpar.kernels.states import Packed, unpack
from modelpar.kernels.statistics.learning import Counts, Pair, ProbabilityCounts, update_from
from modelpar.kernels.statistics.update import update_row

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

GRAIN = 1 << 15  # weights for which one more thread is worth waking
NO_POSITIONS = np.empty(0, np.int32)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Inputs and members of all blocks, and positions of their weights in W; see ``kernels.listed.products``."""

    first: IntArray  # (n_blocks + 1,)
    inputs: npt.NDArray[np.int32]
    members: IntArray  # (n_blocks + 1,)
    outs: npt.NDArray[np.int32]  # (members,)
    starts: IntArray  # (members,); empty where ``positions`` is used
    positions: Array = field(default_factory=lambda: NO_POSITIONS)  # int32 or int64, parallel to ``inputs``

    @property
    def n_blocks(self) -> int:
        return len(self.first) - 1

    @property
    def n_bytes(self) -> int:
        """Memory of the lists in bytes."""
        return sum(array.nbytes for array in (*self.lists, self.positions))

    @property
    def widest(self) -> int:
        """The largest number of inputs of a block."""
        return int(np.diff(self.first).max(initial=0))

    @property
    def grain(self) -> int:
        """Blocks for which one more thread is worth waking."""
        weights = int((np.diff(self.first) * np.diff(self.members)).sum())
        return threads.rows_of(GRAIN, weights // max(1, self.n_blocks))

    @property
    def lists(self) -> tuple[Array, ...]:
        """The arrays of the blocks that every loop takes."""
        return self.first, self.inputs, self.members, self.outs, self.starts

    def split(self, work: Callable[[int, int], None], part: slice = slice(None)) -> None:
        """Run ``work(first block, end)`` over the blocks of ``part``, or over all of them."""
        start, stop, _ = part.indices(self.n_blocks)
        threads.split(stop - start, self.grain, work, first=start)

    # -- products ----------------------------------------------------------------------------------------------------

    def sum_states(self, W: Array, states: Packed, n_inputs: int, out: Array, part: slice = slice(None)) -> None:
        """out (units, batch) int32 = sums of the weights of the inputs that are on, in fixed point."""
        scale = subset_sums.fixed_point_scale(n_inputs)
        if not compiled():
            self._sum_in_numpy(W, states, scale, out, part)
            return
        words, widest = states.rows, self.widest
        self.split(
            lambda a, b: products.sum_blocks(a, b, *self.lists, self.positions, widest, W, scale, words, -1, out), part
        )

    def sampling_of(self, W: Array, states: Packed, n_inputs: int, bias: Array) -> tuple[Loop, tuple[Any, ...]]:
        """Return the loop over blocks for ``Sampler.drawn``, and its inputs: it sums inputs that are on, and draws."""
        scale = subset_sums.fixed_point_scale(n_inputs)
        return sample_blocks, (*self.lists, self.positions, self.widest, W, scale, states.rows, states.batch, bias)

    def signed_sums(self, W: Array, n_units: int, part: slice = slice(None)) -> tuple[int, int]:
        """(steps of the largest weight, of the largest sum of weights of one sign of a member); ``bounds.STEPS``."""
        sums, largest = np.zeros((2, n_units), np.int64), [0]
        if not compiled():
            return self._signed_sums_in_numpy(W, part)

        def work(start: int, stop: int) -> None:
            lists = self.first, self.members, self.outs, self.starts, self.positions
            largest.append(products.add_signed_blocks(start, stop, *lists, W, sums))

        self.split(work, part)
        return max(largest), int(sums.max(initial=0))

    def multiply(self, W: Array, x: Array, out: Array, part: slice = slice(None)) -> None:
        """out (units, batch) = sums of weight times x (units, batch), of the type of x, in the order of the inputs.

        Activations in float64 with weights in float32 are in fixed point (``kernels.products.fixed_point``), and the
        weights are then rounded to it too.
        """
        steps = x.dtype.type(0.0 if x.dtype == W.dtype else fixed_point.STEPS)
        self.split(lambda a, b: products.multiply_blocks(a, b, *self.lists, self.positions, W, steps, x, out), part)

    def add_products(self, V: Array, v: Array, s: Array, gain: float, carry: float) -> None:
        """V = carry * V + gain * v s^T on the connections; v (units, batch) of inputs, s (units, batch) of members."""
        scalars = V.dtype.type(gain), V.dtype.type(carry)
        self.split(lambda a, b: products.add_products(a, b, *self.lists, v, s, V, *scalars))

    def subtract_outer(self, V: Array, carry: float, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> None:
        """V = carry * V - (a d^T + c f^T) on the connections; rows a, c of inputs, columns d, f of members."""
        (a, c), (d, f) = ([np.ascontiguousarray(x, V.dtype) for x in side] for side in (rows, columns))
        keep = V.dtype.type(carry)
        self.split(lambda start, stop: products.subtract_outer(start, stop, *self.lists, V, keep, a, d, c, f))

    def scale_outer(self, V: Array, rows: Array, columns: Array) -> None:
        """V *= rows columns^T on the connections; rows of inputs, columns of members."""
        a, d = (np.ascontiguousarray(x, V.dtype) for x in (rows, columns))
        self.split(lambda start, stop: products.scale_outer(start, stop, *self.lists, V, a, d))

    def _sum_in_numpy(self, W: Array, states: Packed, scale: Any, out: Array, part: slice) -> None:
        bits = unpack(states, np.float64)
        for g in range(*part.indices(self.n_blocks)):
            inputs = slice(self.first[g], self.first[g + 1])
            for m in range(self.members[g], self.members[g + 1]):
                weights = W[self.positions[inputs] if len(self.positions) else self._weights(g, m)]
                sums = np.rint(weights * scale).astype(np.float64) @ bits[self.inputs[inputs]]
                out[self.outs[m]] = sums.astype(np.int64).astype(np.uint32).view(np.int32)

    def _signed_sums_in_numpy(self, W: Array, part: slice) -> tuple[int, int]:
        largest = total = 0
        for g in range(*part.indices(self.n_blocks)):
            inputs = slice(self.first[g], self.first[g + 1])
            for m in range(self.members[g], self.members[g + 1]):
                steps = bounds.signed_steps(W[self.positions[inputs] if len(self.positions) else self._weights(g, m)])
                largest = max(largest, *(int(some.max(initial=0)) for some in steps))
                total = max(total, *(int(some.sum()) for some in steps))
        return largest, total

    def _weights(self, g: int, m: int) -> slice:
        start = int(self.starts[m])
        return slice(start, start + int(self.first[g + 1] - self.first[g]))


class BlockCounts(Counts):
    """``Counts`` on the connections of blocks: C is (connections,)."""

    def __init__(self, blocks: Blocks, n_connections: int, data: Pair, model: Pair) -> None:
        super().__init__(data, model)
        self._blocks, self.shape = blocks, (n_connections,)

    def _words(self) -> tuple[Array, ...]:
        (v0, s0), (v1, s1) = self.data, self.model
        return v0.rows, s0.words, v1.rows, s1.words

    def learn(self, W: Array, V: Array, carry: float, gain: float, shrink: float) -> None:
        scalars = [W.dtype.type(value) for value in (carry, gain, shrink)]
        if not compiled():
            update_row(W, V, self.plain(), *scalars)
            return
        blocks, widest, operands = self._blocks, self._blocks.widest, self._words()
        blocks.split(lambda a, b: products.learn_blocks(a, b, *blocks.lists, widest, *operands, W, V, *scalars))

    def add_to(self, V: Array, gain: float) -> None:
        scalar = V.dtype.type(gain)
        if not compiled():
            V += scalar * self.plain().astype(V.dtype)
            return
        blocks, widest, operands = self._blocks, self._blocks.widest, self._words()
        blocks.split(lambda a, b: products.add_blocks(a, b, *blocks.lists, widest, *operands, V, scalar))

    def fill(self, out: Array) -> None:
        if not compiled():
            out[:] = self.plain()
            return
        blocks, widest, operands = self._blocks, self._blocks.widest, self._words()
        blocks.split(lambda a, b: products.count_blocks(a, b, *blocks.lists, widest, *operands, out))

    def fill_in_pieces(self, out: Array, n_rows: int) -> Iterator[tuple[int, int]]:
        """As ``fill``, all at first: the weights of a block are not adjacent."""
        self.fill(out)
        for start in range(0, len(out), n_rows):
            yield start, min(start + n_rows, len(out))

    def plain(self) -> Array:
        values = [tuple(unpack(x, np.float64) for x in phase) for phase in (self.data, self.model)]
        return _counts_in_numpy(self._blocks, self.shape[0], *values)


class BlockProbabilityCounts(ProbabilityCounts):
    """``ProbabilityCounts`` on the connections of blocks: C is (connections,)."""

    def __init__(
        self, blocks: Blocks, n_connections: int, data: tuple[Packed, Array], model: tuple[Packed, Array],
        n_samples: int,
    ) -> None:  # fmt: skip
        super().__init__(data, model, n_samples)
        self._blocks, self.shape = blocks, (n_connections,)

    def learn(self, W: Array, V: Array, carry: float, gain: float, shrink: float) -> None:
        counts = np.empty(self.shape, np.int64)
        self.fill(counts)
        update_from(counts, W, V, carry, gain, shrink)

    def fill(self, out: Array) -> None:
        if not compiled():
            out[:] = self.plain()
            return
        (v0, p0), (v1, p1) = self.data, self.model
        operands, blocks = (v0.rows, p0, v1.rows, p1, self.scale), self._blocks
        blocks.split(lambda a, b: products.count_probability_blocks(a, b, *blocks.lists, *operands, out))

    def plain(self) -> Array:
        values = [
            (unpack(v, np.float64), np.rint(p * self.scale).astype(np.float64)) for v, p in (self.data, self.model)
        ]
        return _counts_in_numpy(self._blocks, self.shape[0], *values)


def _counts_in_numpy(blocks: Blocks, n: int, data: tuple[Array, ...], model: tuple[Array, ...]) -> Array:
    """Return v0 s0^T - v1 s1^T on the connections, in float64."""
    C = np.zeros(n)
    for (v, p), sign in ((data, 1.0), (model, -1.0)):
        blocks.add_products(C, v, p, sign, 1.0)
    return C
