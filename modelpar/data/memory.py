"""Data sets out of arrays in memory: the whole of them on every rank, or each rank's own columns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy import sparse

from modelpar.data.columns import Columns
from modelpar.data.dataset import (
    LoadedTable,
    MappedTable,
    Source,
    Table,
    agreed,
    check_shape,
    image_shape_of,
    scale_of,
    unit_ids_of,
)
from modelpar.data.sparse import SparseTable
from modelpar.errors import DataError, DisagreementError
from modelpar.values.forms import plain_array, plain_rows

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


def array_source(X: Any, name: str) -> Source:
    """Samples (n_samples, n_units), or (n_samples, rows, columns) of pictures: whatever NumPy makes an array of, or
    any of scipy.sparse's matrices.

    Means the same as the same array in a file.  What is in the engine's own form (C order, of native uint8, bool,
    float32 or float64) is not copied; of anything else each rank copies its own columns when they are wanted.  Raises
    DataError.
    """
    return _source(X, name, at_least=1)


def _source(X: Any, name: str, at_least: int) -> Source:
    if sparse.issparse(X):
        scale = scale_of(X.dtype, name)
        rows = plain_rows(X, name)
        _check(rows.shape, name, at_least)
        return Source(SparseTable(name, rows), scale, image_shape_of(rows.shape))
    array = plain_array(X, name)
    scale = scale_of(array.dtype, name)
    _check(array.shape, name, at_least)
    return Source(_dense_table(array, name), scale, image_shape_of(array.shape))


def _check(shape: tuple[int, ...], name: str, at_least: int) -> None:
    check_shape(shape if at_least else (*shape[:1], *(max(n, 1) for n in shape[1:])), name)


def _dense_table(array: Array, name: str) -> Table:
    kept = array.dtype.isnative and (array.dtype.kind in "bf" or array.dtype == np.uint8)
    if kept and array.flags.c_contiguous and array.flags.aligned:
        return MappedTable(name, array.reshape(len(array), math.prod(array.shape[1:])))
    return LoadedTable(name, array.shape, array.dtype, lambda: array)


class OwnColumns:
    """A table of which this rank has some columns, and other ranks have the others.

    unit_ids   (width of ``mine``,) the units that the columns of ``mine`` are
    """

    def __init__(self, mine: Table, unit_ids: IntArray, n_units: int) -> None:
        self.name, self.n_samples, self.n_units, self.mine = mine.name, mine.n_samples, n_units, mine
        self._positions = np.full(n_units, -1, np.int64)
        self._positions[unit_ids] = np.arange(len(unit_ids))

    def alike(self) -> tuple[int, int]:
        """All that must be the same on every rank: each has values of its own."""
        return self.n_samples, self.n_units

    def columns(self, unit_ids: IntArray) -> Columns:
        """See :meth:`modelpar.data.dataset.Table.columns`.  Raises DataError for units that other ranks have."""
        ids = unit_ids_of(self, unit_ids)
        positions = self._positions[ids]
        if (positions < 0).any():
            raise DataError(
                f"{self.name}: this rank was handed {int((self._positions >= 0).sum())} of {self.n_units} columns, but "
                f"that of unit {int(ids[positions < 0][0])} is wanted; hand over those of network.visible_ids"
            )
        return self.mine.columns(positions)


def own_source(X: Any, columns: npt.ArrayLike, name: str, comm: MPI.Comm | None) -> Source:
    """As :func:`array_source` of a rank's own columns (n_samples, n_mine) of data whose other columns others have.

    columns   (n_mine,) the unit that each column is, in any order; none or all of them is fine

    Collective over ``comm`` where one is given.  Raises DataError, on every rank, where a column is missing everywhere,
    or where ranks have other numbers of samples, or values that mean another thing; DisagreementError where several
    have a column of a unit, but not the same.
    """
    with agreed(comm):
        source = _source(X, name, at_least=0)
        ids = plain_array(columns, f"the units of the columns of {name}")
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "ui") or len(ids) != source.table.n_units:
            raise DataError(
                f"{name} has {source.table.n_units} columns, but their units came as {ids.dtype} of shape "
                f"{ids.shape}; give one integer for each"
            )
        ids = ids.astype(np.int64)
        if len(np.unique(ids)) != len(ids) or ids.min(initial=0) < 0:
            raise DataError(f"{name}: the units of its columns must be different, and counted from 0")
        if ids.max(initial=0) >= 1 << 31:
            raise DataError(f"{name} has a column of unit {int(ids.max())}, but there are at most {1 << 31} units")
    mine = source.table.n_samples, source.scale if len(ids) else None, int(ids.max(initial=-1)) + 1
    of_ranks = [mine] if comm is None else comm.allgather(mine)
    n_units = max(n for _, _, n in of_ranks)
    scales = [scale for _, scale, _ in of_ranks if scale is not None]
    with agreed(comm):
        for rank, (n_samples, _, _) in enumerate(of_ranks):
            if n_samples != of_ranks[0][0]:
                raise DataError(
                    f"{name} has {of_ranks[0][0]} samples on rank 0, but {n_samples} on rank {rank}; every rank must "
                    "hand over its columns of the same rows"
                )
        if len(set(scales)) > 1:
            raise DataError(
                f"{name} means 1.0 by {scales[0]:g} on some ranks, but by {max(set(scales) - {scales[0]}):g} on "
                "others; hand over all columns as the same type"
            )
    there = np.zeros(n_units, np.int32)
    there[ids] = 1
    if comm is not None:
        comm.Allreduce(MPI.IN_PLACE, there)
    with agreed(comm):
        if not there.all():
            raise DataError(
                f"{name}: no rank has handed over the column of unit {int(np.flatnonzero(there == 0)[0])} of "
                f"{n_units}; the columns of all ranks together must be all units"
            )
        if not n_units:
            raise DataError(f"{name} is empty: no rank has handed over a column")
    if comm is not None and (there > 1).any():  # as those of replicas
        _compare(X, ids, n_units, name, comm)
    table = OwnColumns(source.table, ids, n_units)
    return replace(source, table=table, scale=scales[0], image_shape=image_shape_of((table.n_samples, n_units)))


def _compare(X: Any, ids: IntArray, n_units: int, name: str, comm: MPI.Comm) -> None:
    """Raise DisagreementError, on every rank, where ranks have other values of a unit, or in another order of rows."""
    mine = _digests(X, len(ids))
    low, high = np.full(n_units, np.iinfo(np.uint64).max, np.uint64), np.zeros(n_units, np.uint64)
    low[ids] = high[ids] = mine
    comm.Allreduce(MPI.IN_PLACE, low, MPI.MIN)
    comm.Allreduce(MPI.IN_PLACE, high, MPI.MAX)
    apart = np.flatnonzero(low < high)
    if len(apart):
        digests = comm.allgather([int(digest) for digest in mine[ids == apart[0]]])
        which = [next(rank for rank, of_rank in enumerate(digests) if end[apart[0]] in of_rank) for end in (low, high)]
        raise DisagreementError(
            f"the column of unit {apart[0]} of {name} on rank {min(which)} is not that on rank {max(which)} "
            f"({len(apart)} columns differ); ranks that hand over the same units must bring the same values in the "
            "same order of rows"
        )


def _digests(X: Any, n_columns: int) -> npt.NDArray[np.uint64]:
    """(n_columns,) each of the values of a column, row by row."""
    values: Any = plain_rows(X, "X").matrix if sparse.issparse(X) else plain_array(X, "X")
    total, n = np.zeros(n_columns, np.uint64), max(1, (1 << 18) // max(1, n_columns))
    for start in range(0, values.shape[0], n):
        some = values[start : start + n]
        piece = some.toarray() if sparse.issparse(some) else some
        bits = (piece.reshape(len(piece), -1).astype(np.float64) + 0.0).view(np.uint64)  # -0.0 is 0.0
        bits ^= bits >> np.uint64(29)
        factors = (np.arange(start, start + len(piece), dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        factors = (factors ^ (factors >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9) | np.uint64(1)
        total += (bits * factors[:, None]).sum(axis=0, dtype=np.uint64)
    return total
