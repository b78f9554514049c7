"""What a data set holds, and how it would be read: found in one pass over its values, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.columns import Columns, DenseColumns
from modelpar.data.dataset import EagerTable, MappedTable, Source, Table
from modelpar.data.one_hot import rows_at_once
from modelpar.data.packed import PackedColumns, width
from modelpar.data.packed_files import PackedTable
from modelpar.data.sparse import SparseColumns

Array = npt.NDArray[Any]

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int64)  # of a byte


@dataclass
class Values:
    """What all raw values together are."""

    low: float = np.inf
    high: float = -np.inf
    n_other: int = 0  # values that are neither 0 nor the highest
    n_missing: int = 0  # NaN
    n_on: int = 0  # values that are not 0
    n_bytes: int = 0  # of the values in the form that they are kept in, all columns

    @property
    def are_states(self) -> bool:
        """Whether they are 0 and one other value, and so kept as bits."""
        return not self.n_other and not self.n_missing and self.low >= 0

    def add(self, columns: Columns, n: int) -> None:
        """Those of all columns of ``n`` more rows."""
        if isinstance(columns, PackedColumns):
            bits = columns.bits.copy() if columns.n_units % 8 else columns.bits
            if columns.n_units % 8:  # behind the last unit may be anything
                bits[:, -1] &= (1 << columns.n_units % 8) - 1
            n_on = int(_ONES[bits].sum())
            self._note(n_on, n * columns.n_units, columns.high, columns.high, 0)
            self.n_bytes += n * width(columns.n_units)
        elif isinstance(columns, SparseColumns):
            values = columns.matrix.data[columns.matrix.data != 0]
            self._add(values, n * columns.n_units)
            self.n_bytes += columns.nbytes
        elif isinstance(columns, DenseColumns):
            self._add(columns.source[columns.source != 0], n * columns.n_units)
            self.n_bytes += n * columns.n_units * columns.source.dtype.itemsize

    def _add(self, on: Array, n: int) -> None:
        """on (n_on,) the values that are not 0, of ``n``"""
        known = on[~np.isnan(on)] if on.dtype.kind == "f" else on
        self.n_missing += len(on) - len(known)
        low, high = (float(known.min()), float(known.max())) if len(known) else (np.inf, -np.inf)
        self._note(len(on), n, low, high, int((known != high).sum()))

    def _note(self, n_on: int, n: int, low: float, high: float, n_other: int) -> None:
        """``n_on`` of ``n`` values are not 0, but from ``low`` to ``high``, of which ``n_other`` are not ``high``."""
        before = self.high if self.high > 0 else high
        if n_on and (before != high or n_other or self.n_other):
            self.n_other += max(1, n_other)
        self.n_on += n_on
        if n_on:
            self.low, self.high = min(self.low, low), max(self.high, high)
        if n_on < n:
            self.low, self.high = min(self.low, 0.0), max(self.high, 0.0)


def look_at(table: Table) -> Values:
    """One pass over all values.  Raises DataError where they cannot be read."""
    values = Values()
    for n, columns in _pieces(table):
        values.add(columns, n)
    return values


def _pieces(table: Table) -> Iterator[tuple[int, Columns]]:
    if isinstance(table, EagerTable):
        yield from table.pieces()
    elif isinstance(table, MappedTable):
        at_once = rows_at_once(table.n_units * table.array.dtype.itemsize)
        for start in range(0, table.n_samples, at_once):
            if table.file is not None:
                table.file.check()
            some = table.array[start : start + at_once]
            yield len(some), DenseColumns(some)
    else:
        yield table.n_samples, table.columns(np.arange(table.n_units))


def kind_of(source: Source) -> str:
    """What the file holds, for people."""
    if source.kind:
        return source.kind
    table = source.table
    if isinstance(table, PackedTable):
        return "packed states"
    dtype = getattr(getattr(table, "array", table), "dtype", None) or getattr(table, "given", None)
    return f"array of {np.dtype(dtype)}" if dtype is not None else "sparse matrix" if hasattr(table, "archive") else ""


def units_of_rank(source: Source, n_shards: int) -> int:
    """Units of the largest of ``n_shards`` equal parts; sites are not split."""
    n_states = int(source.visible.partition(":")[2] or 1) if source.visible.startswith("categorical:") else 1
    return -(-(source.table.n_units // n_states) // n_shards) * n_states


def bytes_of_rank(source: Source, values: Values, n_shards: int, *, as_states: bool) -> int:
    """Memory that a rank's columns take.   as_states: as bits, whatever the values are"""
    n_units, n_samples = units_of_rank(source, n_shards), source.table.n_samples
    if as_states or values.are_states:
        return n_samples * width(n_units)
    return -(-values.n_bytes * n_units // max(1, source.table.n_units))


def describe(source: Source, values: Values, *, level: float | None, n_shards: int) -> dict[str, Any]:
    """All of it under the names that ``modelpar data --json`` prints.   level: a threshold on scaled values"""
    table, facts = source.table, dict(source.facts)
    n_missing, mask = facts.pop("missing", values.n_missing), facts.pop("mask_bytes", None)
    as_states = level is not None or values.are_states
    return {
        "path": table.name, "kind": kind_of(source), "samples": table.n_samples, "units": table.n_units,
        "visible": source.visible or None, "alphabet": source.alphabet or None, **facts, "missing": n_missing,
        "low": values.low, "high": values.high, "not_zero": values.n_on / max(1, table.n_samples * table.n_units),
        "scale": source.scale, "image_shape": list(source.image_shape) if source.image_shape else None,
        "classes": None if source.labels is None else int(source.labels.max(initial=-1)) + 1,
        "weights": None if source.weights is None else float(source.weights.sum()),
        "test_samples": None if source.test is None else source.test.table.n_samples,
        "read_as": "bits" if as_states else "values", "model_shards": n_shards,
        "bytes_of_rank": bytes_of_rank(source, values, n_shards, as_states=level is not None),
        "mask_bytes_of_rank": None if mask is None else -(-mask // n_shards),
    }  # fmt: skip
