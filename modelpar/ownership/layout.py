"""Who owns which units: a pure value without MPI in it, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from modelpar.errors import LayoutError
from modelpar.ownership.connections import Connections
from modelpar.ownership.costs import dual_pays
from modelpar.values.forms import plain_array

IntArray = npt.NDArray[np.int64]

HOLDS = (
    "column",
    "row",
    "dual",
)  # of a matrix a shard holds its hidden units' columns, its visible units' rows, or both


SPARSE = "sparse"  # how the weights of connections are held that are not complete; nothing is to choose there


@dataclass(frozen=True, eq=False)
class UnitLayout:
    """The owners of one layer's units.  Uneven, scattered and empty shards are normal.

    A gathered array holds the units in ``ordering``: shard after shard, ascending ids inside each.
    """

    ordering: IntArray  # (n_units,) shard position -> unit id, ascending inside a shard
    offsets: IntArray  # (n_shards + 1,) shard p owns positions offsets[p]:offsets[p + 1]

    @classmethod
    def from_owners(cls, owner: npt.ArrayLike, n_shards: int) -> UnitLayout:
        """From a partitioner's answer: ``owner[i]`` (n_units,) is the shard that owns unit i.

        Raises LayoutError where an owner is not in ``0 .. n_shards - 1``.
        """
        owner = plain_array(owner, "owners", LayoutError)
        if owner.ndim != 1 or (owner.size and owner.dtype.kind not in "ui"):
            raise LayoutError(f"owners must be one integer per unit, but came as {owner.dtype} of shape {owner.shape}")
        if owner.size and (owner.min() < 0 or owner.max() >= n_shards):
            wrong = int(owner.min() if owner.min() < 0 else owner.max())
            raise LayoutError(f"a unit is owned by shard {wrong}, but the shards are 0 to {n_shards - 1}")
        owner = owner.astype(np.int64)
        counts = np.bincount(owner, minlength=n_shards)
        return cls(np.argsort(owner, kind="stable").astype(np.int64), np.concatenate([[0], np.cumsum(counts)]))

    @classmethod
    def blocks(cls, n_units: int, n_shards: int) -> UnitLayout:
        """Contiguous blocks whose sizes differ by at most one."""
        return cls.from_owners(np.arange(n_units, dtype=np.int64) * n_shards // max(n_units, 1), n_shards)

    @property
    def n_units(self) -> int:
        return len(self.ordering)

    @property
    def n_shards(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> IntArray:
        """(n_shards,) units that each shard owns."""
        return np.diff(self.offsets)

    @cached_property
    def owner(self) -> IntArray:
        """(n_units,) unit id -> shard."""
        owner = np.empty(self.n_units, np.int64)
        owner[self.ordering] = np.repeat(np.arange(self.n_shards), self.counts)
        return owner

    def owned(self, shard: int) -> IntArray:
        """Ids of the units of ``shard``, ascending."""
        return self.ordering[self.offsets[shard] : self.offsets[shard + 1]]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, UnitLayout)
            and np.array_equal(self.ordering, other.ordering)
            and np.array_equal(self.offsets, other.offsets)
        )


@dataclass(frozen=True)
class NetworkLayout:
    """The owners of every layer of a network, input to output, and how each RBM's weights are held."""

    layers: tuple[UnitLayout, ...]
    holds: tuple[str, ...]  # one of HOLDS, or SPARSE, for each pair of neighbouring layers
    connections: tuple[Connections | None, ...] = ()  # of those that are SPARSE; None for the others

    def __post_init__(self) -> None:
        if len(self.holds) != len(self.layers) - 1 or not set(self.holds) <= {*HOLDS, SPARSE}:
            raise LayoutError(
                f"the matrices between {len(self.layers)} layers are held as {self.holds}, but each needs one of "
                f"{', '.join(HOLDS)}"
            )

    def connected(self, connections: Sequence[Connections | None]) -> NetworkLayout:
        """The same owners, with the connections of every RBM, None where they are complete.

        Raises LayoutError where there are fewer matrices.
        """
        if len(connections) > len(self.holds):
            raise LayoutError(f"the layout is for {len(self.layers)} layers, but there are {len(connections)} RBMs")
        if all(wires is None for wires in connections):
            return NetworkLayout(self.layers, tuple("column" if held == SPARSE else held for held in self.holds))
        wired = (*connections, *[None] * (len(self.holds) - len(connections)))
        holds = tuple(
            SPARSE if wires is not None else held if held != SPARSE else "column"
            for wires, held in zip(wired, self.holds, strict=True)
        )
        return NetworkLayout(self.layers, holds, wired)

    @classmethod
    def from_owners(cls, owners: Sequence[npt.ArrayLike], n_shards: int, layout: str = "auto") -> NetworkLayout:
        """One owner array per layer; ``layout`` is ``auto``, one of HOLDS, or a comma-separated list."""
        layers = tuple(UnitLayout.from_owners(owner, n_shards) for owner in owners)
        return cls(layers, choose_holds([layer.n_units for layer in layers], layout))

    @classmethod
    def blocks(
        cls, sizes: tuple[int, ...], n_shards: int, layout: str = "auto", room: Room | None = None
    ) -> NetworkLayout:
        """Contiguous blocks in every layer."""
        return cls(tuple(UnitLayout.blocks(n, n_shards) for n in sizes), choose_holds(sizes, layout, room))


@dataclass(frozen=True)
class Room:
    """Where the shards of a model are, and whether a second block of weights has room: what ``auto`` looks at."""

    n_shards: int = 1
    far: bool = False  # on several nodes
    dual: bool = False  # room for the blocks of a dual layout


def choose_holds(sizes: list[int] | tuple[int, ...], layout: str, room: Room | None = None) -> tuple[str, ...]:
    """How each pair of neighbouring layers holds its weights.

    ``auto`` splits the larger side and so moves the smaller: a column layout splits the upper layer and moves the
    lower one's activations, a row layout the other way round.  Where there is ``room`` for it, and it is predicted to
    be faster (``costs``), it is dual.
    """
    pairs = list(pairwise(sizes))
    wanted = [word.strip() for word in layout.split(",")]
    if len(wanted) == 1:
        wanted *= len(pairs)
    if len(wanted) != len(pairs):
        raise LayoutError(
            f"{len(wanted)} layouts were given ({layout}), but the network has {len(pairs)} weight matrices"
        )
    for word in wanted:
        if word not in ("auto", *HOLDS):
            raise LayoutError(f"layout {word!r} is not known; use auto, {', '.join(HOLDS[:-1])} or {HOLDS[-1]}")
    return tuple(word if word != "auto" else _automatic(*pair, room) for word, pair in zip(wanted, pairs, strict=True))


def _automatic(lower: int, upper: int, room: Room | None) -> str:
    plain = "column" if upper >= lower else "row"
    if room is None or not (room.dual and room.far):  # within a node sums move faster than a second block is learned
        return plain
    return "dual" if dual_pays(lower, upper, room.n_shards, plain) else plain
