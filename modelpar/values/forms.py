"""Arrays and sparse matrices that callers pass, converted once to one form each.

Arguments are never changed: duplicates are summed, indices sorted and checks made in copies, and only where needed.
What has the right form already is not copied.
"""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
from scipy import sparse

from modelpar.errors import DataError, ModelparError, SpecError
from modelpar.values import plain
from modelpar.values.offsets import offsets_of

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_WRONG = (ValueError, TypeError, IndexError, OverflowError)  # what scipy raises for arrays that do not fit


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


def plain_rows(matrix: Any, name: str, error: type[Exception] = DataError) -> Rows:
    """The rows of any matrix or array of scipy.sparse.

    Raises ``error`` where it is damaged, does not have two dimensions, is of Python objects, or has duplicates of bytes
    that add up to more than 255.
    """
    if matrix.ndim != 2:
        raise error(f"{name} has {matrix.ndim} dimension(s), but a sparse matrix needs two: samples x units")
    if matrix.dtype.hasobject:
        raise error(f"{name} holds Python objects, but numbers are needed")
    n_rows, n_columns = (int(n) for n in matrix.shape)
    try:
        checked = matrix
        if hasattr(matrix, "check_format"):
            checked = copy.copy(matrix)  # the check sets attributes: not on the caller's matrix
            checked.check_format(full_check=True)  # conversions trust the indices: a wrong one would crash them
        if matrix.format == "csr":
            return summed_rows(checked.indptr, checked.indices, checked.data, (n_rows, n_columns), name, error)
        entries = checked.tocoo()
        rows, columns, values = np.asarray(entries.row), np.asarray(entries.col), np.asarray(entries.data)
    except _WRONG:
        raise error(f"{name} is corrupt: its indices do not fit {n_rows} x {n_columns} values; save it again") from None
    for ids, n in ((rows, n_rows), (columns, n_columns)):
        if len(ids) != len(values) or (len(ids) and (ids.min() < 0 or ids.max() >= n)):
            raise error(f"{name} is corrupt: it has an entry outside of {n_rows} x {n_columns} values; save it again")
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
