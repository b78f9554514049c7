"""The statistics of one step, as the blocks of weights and the biases need them, and what is learned from them.

Whole numbers wherever states are packed: they add up to the same over samples, shards and replicas in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products.product import Activations
from modelpar.kernels.reductions import row_sums
from modelpar.kernels.states import Packed, unpack
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts, update_from
from modelpar.kernels.statistics.probability_counts import add_steps, fraction_bits
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import StepWeights

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Phase:
    """One phase of the statistics: owned activations, and the same as the blocks need them (spread).

    v: packed states or real values; s: k-bit values, probabilities, or real values
    potential: (parameters, owned hidden units) sums of -dU/dp of the hidden units' potentials U, where they have real
    values
    unseen: (owned visible units,) sums of the variances of Gaussian units of which v has the means
    """

    v: Activations
    v_spread: Activations
    s: Activations
    s_spread: Activations
    potential: Array | None = None
    unseen: Array | None = None


class Statistics:
    """The statistics of the weights and biases of one RBM, from the phases of one step.

    data, model   the two phases: this replica's part of the minibatch, and of the chains
    n_samples     of the whole minibatch, over all replicas
    n_chains      of the model's phase, over all replicas: as many as samples, or chains of their own
    shard_comm    over the shards of the RBM
    integer       all v are packed states, and s k-bit values or probabilities in float32: the sums are integers.
                  The same on all replicas.
    apart         the phases may have other numbers of samples, here or on another replica: their integers are counted
                  one by one.  The same on all replicas.
    """

    def __init__(
        self, weights: StepWeights, data: Phase, model: Phase, n_samples: int, n_chains: int, shard_comm: MPI.Comm, *,
        integer: bool, apart: bool = False,
    ) -> None:  # fmt: skip
        self.data, self.model, self.integer, self.apart = data, model, integer, apart
        self.n_samples, self.n_chains, self.shard_comm = n_samples, n_chains, shard_comm
        self._weights = weights
        pairs = [weights.sides((phase.v, phase.v_spread), (phase.s, phase.s_spread)) for phase in (data, model)]
        self._pairs = list(zip(*pairs, strict=True))  # for each block ((v0, s0), (v1, s1))

    @property
    def weights(self) -> StepWeights:
        """The weights that the statistics are of."""
        return self._weights

    @property
    def planes(self) -> int:
        """Bits of the hidden side, 0 where it is real."""
        return self.data.s.planes if isinstance(self.data.s, Packed) else 0

    def blocks(self, phase: str = "both") -> list[Counts | ProbabilityCounts]:
        """The statistics of each block of weights, where they are integers; of one phase: ``- v s^T`` of that alone."""
        pairs = {
            "both": self._pairs,
            "data": [(a, a) for a, _ in self._pairs],
            "model": [(b, b) for _, b in self._pairs],
        }
        blocks: list[Counts | ProbabilityCounts] = []
        for first, second in pairs[phase]:
            if self.planes:
                data = first if phase == "both" else Counts.empty_like(second)
                blocks.append(self._weights.counts(data, second))
            else:
                data = first if phase == "both" else ProbabilityCounts.empty_like(second)
                blocks.append(self._weights.probability_counts(data, second, max(self.n_samples, self.n_chains)))
        return blocks

    @property
    def pairs(self) -> list[Any]:
        """For each block ((v0, s0), (v1, s1)), activations of the units that its rows and columns belong to."""
        return self._pairs

    def sums(self, phase: str = "both") -> tuple[Array, Array]:
        """(those of the owned visible units, of the owned hidden units), for the biases: data less model, or of one

        Whole numbers: int64 (in the unit of ``blocks`` for hidden units); else floats.
        """
        sides = []
        for side in ("v", "s"):
            data, model = getattr(self.data, side), getattr(self.model, side)
            if phase != "both":
                sides.append(self.row_sums(data if phase == "data" else model))
            else:
                sides.append(self.row_sums(data) - self.row_sums(model))
        return sides[0], sides[1]

    def row_sums(self, x: Activations) -> Array:
        """(units,) sums over the samples: int64 of integer statistics (of probabilities: their steps), else floats."""
        if self.integer:
            return _steps(x, self.scale)
        return np.asarray(_row_sums(x))

    @property
    def scale(self) -> np.float32:
        """Steps of the integers that stand for probabilities."""
        return np.float32(2.0 ** fraction_bits(max(self.n_samples, self.n_chains)))

    def add_to(self, velocity: Parameters, carry: float, gain: float, model_gain: float) -> None:
        """velocity = carry * velocity + gain * data - model_gain * model, in floats, all parameters."""
        self._add_phase(velocity, 0, carry, gain)
        self._add_phase(velocity, 1, 1.0, -model_gain)
        self._add_to_biases(velocity, carry, gain, model_gain)

    @property
    def mixed(self) -> bool:
        """Whether the model's phase alone has integer sums, as for grey data, or with a sparsity penalty.

        The same on all replicas.
        """
        return not self.integer and isinstance(self.model.v, Packed) and isinstance(self.model.s, Packed)

    def add_data_to(self, velocity: Parameters, carry: float, gain: float, model_gain: float) -> list[Counts]:
        """As ``add_to``, but for the model's part of the weights, which is returned as the counts of each block."""
        self._add_phase(velocity, 0, carry, gain)
        self._add_to_biases(velocity, carry, gain, model_gain)
        counts = []
        for _, model in self._pairs:
            pair: Any = model  # of mixed statistics both sides are packed
            counts.append(self._weights.counts(Counts.empty_like(pair), pair))
        return counts

    def _add_phase(self, velocity: Parameters, phase: int, carry: float, gain: float) -> None:
        for V, pair in zip(velocity.blocks, self._pairs, strict=True):
            v, s = pair[phase]
            self._weights.add_products(V, real_values(v, V.dtype), real_values(s, V.dtype), gain, carry)

    def _add_to_biases(self, velocity: Parameters, carry: float, gain: float, model_gain: float) -> None:
        for phase, weight, keep in ((self.data, gain, carry), (self.model, -model_gain, 1.0)):
            for activations, bias in ((phase.v, velocity.b), (phase.s, velocity.c)):
                bias *= bias.dtype.type(keep)
                bias += bias.dtype.type(weight) * _row_sums(activations).astype(bias.dtype)
            if phase.potential is not None:
                velocity.potential *= velocity.flat.dtype.type(keep)
                velocity.potential += (weight * phase.potential).astype(velocity.flat.dtype)
            if velocity.precision.size:
                velocity.precision *= velocity.flat.dtype.type(keep)
                velocity.precision += (weight * _of_precisions(phase)).astype(velocity.flat.dtype)


@dataclass(frozen=True)
class Gradient:
    """The gradient of one layer's parameters, summed over this replica's samples: products that are not made yet.

    The arrays are used again by the next layer.
    """

    weights: StepWeights
    visible: Array  # the layer's input, as the block needs it
    hidden: Array  # the error of its summed input, as the block needs it
    delta: Array  # the same of the owned units
    n_samples: int  # of the whole minibatch

    def add_to(self, velocity: Parameters, carry: float, gain: float) -> None:
        """velocity = carry * velocity - gain * gradient, without visible biases, which back-propagation leaves be."""
        self.weights.add_products(velocity.W, self.visible, self.hidden, -gain, carry)
        sums = np.empty_like(velocity.c)
        row_sums(self.delta, sums)
        velocity.c *= velocity.c.dtype.type(carry)
        velocity.c += velocity.c.dtype.type(-gain) * sums

    def exactly(self, parameters: Parameters) -> ExactGradient:
        """The products, made now and without rounding."""
        W = np.empty(parameters.W.shape)
        self.weights.add_products(W, self.visible, self.hidden, 1.0, 0.0)
        return ExactGradient(W, len(parameters.b), self.delta.sum(axis=1), self.n_samples)


@dataclass(frozen=True)
class ExactGradient:
    """The gradient of one layer's parameters, summed over this replica's samples in float64 without rounding.

    For an optimizer it is what integer statistics are: it adds up exactly over replicas.
    """

    W: Array  # like the block of weights
    n_b: int  # visible biases, which back-propagation leaves alone
    c: Array  # (n_c,)
    n_samples: int  # of the whole minibatch

    integer = True
    planes = 0
    unit = -1.0  # downhill

    @property
    def shape(self) -> tuple[int, ...]:
        return self.W.shape

    def blocks(self) -> list[ExactGradient]:
        return [self]

    def sums(self) -> tuple[Array, Array]:
        return np.zeros(self.n_b), self.c

    def learn(self, W: Array, V: Array, carry: float, gain: float, shrink: float) -> None:
        update_from(self.W, W, V, carry, gain, shrink)

    def fill(self, out: Array) -> None:
        out[:] = self.W


def real_values(x: Activations, dtype: npt.DTypeLike) -> Array:
    """Activations as real values; packed ones in the unit of their planes, so that all bits mean 1."""
    if not isinstance(x, Packed):
        return x
    values = unpack(x, dtype)
    if x.planes > 1:
        values *= values.dtype.type(1.0 / ((1 << x.planes) - 1))
    return values


def _of_precisions(phase: Phase) -> Array:
    """(owned visible units,) sums of -v^2 / 2, the derivative of log p* by a unit's precision."""
    v = real_values(phase.v, np.float64)
    squares = np.einsum("ij,ij->i", v, v, dtype=np.float64)
    return np.asarray(-0.5 * (squares if phase.unseen is None else squares + phase.unseen))


def _row_sums(x: Activations) -> Array:
    if isinstance(x, Packed):
        return np.asarray(x.sums() / ((1 << x.planes) - 1))
    sums = np.empty(len(x), x.dtype)
    row_sums(x, sums)
    return sums


def _steps(x: Activations, scale: Any) -> npt.NDArray[np.int64]:
    if isinstance(x, Packed):
        return x.sums()
    sums = np.zeros(len(x), np.int64)
    if compiled():
        add_steps(x, scale, sums)
    else:
        sums += np.rint(x * scale).sum(axis=1, dtype=np.float64).astype(np.int64)
    return sums
