"""Arrays in files of a library's own format, as tables: rows some at a time, and of these a rank's columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modelpar.data.arrays import LABEL_KEYS
from modelpar.data.dataset import Source, check_shape, image_shape_of, scale_of
from modelpar.data.read_options import FILLED, ReadOptions
from modelpar.data.reading import RowTable, check_labels
from modelpar.formats.arrow import CsvTable, ParquetTable
from modelpar.formats.hdf5 import Hdf5Array
from modelpar.formats.zarr import ZarrArray

Array = npt.NDArray[Any]

_LABELS = (*LABEL_KEYS, "label")  # names of a column that has them


class StoredArray(Protocol):
    """An array (samples, ...) in a file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        """How messages call it."""

    def blocks(self, units: slice) -> Iterator[Array]:
        """The values ``units`` of all samples (n, values of a sample), some samples at a time.  Raises DataError."""


class StoredTable(RowTable):
    """The samples of an array in a file."""

    def __init__(self, array: StoredArray) -> None:
        super().__init__(array.name, array.shape[0], math.prod(array.shape[1:]), array.dtype, array.path)
        self.array_in_file = array

    def raw_rows(self, units: slice) -> Iterator[Array]:
        """See :meth:`RowTable.raw_rows`."""
        return self.array_in_file.blocks(units)


def _source(array: StoredArray, kind: str) -> Source:
    """Raises DataError where an array cannot be samples."""
    scale = scale_of(array.dtype, array.name)
    check_shape(array.shape, array.name)
    where = array.name.removeprefix(str(array.path))
    return Source(StoredTable(array), scale, image_shape_of(array.shape), kind=f"{kind} of {array.dtype}", how=where)


def open_hdf5(path: Path, inner: str, options: ReadOptions) -> Source:
    """Samples in an array of an HDF5 file.  Reads its header.  Raises DataError."""
    return _source(Hdf5Array(path, inner), "HDF5 array")


def open_zarr(path: Path, inner: str, options: ReadOptions) -> Source:
    """Samples in an array of a Zarr store.  Reads its metadata, and the sizes of its files.  Raises DataError."""
    return _source(ZarrArray(path, inner), "Zarr array")


def open_parquet(path: Path, options: ReadOptions) -> Source:
    """Samples, and labels where a column has such a name, in a Parquet file.  Reads its schema.  Raises DataError."""
    gaps, integers = options.missing in FILLED, bool(options.n_states)
    return _with_labels(ParquetTable(path, _LABELS, gaps=gaps, integers=integers), "Parquet table")


def open_csv(path: Path, options: ReadOptions) -> Source:
    """The same of a CSV file, which is read once to count its lines.  Raises DataError."""
    gaps, integers = options.missing in FILLED, bool(options.n_states)
    return _with_labels(CsvTable(path, _LABELS, integers=integers, gaps=gaps), "CSV table")


def _with_labels(table: ParquetTable | CsvTable, kind: str) -> Source:
    source, given = _source(table, kind), table.labels()
    labels = None if given is None else check_labels(given, table.shape[0], f"column {table.label!r} of {table.path}")
    return replace(source, labels=labels)
