"""Restricted Boltzmann machines over shards: Algorithm 1 in terms of weights, draws and statistics.

v0, p0, h0 are the visible states, hidden probabilities and hidden states that the data drive; v1, p1, h1 are those of
the model; s0 and s1 are the hidden side of the statistics.  All are owned activations, packed where they are states.
"""

from __future__ import annotations

from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.comm.transfer import Transfer
from modelpar.draws import Purpose, Stream
from modelpar.kernels.products.bounds import STEPS, Bounds, largest_sum_of, units_for
from modelpar.kernels.products.product import Activations, Sampled, Sampler
from modelpar.kernels.products.sweeps import visible_after
from modelpar.kernels.reductions import squared_error
from modelpar.kernels.sampling.epilogue import add_bias, bias_sigmoid
from modelpar.kernels.sampling.softmax import means_of_sites
from modelpar.kernels.states import Packed
from modelpar.model import gauge, gaussian_visible, real_hidden, sparsity
from modelpar.model.activations import owned_block
from modelpar.spec import TrainingSpec
from modelpar.streams import SweepStreams
from modelpar.units import Visible
from modelpar.units.hidden import HiddenUnits
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import Weights
from modelpar.weights.statistics import Phase, Statistics, real_values

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class ModelChains(Protocol):
    """Chains that belong to no sample; see :class:`modelpar.chains.gibbs.Chains`."""

    @property
    def n_all(self) -> int:
        """How many, over all replicas."""

    def advance(self, rbm: Any, first_draw: int, spec: TrainingSpec) -> tuple[Phase, Activations]:
        """Move them on; (the model's phase of the statistics, hidden states)."""


@dataclass(frozen=True)
class Step:
    """The outcome of one step of contrastive divergence, before parameters change."""

    statistics: Statistics
    error: float  # summed squared error of the first reconstruction, owned visible units; NaN for PCD, which has none
    states: dict[str, Packed]  # v0, h0, v1, h1 as far as they are packed: what a digest of the step is made of


def statistic_of(hidden: Sampled) -> Activations:
    """The hidden side of the statistics: k-bit values where these were asked for, else probabilities."""
    statistic = hidden.statistic if hidden.statistic is not None else hidden.means
    assert statistic is not None
    return statistic


class RBM:
    """One RBM: ``W`` (this shard's block), ``b`` (n_visible_owned,), ``c`` (n_hidden_owned,).

    ``index`` counts the RBMs of a network from 0 and keys the draws.  Methods that use W are collective over the
    shards, and the arrays that they return are used again by the next call of the same method.  Those that take
    activations raise DataError, on the rank that brings them, where they are not those of the units that it owns.
    """

    def __init__(
        self, index: int, weights: Weights, visible_ids: IntArray, hidden_ids: IntArray, *,
        visible: Visible, seed: int, dtype: npt.DTypeLike, shard_comm: MPI.Comm, replica_comm: MPI.Comm,
        traffic: Traffic, exact: bool = False, hidden: HiddenUnits | None = None,
    ) -> None:  # fmt: skip
        """hidden   kind of hidden units with real values; None: states"""
        self.exact = exact
        self.index, self.weights, self.visible, self.seed = index, weights, visible, seed
        self.visible_ids, self.hidden_ids = visible_ids, hidden_ids
        self.shard_comm, self.replica_comm, self.traffic = shard_comm, replica_comm, traffic
        self.hidden_units = hidden
        n_potential = len(hidden.learned) if hidden else 0
        sides = len(visible_ids), len(hidden_ids)
        self.parameters = weights.parameters(dtype, *sides, n_potential, len(visible.learned))
        self.parameters.precision[:] = 1
        self.mean_activation: Array = np.zeros(len(hidden_ids), dtype)  # running mean that the sparsity penalty steers

    @property
    def name(self) -> str:
        """As a part of a network."""
        return f"rbm.{self.index}"

    @property
    def gaussian(self) -> bool:
        """Whether visible units have real values."""
        return self.visible.gaussian

    @property
    def precision(self) -> Array | None:
        """(n_visible_owned,) 1 / variance of Gaussian visible units where these are learned; None where it is 1."""
        return gaussian_visible.precision_of(self.parameters)

    @property
    def W(self) -> Array:
        return self.parameters.W

    @property
    def b(self) -> Array:
        return self.parameters.b

    @property
    def c(self) -> Array:
        return self.parameters.c

    def with_parameters(self, parameters: Parameters) -> RBM:
        """The same units and connections with other parameters of the same shapes."""
        other = copy(self)
        other.parameters = parameters
        return other

    def initialise(self, scale: float) -> None:
        """Weights from N(0, scale^2), drawn by unit ids and so the same at every grid; biases 0."""
        stream = Stream(self.seed, self.index, Purpose.WEIGHTS)
        self.weights.draw(self.parameters, stream)
        self.W[:] *= self.W.dtype.type(scale)
        self.b[:] = 0
        self.c[:] = 0
        self.parameters.potential[:] = 0
        self.parameters.precision[:] = 1
        gauge.project(self.parameters, self.visible)
        self.refresh()

    def refresh(self) -> None:
        """Make all blocks of weights agree with ``W``, after it was set from outside, and have sums that hold it.

        Collective over the shards.
        """
        self.weights.refresh(self.parameters)
        self.make_room(self.bounds())

    def enter_gauge(self) -> None:
        """The parameters of the same model that are in the gauge which training keeps.  Collective over the shards."""
        if self.visible.categories:
            gauge.enter(self.parameters, self.visible, self.weights)
            self.refresh()

    def bounds(self) -> Bounds:
        """What a weight and a summed input come to at most.  Collective over the shards."""
        return self.weights.bounds(self.parameters)

    def has_room(self, bounds: Bounds) -> bool:
        """Whether sums up to ``bounds`` certainly do not wrap; only those of float32 weights are integers."""
        limits = map(largest_sum_of, self.weights.rooms)
        return self.W.dtype != np.float32 or all(
            steps <= STEPS * most for steps, most in zip(bounds[1:], limits, strict=True)
        )

    def make_room(self, bounds: Bounds, margin: int = 1) -> None:
        """Make the scale of sums of states coarser where they could come to ``margin`` times ``bounds`` and wrap.

        It is never made finer again: parameters of earlier updates may be in use.  The same bounds have to come on all
        ranks, for whom it must be the same scale.
        """
        up, down = (
            units_for(n, margin * steps / STEPS) for n, steps in zip(self.weights.rooms, bounds[1:], strict=True)
        )
        self.weights.rooms = up, down

    def _visible(self, v: Activations) -> Activations:
        return owned_block(v, len(self.visible_ids), self.W.dtype, "visible activations", exact=self.exact)

    def _hidden(self, h: Activations) -> Activations:
        return owned_block(h, len(self.hidden_ids), self.W.dtype, "hidden activations", exact=self.exact)

    # -- one side given the other ------------------------------------------------------------------------------------

    def hidden_input(self, v: Activations) -> Array:
        """W^T v + c of the owned hidden units.   v (n_visible_owned, batch).  Collective over the shards."""
        x = self.weights.up(self.parameters, self.weights.spread_visible(self._visible(v)))
        add_bias(x, self.c)
        return x

    def visible_input(self, h: Activations) -> Array:
        """W h + b of the owned visible units.   h (n_hidden_owned, batch).  Collective."""
        x = self.weights.down(self.parameters, self.weights.spread_hidden(self._hidden(h)))
        add_bias(x, self.b)
        return x

    def hidden_given_visible(self, v: Activations) -> Array:
        """P(h = 1 | v) of the owned hidden units, or means of real values.   v (n_visible_owned, batch).

        Collective over the shards.
        """
        if self.hidden_units is not None:
            return real_hidden.means_of(self, self.hidden_units, self.hidden_input(v))
        x = self.weights.up(self.parameters, self.weights.spread_visible(self._visible(v)))
        bias_sigmoid(x, self.c.astype(x.dtype, copy=False))
        return x

    def visible_given_hidden(self, h: Activations) -> Array:
        """The mean of v given h, of the owned visible units.   h (n_hidden_owned, batch).  Collective."""
        x = self.weights.down(self.parameters, self.weights.spread_hidden(self._hidden(h)))
        return self._visible_means(x)

    def sample_hidden(self, v: Activations, purpose: Purpose, repeat: int, samples: int | IntArray) -> Activations:
        """Hidden states, or real values, drawn given v (n_visible_owned, batch).  Collective over the shards.

        samples   the first of consecutive sample ids, or (batch,) ids; with the unit ids they key the draws
        """
        return self._draw_hidden(self.weights.spread_visible(self._visible(v)), purpose, repeat, samples).activations

    def sample_visible(self, h: Activations, purpose: Purpose, repeat: int, samples: int | IntArray) -> Activations:
        """Visible states, or values of Gaussian units, drawn given h (n_hidden_owned, batch).  Collective."""
        if self.gaussian:
            return self._gaussian_values(self.visible_given_hidden(h), purpose, repeat, samples)
        drawn = self._draw_visible(self.weights.spread_hidden(self._hidden(h)), purpose, repeat, samples)
        assert drawn.states is not None
        return drawn.states

    def visible_after(self, h: Activations, sweeps: int, streams: SweepStreams, samples: int) -> Activations:
        """Visible states, or values, after ``sweeps`` >= 1 sweeps of Gibbs sampling from h (n_hidden_owned, batch).

        The hidden side of the last sweep is not drawn.  One piece of compiled work where one shard has the whole
        matrix.  Collective.
        """
        if self.weights.whole_matrix and not self.gaussian and isinstance(h, Packed):
            sides = (self.b, self.c), (self.visible_ids, self.hidden_ids)
            rooms = self.weights.rooms
            done = visible_after(
                self.W, *sides, h, sweeps, streams, samples, integer_sums=self.exact, rooms=rooms,
                categories=self.visible.categories,
            )  # fmt: skip
            if done is not None:
                return done
        for k in range(sweeps - 1):
            visible, hidden = streams.at(k)
            v = self.sample_visible(h, visible.purpose, visible.repeat, samples)
            h = self.sample_hidden(v, hidden.purpose, hidden.repeat, samples)
        last, _ = streams.at(sweeps - 1)
        return self.sample_visible(h, last.purpose, last.repeat, samples)

    def _stream(self, purpose: Purpose, repeat: int) -> Stream:
        return Stream(self.seed, self.index, purpose, repeat)

    def _draw_hidden(
        self, visible: Transfer, purpose: Purpose, repeat: int, samples: int | IntArray, **wanted: Any
    ) -> Sampled:
        with visible:
            stream = self._stream(purpose, repeat)
            if self.hidden_units is not None:
                x = self.weights.up(self.parameters, visible)
                return real_hidden.of_inputs(self, self.hidden_units, x, stream, samples, **wanted)
            sampler = Sampler(self.c, self.hidden_ids, stream, samples, **wanted)
            return self.weights.sample_up(self.parameters, visible, sampler)

    def _draw_visible(
        self, hidden: Transfer, purpose: Purpose, repeat: int, samples: int | IntArray, **wanted: Any
    ) -> Sampled:
        with hidden:
            stream = self._stream(purpose, repeat)
            sampler = Sampler(
                self.b, self.visible_ids, stream, samples, categories=self.visible.categories, **wanted
            )  # fmt: skip
            return self.weights.sample_down(self.parameters, hidden, sampler)

    # -- learning ----------------------------------------------------------------------------------------------------

    def contrastive_divergence(
        self, v0: Activations, first_draw: int, spec: TrainingSpec, chains: ModelChains | None = None, *,
        n_all_samples: int, v0_spread: Activations | None = None, in_step: bool = True, chain_draw: int | None = None,
    ) -> Step:  # fmt: skip
        """The statistics of one minibatch: <v h> of the data and of the model, which an optimizer learns from.

        Algorithm 1: CD-k (Hinton 2002), or PCD (Tieleman 2008) where ``chains`` are given, which it moves on.

        v0           (n_visible_owned, batch), this replica's part of the minibatch; packed where the data are states
        first_draw   global sample counter of its first sample; with the unit ids it keys every draw
        n_all_samples  samples of the complete minibatch, over all replicas
        v0_spread    v0 as the weights need it, where the caller has read it from the data; it is gathered otherwise
        in_step      whether all replicas take this step together, each with its part of the minibatch
        chain_draw   counter of the draws of this replica's first chain, where it is not ``first_draw``

        Collective over the shards; with a sparsity penalty over the replicas too, where they are in step.
        """
        v0 = self._visible(v0)
        v0_sent = self.weights.spread_visible(v0).kept(v0) if v0_spread is None else Transfer(v0_spread)
        hidden = self.hidden_side(v0_sent, Purpose.HIDDEN, 0, first_draw, spec, states=True)
        h0 = hidden.activations
        s0 = statistic_of(hidden)
        if spec.sparsity_cost:
            shift = sparsity.shift(self, hidden.means, spec, n_all_samples if in_step else v0.shape[1], in_step)
            s0 = real_values(s0, shift.dtype) + shift
        with ExitStack() as under_way:
            # the states are spread where the chain goes on from them, or where they are the statistic
            h0_sent, s0_sent = None, None
            if chains is None or s0 is h0:
                h0_sent = under_way.enter_context(self.weights.spread_hidden(h0).kept(h0))
            s0_sent = h0_sent if s0 is h0 else None
            if s0_sent is None:
                s0_sent = under_way.enter_context(self.weights.spread_hidden(s0).kept(s0))
            if chains is None:
                assert h0_sent is not None
                h1: Activations | None
                error, model, h1 = self._reconstruct(v0, h0_sent, first_draw, spec)
            else:
                counter = first_draw if chain_draw is None else chain_draw
                error, (model, h1) = float("nan"), chains.advance(self, counter, spec)
        integer = (
            isinstance(v0, Packed) and isinstance(model.v, Packed) and not spec.sparsity_cost
            and self.hidden_units is None and (spec.planes > 0 or self.W.dtype == np.float32)
        )  # fmt: skip
        sides: dict[str, Activations | None] = {"v0": v0, "h0": h0, "v1": model.v, "h1": h1}
        packed = {name: x for name, x in sides.items() if isinstance(x, Packed)}
        data = Phase(v0, v0_sent.wait(), s0, s0_sent.wait(), hidden.gradient)
        n_chains = n_all_samples if chains is None else chains.n_all
        # a short minibatch is shared between the replicas otherwise than as many chains are, and so are shares that
        # replicas take at their own pace
        apart = chains is not None and not (in_step and n_chains == n_all_samples == spec.batch_size)
        statistics = Statistics(
            self.weights, data, model, n_all_samples, n_chains, self.shard_comm, integer=integer, apart=apart
        )
        return Step(statistics, error, packed)

    def hidden_side(
        self, visible: Transfer, purpose: Purpose, repeat: int, first_draw: int, spec: TrainingSpec, *, states: bool
    ) -> Sampled:
        """The hidden units' values for the statistics, and their states where the chain goes on from them."""
        means = spec.planes == 0 or spec.sparsity_cost > 0
        return self._draw_hidden(visible, purpose, repeat, first_draw, means=means, states=states, planes=spec.planes)

    def _reconstruct(
        self, v0: Activations, h_sent: Transfer, first_draw: int, spec: TrainingSpec
    ) -> tuple[float, Phase, Packed | None]:
        """The chain of CD-k from the data's hidden states, as the weights need them.

        Returns (squared error of the first reconstruction, the model's phase, h1 where it was drawn).
        """
        # grey values stand for probabilities, and are best compared with probabilities
        sampled = spec.reconstruction == "states" or (spec.reconstruction == "auto" and isinstance(v0, Packed))
        v, error = self._visible_side(v0, h_sent, 1, first_draw, sampled)
        if sampled and spec.gibbs_steps > 1:
            h = self.sample_hidden(v, Purpose.HIDDEN, 1, first_draw)
            streams = SweepStreams(self._stream(Purpose.VISIBLE, 1), self._stream(Purpose.HIDDEN, 2), step=1)
            v = self.visible_after(h, spec.gibbs_steps - 1, streams, first_draw)
        for k in range(1, 1 if sampled else spec.gibbs_steps):
            hidden = self._draw_hidden(self.weights.spread_visible(v), Purpose.HIDDEN, k, first_draw)
            h_sent = self.weights.spread_hidden(hidden.activations)
            v, _ = self._visible_side(None, h_sent, k + 1, first_draw, sampled)
        v_sent = self.weights.spread_visible(v)
        hidden = self.hidden_side(v_sent, Purpose.HIDDEN, spec.gibbs_steps, first_draw, spec, states=False)
        s1 = statistic_of(hidden)
        s1_sent = self.weights.spread_hidden(s1)
        precision = None if sampled else self.precision  # of means values have their variance besides
        unseen = None if precision is None else v.shape[1] / precision.astype(np.float64)
        return error, Phase(v, v_sent.wait(), s1, s1_sent.wait(), hidden.gradient, unseen), hidden.statistic

    def _visible_side(
        self, v0: Activations | None, h_sent: Transfer, k: int, first_draw: int, sampled: bool
    ) -> tuple[Activations, float]:
        """(visible side of the k-th step of the chain, squared error of its mean against v0, 0 without)"""
        if sampled and not self.gaussian:
            target = v0 if isinstance(v0, Packed) else None
            drawn = self._draw_visible(
                h_sent, Purpose.VISIBLE, k - 1, first_draw, target=target, means=v0 is not None and target is None
            )
            assert drawn.states is not None
            if v0 is None or isinstance(v0, Packed):
                return drawn.states, drawn.error
            return drawn.states, squared_error(v0, drawn.means)
        mean = self._visible_means(self.weights.down(self.parameters, h_sent))
        error = 0.0 if v0 is None else squared_error(real_values(v0, mean.dtype), mean)
        if not sampled:
            return mean, error
        return self._gaussian_values(mean, Purpose.VISIBLE, k - 1, first_draw), error

    def _visible_means(self, x: Array) -> Array:
        """The means of the owned visible units from W h, which may be overwritten."""
        if self.visible.categories:
            return means_of_sites(x + self.b.astype(x.dtype, copy=False)[:, None], self.visible.categories)
        (add_bias if self.gaussian else bias_sigmoid)(x, self.b)
        return gaussian_visible.to_means(x, self.precision) if self.gaussian else x

    def _gaussian_values(self, mean: Array, purpose: Purpose, repeat: int, samples: int | IntArray) -> Array:
        stream = self._stream(purpose, repeat)
        return gaussian_visible.drawn(mean, self.precision, stream, self.visible_ids, samples)
