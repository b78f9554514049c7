"""Who owns which units: a pure value without MPI, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import LayoutError
from modelpar.ownership.connections import Connections
from modelpar.ownership.costs import dual_pays
from modelpar.values import plain
from modelpar.values.forms import plain_array
from modelpar.values.offsets import offsets_of
from partitioners.cards import by_layer, card, is_drawable, owners_chart, spread
from partitioners.page import table

IntArray = npt.NDArray[np.int64]

MOST_UNITS, MOST_SHARDS = 1 << 31, 1 << 24
# a shard holds the columns of its hidden units, the rows of its visible units, or both
MATRIX_LAYOUTS = ("column", "row", "dual")
AUTO = "auto"  # one of these, chosen where the grid is known
SPARSE = "sparse"  # the layout where connections are not complete; there is no other


@dataclass(frozen=True, eq=False)
class UnitLayout:
    """The owners of one layer's units.  Uneven, scattered and empty shards are normal.

    A gathered array holds the units in ``ordering``: shard after shard, ascending ids inside each.
    """

    ordering: IntArray  # (n_units,) shard position -> unit id, ascending inside a shard
    offsets: IntArray  # (n_shards + 1,) shard p owns positions offsets[p]:offsets[p + 1]

    @classmethod
    def from_owners(cls, owner: npt.ArrayLike, n_shards: int) -> UnitLayout:
        """From the result of a partitioner: ``owner[i]`` (n_units,) is the shard that owns unit i.

        Raises LayoutError where an owner is not in ``0 .. n_shards - 1``, or there are no shards.
        """
        n_shards = plain.integer_number("n_shards", n_shards, error=LayoutError, at_least=1, at_most=MOST_SHARDS)
        owner = plain_array(owner, "owners", LayoutError)
        if owner.ndim != 1 or (owner.size and owner.dtype.kind not in "ui"):
            raise LayoutError(f"owners must be one integer per unit, but came as {owner.dtype} of shape {owner.shape}")
        if owner.size and (owner.min() < 0 or owner.max() >= n_shards):
            wrong = int(owner.min() if owner.min() < 0 else owner.max())
            raise LayoutError(f"a unit is owned by shard {wrong}, but the shards are 0 to {n_shards - 1}")
        owner = owner.astype(np.int64)
        counts = np.bincount(owner, minlength=n_shards)
        return cls(np.argsort(owner, kind="stable").astype(np.int64), offsets_of(counts))

    @classmethod
    def blocks(cls, n_units: int, n_shards: int, together: int = 1) -> UnitLayout:
        """Contiguous blocks whose sizes differ by at most one, or by ``together`` units, which have one owner.

        Raises LayoutError for what are no numbers of units.
        """
        n_units = plain.integer_number("n_units", n_units, error=LayoutError, at_least=0, at_most=MOST_UNITS)
        n_shards = plain.integer_number("n_shards", n_shards, error=LayoutError, at_least=1, at_most=MOST_SHARDS)
        n_groups = -(-n_units // together)
        group = np.arange(n_units, dtype=np.int64) // together
        return cls.from_owners(group * n_shards // max(n_groups, 1), n_shards)

    def with_whole(self, together: int) -> UnitLayout:
        """The same owners, but ``together`` units in a row have one: whoever has most of them, the first of such."""
        if together == 1:
            return self
        groups = np.arange(self.n_units) // together
        counts = np.zeros((-(-self.n_units // together), self.n_shards), np.int64)
        np.add.at(counts, (groups, self.owner), 1)
        return UnitLayout.from_owners(counts.argmax(axis=1)[groups], self.n_shards)

    def splits(self, together: int) -> bool:
        """Whether any ``together`` units in a row have several owners."""
        first = self.owner[np.arange(self.n_units) // together * together]
        return bool((first != self.owner).any())

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

    def _repr_html_(self) -> str:
        """For notebooks: how many units each shard owns.  Not collective."""
        is_small = is_drawable([self.n_units], self.n_shards)
        chart = owners_chart({"units": self.owner}, self.n_shards, "shard") if is_small else ""
        each = f"{spread(self.counts)} on each of {self.n_shards:,} shard(s)"
        return card(f"UnitLayout: {self.n_units:,} units, {each}", chart)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, UnitLayout)
            and np.array_equal(self.ordering, other.ordering)
            and np.array_equal(self.offsets, other.offsets)
        )


@dataclass(frozen=True)
class NetworkLayout:
    """The owners of every layer of a network, input to output, and the layout of each RBM's weights.

    matrix_layouts   for each pair of neighbouring layers one of MATRIX_LAYOUTS, SPARSE, or AUTO, which
                     ``plan.resolve`` or the network replaces
    connections      of every RBM, None where they are complete; empty where they are not given
    """

    layers: tuple[UnitLayout, ...]
    matrix_layouts: tuple[str, ...]
    connections: tuple[Connections | None, ...] = ()

    def __post_init__(self) -> None:
        known = set(self.matrix_layouts) <= {*MATRIX_LAYOUTS, AUTO, SPARSE}
        if len(self.matrix_layouts) != len(self.layers) - 1 or not known:
            raise LayoutError(
                f"the matrices between {len(self.layers)} layers are held as {self.matrix_layouts}, but each needs one "
                f"of {', '.join(MATRIX_LAYOUTS)}"
            )

    def _repr_html_(self) -> str:
        """For notebooks: the units of each shard, and how the weights above every layer are held.  Not collective."""
        words = (*self.matrix_layouts, "")
        rows = [
            [str(i), f"{layer.n_units:,}", spread(layer.counts), word]
            for i, (layer, word) in enumerate(zip(self.layers, words, strict=True))
        ]
        n_shards = self.layers[0].n_shards
        is_small = is_drawable((layer.n_units for layer in self.layers), n_shards)
        owners = by_layer(layer.owner for layer in self.layers if is_small)
        return card(
            f"NetworkLayout: {len(self.layers)} layers on {n_shards:,} model shard(s)",
            table(("layer", "units", "of a shard", "weights above"), rows, numbers=(1, 2)),
            owners_chart(owners, n_shards, "shard"),
        )

    @classmethod
    def from_owners(cls, owners: Sequence[npt.ArrayLike], n_shards: int, layout: str = AUTO) -> NetworkLayout:
        """One owner array per layer; ``layout`` as :func:`layout_words` takes it.  Raises LayoutError."""
        layers = tuple(UnitLayout.from_owners(owner, n_shards) for owner in _layers("owners", owners))
        return cls(layers, layout_words(layout, len(layers) - 1))

    @classmethod
    def blocks(cls, sizes: Sequence[int], n_shards: int, layout: str = AUTO, *, together: int = 1) -> NetworkLayout:
        """Contiguous blocks in every layer; ``layout`` as :func:`layout_words` takes it.  Raises LayoutError.

        together   so many visible units in a row have the same owner
        """
        layers = tuple(
            UnitLayout.blocks(n, n_shards, 1 if i else together) for i, n in enumerate(_layers("sizes", sizes))
        )
        return cls(layers, layout_words(layout, len(layers) - 1))


def _layers(name: str, values: Sequence[Any]) -> list[Any]:
    """The elements, one for each layer.  Raises LayoutError."""
    try:
        if not len(values) or isinstance(values, str | bytes):
            raise TypeError
        return list(values)
    except TypeError:
        raise LayoutError(f"{name} are {plain.shown(values)}, but must be a list, with those of each layer") from None


def layout_words(layout: str, n_matrices: int) -> tuple[str, ...]:
    """The layout asked for of each matrix: ``auto``, one of MATRIX_LAYOUTS, or a comma-separated list of them.

    Raises LayoutError for an unknown word, and unless there are one or ``n_matrices`` of them.
    """
    words = [word.strip() for word in plain.text("layout", layout, error=LayoutError).split(",")]
    if len(words) == 1:
        words *= n_matrices
    if len(words) != n_matrices:
        raise LayoutError(
            f"{len(words)} layouts were given ({layout}), but the network has {n_matrices} weight matrices"
        )
    for word in words:
        if word not in (AUTO, *MATRIX_LAYOUTS):
            *most, last = MATRIX_LAYOUTS
            raise LayoutError(f"layout {word!r} is not known; use auto, {', '.join(most)} or {last}")
    return tuple(words)


@dataclass(frozen=True)
class AutoContext:
    """The inputs to the choice of ``auto``: where a model's shards are, and whether a second block of weights fits.

    By default all shards are on one node, and no layout is dual.
    """

    n_shards: int = 1
    far: bool = False  # whether shards are on several nodes
    dual_fits: bool = False  # whether a second block fits into memory

    def choose(self, lower: int, upper: int) -> str:
        """The layout of the matrix between layers with these numbers of units.

        The larger side is split, so that the activations of the smaller one travel: a column layout splits the upper
        layer and moves the lower one's activations; a row layout does the opposite.  Between nodes the layout is dual
        where that fits and is predicted to be faster (``costs``).
        """
        plain = "column" if upper >= lower else "row"
        if not (self.far and self.dual_fits):  # within a node, summing takes less time than updating a second block
            return plain
        return "dual" if dual_pays(lower, upper, self.n_shards, plain) else plain
