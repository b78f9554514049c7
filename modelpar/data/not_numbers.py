"""NaN in real or binary data: values that are missing, with something in their place and a mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.columns import Columns, DenseColumns
from modelpar.data.dataset import EagerTable, LoadedTable, MappedTable, Source, Table
from modelpar.data.missing import with_mask
from modelpar.data.one_hot import rows_at_once
from modelpar.data.packed import Keeper, PackedColumns, width
from modelpar.data.read_options import ReadOptions
from modelpar.data.reading import RowTable, rows_of
from modelpar.machine.memory import check_room

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


def without_nan(source: Source, reading: ReadOptions) -> Source:
    """A source whose NaN are the most frequent value of the unit, where it has two, else the mean of those known.

    Of dense floats only; all else stays as it is.  Reads all values once, or twice.  Raises DataError.
    """
    test = None if source.test is None else without_nan(source.test, reading)
    table = source.table
    dtype = _dtype_of(table)
    if dtype is None or dtype.kind != "f" or source.missing is not None:
        return replace(source, test=test)
    n_missing, fills = _looked_through(table)
    if not n_missing:
        return replace(source, test=test)
    filled = FilledTable(table, dtype.newbyteorder("="), fills)
    return with_mask(replace(source, table=filled, test=test), NanTable(table), n_missing, reading.missing)


def _dtype_of(table: Table) -> np.dtype[Any] | None:
    if isinstance(table, MappedTable):
        return table.array.dtype
    if isinstance(table, RowTable):
        return table.dtype
    return table.given if isinstance(table, LoadedTable) else None


def _looked_through(table: Table) -> tuple[int, Array]:
    """(Number of NaN, what stands for those of each unit)"""
    at_once, n_units = rows_at_once(8 * table.n_units), table.n_units
    low, high = np.full(n_units, np.inf), np.full(n_units, -np.inf)
    n_known, sums, n_low, n_high = (np.zeros(n_units) for _ in range(4))
    for rows in rows_of(table, at_once):
        known = ~np.isnan(rows)
        n_known += known.sum(axis=0)
        sums += np.where(known, rows, 0).sum(axis=0, dtype=np.float64)
        np.fmin(low, np.fmin.reduce(rows, axis=0), out=low)
        np.fmax(high, np.fmax.reduce(rows, axis=0), out=high)
    n_missing = int(table.n_samples * n_units - n_known.sum())
    if n_missing:
        for rows in rows_of(table, at_once):
            n_low += (rows == low).sum(axis=0)
            n_high += (rows == high).sum(axis=0)
    two = n_low + n_high >= n_known
    fills = np.where(two, np.where(n_high > n_low, high, low), sums / np.maximum(n_known, 1))
    return n_missing, np.where(n_known > 0, fills, 0.0)


class FilledTable(EagerTable):
    """The values of a table with ``fills`` (n_units,) in the place of NaN."""

    def __init__(self, table: Table, dtype: np.dtype[Any], fills: Array) -> None:
        super().__init__(table.name, table.n_samples, table.n_units, getattr(table, "path", None))
        self.table, self.dtype, self.fills = table, dtype, fills.astype(dtype)

    def read(self, unit_ids: IntArray) -> Columns:
        """See :meth:`EagerTable.read`: as bits where two values are all there are."""
        keeper, fills = Keeper(self.n_samples, len(unit_ids), self.dtype, self.name), self.fills[unit_ids]
        for rows in rows_of(self.table, rows_at_once(8 * self.n_units)):
            some = rows[:, unit_ids]
            keeper.add(np.where(np.isnan(some), fills, some))
        return keeper.columns()

    def pieces(self) -> Iterator[tuple[int, Columns]]:
        """See :meth:`EagerTable.pieces`."""
        for rows in rows_of(self.table, rows_at_once(8 * self.n_units)):
            yield len(rows), DenseColumns(np.where(np.isnan(rows), self.fills, rows).astype(self.dtype))


class NanTable(EagerTable):
    """The mask of a table: 1 where it has NaN."""

    def __init__(self, table: Table) -> None:
        super().__init__(table.name, table.n_samples, table.n_units)
        self.table = table

    def read(self, unit_ids: IntArray) -> PackedColumns:
        """See :meth:`EagerTable.read`."""
        check_room(self.n_samples * width(len(unit_ids)), self.name)
        bits, start = np.empty((self.n_samples, width(len(unit_ids))), np.uint8), 0
        for rows in rows_of(self.table, rows_at_once(8 * self.n_units)):
            some = np.packbits(np.isnan(rows[:, unit_ids]), axis=1, bitorder="little")
            bits[start : start + len(some)] = some
            start += len(some)
        return PackedColumns(bits, len(unit_ids))
