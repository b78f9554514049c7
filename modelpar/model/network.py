"""Deep belief networks: a stack of RBMs over one grid, with a softmax layer on top where there are classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import faults
from modelpar.collective.agreement import agree
from modelpar.comm.exchange import Exchange, Traffic
from modelpar.comm.grid import Grid
from modelpar.comm.transfer import Transfer
from modelpar.draws import Purpose
from modelpar.errors import LayoutError, OutOfMemoryError, SpecError, together
from modelpar.kernels.products import dispatch
from modelpar.kernels.products.bounds import Bounds
from modelpar.kernels.products.fixed_point import ACTIVATIONS, on_grid
from modelpar.kernels.products.product import Activations
from modelpar.kernels.sampling.epilogue import add_bias
from modelpar.kernels.states import Packed, unpack
from modelpar.machine.memory import check_room
from modelpar.model.activations import owned_block
from modelpar.model.card import network_card
from modelpar.model.rbm import RBM
from modelpar.model.real_hidden import nothing_on
from modelpar.ownership.layout import NetworkLayout, UnitLayout
from modelpar.plan.memory import samples_at_once
from modelpar.plan.resolve import resolve
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.units import Visible
from modelpar.units.hidden import hidden_units
from modelpar.values import plain
from modelpar.values.forms import plain_array
from modelpar.weights.dense import LAYOUTS
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import Weights
from modelpar.weights.shard_lists import recomputing_pays
from modelpar.weights.sparse import SparseWeights

Array = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


class Run(Protocol):
    """The training of a network: see :class:`modelpar.training.state.TrainingRun`."""

    def anew(self) -> Run:
        """The training state of a network made from this one."""

    def alike(self) -> dict[str, object]:
        """The values that must be the same on every rank."""


@dataclass(frozen=True)
class Part:
    """This shard's parameters of one RBM or of the output layer, and the units that they belong to."""

    name: str  # "rbm.0", "rbm.1", ... and "output", as in checkpoints
    parameters: Parameters
    weights: Weights
    visible_ids: IntArray | None  # (n_b,) of the visible biases; None of the output layer, which has none
    hidden_ids: IntArray  # (n_c,) units, or classes
    potential: tuple[str, ...] = ()  # names of what hidden units learn besides their biases
    precision: tuple[str, ...] = ()  # names of what visible units do


class OutputLayer:
    """The softmax layer: this shard's block of weights and ``c`` (n_classes_owned,); classes are in id order."""

    def __init__(
        self, weights: Weights, layout: UnitLayout, exchange: Exchange, shard: int, dtype: npt.DTypeLike
    ) -> None:
        self.weights, self._exchange = weights, exchange
        self.class_ids = layout.owned(shard)
        self.parameters = weights.parameters(dtype, 0, len(self.class_ids))

    def logits(self, hidden: Transfer) -> Array:
        """(n_classes, batch) of all classes on every shard.   hidden: as the block needs it.  Collective."""
        owned = self.weights.up(self.parameters, hidden)
        add_bias(owned, self.parameters.c.astype(owned.dtype, copy=False))
        return self._exchange.gather(owned)


class DeepBeliefNetwork:
    """A stack of RBMs, each split over the model shards of ``grid``.

    spec     layers, units, seed
    layout   who owns which unit, and the layout of each matrix; contiguous blocks where None.  ``resolve`` completes it

    The weights are drawn from N(0, spec.weight_scale^2), by default with the variance of Glorot and Bengio (2010,
    equation 12), 2 / (n_visible + n_hidden) of a complete RBM, and the same at every grid.  Without
    ``draw_weights`` all parameters are zero.  Collective.
    Raises LayoutError where the layout does not fit the network or the grid, DisagreementError where spec or layout
    differ between ranks.
    """

    def __init__(
        self, spec: NetworkSpec, grid: Grid, layout: NetworkLayout | None = None, *, draw_weights: bool = True
    ) -> None:
        agree(grid.comm, "DeepBeliefNetwork", spec=spec, layout=layout, draw_weights=draw_weights)
        with together(grid.comm):
            dispatch.forced()  # a kernel that one rank does not have would be an error in the middle of a step
        self.spec, self.grid = spec, grid
        faults.at("make network")
        self.layout = resolve(spec, grid, layout)
        self.traffic = Traffic(grid.status, grid.distant)
        self.run: Run | None = None  # where its training stands; None of a network that was never trained or loaded
        dtype = np.dtype(spec.dtype)
        shard = grid.shard
        self.rbms: list[RBM] = []
        for i in range(len(spec.layers) - 1):
            visible, hidden = self.layout.layers[i : i + 2]
            self.rbms.append(
                RBM(
                    i,
                    self._weights(i),
                    visible.owned(shard),
                    hidden.owned(shard),
                    visible=spec.visible_kind if i == 0 else Visible(),
                    hidden=hidden_units(spec.hidden_of(i)),
                    seed=spec.seed,
                    dtype=dtype,
                    shard_comm=grid.shard_comm,
                    replica_comm=grid.replica_comm,
                    traffic=self.traffic,
                    exact=spec.exact,
                )
            )
        self.output: OutputLayer | None = None
        if spec.classes:
            classes = self.layout.layers[-1]
            exchange = Exchange(grid.shard_comm, classes, self.traffic)
            self.output = OutputLayer(self._weights(len(self.rbms)), classes, exchange, shard, dtype)
        # raw values are turned into visible activations as (raw - offset) / scale
        self.input_offset: Array = np.zeros(len(self.visible_ids), np.float64)
        self.input_scale: Array = np.ones(len(self.visible_ids), np.float64)
        if draw_weights:
            self._draw_weights()

    def _draw_weights(self) -> None:
        for rbm in self.rbms:
            rbm.initialise(
                self._weight_scale(rbm.index) if self.spec.weight_scale is None else self.spec.weight_scale
            )  # fmt: skip

    def start_again(self) -> None:
        """Make the network what it was when its weights were drawn, and never trained.  Collective."""
        for rbm in self.rbms:
            rbm.mean_activation[:] = 0
            rbm.weights.rooms = rbm.weights.least_rooms
        if self.output is not None:
            self.output.parameters.flat[:] = 0
        self.input_offset, self.input_scale = np.zeros_like(self.input_offset), np.ones_like(self.input_scale)
        self.run = None
        self._draw_weights()

    def _weight_scale(self, i: int) -> float:
        """sqrt(2 / (connections of a visible unit + those of a hidden unit)), which are means where lists differ."""
        n_visible, n_hidden = self.spec.layers[i : i + 2]
        n = max(self.n_weights[i], 1)
        return math.sqrt(2.0 / (n / n_visible + n / n_hidden))

    def _weights(self, i: int) -> Weights:
        visible, hidden = self.layout.layers[i : i + 2]
        connections = self.layout.connections[i] if self.layout.connections else None
        if connections is not None:
            comm, recompute = self.grid.shard_comm, self.spec.halo == "recompute"
            if self.spec.halo == "auto" and self.grid.far:
                recompute = recomputing_pays(connections, visible, hidden, comm, TrainingSpec.batch_size)
            return SparseWeights(
                connections, visible, hidden, comm, self.traffic, exact=self.spec.exact, recompute=recompute
            )
        kind = LAYOUTS[self.layout.matrix_layouts[i]]
        return kind.over(visible, hidden, self.grid.shard_comm, self.traffic, exact=self.spec.exact)

    def alike(self) -> dict[str, object]:
        """The values that must be the same on every rank: all but the blocks of weights, and clocks and sums."""
        return {"spec": self.spec, **({} if self.run is None else self.run.alike())}

    @property
    def visible_ids(self) -> IntArray:
        """Ids of the visible units that this shard owns."""
        return self.rbms[0].visible_ids

    @property
    def dtype(self) -> np.dtype[np.floating]:
        return np.dtype(self.spec.dtype)

    @property
    def samples_at_once(self) -> int:
        """Samples that are propagated together outside training, over all replicas; fewer through wider layers."""
        return samples_at_once(self.spec)

    @property
    def n_parameters(self) -> int:
        """The number of parameters of one complete model: weights and biases of the RBMs and of the output layer."""
        biases = sum(a + b for a, b in _pairs(self.spec.layers))
        units = hidden_units(self.spec.hidden)
        potentials = len(units.learned) * self.spec.layers[-1] if units else 0
        precisions = len(self.spec.visible_kind.learned) * self.spec.layers[0]
        return biases + potentials + precisions + sum(self.n_weights) + (self.spec.layers[-1] + 1) * self.spec.classes

    @property
    def n_weights(self) -> list[int]:
        """The number of connections of each complete RBM."""
        connections = self.layout.connections or [None] * len(self.rbms)
        return [
            a * b if listed is None else listed.n_connections
            for (a, b), listed in zip(_pairs(self.spec.layers), connections, strict=False)
        ]

    def parts(self) -> list[Part]:
        """This shard's parameters, from the first RBM up to the output layer where there is one."""
        parts = [
            Part(
                rbm.name, rbm.parameters, rbm.weights, rbm.visible_ids, rbm.hidden_ids,
                rbm.hidden_units.learned if rbm.hidden_units else (), rbm.visible.learned,
            )
            for rbm in self.rbms
        ]  # fmt: skip
        if self.output is not None:
            parts.append(Part("output", self.output.parameters, self.output.weights, None, self.output.class_ids))
        return parts

    def refresh(self) -> None:
        """Make all blocks of weights agree, after they were set from outside, and have sums that hold them.

        Collective.
        """
        for rbm in self.rbms:
            rbm.weights.refresh(rbm.parameters)
            rbm.make_room(self.bounds(rbm))

    def bounds(self, rbm: RBM) -> Bounds:
        """What a weight and a summed input of an RBM come to at most, on any replica.  Collective over the grid."""
        most = np.array(rbm.bounds())
        self.grid.replica_comm.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
        with self.traffic.measuring():
            self.traffic.add_allreduce("replica", most, self.grid.n_replicas)
        return Bounds(*most.tolist())

    # -- activations -------------------------------------------------------------------------------------------------

    def propagate_up(self, v: Activations, n_rbms: int | None = None) -> Array:
        """Hidden probabilities, or means of real values, of the owned units above the first ``n_rbms`` RBMs (all where
        None).

        v (n_visible_owned, batch).  The array is used again by the next call.  Collective over the shards.
        Raises DataError on every shard where any brings activations of other units than its own, SpecError where there
        are not so many RBMs.
        """
        v = self._agreed("propagate_up", v, self.visible_ids, "visible activations", n_rbms=n_rbms)
        if n_rbms is not None:
            n_rbms = plain.integer_number("n_rbms", n_rbms, at_least=0, at_most=len(self.rbms))
        return self._up(v, n_rbms)

    def _up(self, v: Activations, n_rbms: int | None = None) -> Array:
        for rbm in self.rbms[:n_rbms]:
            v = rbm.hidden_given_visible(v)
            if self.spec.exact and not isinstance(v, Packed) and v.dtype == np.float64:
                v = on_grid(v, ACTIVATIONS)
        assert not isinstance(v, Packed)  # above the first RBM
        return v

    def generate_down(self, h: Activations) -> Array:
        """Visible means from states, or values, (n_top_owned, batch) of the top layer, layer by layer.

        The array is used again by the next call.  Collective.  Raises DataError as :meth:`propagate_up` does.
        """
        name = "hidden activations of the top layer"
        return self._down(self._agreed("generate_down", h, self.rbms[-1].hidden_ids, name))

    def _down(self, h: Activations) -> Array:
        for rbm in reversed(self.rbms):
            h = rbm.visible_given_hidden(h)
        assert not isinstance(h, Packed)  # means
        return h

    def logits(self, v: Activations) -> Array:
        """(n_classes, batch) on every shard, from owned visible activations; overwritten by the next call.

        Collective.  Raises DataError as :meth:`propagate_up` does, LayoutError without an output layer.
        """
        if self.output is None:
            raise LayoutError("the network has no output layer; give --classes, or labels, when it is trained")
        v = self._agreed("logits", v, self.visible_ids, "visible activations")
        if self.spec.exact and not isinstance(v, Packed):
            v = on_grid(v, ACTIVATIONS)
        return self.output.logits(self.output.weights.spread_visible(self._up(v)))

    def reconstruct(self, v: Activations) -> Array:
        """Visible means after one pass up and down the complete stack.  v (n_visible_owned, batch).  Collective.

        Raises DataError as :meth:`propagate_up` does.
        """
        v = self._agreed("reconstruct", v, self.visible_ids, "visible activations")
        return self._down(self._up(v)).copy()

    def _agreed(self, call: str, x: Activations, ids: IntArray, name: str, **what: Any) -> Activations:
        """Activations of the units ``ids``, which this shard owns, of as many samples on every shard.  Collective."""
        comm = self.grid.shard_comm
        with together(comm):
            x = owned_block(x, len(ids), self.dtype, name, exact=self.spec.exact)
        agree(comm, call, samples=x.shape[1], **what)
        return x

    def fantasies(self, count: int, steps: int, *, first_draw: int = 0, start: Activations | None = None) -> Array:
        """Visible means (n_visible_owned, count) after ``steps`` of Gibbs sampling in the top RBM.

        The chains start at random visible states of the top RBM; the lower RBMs then generate down (Hinton, Osindero
        and Teh 2006, section 5).  ``first_draw`` chooses other fantasies.

        start   states (n_top_owned, count) of the top layer that the chains go on from; without steps the means are
                those of these

        Collective over the shards.  Raises SpecError where there cannot be so many, OutOfMemoryError where there is no
        room for them, DataError where ``start`` is not of the owned units.
        """
        agree(self.grid.shard_comm, "fantasies", count=count, steps=steps, first_draw=first_draw)
        count = plain.integer_number("count", count, at_least=0, at_most=1 << 62)
        steps = plain.integer_number("steps", steps, at_least=0)
        first_draw = plain.integer_number("first_draw", first_draw, at_least=0, at_most=1 << 62)
        top = self.rbms[-1]
        with together(self.grid.shard_comm):
            widest = max(len(self.visible_ids), *(len(rbm.hidden_ids) for rbm in self.rbms))
            check_room(count * widest * self.dtype.itemsize, f"a batch of {count} fantasies", OutOfMemoryError)
        h = nothing_on(top, count)
        if start is not None:
            h = self._agreed("fantasies", start, top.hidden_ids, "states of the top layer")
            if h.shape[1] != count:
                raise SpecError(f"start has {h.shape[1]} chains, but {count} are to be moved; give as many")
        v = top.sample_visible(h, Purpose.FANTASY, 0, first_draw)
        for k in range(steps):
            # a key has 2**16 repeats: when they are used up, the counter of the chains moves on instead
            rounds, k = divmod(k, 2**15 - 1)
            repeat, draw = 1 + 2 * k, first_draw + count * rounds
            h = top.sample_hidden(v, Purpose.FANTASY, repeat, draw)
            v = top.sample_visible(h, Purpose.FANTASY, repeat + 1, draw)
        means: Activations = top.visible_given_hidden(h) if steps or start is not None else v
        for rbm in reversed(self.rbms[:-1]):
            means = rbm.visible_given_hidden(means)
        return unpack(means, self.dtype) if isinstance(means, Packed) else means.copy()

    _repr_html_ = network_card  # for notebooks

    # -- small pieces of the model, for pictures ---------------------------------------------------------------------

    def whole_visible(self, v: Array) -> Array:
        """(n_visible, batch) in unit-id order on every rank, from owned blocks.  For pictures.  Collective.

        Raises DataError where blocks are not of the owned units.
        """
        with together(self.grid.shard_comm):
            v = unpack(v, self.dtype) if isinstance(v, Packed) else plain_array(v, "visible activations")
            v = np.asarray(owned_block(v, len(self.visible_ids), v.dtype, "visible activations"))
        agree(self.grid.shard_comm, "whole_visible", samples=v.shape[1])
        layout = self.layout.layers[0]
        gathered = np.concatenate(self.grid.shard_comm.allgather(np.ascontiguousarray(v)))
        by_unit = np.empty_like(gathered)
        by_unit[layout.ordering] = gathered
        return by_unit

    def filters(self, units: Iterable[int]) -> Array:
        """Weights (len(units), n_visible) of hidden units of the first RBM, on every rank.  Collective.

        Raises LayoutError for units that there are not.
        """
        with together(self.grid.shard_comm):
            wanted = plain_array(units if hasattr(units, "__array__") else list(units), "units", LayoutError)
            if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "ui"):
                raise LayoutError(
                    f"units came as {wanted.dtype} of shape {wanted.shape}; give whole numbers in one dimension"
                )
            if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.spec.layers[1]):
                raise LayoutError(
                    f"filters of units {wanted.min()} to {wanted.max()} were asked for, but the units of the first "
                    f"hidden layer are 0 to {self.spec.layers[1] - 1}"
                )
        agree(self.grid.shard_comm, "filters", units=wanted)
        W = self.rbms[0].W
        filters = np.zeros((len(wanted), self.spec.layers[0]), W.dtype)
        for i, unit in enumerate(wanted):
            incoming = self.rbms[0].weights.incoming(W, int(unit))
            if incoming is not None:
                filters[i, incoming[0]] = incoming[1]
        # each weight is on exactly one shard, so the sum only puts the pieces together
        self.grid.shard_comm.Allreduce(MPI.IN_PLACE, filters)
        return filters


def _pairs(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(pairwise(sizes))
