"""Reading raw rows from files: streams in chunks, only the wanted columns kept; and labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from modelpar.data.columns import Columns, DenseColumns
from modelpar.data.dataset import EagerTable, LoadedTable, MappedTable, Table, plain_dtype, plain_values
from modelpar.data.packed import Keeper
from modelpar.errors import DataError
from modelpar.formats.reading import chunks, reading
from modelpar.machine.memory import check_room
from modelpar.values.forms import plain_array

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class RowTable(EagerTable):
    """Rows that are read from first to last, and not all at once.   dtype: the type that they come as"""

    def __init__(self, name: str, n_samples: int, n_units: int, dtype: np.dtype[Any], path: Path | None = None) -> None:
        super().__init__(name, n_samples, n_units, path)
        self.dtype = dtype

    @abstractmethod
    def raw_rows(self, units: slice) -> Iterator[Array]:
        """The columns ``units`` of all rows, some rows at a time, of type ``dtype``.  Raises DataError."""

    def read(self, unit_ids: IntArray) -> Columns:
        """Read all rows, chunk by chunk, and keep the columns ``unit_ids``, as bits if two values are all they have."""
        if not len(unit_ids):
            return DenseColumns(np.empty((self.n_samples, 0), plain_dtype(self.dtype)))
        span = slice(int(unit_ids.min()), int(unit_ids.max()) + 1)
        wanted: Any = unit_ids - span.start
        if np.all(np.diff(unit_ids) == 1):
            wanted = slice(None)  # a copy of a block is five times faster
        check_room(4 * self.n_units * self.dtype.itemsize, self.name)  # a row, and its copies
        keeper = Keeper(self.n_samples, len(unit_ids), plain_dtype(self.dtype), self.name)
        for rows in self.raw_rows(span):
            keeper.add(plain_values(rows[:, wanted], self.name))
        return keeper.columns()

    def pieces(self) -> Iterator[tuple[int, Columns]]:
        """See :meth:`EagerTable.pieces`."""
        for rows in self.raw_rows(slice(0, self.n_units)):
            yield len(rows), DenseColumns(plain_values(rows, self.name))


class StreamedTable(RowTable):
    """Rows of a stream: compressed files, foreign byte orders, wide integers.

    ``open_rows`` gives a stream that stands at the first row.
    """

    def __init__(
        self, name: str, n_samples: int, n_units: int, dtype: np.dtype[Any],
        open_rows: Callable[[], AbstractContextManager[IO[bytes]]], path: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, n_samples, n_units, dtype, path)
        self.open_rows = open_rows

    def raw_rows(self, units: slice) -> Iterator[Array]:
        """See :meth:`RowTable.raw_rows`."""
        with reading(self.name), self.open_rows() as stream:
            for rows in chunks(stream, self.n_samples, self.dtype, self.n_units):
                yield rows[:, units]
            if stream.read(1):
                raise DataError(f"{self.name} goes on after its last sample; its header is wrong")


def rows_of(table: Table, at_once: int) -> Iterator[Array]:
    """All rows of a dense table as they came, (n, n_units), at most ``at_once`` at a time.  Raises DataError."""
    if isinstance(table, RowTable):
        for block in table.raw_rows(slice(0, table.n_units)):
            yield from (block[start : start + at_once] for start in range(0, len(block), at_once))
        return
    if isinstance(table, MappedTable):
        for start in range(0, table.n_samples, at_once):
            if table.file is not None:
                table.file.check()
            yield table.array[start : start + at_once]
        return
    assert isinstance(table, LoadedTable)
    array = table.load()
    for start in range(0, table.n_samples, at_once):
        some = array[start : start + at_once]
        yield some.reshape(len(some), table.n_units)


def check_count(shape: tuple[int, ...], n_samples: int, name: str) -> None:
    """Raise DataError where an array of this shape has not one label a sample: before it is read."""
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        if shape[0] != n_samples:
            raise DataError(f"{name} has {shape[0]} labels, but there are {n_samples} samples")
    else:
        raise DataError(f"the labels in {name} have {len(shape)} dimensions, but must be one class for each sample")


def check_labels(labels: Any, n_samples: int, name: str) -> IntArray:
    """Labels as int64 (n_samples,), out of integers of any type, in one column or dimension.

    Raises DataError where they cannot be classes of the samples.
    """
    labels = plain_array(labels, f"the labels in {name}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"the labels in {name} have {labels.ndim} dimensions, but must be one class for each sample")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"the labels in {name} are not all finite, but must be integers counted from 0")
    if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
        wrong = labels[labels != np.rint(labels)][0]
        raise DataError(f"the labels in {name} have a class {wrong:g}, but must be integers counted from 0")
    if labels.dtype.kind not in "uibf":
        raise DataError(
            f"the labels in {name} are of type {labels.dtype}, but must be integers counted from 0, as "
            "np.unique(labels, return_inverse=True)[1] makes them"
        )
    if len(labels) != n_samples:
        raise DataError(f"{name} has {len(labels)} labels, but there are {n_samples} samples")
    if len(labels) and labels.min() < 0:
        raise DataError(
            f"the labels in {name} have a negative class {labels.min():.6g}, but classes are counted from 0"
        )
    if len(labels) and labels.max() >= 1 << 16:
        raise DataError(
            f"the labels in {name} have a class {labels.max():.6g}, but classes are counted from 0 to at most 65535"
        )
    return labels.astype(np.int64)
