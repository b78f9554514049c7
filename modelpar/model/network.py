"""Deep belief networks: a stack of RBMs over one grid, with a softmax layer on top where there are classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective.agreement import agree
from modelpar.comm.exchange import Exchange, Traffic
from modelpar.comm.grid import Grid
from modelpar.comm.memory import available_bytes
from modelpar.data.fingerprint import Fingerprint
from modelpar.draws import Purpose
from modelpar.errors import LayoutError, together
from modelpar.kernels.products import dispatch
from modelpar.kernels.products.fixed_point import ACTIVATIONS, on_grid
from modelpar.kernels.products.product import Activations
from modelpar.kernels.sampling.epilogue import add_bias
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.model.rbm import RBM, Chains, owned_block
from modelpar.ownership.build_connections import connect, expected
from modelpar.ownership.layout import NetworkLayout, Room, UnitLayout, choose_holds
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.sync import Sync
from modelpar.values import plain
from modelpar.values.forms import plain_array
from modelpar.weights.dense import LAYOUTS, Weights
from modelpar.weights.parameters import Parameters
from modelpar.weights.shard_lists import recomputing_pays
from modelpar.weights.sparse import SparseWeights

Array = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


@dataclass
class Position:
    """Where training stands; the same on every rank, but for ``seconds`` and ``sums``.  A step is one minibatch."""

    stage: str = "pretrain"  # then "finetune", then "done"
    layer: int = 0  # the RBM that is trained, or will be next
    epoch: int = 0  # of this stage and layer, from 0
    step: int = 0  # next minibatch of this epoch
    seconds: float = 0.0  # spent training in this stage and layer
    sums: dict[str, float] = field(default_factory=dict)  # running measures of this epoch
    reached: bool = False  # the accuracy at which fine-tuning was to stop
    batch_size: int = 0  # of this stage, and the samples of an epoch; 0 before the first step
    n_samples: int = 0


@dataclass
class TrainingState:
    """What training needs besides the parameters in order to go on as if it had not stopped."""

    position: Position = field(default_factory=Position)
    updates: dict[str, Parameters] = field(default_factory=dict)  # velocity of each trained part, "rbm.0", "output"
    chains: Chains | None = None  # of PCD: this replica's columns
    outer: dict[str, Parameters] = field(default_factory=dict)  # outer momentum of each part (sync.LocalSGD)
    squares: dict[str, Parameters] = field(default_factory=dict)  # sums of squared gradients (sync.ParameterServer)
    best: dict[str, Parameters] = field(default_factory=dict)  # parameters at the best validation accuracy
    best_accuracy: float = -1.0
    epochs_since_best: int = 0

    def forget_stage(self) -> None:
        """Nothing of what one stage of training needs is of use to the next."""
        for named in (self.updates, self.outer, self.squares):
            named.clear()
        self.chains = None


class OutputLayer:
    """The softmax layer: this shard's block of weights and ``c`` (n_classes_owned,); classes are in id order."""

    def __init__(
        self, weights: Weights, layout: UnitLayout, exchange: Exchange, shard: int, dtype: npt.DTypeLike
    ) -> None:
        self.weights, self._exchange = weights, exchange
        self.class_ids = layout.owned(shard)
        self.parameters = weights.parameters(dtype, 0, len(self.class_ids))

    def logits(self, hidden: Activations) -> Array:
        """(n_classes, batch) of all classes on every shard.   hidden: as the block needs it.  Collective."""
        owned = self.weights.up(self.parameters, hidden)
        add_bias(owned, self.parameters.c.astype(owned.dtype, copy=False))
        return self._exchange.gather(owned)


class DeepBeliefNetwork:
    """A stack of RBMs, each split over the model shards of ``grid``.

    spec     layers, units, seed
    layout   who owns which unit, and how each matrix is held; contiguous blocks where None

    The weights are drawn from N(0, spec.weight_scale^2), the same at every grid, unless ``draw_weights`` is false:
    then all parameters are zero.  Collective.
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
        self.layout = complete_layout(spec, grid, layout)
        self.traffic = Traffic()
        self.state = TrainingState()
        self.sync: Sync | None = None  # how replicas stay together in the stage that is being trained
        self.keep: Callable[[], None] = lambda: None  # called where all replicas are alike, before a step
        self.staleness: Counter[int] = Counter()  # pushes of this replica to a parameter server, by their staleness
        self.record_digests = spec.exact  # whether training is to make digests of its updates
        self.binarise = "none"  # how the training data were binarised; kept for later use of the network
        self.data: Fingerprint | None = None  # what the present stage is trained on, or the last one was
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
                    gaussian=i == 0 and spec.visible == "gaussian",
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
        if draw_weights:
            for rbm in self.rbms:
                rbm.initialise(spec.weight_scale)
        # raw values are turned into visible activations as (raw - offset) / scale
        self.input_offset: Array = np.zeros(len(self.visible_ids), np.float64)
        self.input_scale: Array = np.ones(len(self.visible_ids), np.float64)

    def _weights(self, i: int) -> Weights:
        visible, hidden = self.layout.layers[i : i + 2]
        # the output layer is trained by gradients only, for which a dual layout is a column layout
        is_output = i == len(self.spec.layers) - 1
        connections = self.layout.connections[i] if self.layout.connections else None
        if connections is not None:
            comm, recompute = self.grid.shard_comm, self.spec.halo == "recompute"
            if self.spec.halo == "auto" and self.grid.far:
                recompute = recomputing_pays(connections, visible, hidden, comm, TrainingSpec.batch_size)
            return SparseWeights(
                connections, visible, hidden, comm, self.traffic, exact=self.spec.exact, recompute=recompute
            )
        held = LAYOUTS["column" if is_output and self.layout.holds[i] == "dual" else self.layout.holds[i]]
        return held(visible, hidden, self.grid.shard_comm, self.traffic, exact=self.spec.exact)

    def alike(self) -> dict[str, object]:
        """What must be the same on every rank: all but the blocks of weights, and clocks and sums."""
        position = replace(self.state.position, seconds=0.0, sums={})
        return {
            "spec": self.spec,
            "position": position,
            "binarise": self.binarise,
            "record_digests": self.record_digests,
        }

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
        """Of one whole model: weights and biases of the RBMs and of the output layer."""
        biases = sum(a + b for a, b in _pairs(self.spec.layers))
        return biases + sum(self.n_weights) + (self.spec.layers[-1] + 1) * self.spec.classes

    @property
    def n_weights(self) -> list[int]:
        """Of each whole RBM: its connections."""
        wired = self.layout.connections or [None] * len(self.rbms)
        return [
            a * b if wires is None else wires.n_connections
            for (a, b), wires in zip(_pairs(self.spec.layers), wired, strict=False)
        ]

    def parts(self) -> dict[str, Parameters]:
        """This shard's parameters by name: ``rbm.0``, ``rbm.1``, ... and ``output``."""
        named = {f"rbm.{rbm.index}": rbm.parameters for rbm in self.rbms}
        return {**named, "output": self.output.parameters} if self.output else named

    def settle(self) -> None:
        """Leave the same parameters on all replicas, which may be apart during a stage.  Collective over the grid."""
        if self.sync is not None:
            self.sync.settle()

    def refresh(self) -> None:
        """Make all blocks of weights and velocities agree, after they were set from outside.  Collective."""
        for rbm in self.rbms:
            rbm.refresh()
            velocity = self.state.updates.get(f"rbm.{rbm.index}")
            if velocity is not None and velocity.rows is not None:
                rbm.weights.refresh(velocity)

    def refresh_state(self) -> None:
        """Make the copies of weights agree in what training keeps of them, after that was set from outside.

        Collective.
        """
        state = self.state
        for rbm in self.rbms:
            if isinstance(rbm.weights, SparseWeights):
                for named in (state.updates, state.outer, state.squares, state.best):
                    if f"rbm.{rbm.index}" in named:
                        rbm.weights.refresh(named[f"rbm.{rbm.index}"])

    # -- activations -------------------------------------------------------------------------------------------------

    def propagate_up(self, v: Activations, n_rbms: int | None = None) -> Array:
        """Hidden probabilities above the first ``n_rbms`` RBMs (all where None) of the owned units.

        v (n_visible_owned, batch).  The array is used again by the next call.  Collective over the shards.
        Raises DataError on every shard where any brings activations of other units than its own, SpecError where there
        are not so many RBMs.
        """
        v = self._agreed("propagate_up", v, self.visible_ids, "visible activations", n_rbms=n_rbms)
        if n_rbms is not None:
            n_rbms = plain.whole_number("n_rbms", n_rbms, at_least=0, at_most=len(self.rbms))
        return self._up(v, n_rbms)

    def _up(self, v: Activations, n_rbms: int | None = None) -> Array:
        for rbm in self.rbms[:n_rbms]:
            v = rbm.hidden_given_visible(v)
            if self.spec.exact and not isinstance(v, Packed) and v.dtype == np.float64:
                v = on_grid(v, ACTIVATIONS)
        assert not isinstance(v, Packed)  # above the first RBM
        return v

    def generate_down(self, h: Array) -> Array:
        """Visible means from states (n_top_owned, batch) of the top layer, layer by layer.

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
        """Visible means after one pass up and down the whole stack.  v (n_visible_owned, batch).  Collective.

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

    def fantasies(self, count: int, steps: int, *, first_draw: int = 0) -> Array:
        """Visible means (n_visible_owned, count) after ``steps`` of Gibbs sampling in the top RBM.

        The chains start at random visible states of the top RBM; the lower RBMs then generate down (Hinton, Osindero
        and Teh 2006, section 5).  ``first_draw`` chooses other fantasies.  Collective over the shards.
        Raises SpecError where there cannot be so many.
        """
        agree(self.grid.shard_comm, "fantasies", count=count, steps=steps, first_draw=first_draw)
        count = plain.whole_number("count", count, at_least=0)
        steps = plain.whole_number("steps", steps, at_least=0)
        first_draw = plain.whole_number("first_draw", first_draw, at_least=0)
        top = self.rbms[-1]
        h = pack(np.zeros((len(top.hidden_ids), count)))
        v = top.sample_visible(h, Purpose.FANTASY, 0, first_draw)
        for k in range(steps):
            # a key has 2**16 repeats: when they are used up, the counter of the chains moves on instead
            rounds, k = divmod(k, 2**15 - 1)
            repeat, draw = 1 + 2 * k, first_draw + count * rounds
            h = top.sample_hidden(v, Purpose.FANTASY, repeat, draw)
            v = top.sample_visible(h, Purpose.FANTASY, repeat + 1, draw)
        means: Activations = top.visible_given_hidden(h) if steps else v
        for rbm in reversed(self.rbms[:-1]):
            means = rbm.visible_given_hidden(means)
        return unpack(means, self.dtype) if isinstance(means, Packed) else means.copy()

    # -- small pieces of the whole, for pictures ---------------------------------------------------------------------

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
        whole = np.empty_like(gathered)
        whole[layout.ordering] = gathered
        return whole

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
        found = np.zeros((len(wanted), self.spec.layers[0]), W.dtype)
        for i, unit in enumerate(wanted):
            held = self.rbms[0].weights.incoming(W, int(unit))
            if held is not None:
                found[i, held[0]] = held[1]
        # each weight is held by exactly one shard, so the sum only puts the pieces together
        self.grid.shard_comm.Allreduce(MPI.IN_PLACE, found)
        return found


def complete_layout(spec: NetworkSpec, grid: Grid, layout: NetworkLayout | None = None) -> NetworkLayout:
    """``layout`` with the output layer added where it is missing, or blocks where it is None; checked.  Collective."""
    n_shards = grid.n_shards
    sizes = (*spec.layers, spec.classes) if spec.classes else spec.layers
    if layout is None:
        layout = NetworkLayout.blocks(sizes, n_shards, spec.layout, room_of(spec, grid))
    if spec.classes and len(layout.layers) == len(spec.layers):
        layout = NetworkLayout(
            (*layout.layers, UnitLayout.blocks(spec.classes, n_shards)),
            (*layout.holds, "column" if spec.classes >= spec.layers[-1] else "row"),
            layout.connections,
        )
    found = tuple(layer.n_units for layer in layout.layers)
    if found != sizes:
        raise LayoutError(f"the layout is for layers of {_dashed(found)} units, but the network has {_dashed(sizes)}")
    for layer in layout.layers:
        if layer.n_shards != n_shards:
            raise LayoutError(f"the layout is for {layer.n_shards} shards, but the grid has {n_shards} model shards")
    if spec.classes and not np.array_equal(layout.layers[-1].ordering, np.arange(spec.classes)):
        raise LayoutError("the output layer must be split into contiguous blocks of classes")
    wired = layout.connections[: len(spec.patterns)] if layout.connections else connect(spec, grid.comm)
    return layout.connected(wired)


BYTES_OF_LISTS = (
    12  # for each connection that is listed: its hidden unit, its place and (shared by maps) its visible unit
)
SHARE_OF_DUAL = 0.25  # of a node's free memory that the blocks of dual layouts may take before ``auto`` avoids them


def room_of(spec: NetworkSpec, grid: Grid) -> Room:
    """What the automatic choice of layouts looks at, the same on every rank.  Collective."""
    needed = memory_bytes(replace(spec, layout="dual"), grid.n_shards, 1) * grid.node_comm.size
    fits = needed < SHARE_OF_DUAL * grid.node_comm.bcast(available_bytes())
    return Room(grid.n_shards, grid.far, grid.comm.allreduce(fits, MPI.LAND))


def samples_at_once(spec: NetworkSpec) -> int:
    """So many that the activations of the widest layer take at most 32 MiB in float32, between 1 and 1024."""
    return max(1, min(1024, (8 << 20) // max(spec.layers)))


def memory_bytes(spec: NetworkSpec, n_shards: int, batch_size: int, *, keep_best: bool = False) -> int:
    """What the largest shard will hold at the height of training, estimated before anything is allocated.

    Weights of all layers, the velocities of the layers trained at once, the best weights so far with early stopping
    (``keep_best``), and the activations of a minibatch, or of what is propagated at once.
    """
    sizes = (*spec.layers, spec.classes) if spec.classes else spec.layers
    itemsize = np.dtype(spec.dtype).itemsize
    columns = [lower * -(-upper // n_shards) for lower, upper in _pairs(sizes)]
    rows = [-(-lower // n_shards) * upper for lower, upper in _pairs(sizes)]
    blocks = [
        {"column": by_columns, "row": by_rows, "dual": by_columns + by_rows}[held]
        for by_columns, by_rows, held in zip(columns, rows, choose_holds(sizes, spec.layout), strict=True)
    ]
    listed = 0
    for i, n in enumerate(expected(spec)):
        if n is not None:
            blocks[i] = -(-n // n_shards)
            listed += blocks[i]
    velocities = sum(blocks) if spec.classes else max(blocks)
    activations = 4 * max(sizes) * max(batch_size, samples_at_once(spec))
    return (sum(blocks) * (2 if keep_best else 1) + velocities + activations) * itemsize + listed * BYTES_OF_LISTS


def _pairs(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(pairwise(sizes))


def _dashed(sizes: tuple[int, ...]) -> str:
    return "-".join(map(str, sizes))
