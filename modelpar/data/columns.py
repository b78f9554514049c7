"""One rank's columns of a table: what a minibatch is filled from."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modelpar.data.column_summary import ColumnSummary, summary_of_dense
from modelpar.data.gather_dense import affine, arithmetic_of, fill_bytes, fill_floats
from modelpar.data.mapped import MappedFile

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class Columns(Protocol):
    """The values of some units, for all rows of a table: what one rank keeps."""

    n_units: int

    def fill(self, rows: IntArray, out: Array, offset: Array | None = None, scale: Array | None = None) -> None:
        """out = ((values[rows] - offset) / scale).T   rows (batch,); offset, scale (n_units,); out (n_units, batch)"""

    def summary(self, rows: IntArray) -> ColumnSummary:
        """Mean, standard deviation, smallest and largest raw value of each unit over ``rows``."""


class DenseColumns:
    """Columns of a C-contiguous array (n, width) of uint8, float32 or float64, in memory or mapped to ``file``."""

    def __init__(self, source: Array, unit_ids: IntArray | None = None, file: MappedFile | None = None) -> None:
        self.file = file
        # Read-only always: a writable array is another type to numba and would compile every kernel again.
        self.source = np.asarray(source).view()
        self.source.flags.writeable = False
        ids = np.arange(source.shape[1]) if unit_ids is None else unit_ids
        self.unit_ids = np.array(ids, dtype=np.int64)
        self.n_units = len(self.unit_ids)
        self.adjacent = bool(np.all(np.diff(self.unit_ids) == 1))

    def fill(self, rows: IntArray, out: Array, offset: Array | None = None, scale: Array | None = None) -> None:
        """See :meth:`Columns.fill`.  Raises DataError where a mapped file was truncated."""
        self.check()
        arithmetic = arithmetic_of(self.source.dtype, out, offset)
        offset, scale = affine(self.n_units, len(rows), out, arithmetic, offset, scale)
        if self.source.dtype == np.uint8:
            fill_bytes(self.source, rows, self.unit_ids, self.adjacent, offset, scale, out)
        else:
            fill_floats(self.source, rows, self.unit_ids, offset, scale, out)

    def summary(self, rows: IntArray) -> ColumnSummary:
        """See :meth:`Columns.summary`.  Raises DataError where a mapped file was truncated."""
        self.check()
        return summary_of_dense(self.source, rows, self.unit_ids)

    def check(self) -> None:
        """Raise DataError where a mapped file was truncated: to touch its values would end the process."""
        if self.file is not None:
            self.file.check()
