"""Reading raw rows from files: failures in one sentence, streams in chunks, only the wanted columns kept."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from modelpar.data.columns import Columns, DenseColumns
from modelpar.data.dataset import EagerTable, plain_dtype, plain_values
from modelpar.data.packed import Keeper
from modelpar.errors import DataError
from modelpar.values.forms import plain_array

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_CHUNK = 1 << 20  # bytes read at a time: enough to hide the calls, too little to count as memory
_LARGEST = 1 << 26  # bytes asked of a stream at once, which may set them aside before it knows that it has them


@contextmanager
def reading(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one DataError that names the file."""
    try:
        yield
    except FileNotFoundError:
        looked = "" if Path(name).is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"{name} does not exist{looked}") from None
    except EOFError:
        raise DataError(f"{name} is truncated: it ends before its data do; get a new copy") from None
    except (BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{name} is corrupt ({_one_line(error)}); get a new copy") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or _one_line(error)}") from None


@contextmanager
def unpacking(name: str | os.PathLike[str]) -> Iterator[None]:
    """As :func:`reading`, which it goes inside of, for what else a damaged zip archive makes Python's reader raise."""
    try:
        yield
    except (DataError, EOFError, zipfile.BadZipFile, zlib.error):
        raise
    except Exception as error:  # RuntimeError, NotImplementedError, ValueError, struct.error, LZMAError ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{name} is corrupt or encrypted ({_one_line(error)}); get a new copy, or save it again with numpy.savez"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_exactly(stream: IO[bytes], n_bytes: int) -> bytes:
    """``n_bytes`` from a stream that may give fewer at a time.  Raises EOFError where it ends before."""
    parts = []
    while n_bytes:
        part = stream.read(min(n_bytes, _LARGEST))
        if not part:
            raise EOFError
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def check_size(name: str, n_bytes: int, needed: int) -> None:
    """Raise DataError unless a file has just the bytes that its header tells."""
    if n_bytes < needed:
        raise DataError(
            f"{name} is truncated: its header tells of {needed} bytes, but it has {n_bytes}; get a new copy"
        )
    if n_bytes > needed:
        raise DataError(f"{name} has {n_bytes} bytes, but its header tells of {needed}; its header or its end is wrong")


def chunks(stream: IO[bytes], count: int, dtype: np.dtype[Any], width: int = 1) -> Iterator[Array]:
    """The next ``count`` rows of ``width`` values of a stream, some rows (n, width) at a time.  Raises EOFError."""
    rows = max(1, _CHUNK // (width * dtype.itemsize))
    for start in range(0, count, rows):
        n = min(rows, count - start)
        yield np.frombuffer(read_exactly(stream, n * width * dtype.itemsize), dtype).reshape(n, width)


class StreamedTable(EagerTable):
    """Rows that can only be read from first to last: compressed files, foreign byte orders, wide integers.

    ``open_rows`` gives a stream that stands at the first row.
    """

    def __init__(
        self, name: str, n_samples: int, n_units: int, dtype: np.dtype[Any],
        open_rows: Callable[[], AbstractContextManager[IO[bytes]]], path: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, n_samples, n_units, path)
        self.dtype, self.open_rows = dtype, open_rows

    def read(self, unit_ids: IntArray) -> Columns:
        """Read all rows, chunk by chunk, and keep the columns ``unit_ids``, as bits if two values are all they have."""
        if not len(unit_ids):
            return DenseColumns(np.empty((self.n_samples, 0), plain_dtype(self.dtype)))
        wanted: Any = unit_ids
        if np.all(np.diff(unit_ids) == 1):
            wanted = slice(int(unit_ids[0]), int(unit_ids[-1]) + 1)  # a copy of a block is five times faster
        keeper = Keeper(self.n_samples, len(unit_ids), plain_dtype(self.dtype))
        for rows in self._rows():
            keeper.add(plain_values(rows[:, wanted], self.name))
        return keeper.columns()

    def pieces(self) -> Iterator[tuple[int, Columns]]:
        """See :meth:`EagerTable.pieces`."""
        for rows in self._rows():
            yield len(rows), DenseColumns(plain_values(rows, self.name))

    def _rows(self) -> Iterator[Array]:
        with reading(self.name), self.open_rows() as stream:
            yield from chunks(stream, self.n_samples, self.dtype, self.n_units)
            if stream.read(1):
                raise DataError(f"{self.name} goes on after its last sample; its header is wrong")


def check_labels(labels: Any, n_samples: int, name: str) -> IntArray:
    """Labels as int64 (n_samples,), out of integers of any type, in one column or dimension.

    Raises DataError where they cannot be classes of the samples.
    """
    labels = plain_array(labels, f"the labels in {name}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"the labels in {name} have {labels.ndim} dimensions, but must be one class for each sample")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"the labels in {name} are not all finite, but must be integers counted from 0")
    if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
        wrong = labels[labels != np.rint(labels)][0]
        raise DataError(f"the labels in {name} have a class {wrong:g}, but must be integers counted from 0")
    if labels.dtype.kind not in "uibf":
        raise DataError(
            f"the labels in {name} are of type {labels.dtype}, but must be integers counted from 0, as "
            "np.unique(labels, return_inverse=True)[1] makes them"
        )
    if len(labels) != n_samples:
        raise DataError(f"{name} has {len(labels)} labels, but there are {n_samples} samples")
    if len(labels) and labels.min() < 0:
        raise DataError(
            f"the labels in {name} have a negative class {labels.min():.6g}, but classes are counted from 0"
        )
    if len(labels) and labels.max() >= 1 << 16:
        raise DataError(
            f"the labels in {name} have a class {labels.max():.6g}, but classes are counted from 0 to at most 65535"
        )
    return labels.astype(np.int64)
