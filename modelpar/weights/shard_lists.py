"""Which connections a shard has a part in, and the lists that products over them need: made once, of ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.kernels.listed.blocks import Blocks
from modelpar.ownership.connections import Connections, runs
from modelpar.ownership.costs import recompute_pays
from modelpar.ownership.layout import UnitLayout
from modelpar.values.offsets import offsets_of

IntArray = npt.NDArray[np.int64]

AT_ONCE = 1 << 22  # connections that are looked up at a time while the lists are made


def recomputing_pays(
    connections: Connections, visible: UnitLayout, hidden: UnitLayout, comm: MPI.Comm, batch: int
) -> bool:
    """Whether hidden units of others are drawn faster than they are received, between nodes.  Collective."""
    both = [Shared(connections, visible, hidden, comm.rank, all_connections=every) for every in (False, True)]
    (up, down, _), (up_drawn, down_drawn, extra) = (shared.halo_sizes() for shared in both)
    most = [comm.allreduce(n, MPI.MAX) for n in (up, down, up_drawn, down_drawn, extra)]
    return recompute_pays(*most, batch=batch)


class Shared:
    """The connections that one shard has a part in, while the lists of ``sparse.SparseWeights`` are made.

    foreign   of the owned visible units with hidden units of others: (visible, hidden) ids and numbers, ordered by the
              hidden unit's owner, and by number
    """

    def __init__(
        self, connections: Connections, visible: UnitLayout, hidden: UnitLayout, shard: int, *, all_connections: bool
    ) -> None:
        """all_connections   take all connections of the hidden units that owned visible units are connected with"""
        self._all_connections = all_connections
        self.connections, self.visible, self.hidden, self.shard = connections, visible, hidden, shard
        self.visible_ids, self.hidden_ids = visible.owned(shard), hidden.owned(shard)
        kinds = connections.kinds_of(self.hidden_ids)
        _, self._leaders, self._kind = np.unique(kinds, return_index=True, return_inverse=True)
        self._offsets, self._below = connections.below(self.hidden_ids[self._leaders])
        widths = np.diff(self._offsets)[self._kind] if len(self._leaders) else np.zeros(0, np.int64)
        # where in W the weights of each owned hidden unit begin
        self.starts = offsets_of(widths)
        self._look_above()

    def _look_above(self) -> None:
        """Hidden units above the owned visible ones, and where in W their weights are, piece by piece."""
        at_once = max(1, AT_ONCE // max(1, self.connections.widest_down))
        mine = np.full(self.hidden.n_units, -1, np.int64)
        mine[self.hidden_ids] = np.arange(len(self.hidden_ids))
        degrees, _ = self.connections.degrees()
        self._fan_first = offsets_of(degrees[self.visible_ids])
        n = int(self._fan_first[-1])
        self._fan_hidden = np.empty(n, np.int32)
        self._fan_positions = np.empty(n, np.int32 if 2 * (self.starts[-1] + n) < 1 << 31 else np.int64)
        foreign = []
        for start in range(0, len(self.visible_ids), at_once):
            some = self.visible_ids[start : start + at_once]
            offsets, above, numbers = self.connections.above(some)
            local = mine[above]
            own = local >= 0
            positions_in_W = np.full(len(above), -1, np.int64)
            positions_in_W[own] = (
                self.starts[local[own]] + numbers[own] - self.connections.offsets_of(above[own].astype(np.int64))
            )
            at = int(self._fan_first[start])
            self._fan_hidden[at : at + len(above)] = above
            self._fan_positions[at : at + len(above)] = positions_in_W
            where = np.flatnonzero(~own)
            below = np.repeat(some, np.diff(offsets))[where]
            foreign.append(np.stack([below, above[where].astype(np.int64), numbers[where], where + at]))
        links = np.concatenate(foreign, axis=1) if foreign else np.zeros((4, 0), np.int64)
        links = links[:, np.lexsort((links[2], self.hidden.owner[links[1]]))]
        if not self._all_connections:
            self.foreign = links[0], links[1], links[2]
            self._fan_positions[links[3]] = self.starts[-1] + np.arange(links.shape[1])
            return
        others = np.unique(links[1])
        others = others[np.argsort(self.hidden.owner[others], kind="stable")]
        first, below_others = self.connections.below(others)
        numbers, widths = self.connections.offsets_of(others), np.diff(first)
        self.foreign = below_others.astype(np.int64), np.repeat(others, widths), runs(numbers, widths)
        which = positions(others, self.hidden.n_units)[links[1]]
        self._fan_positions[links[3]] = self.starts[-1] + first[which] + links[2] - numbers[which]

    @property
    def visible_needed(self) -> IntArray:
        needed = np.zeros(self.visible.n_units, bool)
        needed[self._below] = needed[self.foreign[0]] = True
        return np.flatnonzero(needed)

    @property
    def hidden_needed(self) -> IntArray:
        needed = np.zeros(self.hidden.n_units, bool)
        needed[self._fan_hidden] = True
        return np.flatnonzero(needed)

    def lent(self, n_shards: int) -> tuple[IntArray, IntArray]:
        """(positions in W of the weights whose visible units others own, in the order in which they store them; how
        many go to each shard)"""
        owners, position_lists = [], []
        owner_below = self.visible.owner[self._below]
        before = offsets_of(owner_below != self.shard)
        crosses = before[self._offsets[1:]] > before[self._offsets[:-1]]  # of each kind, some go to another shard
        for j in np.flatnonzero(crosses[self._kind]) if len(self._kind) else ():
            k = self._kind[j]
            owner = owner_below[self._offsets[k] : self._offsets[k + 1]]
            if self._all_connections:
                for shard in np.unique(owner[owner != self.shard]):
                    owners.append(np.full(len(owner), shard))
                    position_lists.append(self.starts[j] + np.arange(len(owner)))
            else:
                away = np.flatnonzero(owner != self.shard)
                owners.append(owner[away])
                position_lists.append(self.starts[j] + away)
        owner = np.concatenate(owners) if owners else np.zeros(0, np.int64)
        in_W = np.concatenate(position_lists) if position_lists else np.zeros(0, np.int64)
        order = np.argsort(owner, kind="stable")  # hidden units, and their visible units, stay ascending
        return in_W[order], np.bincount(owner, minlength=n_shards)

    def halo_sizes(self) -> tuple[int, int, int]:
        """(visible units, hidden units of others that are needed, connections between units of others)"""
        visible, hidden = (
            int((layout.owner[needed] != self.shard).sum())
            for layout, needed in ((self.visible, self.visible_needed), (self.hidden, self.hidden_needed))
        )
        return visible, hidden, int((self.visible.owner[self.foreign[0]] != self.shard).sum())

    def up(self, visible_units: IntArray, hidden_units: IntArray) -> tuple[Blocks, int, int]:
        """(blocks, of which so many are of owned hidden units, of which so many need none of the halo)"""
        to_visible = positions(visible_units, self.visible.n_units)
        inputs = to_visible[self._below]
        n_owned = len(self.visible_ids)
        widths = np.diff(self._offsets)
        outer = np.zeros(len(widths), bool)
        outer[np.repeat(np.arange(len(widths)), widths)[inputs >= n_owned]] = True
        order = np.argsort(outer, kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        members = np.argsort(rank[self._kind], kind="stable")
        # then the others' hidden units, one block each
        below, above, _ = self.foreign
        edges = np.flatnonzero(np.diff(above)) + 1
        begins = np.concatenate([[0], edges]).astype(np.int64) if len(above) else np.zeros(0, np.int64)
        ends = np.concatenate([begins[1:], [len(above)]]).astype(np.int64) if len(above) else begins
        first = offsets_of(np.concatenate([widths[order], ends - begins]))
        sizes = np.concatenate([np.bincount(self._kind, minlength=len(order))[order], np.ones(len(begins), np.int64)])
        to_hidden = positions(hidden_units, self.hidden.n_units)
        blocks = Blocks(
            first.astype(np.int64),
            np.concatenate([inputs[runs(self._offsets[order], widths[order])], to_visible[below]]).astype(np.int32),
            offsets_of(sizes),
            np.concatenate([members, to_hidden[above[begins]]]).astype(np.int32),
            np.concatenate([self.starts[members], self.starts[-1] + begins]).astype(np.int64),
        )
        return blocks, len(order), int((~outer).sum())

    def down(self, hidden_units: IntArray) -> tuple[Blocks, int]:
        """(a block for each owned visible unit, of which so many, the first, need none of the halo)"""
        inputs = self._fan_hidden  # their ids are not needed any more
        np.take(positions(hidden_units, self.hidden.n_units), inputs, out=inputs, mode="clip")
        widths = np.diff(self._fan_first)
        outer = np.zeros(len(widths), bool)
        away = np.flatnonzero(inputs >= len(self.hidden_ids))
        outer[np.searchsorted(self._fan_first, away, side="right") - 1] = True
        order = np.argsort(outer, kind="stable")
        first = offsets_of(widths[order])
        moved = [np.empty_like(inputs), np.empty_like(self._fan_positions)]
        at_once = max(1, AT_ONCE // max(1, self.connections.widest_down))
        for start in range(0, len(order), at_once):
            some = order[start : start + at_once]
            source = runs(self._fan_first[some], widths[some])
            target = slice(first[start], first[start] + len(source))
            moved[0][target], moved[1][target] = inputs[source], self._fan_positions[source]
        n = len(order)
        blocks = Blocks(
            first, moved[0], np.arange(n + 1, dtype=np.int64), order.astype(np.int32), np.zeros(0, np.int64), moved[1],
        )  # fmt: skip
        return blocks, int((~outer).sum())


def positions(units: IntArray, n_units: int) -> npt.NDArray[np.int32]:
    """(n_units,) unit id -> where it is in ``units``; -1 for those that are not"""
    position_of = np.full(n_units, -1, np.int32)
    position_of[units] = np.arange(len(units), dtype=np.int32)
    return position_of
