"""Arrays in files of a library's own format, as tables: rows some at a time, and of these a rank's columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import Source, check_shape, image_shape_of, scale_of
from modelpar.data.read_options import ReadOptions
from modelpar.data.reading import RowTable
from modelpar.formats.hdf5 import Hdf5Array

Array = npt.NDArray[Any]


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
