"""Which visible unit is connected with which hidden unit: a pure value without MPI, the same on every rank.

Connections are numbered hidden unit by hidden unit, visible units ascending inside each.  The number of a connection is
the index of its weight in a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from modelpar.errors import SpecError
from modelpar.machine.memory import check_room
from modelpar.values.forms import Rows, plain_array, plain_rows
from modelpar.values.offsets import offsets_of

IntArray = npt.NDArray[np.int64]
Ids = npt.NDArray[np.integer[Any]]


class Connections(Protocol):
    """The connections of one RBM.

    widest, widest_down   the most connections that a hidden, a visible unit has
    described             whether a network's spec describes them: no list is needed, and all hidden units have as many
    """

    @property
    def described(self) -> bool: ...
    @property
    def n_visible(self) -> int: ...
    @property
    def n_hidden(self) -> int: ...
    @property
    def n_connections(self) -> int: ...
    @property
    def widest(self) -> int: ...
    @property
    def widest_down(self) -> int: ...

    def degrees(self) -> tuple[IntArray, IntArray]:
        """(n_visible,) and (n_hidden,) connections of every unit"""

    def offsets_of(self, hidden: IntArray) -> IntArray:
        """(n,) the number of the first connection of each of these hidden units"""

    def kinds_of(self, hidden: IntArray) -> IntArray:
        """(n,) a number for each of these hidden units: equal numbers mean connections with the same units"""

    def below(self, hidden: IntArray) -> tuple[IntArray, Ids]:
        """(n + 1,) offsets and (connections,) visible units of these hidden units, ascending inside each"""

    def above(self, visible: IntArray) -> tuple[IntArray, Ids, IntArray]:
        """(n + 1,) offsets, (connections,) hidden units of these visible units, ascending inside each, and numbers of
        these connections"""


@dataclass(frozen=True, eq=False)
class Listed:
    """Connections in a list, as in the CSC format of scipy.sparse.  Raises SpecError where that is damaged."""

    offsets: IntArray  # (n_hidden + 1,)
    visible: npt.NDArray[np.int32]  # (n_connections,) ascending inside each hidden unit
    n_visible: int

    def __post_init__(self) -> None:
        """Compiled kernels trust the lists."""
        n = len(self.visible)
        starts, whole = self.offsets[:-1], len(self.offsets) > 0 and self.offsets[0] == 0 and self.offsets[-1] == n
        if not whole or (starts > self.offsets[1:]).any():
            raise SpecError(f"the offsets of {n} connections must ascend from 0 to {n}, once for each hidden unit")
        if n and (self.visible.min() < 0 or self.visible.max() >= self.n_visible):
            raise SpecError(f"connections name a visible unit outside of 0 to {self.n_visible - 1}")
        descends = self.visible[1:] <= self.visible[:-1]
        descends[starts[(starts > 0) & (starts < n)] - 1] = False  # from one hidden unit to the next
        if descends.any():
            raise SpecError("connections of a hidden unit must name its visible units once, in ascending order")

    @classmethod
    def from_mask(cls, mask: Any, name: str = "the mask") -> Listed:
        """From a mask (n_visible, n_hidden), an array or one of scipy.sparse: what is not 0 is connected.

        ``name`` stands for it in errors.  Raises SpecError unless it has two dimensions and numbers without NaN.
        """
        rows = mask_rows(mask, name)
        return cls.from_rows(rows)

    @classmethod
    def from_rows(cls, rows: Rows) -> Listed:
        """From the visible units that each hidden unit is connected with, whatever the values are."""
        return cls(rows.starts, rows.columns.astype(np.int32), rows.shape[1])

    described = False

    @property
    def n_hidden(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_connections(self) -> int:
        return len(self.visible)

    @cached_property
    def widest(self) -> int:
        return int(np.diff(self.offsets).max(initial=0))

    @cached_property
    def widest_down(self) -> int:
        return int(np.bincount(self.visible, minlength=1).max(initial=0))

    def degrees(self) -> tuple[IntArray, IntArray]:
        return np.bincount(self.visible, minlength=self.n_visible).astype(np.int64), np.diff(self.offsets)

    def offsets_of(self, hidden: IntArray) -> IntArray:
        return self.offsets[hidden]

    def kinds_of(self, hidden: IntArray) -> IntArray:
        offsets, below = self.below(hidden)
        kinds: dict[bytes, int] = {}
        lists = (below[a:b].tobytes() for a, b in pairwise(offsets.tolist()))
        return np.fromiter((kinds.setdefault(units, len(kinds)) for units in lists), np.int64, len(hidden))

    def below(self, hidden: IntArray) -> tuple[IntArray, Ids]:
        counts = self.offsets[hidden + 1] - self.offsets[hidden]
        offsets = offsets_of(counts)
        return offsets, self.visible[runs(self.offsets[hidden], counts)]

    def above(self, visible: IntArray) -> tuple[IntArray, Ids, IntArray]:
        chosen = np.zeros(self.n_visible, bool)
        chosen[visible] = True
        numbers = np.flatnonzero(chosen[self.visible])
        below = self.visible[numbers]
        order = np.argsort(below, kind="stable")  # hidden units stay ascending
        numbers, below = numbers[order], below[order]
        hidden = np.searchsorted(self.offsets, numbers, side="right") - 1
        # the caller's order of visible units
        starts, ends = np.searchsorted(below, visible), np.searchsorted(below, visible, side="right")
        offsets = offsets_of(ends - starts)
        positions = runs(starts, ends - starts)
        return offsets, hidden[positions], numbers[positions]


@dataclass(frozen=True)
class Local:
    """Receptive fields on an image with several maps, untied (Dean et al. 2012): units map by map, row by row.

    A hidden unit at (r, c) of any map sees field x field positions of all maps below, from (r, c) * stride on.
    """

    maps_below: int
    rows: int
    columns: int
    maps: int
    field: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.field < 1 or self.stride < 1 or self.field > min(self.rows, self.columns):
            raise SpecError(
                f"--connections: fields of {self.field}x{self.field}, every {self.stride} units, do not fit into a "
                f"grid of {self.rows}x{self.columns} units"
            )

    described = True

    @property
    def positions(self) -> tuple[int, int]:
        """(rows, columns) of the positions of fields"""
        return (self.rows - self.field) // self.stride + 1, (self.columns - self.field) // self.stride + 1

    @property
    def n_visible(self) -> int:
        return self.maps_below * self.rows * self.columns

    @property
    def n_hidden(self) -> int:
        return self.maps * self.positions[0] * self.positions[1]

    @property
    def widest(self) -> int:
        return self.maps_below * self.field**2

    @property
    def widest_down(self) -> int:
        reach = -(-self.field // self.stride)
        return self.maps * min(reach, self.positions[0]) * min(reach, self.positions[1])

    @property
    def n_connections(self) -> int:
        return self.n_hidden * self.widest

    def degrees(self) -> tuple[IntArray, IntArray]:
        rows, columns = self._seen(self.rows, self.positions[0]), self._seen(self.columns, self.positions[1])
        visible = np.tile(np.outer(rows, columns).reshape(-1) * self.maps, self.maps_below)
        return visible, np.full(self.n_hidden, self.widest, np.int64)

    def _seen(self, n: int, n_positions: int) -> IntArray:
        """(n,) how many fields along one side of the image each of its n units is in"""
        starts = np.arange(n_positions) * self.stride
        changes = np.bincount(starts, minlength=n + 1) - np.bincount(starts + self.field, minlength=n + 1)
        return np.cumsum(changes)[:n].astype(np.int64)

    def offsets_of(self, hidden: IntArray) -> IntArray:
        return np.asarray(hidden, np.int64) * self.widest

    def kinds_of(self, hidden: IntArray) -> IntArray:
        return np.asarray(hidden, np.int64) % (self.positions[0] * self.positions[1])

    def below(self, hidden: IntArray) -> tuple[IntArray, Ids]:
        above, across = self.positions
        r, c = np.divmod(np.asarray(hidden, np.int64) % (above * across), across)
        corner = (r * self.columns + c) * self.stride
        m, i, j = np.ix_(np.arange(self.maps_below), np.arange(self.field), np.arange(self.field))
        field = (m * self.rows * self.columns + i * self.columns + j).reshape(-1)
        seen = (corner[:, None] + field).astype(np.int32).reshape(-1)
        return np.arange(len(hidden) + 1, dtype=np.int64) * self.widest, seen

    def above(self, visible: IntArray) -> tuple[IntArray, Ids, IntArray]:
        height, width = self.positions
        m, position = np.divmod(np.asarray(visible, np.int64), self.rows * self.columns)
        y, x = np.divmod(position, self.columns)
        reach = -(-self.field // self.stride)
        back = np.arange(reach - 1, -1, -1)
        r, c = (y // self.stride)[:, None] - back, (x // self.stride)[:, None] - back  # (n, reach) fields
        i, j = y[:, None] - r * self.stride, x[:, None] - c * self.stride  # positions in their fields
        row_sees = (r >= 0) & (r < height) & (i < self.field)
        column_sees = (c >= 0) & (c < width) & (j < self.field)
        sees = (row_sees[:, :, None] & column_sees[:, None, :])[:, None]
        maps = np.arange(self.maps)[None, :, None, None]
        hidden = (maps * height + r[:, None, :, None]) * width + c[:, None, None, :]
        within = (m[:, None] * self.field + i)[:, :, None] * self.field + j[:, None, :]
        numbers = hidden * self.widest + within[:, None]
        sees = np.broadcast_to(sees, hidden.shape)
        offsets = offsets_of(sees.reshape(len(visible), -1).sum(axis=1))
        return offsets, hidden[sees].astype(np.int32), numbers[sees]


def check_mask_type(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Raise SpecError for an array that is no mask."""
    if len(shape) != 2:
        raise SpecError(f"{name} has {len(shape)} dimensions, but a mask has two: visible x hidden units")
    if dtype.kind not in "biuf":
        raise SpecError(f"{name} holds {dtype}, but a mask has truth values or numbers")


def mask_rows(mask: Any, name: str) -> Rows:
    """The visible units, ascending, that a mask (n_visible, n_hidden) connects with each hidden unit.

    ``name`` stands for the mask in errors.  Raises SpecError.
    """
    if not sparse.issparse(mask):
        mask = plain_array(mask, name, SpecError)
    check_mask_type(mask.shape, mask.dtype, name)
    if sparse.issparse(mask):
        rows = plain_rows(mask, name, SpecError, transposed=True)
    else:
        check_room(int(np.count_nonzero(mask)) * (4 * 8 + mask.itemsize), name, SpecError)
        hidden, visible = np.nonzero(mask.T)
        starts = offsets_of(np.bincount(hidden, minlength=mask.shape[1]))
        rows = Rows(starts, visible.astype(np.int32), mask.T[hidden, visible], (mask.shape[1], mask.shape[0]))
    check_mask_values(rows, name)
    return rows


def check_mask_values(rows: Rows, name: str) -> None:
    """Raise SpecError where values say neither yes nor no."""
    if rows.values.dtype.kind == "f" and np.isnan(rows.values).any():
        raise SpecError(f"{name} holds NaN, but a mask has truth values or numbers")


def runs(starts: IntArray, counts: IntArray) -> IntArray:
    """starts[0] .. starts[0] + counts[0] - 1, then the same for starts[1], and so on, in one array"""
    total = int(counts.sum())
    ends = np.cumsum(counts)
    return np.arange(total, dtype=np.int64) + np.repeat(np.asarray(starts, np.int64) - (ends - counts), counts)


def mask_of(connections: Connections) -> Any:
    """The mask (n_visible, n_hidden) as a boolean CSC array of scipy.sparse; takes memory for every connection."""
    offsets, visible = connections.below(np.arange(connections.n_hidden))
    shape = connections.n_visible, connections.n_hidden
    return sparse.csc_array((np.ones(len(visible), bool), np.asarray(visible, np.int32), offsets), shape=shape)
