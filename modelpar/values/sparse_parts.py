"""Sparse matrices as the arrays that they consist of, checked before anything trusts them.

scipy's conversions and products are compiled code that takes indices for granted: one that is out of range reads or
writes memory that is not the matrix's, and the process ends without a word.  So nothing of scipy.sparse touches a
matrix of unknown origin here; NumPy makes entries of its arrays, and looks at all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.machine.memory import check_room

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Entries = tuple[IntArray, Array, Array]  # row ids or offsets of rows, column ids, values

# what Python and NumPy raise for arrays that do not fit together
WRONG = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
PARTS = {
    "csr": ("data", "indices", "indptr"), "csc": ("data", "indices", "indptr"), "bsr": ("data", "indices", "indptr"),
    "coo": ("data", "row", "col"), "dia": ("data", "offsets"),
}  # fmt: skip
MOST_UNITS = (1 << 31) - 1  # rows or columns


def damaged(shape: tuple[int, int], name: str, error: type[Exception]) -> Exception:
    """The error for indices that do not fit."""
    return error(f"{name} is corrupt: its indices do not fit {shape[0]} x {shape[1]} values; save it again")


def parts_of(matrix: Any) -> tuple[str, dict[str, Array]]:
    """The format of a matrix of scipy.sparse and its arrays; DOK and LIL, which have none, become COO and CSR.

    Raises one of ``WRONG`` where it has none.
    """
    if matrix.format == "dok":
        places = np.array(list(matrix.keys()), np.int64).reshape(-1, 2)
        values = np.array(list(matrix.values()), matrix.dtype)
        return "coo", {"data": values, "row": places[:, 0], "col": places[:, 1]}
    if matrix.format == "lil":
        counts = [[len(part) for part in lists] for lists in (matrix.rows, matrix.data)]
        if counts[0] != counts[1] or len(counts[0]) != matrix.shape[0]:
            raise ValueError
        starts = np.concatenate([[0], np.cumsum(counts[0])]).astype(np.int64)
        columns = np.array([*chain.from_iterable(matrix.rows)], np.int64)
        values = np.array([*chain.from_iterable(matrix.data)], matrix.dtype)
        return "csr", {"data": values, "indices": columns, "indptr": starts}
    return matrix.format, {part: np.asarray(getattr(matrix, part)) for part in PARTS[matrix.format]}


def entries_of(
    kind: str, arrays: Mapping[str, Array], shape: tuple[int, int], name: str, error: type[Exception] = DataError
) -> Entries:
    """(row ids, column ids, values) in the order in which they came, duplicates and zeros included.

    arrays   by the names that they have in a matrix of this format.   Raises ``error``.
    """
    n_rows, n_columns = shape
    _check_shape(shape, name, error)
    if kind in ("csr", "csc"):
        starts, minor, values = compressed(kind, arrays, shape, name, error)
        check_room(8 * (2 * len(starts) + len(minor)), name, error)
        major = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        return (major, minor, values) if kind == "csr" else (minor.astype(np.int64, copy=False), major, values)
    if kind == "coo":
        rows, columns, values = (_flat(arrays, part, name, error) for part in ("row", "col", "data"))
        if not len(rows) == len(columns) == len(values):
            raise error(f"{name} is corrupt: it has another number of indices than of values; save it again")
        _check_ids(rows, n_rows, shape, name, error)
        _check_ids(columns, n_columns, shape, name, error)
        return rows.astype(np.int64, copy=False), columns, values
    if kind == "bsr":
        return _of_blocks(arrays, shape, name, error)
    if kind == "dia":
        return _of_diagonals(arrays, shape, name, error)
    raise error(f"{name} is a sparse matrix of the format {kind!r}, which is not known; convert it with .tocsr()")


def compressed(
    kind: str, arrays: Mapping[str, Array], shape: tuple[int, int], name: str, error: type[Exception] = DataError
) -> Entries:
    """Offsets of rows, column ids and values of CSR, of columns and row ids of CSC.  Raises ``error``."""
    _check_shape(shape, name, error)
    n_major, n_minor = shape if kind == "csr" else shape[::-1]
    minor, values = _flat(arrays, "indices", name, error), _flat(arrays, "data", name, error)
    if len(minor) != len(values):
        raise error(f"{name} is corrupt: it has another number of indices than of values; save it again")
    starts = _starts(arrays, n_major, len(minor), shape, name, error)
    n = int(starts[-1])
    minor, values = minor[:n], values[:n]
    _check_ids(minor, n_minor, shape, name, error)
    return starts, minor, values


def _of_blocks(arrays: Mapping[str, Array], shape: tuple[int, int], name: str, error: type[Exception]) -> Entries:
    """BSR: ``data`` (blocks, rows, columns) has dense blocks, ``indices`` and ``indptr`` are those of a CSR of them."""
    values, minor = _numbers(arrays, "data", name, error), _flat(arrays, "indices", name, error)
    if values.ndim != 3 or 0 in values.shape[1:] or len(values) < len(minor):
        raise damaged(shape, name, error)
    height, width = values.shape[1:]
    if shape[0] % height or shape[1] % width:
        raise damaged(shape, name, error)
    starts = _starts(arrays, shape[0] // height, len(minor), shape, name, error)
    n = int(starts[-1])
    _check_ids(minor[:n], shape[1] // width, shape, name, error)
    check_room(n * height * width * (3 * 8 + values.itemsize), name, error)
    first = np.repeat(np.arange(shape[0] // height), np.diff(starts))
    rows = (first * height)[:, None, None] + np.arange(height)[:, None]
    columns = (minor[:n].astype(np.int64) * width)[:, None, None] + np.arange(width)
    whole = (n, height, width)
    return (np.broadcast_to(rows, whole).reshape(-1), np.broadcast_to(columns, whole).reshape(-1),
            values[:n].reshape(-1))  # fmt: skip


def _of_diagonals(arrays: Mapping[str, Array], shape: tuple[int, int], name: str, error: type[Exception]) -> Entries:
    """DIA: ``data`` (diagonals, length): [k, j] is the value in column j and row j - offsets[k].  What lies outside of
    the matrix is padding; diagonals may not come twice."""
    values, offsets = _numbers(arrays, "data", name, error), _flat(arrays, "offsets", name, error)
    if values.ndim != 2 or len(offsets) != len(values) or len(np.unique(offsets)) != len(offsets):
        raise damaged(shape, name, error)
    _check_integers(offsets, "offsets", name, error)
    # of others nothing is inside, and their rows could overflow
    inside = np.array([-shape[0] < offset < shape[1] for offset in offsets.tolist()], bool)
    values = values[inside, : shape[1]]
    check_room(values.size * (3 * 8 + values.itemsize), name, error)
    rows = np.arange(values.shape[1]) - offsets[inside].astype(np.int64)[:, None]
    kept = (rows >= 0) & (rows < shape[0]) & (values != 0)
    return rows[kept], np.broadcast_to(np.arange(values.shape[1]), kept.shape)[kept], values[kept]


def _starts(
    arrays: Mapping[str, Array], n_major: int, most: int, shape: tuple[int, int], name: str, error: type[Exception]
) -> IntArray:
    """Offsets (n_major + 1,) of rows: from 0, never descending, up to ``most`` entries."""
    starts = _flat(arrays, "indptr", name, error)
    _check_integers(starts, "row pointers", name, error)
    wrong = len(starts) != n_major + 1 or starts[0] != 0 or starts[-1] > most or (starts[1:] < starts[:-1]).any()
    if wrong:
        raise error(f"{name} is corrupt: its row pointers do not fit {shape[0]} x {shape[1]} values; save it again")
    return starts.astype(np.int64, copy=False)


def _check_shape(shape: tuple[int, int], name: str, error: type[Exception]) -> None:
    if not all(0 <= n <= MOST_UNITS for n in shape):
        raise error(f"{name} has the shape {shape[0]} x {shape[1]}, but there are at most {MOST_UNITS} rows or columns")


def _numbers(arrays: Mapping[str, Array], part: str, name: str, error: type[Exception]) -> Array:
    values = arrays[part]
    if values.dtype.kind not in "biufc" or not values.dtype.itemsize:
        raise error(f"{name} is corrupt: its {part} are of type {values.dtype}, but must be numbers; save it again")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _flat(arrays: Mapping[str, Array], part: str, name: str, error: type[Exception]) -> Array:
    values = _numbers(arrays, part, name, error)
    if values.ndim != 1:
        raise error(f"{name} is corrupt: its {part} have {values.ndim} dimensions, but must have one; save it again")
    return values


def _check_integers(ids: Array, what: str, name: str, error: type[Exception]) -> None:
    if ids.dtype.kind not in "ui":
        raise error(f"{name} is corrupt: its {what} are of type {ids.dtype}, but must be integers; save it again")


def _check_ids(ids: Array, n: int, shape: tuple[int, int], name: str, error: type[Exception]) -> None:
    _check_integers(ids, "indices", name, error)
    if len(ids) and (ids.min() < 0 or ids.max() >= n):
        raise error(f"{name} is corrupt: it has an entry outside of {shape[0]} x {shape[1]} values; save it again")
