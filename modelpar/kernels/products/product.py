"""Products of a weight matrix with activations, by whichever kernel is the fastest, and what follows them.

Activations are packed states or real values (units, batch).  Sums of states are whole numbers, int32 steps of
``1 / fine(inputs)``, wherever a kernel of ours makes them; the BLAS makes floats of them, unless the sums are to be
exact: then it too makes whole numbers, from products in float64, which hold them without rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.lookup import compiled
from modelpar.kernels.products import dense, dispatch, draw, fixed_point, subset_sums
from modelpar.kernels.products.draw import Loop, Wanted
from modelpar.kernels.products.subset_sums import PANEL
from modelpar.kernels.sampling import philox
from modelpar.kernels.sampling.epilogue import bias_sigmoid
from modelpar.kernels.states import Packed, pack, unpack

if TYPE_CHECKING:
    from modelpar.streams import Stream

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Activations = Packed | Array

DENSE_PANEL = 1024  # outgoing units whose weights are rounded at a time where the BLAS makes exact sums

_NO_WORDS, _NO_PLANES = np.empty((0, 0), np.uint64), np.empty((0, 0, 0), np.uint64)
_NO_MEANS = np.empty((0, 0), np.float32)
_NO_CODES, _NO_OFFSETS, _NO_UNITS = np.empty((0, 0), np.uint16), np.empty((0, 0), np.int64), np.empty(0, np.int32)


@dataclass(frozen=True)
class Product:
    """``W^T @ activations`` (up) or ``W @ activations``, not yet computed.

    W            (visible, hidden) block, float32 or float64, C-contiguous
    activations  of the block's visible units (up) or hidden ones; real values of float64 with weights of float32 are
                 on a grid (``kernels.products.fixed_point``), and their sums exact
    n_inputs     units of the whole layer that is summed over, on all shards: chooses the weights' grid
    whole        sums must be whole numbers, whatever makes them: to be exact, or to be added to those of other shards,
                 whose sizes may make them choose another kernel
    """

    W: Array
    activations: Activations
    up: bool
    n_inputs: int
    whole: bool = False

    @property
    def n_out(self) -> int:
        return self.W.shape[1] if self.up else self.W.shape[0]

    @property
    def batch(self) -> int:
        return self.activations.shape[1]

    @property
    def matrix(self) -> Array:
        return self.W.T if self.up else self.W

    def way(self) -> str:
        """The kernel that the dispatcher chooses."""
        if not isinstance(self.activations, Packed) or self.W.dtype != np.float32 or not compiled():
            return "blas"
        return dispatch.choose(self.activations, self.n_out, up=self.up, whole=self.whole)

    def sums(self, room: Callable[[int, int, Any], Array]) -> Array:
        """(n_out, batch) int32 or floats, into an array that ``room(units, batch, dtype)`` makes."""
        way = self.way()
        if way == "blas":
            return self._dense_sums(room)
        assert isinstance(self.activations, Packed)
        out = room(self.n_out, self.batch, np.int32)
        arguments = _arguments(way, self)

        def work(start: int, stop: int) -> None:
            draw.incoming_sums(*arguments, start, stop, out)

        threads.split(self.n_out, PANEL, work, align=PANEL)
        return out

    def _dense_sums(self, room: Callable[[int, int, Any], Array]) -> Array:
        states = self.activations
        if not isinstance(states, Packed):
            out = room(self.n_out, self.batch, states.dtype)
            if states.dtype == self.W.dtype:
                dense.matmul(self.matrix, states, out)
            else:
                fixed_point.product(self.W, self.up, states, out)
            return out
        if self.W.dtype == np.float32 and (self.whole or not compiled()):
            return _whole_sums(self, states, room(self.n_out, self.batch, np.int32))
        out = room(self.n_out, self.batch, self.W.dtype)
        dense.matmul(self.matrix, unpack(states, self.W.dtype), out)
        return out


def _whole_sums(product: Product, states: Packed, out: Array) -> Array:
    """Sums in whole steps by products in float64: below 2^53 these hold every partial sum, in any order."""
    scale, bits = subset_sums.fine(product.n_inputs), unpack(states, np.float64)
    for start in range(0, product.n_out, DENSE_PANEL):
        stop = min(start + DENSE_PANEL, product.n_out)
        block = product.W[:, start:stop].T if product.up else product.W[start:stop]
        steps = np.ascontiguousarray(np.rint(block.astype(np.float32) * scale), np.float64)
        sums = np.empty((stop - start, product.batch))
        dense.matmul(steps, bits, sums)
        out[start:stop] = sums.astype(np.int64).astype(np.uint32).view(np.int32)  # wraps, as int32 additions do
    return out


def _arguments(way: str, product: Product) -> tuple[Any, ...]:
    """What the compiled loops take of a product, up to the batch size."""
    states = product.activations
    assert isinstance(states, Packed)
    words = states.rows
    codes, offsets, units = _NO_CODES, _NO_OFFSETS, _NO_UNITS
    if way == "lists":
        offsets, units = subset_sums.lists_of(words, states.batch)
    else:
        codes = subset_sums.codes_of(words)
    number = dispatch.WAYS[way]
    return (number, product.W, product.up, states.n_units, subset_sums.fine(product.n_inputs), codes, offsets, units,
            states.batch)  # fmt: skip


@dataclass(frozen=True)
class Sampled:
    """What was asked for of the units after a product."""

    means: Array | None  # (units, batch) probabilities, or means of Gaussian units
    states: Packed | None  # sampled states
    statistic: Packed | None  # k-bit statistic
    error: float  # summed squared error against the target; 0 without one


@dataclass(frozen=True)
class Sampler:
    """What follows the sums of Bernoulli units: bias, sigmoid, draw, packing; in one pass where the sums allow it.

    bias, unit_ids   (units,) of the units that the sums are for
    stream, samples  key the draws; samples: the first of consecutive sample ids, or (batch,) int64 ids
    means, states    whether probabilities and sampled states are wanted
    planes           bits of the statistic that is wanted, 0 for none; that of 1 bit is the state
    target           packed states that the probabilities are compared with, or None
    """

    bias: Array
    unit_ids: IntArray
    stream: Stream
    samples: int | IntArray
    means: bool = False
    states: bool = True
    planes: int = 0
    target: Packed | None = None

    def of_product(self, product: Product, room: Callable[[int, int, Any], Array]) -> Sampled:
        """The units of a product whose sums are whole on this shard."""
        way = product.way()
        if way == "blas":
            return self.of_sums(product.sums(room), product.n_inputs)
        return self.drawn(product.n_out, product.batch, draw.sample_units, (*_arguments(way, product), self.bias))

    def of_sums(self, sums: Array, n_inputs: int) -> Sampled:
        """The units of sums (units, batch), int32 steps of ``1 / fine(n_inputs)`` or floats, which are overwritten."""
        n_units, batch = sums.shape
        if sums.dtype == np.int32 and not compiled():
            sums = sums.astype(np.float32) * (np.float32(1.0) / subset_sums.fine(n_inputs))
        if sums.dtype == np.float64 or not compiled():
            bias_sigmoid(sums, self.bias)
            return self._drawn_plainly(sums)
        if sums.dtype == np.int32:
            step = np.float32(1.0) / subset_sums.fine(n_inputs)
            return self.drawn(n_units, batch, draw.sample_sums, (sums, step, self.bias))
        bias_sigmoid(sums, self.bias)
        return self.drawn(n_units, batch, draw.sample_means, (sums,))

    def drawn(
        self, n_units: int, batch: int, loop: Loop, inputs: tuple[Any, ...],
        split: Callable[[Callable[[int, int], None]], None] | None = None,
    ) -> Sampled:  # fmt: skip
        """Run a compiled loop over panels of units that fills what is wanted.

        split   runs it over other ranges, whose meaning it shares with ``loop``
        """
        planes = self.planes if self.planes > 1 else 0
        drawing = philox.draw_of(self.stream, self.unit_ids, self.samples, n_units, batch, planes)
        states = Packed.empty(n_units, batch) if self.states or self.planes == 1 else None
        statistic = Packed.empty(n_units, batch, planes) if planes else None
        means = np.empty((n_units, batch), np.float32) if self.means else None
        wanted = Wanted(
            _NO_MEANS if means is None else means,
            _NO_WORDS if states is None else states.rows,
            _NO_PLANES if statistic is None else statistic.words,
            _NO_WORDS if self.target is None else self.target.rows,
        )
        errors: list[int] = []
        # as plain tuples: numba's dispatcher knows their types in C, those of named ones only in Python
        arguments: tuple[Any, Any] = tuple(drawing), tuple(wanted)

        def run(start: int, stop: int) -> None:
            errors.append(loop(*inputs, start, stop, *arguments))

        if split is None:
            threads.split(n_units, PANEL, run, align=PANEL)
        else:
            split(run)
        statistic = states if self.planes == 1 else statistic
        return Sampled(means, states, statistic, sum(errors) / draw.ERROR_STEPS)

    def _drawn_plainly(self, p: Array) -> Sampled:
        """The same for any type, and without compilation, in NumPy."""
        states = statistic = None
        error = 0.0
        if self.states or self.planes:
            u = np.empty_like(p)
            first, ids = philox.kernel_samples(self.samples, p.shape[1])
            philox.uniform_rows(first, ids, philox.kernel_units(self.unit_ids, len(p)), *self.stream.words, u)
            if self.states or self.planes == 1:
                states = pack(u < p)
            if self.planes > 1:
                y = p * p.dtype.type((1 << self.planes) - 1)
                low = np.floor(y)
                statistic = pack(low + (u < y - low), self.planes)
        if self.target is not None:
            one, steps = p.dtype.type(1), p.dtype.type(draw.ERROR_STEPS)
            miss = np.where(unpack(self.target, np.uint8) != 0, one - p, p)
            error = float(np.floor(miss * miss * steps + p.dtype.type(0.5)).astype(np.int64).sum())
        statistic = states if self.planes == 1 else statistic
        return Sampled(p.copy() if self.means else None, states, statistic, error / draw.ERROR_STEPS)


def plain_sums(sums: Array, n_inputs: int) -> Array:
    """Sums (units, batch) as floats: int32 steps of ``1 / fine(n_inputs)`` become float32, floats stay."""
    if sums.dtype != np.int32:
        return sums
    return sums.astype(np.float32) * (np.float32(1.0) / subset_sums.fine(n_inputs))
