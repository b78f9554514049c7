"""How many units travel between the shards of a model, and how many connections each shard computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from modelpar.ownership.connections import Connections
from modelpar.ownership.costs import recompute_pays
from modelpar.ownership.layout import UnitLayout

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Halos:
    """Of listed connections over shards.

    visible, hidden   (n_shards, n_shards) CSR, units that a shard (row) sends to another (column)
    up, down          (n_shards,) connections of the hidden units that a shard draws, and of its visible ones
    weights           (n_shards,) that a shard holds and learns
    drawn             (n_shards,) hidden units that a shard draws, its own ones among them
    owned             (n_shards,) hidden units of a shard
    kinds             (n_shards,) of which so many are above different visible units: maps of a layer share theirs
    """

    visible: Any
    hidden: Any
    up: IntArray
    down: IntArray
    weights: IntArray
    drawn: IntArray
    kinds: IntArray
    owned: IntArray

    @classmethod
    def of(cls, connections: Connections, visible: UnitLayout, hidden: UnitLayout, *, recompute: bool = False) -> Halos:
        """What :class:`modelpar.weights.sparse.SparseWeights` makes of them on every shard.

        Hidden units of one kind, those above the same visible units, are looked up together: so a layer of many maps
        takes no more memory than one map.
        """
        n_shards = visible.n_shards
        _, leaders, kind = np.unique(
            connections.kinds_of(np.arange(hidden.n_units)), return_index=True, return_inverse=True
        )
        offsets, below = connections.below(leaders)
        widths = np.diff(offsets)
        kind_of_edge = np.repeat(np.arange(len(leaders)), widths)
        edges = _ones(kind_of_edge, below, (len(leaders), visible.n_units))
        owners = _ones(np.arange(visible.n_units), visible.owner, (visible.n_units, n_shards))
        hidden_of = _ones(hidden.owner, kind, (n_shards, len(leaders)))  # how many of a kind a shard owns
        seen = edges @ owners  # (kinds, shards) connections to a shard's visible units
        between = (hidden_of @ seen).toarray()  # connections of a shard's hidden with a shard's visible units
        sent = (hidden_of @ (seen > 0).astype(np.int64)).toarray()  # hidden units that a shard's visible ones need
        np.fill_diagonal(sent, 0)
        own, down = between.sum(axis=1), between.sum(axis=0)
        foreign = down - between.diagonal()
        drawn, up, kinds_here = hidden.counts.copy(), own.copy(), hidden_of > 0
        if recompute:
            above = (seen > 0).T.tocsr()  # (shards, kinds)
            total = np.bincount(kind, minlength=len(leaders))
            others = above.multiply(total[None, :]).tocsr() - hidden_of.multiply(above)
            foreign = np.asarray(others @ widths).reshape(-1)
            drawn = drawn + np.asarray(others.sum(axis=1)).reshape(-1)
            up = up + foreign
            kinds_here = (kinds_here + above) > 0
        needed = ((kinds_here.astype(np.int64) @ edges) > 0).astype(np.int64)  # (shards, visible units)
        received = (needed @ owners).T.toarray()  # (from, to)
        np.fill_diagonal(received, 0)
        kinds = np.asarray(kinds_here.astype(np.int64).sum(axis=1)).reshape(-1)
        owned = hidden.counts
        return cls(sparse.csr_array(received), sparse.csr_array(sent), up, down, own + foreign, drawn, kinds, owned)

    @classmethod
    def between_nodes(cls, connections: Connections, visible: UnitLayout, hidden: UnitLayout, batch: int) -> Halos:
        """Those that ``weights.shard_lists.recomputing_pays`` decides for where shards are on several nodes."""
        received, drawn = (cls.of(connections, visible, hidden, recompute=how) for how in (False, True))
        (up, down), (up_drawn, down_drawn) = (
            [int(units.sum(axis=0).max()) for units in (halos.visible, halos.hidden)] for halos in (received, drawn)
        )
        extra = int((drawn.weights - received.weights).max(initial=0))
        return drawn if recompute_pays(up, down, up_drawn, down_drawn, extra, batch=batch) else received

    @property
    def redrawn(self) -> bool:
        """Whether shards draw hidden units of others."""
        return bool((self.drawn != self.owned).any())


def _ones(rows: Any, columns: Any, shape: tuple[int, int]) -> Any:
    return sparse.csr_array((np.ones(len(rows), np.int64), (rows, np.asarray(columns, np.int64))), shape=shape)
