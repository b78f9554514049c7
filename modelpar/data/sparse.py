"""Sparse matrices, in memory or as scipy saves them (``scipy.sparse.save_npz``); they stay sparse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from modelpar.data.column_summary import ColumnSummary, summary_of_sparse
from modelpar.data.dataset import (
    EagerTable,
    Source,
    check_shape,
    image_shape_of,
    plain_values,
    scale_of,
)  # fmt: skip
from modelpar.data.gather_dense import affine, fill_sparse
from modelpar.errors import DataError
from modelpar.formats.archive import Archive
from modelpar.formats.reading import chunks, reading
from modelpar.formats.sparse import format_in, rows_in, shape_in
from modelpar.machine.memory import check_room
from modelpar.values.forms import Rows, summed_rows
from modelpar.values.offsets import offsets_of

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_ENTRIES = 1 << 17  # entries read at a time


class SparseColumns:
    """Columns of a CSR matrix (n, n_units) of uint8, float32 or float64, without duplicate entries."""

    def __init__(self, matrix: scipy.sparse.csr_array) -> None:
        self.matrix, self.n_units = matrix, matrix.shape[1]
        # Read-only and contiguous always: any other array would have the kernels compiled again.
        self.indptr = _fixed(matrix.indptr.astype(np.int64))
        self.indices, self.data = _fixed(matrix.indices), _fixed(matrix.data)
        self.dtype = matrix.dtype

    @property
    def nbytes(self) -> int:
        """Memory of the entries."""
        return int(self.matrix.data.nbytes + self.matrix.indices.nbytes + self.indptr.nbytes)

    def fill(self, rows: IntArray, out: Array, offset: Array | None = None, scale: Array | None = None) -> None:
        """out = ((values[rows] - offset) / scale).T   rows (batch,); offset, scale (n_units,); out (n_units, batch)"""
        offset, scale = affine(self.n_units, len(rows), out, np.float64, offset, scale)
        fill_sparse(self.indptr, self.indices, self.data, rows, offset, scale, out)

    def summary(self, rows: IntArray) -> ColumnSummary:
        """Mean, standard deviation, smallest and largest raw value of each unit over ``rows``."""
        picked = self.matrix[rows]
        first = picked[[0]].toarray()[0]
        return summary_of_sparse(picked.indices, picked.data, len(rows), self.n_units, first)


def _fixed(values: Array) -> Array:
    view = np.ascontiguousarray(values).view()
    view.flags.writeable = False
    return view


def sparse_columns(rows: Rows, name: str, unit_ids: IntArray | None = None) -> SparseColumns:
    """The columns ``unit_ids`` of a matrix, all where None.  Raises DataError for values that units cannot have."""
    values = plain_values(rows.values, name)
    matrix = Rows(rows.starts, rows.columns, values, rows.shape).matrix
    if unit_ids is not None and not np.array_equal(unit_ids, np.arange(rows.shape[1])):
        matrix = matrix[:, unit_ids]
    return SparseColumns(matrix)


class SparseTable(EagerTable):
    """A matrix in memory."""

    def __init__(self, name: str, rows: Rows) -> None:
        super().__init__(name, *rows.shape)
        self.rows = rows

    def read(self, unit_ids: IntArray) -> SparseColumns:
        """The columns ``unit_ids``, still sparse."""
        return sparse_columns(self.rows, self.name, unit_ids)


class CsrTable(EagerTable):
    """A CSR matrix in an archive.  Its entries are read in chunks and those of other ranks' columns dropped."""

    def __init__(self, archive: Archive, shape: tuple[int, int]) -> None:
        super().__init__(str(archive.path), *shape, path=archive.path)
        self.archive = archive

    def read(self, unit_ids: IntArray) -> SparseColumns:
        """Read row pointers whole, then column indices and values side by side."""
        check_room(8 * (self.n_units + 4 * self.n_samples), self.name)
        position = np.full(self.n_units, -1, np.int64)  # column of the file -> column that is kept
        position[unit_ids] = np.arange(len(unit_ids))
        indptr = self.archive.load("indptr").astype(np.int64)
        n_entries = self.archive.headers["data"].shape[0]
        if (
            len(indptr) != self.n_samples + 1
            or indptr[0] != 0
            or indptr[-1] != n_entries
            or (indptr[1:] < indptr[:-1]).any()
        ):
            raise DataError(
                f"{self.name} is corrupt: its row pointers do not fit its {n_entries} entries; save it again"
            )
        kept = np.zeros(self.n_samples, np.int64)  # entries of each row
        columns, values, start, n_kept = [], [], 0, 0
        of_entry = np.dtype(np.int32).itemsize + self.archive.headers["data"].dtype.itemsize
        for index, value in self._entries(n_entries):
            if len(index) and (index.min() < 0 or index.max() >= self.n_units):
                raise DataError(f"{self.name} is corrupt: it has an entry outside of its {self.n_units} columns")
            column = position[index.astype(np.int64, copy=False)]
            mine = np.flatnonzero(column >= 0)
            columns.append(column[mine].astype(np.int32))
            values.append(value[mine])
            rows = np.searchsorted(indptr, start + mine, side="right") - 1
            if len(rows):  # they ascend
                counts = np.bincount(rows - rows[0])
                kept[rows[0] : rows[0] + len(counts)] += counts
            start, n_kept = start + len(index), n_kept + len(mine)
            check_room(n_kept * of_entry, self.name)  # once more, when the parts are joined
        # duplicates add up in the type that came, as in every other form: two integers may be a third, or none
        dtype = self.archive.headers["data"].dtype
        starts, shape = offsets_of(kept), (self.n_samples, len(unit_ids))
        entries = _joined(columns, np.dtype(np.int32)), _joined(values, dtype)
        return sparse_columns(summed_rows(starts, *entries, shape, self.name), self.name)

    def _entries(self, n_entries: int) -> Iterator[tuple[Array, Array]]:
        headers = self.archive.headers
        with reading(self.name), self.archive.values("indices")() as first, self.archive.values("data")() as second:
            for start in range(0, n_entries, _ENTRIES):
                n = min(_ENTRIES, n_entries - start)
                index = np.concatenate([part[:, 0] for part in chunks(first, n, headers["indices"].dtype)])
                value = np.concatenate([part[:, 0] for part in chunks(second, n, headers["data"].dtype)])
                yield index, value


def _joined(parts: list[Array], dtype: np.dtype[Any]) -> Array:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)


class ConvertedTable(EagerTable):
    """A sparse matrix in another format, read whole and converted to CSR when columns are asked for."""

    def __init__(self, archive: Archive, kind: str, shape: tuple[int, int]) -> None:
        super().__init__(str(archive.path), *shape, path=archive.path)
        self.archive, self.kind, self.shape = archive, kind, shape

    def read(self, unit_ids: IntArray) -> SparseColumns:
        """Load, convert, keep the columns ``unit_ids``."""
        return sparse_columns(rows_in(self.archive, self.kind, self.shape), self.name, unit_ids)


def open_sparse(archive: Archive) -> Source:
    """Samples in a sparse matrix (samples, units).  Reads headers.  Raises DataError."""
    name = str(archive.path)
    shape = shape_in(archive)
    check_shape(shape, name)
    if len(shape) != 2:
        raise DataError(f"{name} has {len(shape)} dimensions, but a sparse matrix needs two: samples x units")
    scale = scale_of(archive.headers["data"].dtype, name)
    kind, table = format_in(archive), None
    if kind == "csr":
        _check_csr(archive, shape[0])
        table = CsrTable(archive, shape)
    return Source(table or ConvertedTable(archive, kind, shape), scale, image_shape_of(shape))


def _check_csr(archive: Archive, n_samples: int) -> None:
    """Raise DataError unless the headers of the arrays of a CSR matrix fit together."""
    name, headers = str(archive.path), archive.headers
    if len(headers["data"].shape) != 1 or headers["indices"].shape != headers["data"].shape:
        raise DataError(f"{name} is corrupt: it has another number of column indices than of values; save it again")
    if headers["indptr"].shape != (n_samples + 1,):
        raise DataError(f"{name} is corrupt: its row pointers do not fit its {n_samples} samples; save it again")
    for key in ("indices", "indptr"):
        if headers[key].dtype.kind not in "iu":
            raise DataError(
                f"{archive.where(key)} is of type {headers[key].dtype}, but must be integers; save it again"
            )
