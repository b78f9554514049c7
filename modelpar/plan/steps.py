"""One update of an RBM as a sequence of pieces: computing on every shard, and exchanges with their exact bytes.

It is the walk of ``model.rbm.RBM.contrastive_divergence`` and ``training.optimizer.Optimizer.learn``, with sizes in
place of arrays.  Bytes are those that :class:`modelpar.comm.exchange.Traffic` counts, to the last one, where data are
states; seconds come from measured rates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelpar.ownership.connections import Connections
from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.halos import Halos
from modelpar.plan.pieces import PARTS, Compute, FloatArray, Move, Piece, Step, received, with_calls
from modelpar.plan.rates import CoreRates, Rates
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec

__all__ = ["PARTS", "Compute", "Move", "Piece", "Step", "received", "step_of", "whole_words"]

BUCKET = 1 << 22  # elements of one sum over replicas (``sync.reduction``)
MAPS = 16  # of the receptive fields whose rates are those of many maps (``bench.calibrate``)
SUMS = 0.4  # of the work on a unit that centring takes: its sums over the samples
WORD = 64  # samples
# works that find less in the caches where a dual layout has two blocks
_ON_WEIGHTS = ("product", "real.product", "learn", "count", "update")
PIECES = 8  # of counts that travel one by one between nodes (``training.optimizer``)


def step_of(
    spec: NetworkSpec, rbm: int, training: TrainingSpec, sync: SyncSpec, layout: NetworkLayout, n_replicas: int,
    rates: Rates, threads: int, *, at_once: int = 1, states: bool | None = None, replicas_far: bool = False,
    shards_far: bool = False, recompute: bool | None = None, servers: int = 0, replica: int = -1,
) -> Step:  # fmt: skip
    """One update of RBM ``rbm`` of a network, in the strategy's steady state.

    layout        with nothing left open: every matrix is column, row, dual or sparse, and has its connections
    threads       of each rank; at_once: ranks of a node that compute at the same time
    states        whether the data of this RBM are states; by default those of binary units are in the first RBM, and
                  above where ``training.pass_up`` says so
    replicas_far  whether replicas are on several nodes, where sums travel while the next ones are made
    shards_far    whether the shards of a model are
    recompute     whether shards draw the hidden states of others; None: as ``spec.halo`` says
    servers       ranks that hold a parameter server's vectors and do not train
    replica       whose share of the samples and chains; -1: the last one, which has the most
    """
    walk = _Walk(
        spec, rbm, training, sync, layout, n_replicas, rates.of(threads, at_once),
        states=states, far=replicas_far, shards_far=shards_far, recompute=recompute, servers=servers, replica=replica,
    )  # fmt: skip
    return walk.pieces()


def whole_words(samples: float) -> int:
    """Bits are counted word by word, however many of the last word are samples."""
    return WORD * -(-int(np.ceil(samples)) // WORD)


@dataclass
class _Walk:
    """The pieces of one update, put down one after the other in the order in which training has them."""

    spec: NetworkSpec
    rbm: int
    training: TrainingSpec
    sync: SyncSpec
    layout: NetworkLayout
    n_replicas: int
    rates: CoreRates
    states: bool | None = None
    far: bool = False
    shards_far: bool = False
    recompute: bool | None = None
    servers: int = 0
    replica: int = -1
    steps: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        visible, hidden = self.layout.layers[self.rbm : self.rbm + 2]
        self.n_shards = visible.n_shards
        self.V, self.H = visible.n_units, hidden.n_units
        self.nv, self.nh = visible.counts.astype(float), hidden.counts.astype(float)
        self.word = self.layout.matrix_layouts[self.rbm]
        self.itemsize = np.dtype(self.spec.dtype).itemsize
        self.samples, self.n_chains = self._share(self.training.batch_size), self.training.n_chains
        self.chains = self._share(self.n_chains) if self.n_chains else self.samples
        gaussian = self.spec.visible_kind.gaussian
        if self.states is None:
            self.states = self.training.pass_up == "states" if self.rbm else not gaussian
        self.real_hidden = self.spec.hidden_of(self.rbm) != "bernoulli"
        how = self.training.reconstruction
        # whether the model's visible side are states: chains always have some
        sampled = bool(self.n_chains) or how == "states" or (how == "auto" and bool(self.states))
        self.model_states = sampled and not gaussian
        self.planes = 0 if self.real_hidden else self.training.planes
        self.integer = bool(
            self.states and self.model_states and not self.training.sparsity_cost and not self.real_hidden
            and (self.planes or self.itemsize == 4)
        )  # fmt: skip
        self.connections: Connections | None = (
            self.layout.connections[self.rbm] if self.layout.connections else None
        )  # fmt: skip
        self.halos: Halos | None = None
        if self.connections is not None:
            listed = self.connections, visible, hidden
            if self.recompute is None and self.spec.halo == "auto" and self.shards_far:
                self.halos = Halos.between_nodes(*listed, TrainingSpec.batch_size)
            else:
                chosen = self.spec.halo == "recompute" if self.recompute is None else self.recompute
                self.halos = Halos.of(*listed, recompute=chosen)
        fields = self.connections is not None and self.connections.described
        self.stem = "listed" if fields else "scattered"  # of the works on them
        # how near a shard's fields are to those of a single map, whose lists no two units share
        self.single = np.zeros(self.n_shards)
        if self.halos is not None and fields:
            share = self.halos.kinds / np.maximum(self.halos.drawn, 1)
            self.single = np.clip((share - 1 / MAPS) / (1 - 1 / MAPS), 0, 1)
        self.redraws = self.halos is not None and self.halos.redrawn and self.itemsize == 4
        # who adds up in a step
        self.together = self.sync.sync == "allreduce" and self.n_replicas > 1

    def _share(self, n: int) -> int:
        """Of ``n`` samples, as ``data.Minibatches.slice_of`` gives them to replicas."""
        replica = self.replica % self.n_replicas
        return n * (replica + 1) // self.n_replicas - n * replica // self.n_replicas

    # -- activations -------------------------------------------------------------------------------------------------

    def _row(self, kind: str, samples: int, planes: int = 1) -> tuple[str, float]:
        """(kind, bytes of one unit's activations)"""
        if kind == "bits":
            return kind, 8.0 * -(-samples // WORD) * planes
        return kind, float(samples * (4 if kind == "integers" else self.itemsize))

    def _spread(self, side: str, kind: str, samples: int, planes: int = 1, *, redrawn: bool = False) -> None:
        """Activations of one side to the shards that need them."""
        kind, row = self._row(kind, samples, planes)
        owned, n_units = (self.nv, self.V) if side == "visible" else (self.nh, self.H)
        if self.halos is not None:
            if not redrawn:
                units = self.halos.visible if side == "visible" else self.halos.hidden
                self._halo(units, kind, row)
            return
        if self.word == "dual" or self.word == ("column" if side == "visible" else "row"):
            self._move("gather", "shard", kind, (n_units - owned) * row)

    def _halo(self, units: Any, kind: str, row: float) -> None:
        pairs = units.astype(float) * row
        self._move("halo", "shard", kind, np.asarray(pairs.sum(axis=0)).reshape(-1), pairs)

    def _sums(self, up: bool, states: bool, samples: int) -> None:
        """Sums for one side's units, and what has to be added to them from other shards."""
        owned, n_in = (self.nh, self.nv) if up else (self.nv, self.nh)
        if self.halos is not None:
            self._listed_sums(up, states, samples)
            return
        # a column layout has whole sums of hidden units, a row layout of visible ones, a dual one of both
        partial = self.n_shards > 1 and self.word == ("row" if up else "column")
        n_other = self.V if up else self.H
        blocks = n_in * (self.H if up else self.V) if partial else owned * n_other
        work = f"product.{'up' if up else 'down'}" if states and self.itemsize == 4 else "real.product"
        self._compute("products", work, blocks, samples)
        if partial:
            kind, row = self._row("integers" if states and self.itemsize == 4 else "floats", samples)
            self._move("reduce", "shard", kind, owned * (self.n_shards - 1) * row)

    def _listed_sums(self, up: bool, states: bool, samples: int) -> None:
        assert self.halos is not None
        work = f"{self.stem}.{'up' if up else 'down'}" if states else f"{self.stem}.real"
        self._compute("products", work, self.halos.up if up else self.halos.down, samples)

    def _draw_hidden(self, samples: int, planes: int | str, *, states: bool) -> None:
        """Sums, and draws from them; with ``states`` from states."""
        if self.redraws and states:
            assert self.halos is not None
            self._halo(self.halos.hidden, "floats", float(self.itemsize))  # biases of those that are drawn here too
        self._sums(True, states, samples)
        drawn = self.halos.drawn if self.redraws and states and self.halos is not None else self.nh
        self._compute("sampling", f"draw.{planes}", drawn, samples)

    def _draw_visible(self, states: bool, samples: int) -> None:
        self._sums(False, states, samples)
        self._compute("sampling", "draw.visible", self.nv, samples)

    # -- the walk ----------------------------------------------------------------------------------------------------

    def pieces(self) -> Step:
        v_kind = "bits" if self.states else "floats"
        # the first RBM reads the states that its weights need from the data
        if not (self.rbm == 0 and self.states):
            self._spread("visible", v_kind, self.samples)
        bits = self.planes or "float"
        self._draw_hidden(self.samples, bits, states=bool(self.states))
        redrawn = self.redraws and bool(self.states)
        h_kind = "floats" if self.real_hidden else "bits"
        statistic = ("bits", self.planes) if self.planes else ("floats", 1)
        same = self.planes == 1 and not self.training.sparsity_cost
        if not self.n_chains or same:
            self._spread("hidden", h_kind, self.samples, redrawn=redrawn)
        if not same:
            self._spread("hidden", statistic[0], self.samples, statistic[1], redrawn=redrawn and statistic[0] == "bits")
        if self.training.sparsity_cost:
            self._allreduce("replica", "floats", self.nh * self.itemsize)
        if self.n_chains:
            self._chain(self.chains, self.training.sweeps, statistic, h_kind, from_data=False)
        else:
            self._chain(self.samples, self.training.gibbs_steps, statistic, h_kind, from_data=True)
        self._learn()
        self._meet()
        far = [axis for axis, is_far in (("replica", self.far), ("shard", self.shards_far)) if is_far]
        return with_calls(self.steps, self.rates.call, self.n_shards, far)

    def _chain(self, samples: int, sweeps: int, statistic: tuple[str, int], h_kind: str, *, from_data: bool) -> None:
        """From hidden states, which are spread already where they are the data's, to the model's statistics."""
        v_kind, bits = "bits" if self.model_states else "floats", self.planes or "float"
        redrawn = self.redraws and self.model_states
        for k in range(sweeps):
            if not (from_data and k == 0):
                # chains of their own have states from the last update, which a halo does not hold
                self._spread("hidden", h_kind, samples, redrawn=redrawn and k > 0)
            self._draw_visible(h_kind == "bits", samples)
            self._spread("visible", v_kind, samples)
            if k < sweeps - 1:
                self._draw_hidden(samples, 0, states=self.model_states)
        self._draw_hidden(samples, bits, states=self.model_states)
        kind, planes = statistic
        self._spread("hidden", kind, samples, planes, redrawn=redrawn and kind == "bits")

    def _learn(self) -> None:
        """The statistics of both phases, their sums over replicas, and the update of every block."""
        blocks = self._blocks()
        divided = bool(self.training.standardised)
        if self.training.centred or divided:
            self._centre(listed=self.halos is not None)
        bits = self.planes or "float"
        samples = max(self.samples, self.chains)
        if self.integer and self.planes:
            samples = whole_words(samples)
        work = f"{self.stem}.learn" if self.halos is not None else "learn"
        alone = not self.together
        if not self.integer:
            for block in blocks:
                work = f"{self.stem}.real" if self.halos is not None else "real.product"
                self._compute("statistics", work, block, 2 * samples)
            if self.together:
                self._allreduce_elements(blocks[0] + self.nv + self.nh, "floats", self.itemsize)
                for block in blocks[1:]:
                    self._allreduce("replica", "floats", block * self.itemsize)
            for block in blocks:
                self._compute("update", "update", block)
            return
        by_itself = divided or (self.training.centred and self.halos is not None)
        phases = 2 if self._apart else 1
        for block in blocks:
            if alone and phases == 1 and not by_itself:
                self._compute("statistics", f"{work}.{bits}", block, samples)
                continue
            for phase in range(phases):
                n = (self.training.batch_size, self.n_chains)[phase] if phases == 2 else self.training.batch_size
                self._counted(block, bits, samples, n, phases, by_itself=by_itself)
        for _ in range(phases):
            if self.together and (phases == 1 or by_itself):
                self._allreduce("replica", "integers", 8 * self.nv)
                self._allreduce("replica", "integers", 8 * self.nh)
        if self.together and phases == 2 and not by_itself:  # both phases travel together
            self._allreduce("replica", "integers", 16 * self.nv)
            self._allreduce("replica", "integers", 16 * self.nh)

    @property
    def _apart(self) -> bool:
        """Whether the integers of both phases are kept apart (``model.rbm``)."""
        in_step = self.sync.sync != "server"
        return bool(self.n_chains) and not (in_step and self.n_chains == self.training.batch_size)

    def _blocks(self) -> list[FloatArray]:
        """(n_shards,) weights of every block that a shard updates."""
        if self.halos is not None:
            return [self.halos.weights.astype(float)]
        columns, rows = self.V * self.nh, self.nv * self.H
        return {"column": [columns], "row": [rows], "dual": [columns, rows]}[self.word]

    def _counted(
        self, block: FloatArray, bits: int | str, samples: int, n_all: int, phases: int, *, by_itself: bool
    ) -> None:
        """Counts of one block, summed over the replicas where they are in step, and the update from them."""
        count = f"{f'{self.stem}.learn' if self.halos is not None else 'count'}.{bits}"
        largest = n_all * ((1 << self.planes) - 1)
        itemsize = 4 if not self.planes else 1 if largest <= 127 else 2 if largest <= 32767 else 4
        of_phase = samples if phases == 1 else samples / 2
        if self.together and self.far and phases == 1 and not by_itself and self.planes:
            self._compute("statistics", count, block / PIECES, of_phase)
            self._allreduce_elements(block, "integers", itemsize, behind=1)
            self._compute("statistics", count, block * (1 - 1 / PIECES), of_phase)
        else:
            self._compute("statistics", count, block, of_phase)
            if self.together:
                self._allreduce_elements(block, "integers", itemsize)
        self._compute("update", "update", block)
        if by_itself:
            self._compute("update", "update", block)

    def _centre(self, *, listed: bool) -> None:
        """What the centred gradient has more than the plain one: sums of units, and a pass over the velocities."""
        samples = self.samples + self.chains
        pairs = [(self.nv, self.nh)]
        if listed:
            pairs.append((self.nv + self._into(self.halos.visible), self.nh + self._into(self.halos.hidden)))  # type: ignore[union-attr]
        else:
            everywhere = np.ones(self.n_shards)
            pairs += {
                "column": [(self.V * everywhere, self.nh)],
                "row": [(self.nv, self.H * everywhere)],
                "dual": [(self.V * everywhere, self.nh), (self.nv, self.H * everywhere)],
            }[self.word]
        kind = "integers" if self.integer else "floats"
        units = sum((2 * (v + h) for v, h in pairs), np.zeros(self.n_shards))
        bits = self.planes or "float"
        for work, side in (("1" if self.states else "float", [v for v, _ in pairs]), (bits, [h for _, h in pairs])):
            of_side = sum(side, np.zeros(self.n_shards)) / len(pairs)
            # of lists each unit adds up its own weights, so that sums over samples are all that is left
            each = samples / 2 if work == "float" else whole_words(samples / 2)
            self._compute("statistics", f"centre.units.{work}", (SUMS if listed else 1) * 2 * of_side, each)
        if self.together:
            self._allreduce("replica", kind, 8 * units)
        for block in self._blocks():
            self._compute("update", f"{self.stem}.centre" if listed else "centre", block)
        if not listed:
            self._allreduce("shard", "floats", np.full(self.n_shards, 8.0 * (2 * samples + 4)), self.n_shards)
            if self.together:
                self._allreduce("replica", "floats", 8 * 2 * (self.nv + self.nh))

    def _into(self, units: Any) -> FloatArray:
        return np.asarray(units.sum(axis=0), float).reshape(-1)

    def _meet(self) -> None:
        """What replicas move apart from their steps, as an average over the steps in between."""
        if self.n_replicas == 1 or self.sync.sync == "allreduce":
            return
        n = self._blocks()[0] + self.nv + self.nh  # a second block is refreshed from the first
        if self.sync.sync == "local":
            period = self.sync.period
            self._compute("update", "average", 2 * n / period)
            for _ in range(2):  # parameters and velocities
                self._allreduce_elements(n, "floats", self.itemsize, "average", share=1 / period)
            return
        elsewhere = self.n_replicas - (0 if self.servers else 1)  # of the parts of a vector that all hosts have alike
        moved = n * self.itemsize * elsewhere / self.n_replicas
        more = 2 if self.sync.adagrad else 1
        self._compute("update", "average", n * (1 / self.sync.push_every + 1 / self.sync.fetch_every))
        self._move("push", "replica", "floats", more * moved / self.sync.push_every)
        fetches = 1 / self.sync.fetch_every + (more - 1) / self.sync.push_every
        self._move("fetch", "replica", "floats", fetches * moved)

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _compute(self, part: str, work: str, sizes: Any, samples: float = 1.0) -> None:
        sizes = np.asarray(sizes, float)
        seconds = self._seconds(work, sizes, samples)
        if work.startswith("listed.") and self.single.any():
            single = self._seconds(work.replace("listed.", "single."), sizes, samples)
            seconds = seconds + self.single * (single - seconds)
        self.steps.append(Compute(part, seconds))

    def _seconds(self, work: str, sizes: FloatArray, samples: float) -> FloatArray:
        """Of each shard's call; shards of one size are looked up together."""
        among = 2.0 if self.word == "dual" and work.startswith(_ON_WEIGHTS) else 1.0
        alike = {size: self.rates.seconds(work, size, samples, among) for size in np.unique(sizes).tolist()}
        return np.array([alike[size] for size in sizes.tolist()])

    def _move(
        self, verb: str, axis: str, kind: str, received: FloatArray, pairs: Any = None, *, behind: int = 0
    ) -> None:
        if np.any(received):
            self.steps.append(Move(verb, axis, kind, np.asarray(received, float), pairs, behind))

    def _allreduce(self, axis: str, kind: str, n_bytes: FloatArray, size: int | None = None) -> None:
        """A sum of so many bytes of each shard over the ranks of an axis (Rabenseifner 2004)."""
        size = self.n_replicas if size is None else size
        self._move("allreduce", axis, kind, 2 * (size - 1) * n_bytes // size)

    def _allreduce_elements(
        self, n: FloatArray, kind: str, itemsize: int, verb: str = "allreduce", *, share: float = 1.0,
        behind: int = 0,
    ) -> None:  # fmt: skip
        """The same of ``n`` elements of each shard, in pieces of BUCKET; ``share`` of it in an update."""
        size, whole, rest = self.n_replicas, n // BUCKET, n % BUCKET
        each = (2 * (size - 1) * BUCKET * itemsize) // size
        received = whole * each + 2 * (size - 1) * rest * itemsize // size
        self._move(verb, "replica", kind, received * share, behind=behind)
