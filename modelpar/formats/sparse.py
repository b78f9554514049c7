"""Sparse matrices as ``scipy.sparse.save_npz`` writes them: their format, their shape, and their arrays."""

from __future__ import annotations

from modelpar.errors import DataError
from modelpar.formats.archive import Archive, small_array
from modelpar.machine.memory import check_room
from modelpar.values.forms import Rows, rows_of
from modelpar.values.sparse_parts import MOST_UNITS, PARTS


def is_sparse(archive: Archive) -> bool:
    """Whether scipy saved a sparse matrix in this archive."""
    return {"format", "shape", "data"} <= set(archive.headers)


def shape_in(archive: Archive) -> tuple[int, ...]:
    """The shape of the matrix: integers from 0.  Raises DataError."""
    numbers = small_array(archive, "shape")
    if numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers > MOST_UNITS).any():
        raise DataError(
            f"{archive.path} is corrupt: its shape must be two integers from 1 to {MOST_UNITS}, samples x units; save "
            "it again with scipy.sparse.save_npz"
        )
    return tuple(int(n) for n in numbers)


def format_in(archive: Archive) -> str:
    """The format of the matrix, of which all arrays are there.  Raises DataError."""
    given = small_array(archive, "format").tolist()
    kind = given[0] if len(given) == 1 else ""
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else str(kind)
    if kind not in PARTS:
        raise DataError(
            f"{archive.path} is a sparse matrix of the format {kind!r}, which scipy does not write; save it again with "
            "scipy.sparse.save_npz"
        )
    missing = [part for part in PARTS[kind] if part not in archive.headers]
    if missing and not (kind == "coo" and "coords" in archive.headers):
        raise DataError(
            f"{archive.path} lacks the arrays {' and '.join(missing)} of a {kind.upper()} matrix; save it again"
        )
    return kind


def rows_in(archive: Archive, kind: str, shape: tuple[int, int], *, transposed: bool = False) -> Rows:
    """The rows of the matrix, or its columns, all of it.  Raises DataError where its arrays do not fit or take too much
    memory."""
    coords = kind == "coo" and "coords" in archive.headers  # arrays of any number of dimensions
    keys = ("data", "coords") if coords else PARTS[kind]
    check_room(sum(archive.headers[key].values_size for key in keys), str(archive.path))
    arrays = {key: archive.load(key) for key in keys}
    if coords:
        both = arrays.pop("coords")
        if both.ndim != 2 or len(both) != 2:
            raise DataError(f"{archive.path} is corrupt: its coords must be two rows of indices; save it again")
        arrays["row"], arrays["col"] = both
    return rows_of(kind, arrays, shape, str(archive.path), transposed=transposed)
