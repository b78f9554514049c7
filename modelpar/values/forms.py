"""Arrays and sparse matrices that callers pass, converted once to one form each.

Arguments are never changed: duplicates are summed, indices sorted and checks made in copies, and only where needed.
What has the right form already is not copied.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
from scipy import sparse

from modelpar.errors import DataError, ModelparError, SpecError
from modelpar.machine.memory import check_room
from modelpar.values import plain
from modelpar.values.offsets import offsets_of
from modelpar.values.sparse_parts import WRONG, compressed, damaged, entries_of, parts_of

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def is_path(value: object) -> TypeGuard[AnyPath]:
    """Whether ``os.fsdecode`` accepts it."""
    return isinstance(value, (str, bytes, os.PathLike))


def path_text(path: object, error: type[ModelparError] = SpecError) -> str:
    """A path as a text, as Python represents it.  Raises ``error`` for what cannot be the name of a file."""
    if is_path(path):
        name = os.fsdecode(path)
        with suppress(UnicodeEncodeError):  # of characters that no name has here
            if name and b"\0" not in os.fsencode(name):
                return name
    raise error(f"{plain.shown(path)} is not the name of a file; give a text or a path")


def plain_array(values: Any, name: str, error: type[Exception] = DataError) -> Array:
    """An ordinary array from whatever NumPy can convert: lists, matrices, memory maps, all that has ``__array__``.

    Shares memory where it can.  Any type but Python objects is accepted.  Raises ``error`` for masked values, which
    NumPy would pass on as if they were valid, and for what is not an array.
    """
    if isinstance(values, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(values).sum())
        if masked:
            raise error(f"{name} has {masked} masked values, but all must be known; fill them in, as by .filled(0)")
        values = values.data
    if sparse.issparse(values):
        raise error(f"{name} is a sparse matrix, but an array is needed; convert it with .toarray()")
    try:
        array = np.asarray(values)
    except Exception as wrong:  # anything: __array__ is the caller's own
        reason = " ".join(str(wrong).split())[:150] or type(wrong).__name__
        raise error(f"{name} is not an array of numbers: {reason}") from None
    if array.dtype.hasobject:
        raise error(f"{name} holds Python objects, but numbers are needed; convert it, as by .astype(np.float32)")
    return array


class Rows(NamedTuple):
    """The rows of a sparse matrix: columns ascend without duplicates, and no value is zero."""

    starts: IntArray  # (n_rows + 1,) row i has the entries starts[i]:starts[i + 1]
    columns: Array  # (entries,) int32, or int64 where there are too many columns
    values: Array  # (entries,) of the type of the argument
    shape: tuple[int, int]

    @property
    def matrix(self) -> sparse.csr_array:
        """The same as a CSR array of scipy.sparse."""
        return sparse.csr_array((self.values, self.columns, self.starts), shape=self.shape)


def plain_rows(matrix: Any, name: str, error: type[Exception] = DataError, *, transposed: bool = False) -> Rows:
    """The rows, or the columns where ``transposed``, of any matrix or array of scipy.sparse.  All of it is checked
    before any compiled code sees it.

    Raises ``error`` where it is damaged, does not have two dimensions, is of Python objects, does not fit into memory,
    or has duplicates of bytes that add up to more than 255.
    """
    if matrix.ndim != 2:
        raise error(f"{name} has {matrix.ndim} dimension(s), but a sparse matrix needs two: samples x units")
    n_rows, n_columns = (int(n) for n in matrix.shape)
    try:
        has_objects = matrix.dtype.hasobject
        kind, arrays = ("", {}) if has_objects else parts_of(matrix)
    except WRONG:
        raise damaged((n_rows, n_columns), name, error) from None
    if has_objects:
        raise error(f"{name} holds Python objects, but numbers are needed")
    return rows_of(kind, arrays, (n_rows, n_columns), name, error, transposed=transposed)


def rows_of(
    kind: str, arrays: Mapping[str, Array], shape: tuple[int, int], name: str, error: type[Exception] = DataError, *,
    transposed: bool = False,
) -> Rows:  # fmt: skip
    """The rows of a matrix of this shape, its columns where ``transposed``, from the arrays of its format as
    scipy.sparse calls them.  Raises as :func:`plain_rows`."""
    n_rows, n_columns = shape[::-1] if transposed else shape
    check_room(3 * 8 * n_rows, name, error)
    if kind == ("csc" if transposed else "csr"):
        starts, columns, values = compressed(kind, arrays, shape, name, error)
        return summed_rows(starts, columns, values, (n_rows, n_columns), name, error)
    rows, columns, values = entries_of(kind, arrays, shape, name, error)
    if transposed:
        rows, columns = columns, rows
    check_room(len(rows) * (8 + columns.itemsize + values.itemsize), name, error)
    order = np.argsort(rows, kind="stable")  # duplicates are added in the order in which they came
    starts = offsets_of(np.bincount(rows, minlength=n_rows))
    return summed_rows(starts, columns[order], values[order], (n_rows, n_columns), name, error)


def summed_rows(
    starts: Array, columns: Array, values: Array, shape: tuple[int, int], name: str, error: type[Exception] = DataError
) -> Rows:
    """Rows from entries in any order and with duplicates, which are added in their order, as by ``toarray`` of
    scipy.sparse.   starts (n_rows + 1,), columns (entries,), values (entries,)"""
    starts = starts.astype(np.int64)
    columns = columns.astype(np.int32 if shape[1] <= np.iinfo(np.int32).max else np.int64, copy=False)
    rising = np.ones(len(columns), bool)
    np.greater(columns[1:], columns[:-1], out=rising[1:])
    rising[starts[:-1][np.diff(starts) > 0]] = True  # the first of each row
    if rising.all() and values.all():
        return Rows(starts, columns, values, shape)
    check_room(len(columns) * (4 * 8 + columns.itemsize + values.itemsize), name, error)
    rows = np.repeat(np.arange(shape[0]), np.diff(starts))
    order = np.lexsort((columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.ones(len(columns), bool)
    first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    if not first.all():
        values = _added(values, np.cumsum(first) - 1, int(first.sum()), name, error)
        rows, columns = rows[first], columns[first]
    kept = values != 0
    rows, columns, values = rows[kept], columns[kept], values[kept]
    return Rows(offsets_of(np.bincount(rows, minlength=shape[0])), columns, values, shape)


def _added(values: Array, position: IntArray, n: int, name: str, error: type[Exception]) -> Array:
    """(n,) the values, in their order, added up at their positions."""
    if values.dtype == np.bool_:
        union = np.zeros(n, np.bool_)
        union[position[values]] = True
        return union
    sums = np.zeros(n, np.int64 if values.dtype == np.uint8 else values.dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # checked later, with all other values
        np.add.at(sums, position, values)
    if values.dtype == np.uint8 and sums.max(initial=0) > 255:
        raise error(f"{name} has bytes at one position that add up to {int(sums.max())}, but at most 255 is a byte")
    return sums.astype(values.dtype, copy=False)
