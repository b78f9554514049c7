"""Data sets: tables of raw values, the rows of a table that form a split, and one rank's columns of a table.

Opening a table reads headers and labels; ``columns`` reads the values, and only those of the units that are asked for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from modelpar.data.column_summary import ColumnSummary
from modelpar.data.columns import Columns, DenseColumns
from modelpar.data.mapped import MappedFile
from modelpar.data.packed import PackedColumns, in_memory
from modelpar.data.sample_weights import check_weights
from modelpar.errors import DataError, together
from modelpar.machine.memory import check_room
from modelpar.values.forms import plain_array

if TYPE_CHECKING:
    from mpi4py import MPI

    from modelpar.data.fingerprint import Fingerprint

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


MOST_SAMPLES, MOST_UNITS = (1 << 32) - 1, (1 << 31) - 1  # as draws can count them


class Table(Protocol):
    """Raw values (n_samples, n_units), somewhere."""

    name: str  # what error messages call it
    n_samples: int
    n_units: int

    def columns(self, unit_ids: IntArray) -> Columns:
        """The values of ``unit_ids``, in that order.  Raises DataError where the values cannot be read."""


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a table, their labels and weights.

    Minibatches are drawn in proportion to the weights, and scores are means by them; None: all count alike, and so
    they do where all weights are the same.
    """

    table: Table
    rows: IntArray  # (n,) ids of the table's rows, ascending
    labels: IntArray | None = None  # (n,) classes counted from 0
    weights: Doubles | None = None  # (n,) from 0 on, of any scale
    missing: Table | None = None  # a mask of all rows and sites, 1 where a value is to be drawn; None where none is
    # by unit ids, so that values are read once; a split of other rows begins anew
    summaries: dict[bytes, ColumnSummary] = field(init=False, default_factory=dict, repr=False)
    # by unit ids, scaling and threshold: whether values are states, and their bits where these are kept
    states: dict[tuple[Any, ...], tuple[bool, PackedColumns | None]] = field(
        init=False, default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        """Raises DataError where the table does not have these rows, or labels are not classes of them, or weights
        are not numbers from 0 on."""
        name, rows = self.table.name, plain_array(self.rows, f"the rows of {self.table.name}")
        check_ids(rows, self.table.n_samples, f"{name} has {self.table.n_samples} samples, but rows")
        object.__setattr__(self, "rows", rows.astype(np.int64, copy=False))
        if self.weights is not None:
            weights = check_weights(self.weights, len(rows), f"the weights of {name}")
            differ = len(weights) > 0 and weights.min() < weights.max()
            object.__setattr__(self, "weights", weights if differ else None)
        if self.labels is None:
            return
        labels = plain_array(self.labels, f"the labels of {name}")
        if labels.shape != rows.shape:
            raise DataError(f"{name} has {len(rows)} samples in this split, but labels came as {labels.shape}")
        check_ids(labels, 1 << 31, f"{name}: labels are classes, but such")
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.rows)

    def alike(self) -> dict[str, Any]:
        """All that must be the same on every rank: not what was read of it so far."""
        return {"data": self.table, "rows": self.rows, "labels": self.labels, "weights": self.weights}

    def summary(self, unit_ids: IntArray) -> ColumnSummary:
        """One pass over the raw values of ``unit_ids``; remembered.  Raises DataError."""
        if not len(self):
            raise DataError(f"{self.table.name} has no samples in this split to look at")
        unit_ids = unit_ids_of(self.table, unit_ids)
        key = unit_ids.tobytes()
        if key not in self.summaries:
            self.summaries[key] = self.table.columns(unit_ids).summary(self.rows)
        return self.summaries[key]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set, and what else there is; the same on every rank except for the columns that are read later."""

    name: str
    n_visible: int
    n_classes: int  # 0: no labels
    image_shape: tuple[int, int] | None  # (rows, columns) of the picture that one sample is
    train: Split
    validation: Split | None
    test: Split | None
    scale: float  # raw value that means 1.0: 255 for grey values in bytes, 16 for digits, 1 for states and floats
    binarise: str = "none"  # as in DataSpec
    scale_given: bool = False  # as in DataSpec, and not taken from the type
    has_options: bool = True  # a DataSpec can be given for it: messages may name its options
    fingerprint: Fingerprint | None = None  # what the data are known by; None where they came from no file or name
    visible: str = ""  # kind of visible units that the data themselves are for, as categorical:21; "" where any
    alphabet: str = ""  # letters of the states of categorical units, in their order; "" where they have none


@dataclass(frozen=True, eq=False)
class Source:
    """A reader's result: a table, its labels, and the test set where it has one of its own."""

    table: Table
    scale: float
    image_shape: tuple[int, int] | None
    labels: IntArray | None = None
    test: Source | None = None
    visible: str = ""  # as in Dataset
    alphabet: str = ""  # as in Dataset
    kind: str = ""  # what the file holds, for people; empty where the table says enough
    how: str = ""  # in which of several ways a file was read: it is other data in another way
    notes: tuple[str, ...] = ()  # warnings about how it was read
    facts: Mapping[str, Any] = field(default_factory=dict)  # what its reader has counted, for ``modelpar data``
    weights: Doubles | None = None  # (n,) of the samples, as in Split; those of 0 too
    missing: Table | None = None  # as in Split


@dataclass(eq=False)
class MappedTable:
    """An array (n, width) of uint8, bool, float32 or float64, memory-mapped or in memory; values are read minibatch by
    minibatch.

    file   that the array is mapped to, None where it is in memory
    """

    name: str
    array: Array
    file: MappedFile | None = None

    def __post_init__(self) -> None:
        self.n_samples, self.n_units = self.array.shape
        self.was_bool = self.array.dtype == np.bool_
        if self.array.dtype == np.bool_:
            self.array = self.array.view(np.uint8)

    def alike(self) -> Array:
        """All that must be the same on every rank."""
        return self.array

    def columns(self, unit_ids: IntArray) -> DenseColumns:
        """A view: nothing is read or copied.  Raises DataError for units that there are not."""
        return DenseColumns(self.array, unit_ids_of(self, unit_ids), self.file)


class EagerTable(ABC):
    """A table whose columns are read into memory; the columns asked for last are kept, as splits share them.

    path   of the file that takes time to read, None where it does not
    """

    def __init__(self, name: str, n_samples: int, n_units: int, path: Path | None = None) -> None:
        self.name, self.n_samples, self.n_units, self.path = name, n_samples, n_units, path
        self._kept: tuple[bytes, Columns] | None = None

    def columns(self, unit_ids: IntArray) -> Columns:
        """See :meth:`Table.columns`."""
        unit_ids = unit_ids_of(self, unit_ids)
        key = unit_ids.tobytes()
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # let go of the old columns before the new ones are read
            self._kept = key, self.read(unit_ids)
        return self._kept[1]

    def alike(self) -> tuple[int, int]:
        """All that must be the same on every rank, as far as it is known without reading the values."""
        return self.n_samples, self.n_units

    @abstractmethod
    def read(self, unit_ids: IntArray) -> Columns:
        """Read the columns; called for new ``unit_ids`` only.  Raises DataError."""

    def pieces(self) -> Iterator[tuple[int, Columns]]:
        """All rows and all columns, some rows (how many, their columns) at a time.  Raises DataError."""
        yield self.n_samples, self.read(np.arange(self.n_units))


class LoadedTable(EagerTable):
    """An array in any order and number of dimensions, such as a Fortran-ordered file, loaded when columns are asked.

    given   the type that it came as
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], given: np.dtype[Any], load: Callable[[], Array],
        path: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, shape[0], math.prod(shape[1:]), path)
        self.shape, self.given, self.load = shape, given, load

    def read(self, unit_ids: IntArray) -> Columns:
        """Pick the columns out of the loaded array."""
        array = self.load()
        every: Any = slice(None)
        check_room(len(array) * len(unit_ids) * array.dtype.itemsize, self.name)
        picked = array[(every, *np.unravel_index(unit_ids, self.shape[1:]))]
        return in_memory(plain_values(picked, self.name), self.name)


def unit_ids_of(table: Table, unit_ids: npt.ArrayLike) -> IntArray:
    """Ids of units of a table, (n,) int64; a copy.  Raises DataError where it does not have them: kernels would not."""
    ids = plain_array(unit_ids, "the ids of units")
    check_ids(ids, table.n_units, f"{table.name} has {table.n_units} units, but units")
    return ids.astype(np.int64)


def check_ids(ids: Array, n: int, what: str) -> None:
    """Raise DataError unless ``ids`` are integers from 0 to ``n`` - 1 in one dimension."""
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "ui"):
        raise DataError(f"{what} came as {ids.dtype} of shape {ids.shape}; give integers in one dimension")
    if len(ids) and (ids.min() < 0 or ids.max() >= n):
        raise DataError(f"{what} from {int(ids.min())} to {int(ids.max())} are wanted; they are counted from 0")


def scale_of(dtype: np.dtype[Any], name: str) -> float:
    """The raw value that means 1.0.  Raises DataError for types that are not values of units."""
    if dtype == np.uint8:
        return 255.0
    if dtype.kind in "bui" or dtype.newbyteorder("=") in (np.float32, np.float64):
        return 1.0
    kind = "Python objects" if dtype.kind == "O" else f"values of type {dtype}"
    raise DataError(
        f"{name} holds {kind}, but uint8, bool, float32 or float64 is needed; convert it with .astype(np.float32)"
    )


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which values are kept: native floats; one byte for everything else."""
    return dtype.newbyteorder("=") if dtype.kind == "f" else np.dtype(np.uint8)


def plain_values(values: Array, name: str) -> Array:
    """Values as they are kept.  Raises DataError where wide integers are not states."""
    if values.dtype.kind in "ui" and values.dtype != np.uint8 and ((values != 0) & (values != 1)).any():
        raise DataError(
            f"{name} holds {values.dtype} values from {int(values.min())} to {int(values.max())}, but integers other "
            "than uint8 must be 0 or 1; convert it: grey values .astype(np.uint8), others .astype(np.float32)"
        )
    return values.astype(plain_dtype(values.dtype), copy=False)


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise DataError unless ``shape`` is samples x units, or samples x the dimensions of a picture."""
    if len(shape) < 2:
        raise DataError(f"{name} has {len(shape)} dimension(s), but data need at least two: samples x units")
    if 0 in shape:
        raise DataError(f"{name} is empty: its shape is {' x '.join(map(str, shape))}")
    if shape[0] > MOST_SAMPLES or math.prod(shape[1:]) > MOST_UNITS:
        raise DataError(
            f"{name} has the shape {' x '.join(map(str, shape))}, but there are at most {MOST_SAMPLES} samples of "
            f"{MOST_UNITS} units"
        )


def image_shape_of(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(rows, columns) of one sample of an array of this shape, None where it is not a grey picture."""
    sides = [side for side in shape[1:] if side > 1]
    if len(shape) > 2:
        return (sides[0], sides[1]) if len(sides) == 2 else None
    side = math.isqrt(shape[1])
    return (side, side) if side > 1 and side * side == shape[1] else None


def agreed(comm: MPI.Comm | None) -> AbstractContextManager[None]:
    """Failures of the block are raised on every rank of ``comm``; without one they are this rank's own."""
    return nullcontext() if comm is None else together(comm)
