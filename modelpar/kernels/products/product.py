"""Products of a weight matrix with activations, by the fastest kernel, and what follows them.

Activations are packed states or real values (units, batch).  Sums of states are integers, int32 multiples of
``1 / fixed_point_scale(n_inputs)``, where one of our kernels computes them.  With the BLAS they are floats, unless
integers are required: then they are computed in float64, which represents them without rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import dense, dispatch, draw, fixed_point, precision, subset_sums
from modelpar.kernels.products.draw import Loop, Wanted
from modelpar.kernels.products.subset_sums import PANEL
from modelpar.kernels.sampling import philox, softmax
from modelpar.kernels.sampling.epilogue import bias_sigmoid
from modelpar.kernels.states import Packed, pack, unpack

if TYPE_CHECKING:
    from modelpar.streams import Stream

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Activations = Packed | Array
Allocate = Callable[[int, int, Any], Array]  # (units, batch, dtype) -> array (units, batch), contents undefined

_NO_WORDS, _NO_PLANES = np.empty((0, 0), np.uint64), np.empty((0, 0, 0), np.uint64)
_NO_MEANS = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Product:
    """``W^T @ activations`` (up) or ``W @ activations``, not yet computed.

    W            (visible, hidden) block, float32 or float64, C-contiguous
    activations  of the block's visible units (up) or hidden ones; real values of float64 with weights of float32 are
                 in fixed point (``kernels.products.fixed_point``), and their sums exact
    n_inputs     units that the weights' fixed-point scale is for: those of the layer that is summed over, on all
                 shards, or more where weights are large (``kernels.products.bounds``)
    integer_sums whether sums must be integers with every kernel: to be exact, or to be added to those of other shards,
                 which may choose another kernel because of their sizes
    """

    W: Array
    activations: Activations
    up: bool
    n_inputs: int
    integer_sums: bool = False

    @property
    def n_out(self) -> int:
        return self.W.shape[1] if self.up else self.W.shape[0]

    @property
    def batch(self) -> int:
        return self.activations.shape[1]

    @property
    def matrix(self) -> Array:
        return self.W.T if self.up else self.W

    def chosen_kernel(self) -> str:
        """Return the kernel that the dispatcher chooses."""
        if not isinstance(self.activations, Packed) or self.W.dtype != np.float32 or not compiled():
            return "blas"
        return dispatch.choose(self.activations, self.n_out, up=self.up, integer_sums=self.integer_sums)

    def sums(self, allocate: Allocate) -> Array:
        """Compute the sums (n_out, batch), int32 or floats, in an array made by ``allocate``."""
        kernel = self.chosen_kernel()
        if kernel == "blas":
            return self._dense_sums(allocate)
        assert isinstance(self.activations, Packed)
        out = allocate(self.n_out, self.batch, np.int32)
        operands = subset_sums.operands(kernel, self.W, self.activations, self.up, self.n_inputs)

        def work(start: int, stop: int) -> None:
            draw.incoming_sums(*operands, start, stop, out)

        threads.split(self.n_out, _grain(self.batch, self.activations.n_units), work, align=PANEL)
        return out

    def _dense_sums(self, allocate: Allocate) -> Array:
        states = self.activations
        if not isinstance(states, Packed):
            out = allocate(self.n_out, self.batch, states.dtype)
            if states.dtype == self.W.dtype:
                precision.matmul(self.matrix, states, out)
            else:
                fixed_point.product(self.W, self.up, states, out)
            return out
        if self.W.dtype == np.float32 and (self.integer_sums or not compiled()):
            return _integer_sums(self, states, allocate(self.n_out, self.batch, np.int32))
        out = allocate(self.n_out, self.batch, self.W.dtype)
        dense.matmul(self.matrix, unpack(states, self.W.dtype), out)
        return out


def _integer_sums(product: Product, states: Packed, out: Array) -> Array:
    """Compute integer sums by products in float64, which represent every partial sum below 2^53, in any order."""
    scale, bits = subset_sums.fixed_point_scale(product.n_inputs), unpack(states, np.float64)
    for start in range(0, product.n_out, fixed_point.PANEL):
        stop = min(start + fixed_point.PANEL, product.n_out)
        block = product.W[:, start:stop].T if product.up else product.W[start:stop]
        steps = np.ascontiguousarray(np.rint(block.astype(np.float32) * scale), np.float64)
        sums = np.empty((stop - start, product.batch))
        dense.matmul(steps, bits, sums)
        out[start:stop] = sums.astype(np.int64).astype(np.uint32).view(np.int32)  # wraps, as int32 additions do
    return out


@dataclass(frozen=True)
class Sampled:
    """Results of a :class:`Sampler` for the units of a product; None for those that were not requested."""

    means: Array | None  # (units, batch) probabilities, or means of Gaussian units
    states: Packed | None  # sampled states
    statistic: Packed | None  # k-bit statistic
    error: float  # summed squared error against the target; 0 without one
    values: Array | None = None  # sampled values of units that have real ones in place of states, and
    gradient: Array | None = None  # (parameters, units) sums over the samples of the gradients of their potentials

    @property
    def activations(self) -> Activations:
        """The sampled states or values, which must have been asked for."""
        sampled = self.states if self.values is None else self.values
        assert sampled is not None
        return sampled


@dataclass(frozen=True)
class Sampler:
    """Bias, sigmoid or softmax, draw and packing of units after their sums, in one pass where possible.

    bias, unit_ids   (units,) of the units that the sums are for
    stream, samples  key of the draws; samples: the first of consecutive sample ids, or (batch,) int64 ids
    means, states    whether probabilities and sampled states are requested
    planes           bits of the requested statistic, 0 for none; the statistic of 1 bit is the state
    target           packed states that the probabilities are compared with, or None
    categories       so many units in a row are a categorical site, of which one is 1 (``kernels.sampling.softmax``);
                     0 for Bernoulli units
    """

    bias: Array
    unit_ids: IntArray
    stream: Stream
    samples: int | IntArray
    means: bool = False
    states: bool = True
    planes: int = 0
    target: Packed | None = None
    categories: int = 0

    def of_product(self, product: Product, allocate: Allocate) -> Sampled:
        """Sample the units of a product whose sums are complete on this shard."""
        kernel = product.chosen_kernel()
        if kernel == "blas" or self.categories:
            return self.of_sums(product.sums(allocate), product.n_inputs)
        assert isinstance(product.activations, Packed)
        operands = subset_sums.operands(kernel, product.W, product.activations, product.up, product.n_inputs)
        return self.drawn(
            product.n_out, product.batch, draw.sample_units, (*operands, self.bias),
            n_inputs=product.activations.n_units,
        )  # fmt: skip

    def of_sums(self, sums: Array, n_inputs: int) -> Sampled:
        """Sample the units of sums (units, batch): int32 as of ``Product``, or floats, which are overwritten."""
        n_units, batch = sums.shape
        if sums.dtype == np.int32 and not compiled():
            sums = plain_sums(sums, n_inputs)
        if self.categories:
            return self._sites(sums, n_inputs)
        if sums.dtype == np.float64 or not compiled():
            bias_sigmoid(sums, self.bias)
            return self._draw_in_numpy(sums)
        if sums.dtype == np.int32:
            step = np.float32(1.0) / subset_sums.fixed_point_scale(n_inputs)
            return self.drawn(n_units, batch, draw.sample_sums, (sums, step, self.bias))
        bias_sigmoid(sums, self.bias)
        return self.drawn(n_units, batch, draw.sample_means, (sums,))

    def _sites(self, sums: Array, n_inputs: int) -> Sampled:
        """The units of categorical sites, of sums (units, batch)."""
        if sums.dtype == np.float64 or not compiled():
            return self._sites_in_numpy(sums + self.bias.astype(sums.dtype, copy=False)[:, None])
        n_units, batch = sums.shape
        step = np.float32(1.0) / subset_sums.fixed_point_scale(n_inputs) if sums.dtype == np.int32 else np.float32(1.0)
        n_sites, grain = n_units // self.categories, -(-_grain(batch, 0) // self.categories)
        inputs = sums, step, self.bias.astype(np.float32, copy=False), self.categories
        return self.drawn(
            n_units, batch, softmax.draw_sites, inputs, lambda run: threads.split(n_sites, grain, run)
        )  # fmt: skip

    def _sites_in_numpy(self, x: Array) -> Sampled:
        means = states = None
        error = 0
        if self.means or self.target is not None:
            means = softmax.means_of_sites(x, self.categories)
        if self.states:
            states = softmax.sample_sites(x, self.categories, self.unit_ids, self.stream.words, self.samples)
        if self.target is not None and means is not None:
            error = softmax.squared_error_of(means, self.target)
        return Sampled(means if self.means else None, states, None, error / draw.ERROR_STEPS)

    def drawn(
        self, n_units: int, batch: int, loop: Loop, inputs: tuple[Any, ...],
        split: Callable[[Callable[[int, int], None]], None] | None = None, *, n_inputs: int = 0,
    ) -> Sampled:  # fmt: skip
        """Run a compiled loop over panels of units that fills the requested arrays.

        split      runs it over other ranges than panels of units, for a ``loop`` that takes them
        n_inputs   units that the loop sums over; 0 where the sums are given
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
        # as plain tuples: numba's dispatcher types them in C, but named tuples in Python
        arguments: tuple[Any, Any] = tuple(drawing), tuple(wanted)

        def run(start: int, stop: int) -> None:
            errors.append(loop(*inputs, start, stop, *arguments))

        if split is None:
            threads.split(n_units, _grain(batch, n_inputs), run, align=PANEL)
        else:
            split(run)
        statistic = states if self.planes == 1 else statistic
        return Sampled(means, states, statistic, sum(errors) / draw.ERROR_STEPS)

    def _draw_in_numpy(self, p: Array) -> Sampled:
        """The same in NumPy, for any type and without compilation."""
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
            error = float(softmax.squared_error_of(p, self.target))
        statistic = states if self.planes == 1 else statistic
        return Sampled(p.copy() if self.means else None, states, statistic, error / draw.ERROR_STEPS)


def _grain(batch: int, n_inputs: int) -> int:
    """Return the number of units whose sums and draws are worth another thread, by the rates of a core of 2024."""
    return threads.rows_worth_waking(n_inputs * (0.3 + 0.003 * batch) + 1.2 * batch + 1)


def plain_sums(sums: Array, n_inputs: int) -> Array:
    """Return sums (units, batch) as floats: fixed-point int32 become float32, floats are returned unchanged."""
    if sums.dtype != np.int32:
        return sums
    return sums.astype(np.float32) * (np.float32(1.0) / subset_sums.fixed_point_scale(n_inputs))
