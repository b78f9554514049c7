"""One rank's columns of a table: what a minibatch is filled from."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modelpar.data.column_summary import ColumnSummary, summary_of_dense
from modelpar.data.gather_dense import affine, arithmetic_of, fill_bytes, fill_floats

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
    """Columns of a C-contiguous array (n, width) of uint8, float32 or float64, in memory or memory-mapped."""

    def __init__(self, source: Array, unit_ids: IntArray | None = None) -> None:
        # Read-only always: a writable array is another type to numba and would compile every kernel again.
        self.source = np.asarray(source).view()
        self.source.flags.writeable = False
        ids = np.arange(source.shape[1]) if unit_ids is None else unit_ids
        self.unit_ids = np.array(ids, dtype=np.int64)
        self.n_units = len(self.unit_ids)
        self.adjacent = bool(np.all(np.diff(self.unit_ids) == 1))

    def fill(self, rows: IntArray, out: Array, offset: Array | None = None, scale: Array | None = None) -> None:
        """See :meth:`Columns.fill`."""
        arithmetic = arithmetic_of(self.source.dtype, out, offset)
        offset, scale = affine(self.n_units, len(rows), out, arithmetic, offset, scale)
        if self.source.dtype == np.uint8:
            fill_bytes(self.source, rows, self.unit_ids, self.adjacent, offset, scale, out)
        else:
            fill_floats(self.source, rows, self.unit_ids, offset, scale, out)

    def summary(self, rows: IntArray) -> ColumnSummary:
        """See :meth:`Columns.summary`."""
        return summary_of_dense(self.source, rows, self.unit_ids)
