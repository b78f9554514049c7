"""Reading files of unknown origin: failures in one sentence, and never more bytes at once than there are."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.regular import open_regular

Array = npt.NDArray[Any]

MOST_PACKED = 1032  # bytes that one byte of deflate's output can stand for, at most
_CHUNK = 1 << 20  # bytes read at a time: enough to hide the calls, too little to count as memory
_LARGEST = 1 << 26  # bytes asked of a stream at once, which may set them aside before it knows that it has them


def is_gzip(start: bytes) -> bool:
    """Whether a file with these first bytes is compressed by gzip."""
    return start[:2] == b"\x1f\x8b"


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a plain file, or those that a gzip file unpacks to, whatever its name.  Raises DataError."""
    with reading(path), open_regular(path) as file:
        packed = is_gzip(file.read(2))
        file.seek(0)
        if packed:
            yield io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=file)), _CHUNK)
        else:
            yield cast(io.BufferedReader, file)


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
    except MemoryError:
        raise DataError(f"{name} does not fit into the memory that is free; use more memory or fewer samples") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or _one_line(error)}") from None


@contextmanager
def unpacking(name: str | os.PathLike[str]) -> Iterator[None]:
    """As :func:`reading`, which it goes inside of, for what else a damaged zip archive makes Python's reader raise."""
    try:
        yield
    except (DataError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error):
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


def read_values(stream: IO[bytes], count: int, dtype: np.dtype[Any]) -> Array:
    """(count,) all values that a stream has left, whose memory is taken once.  Raises EOFError where it ends before."""
    values = np.empty(count, dtype)
    room = values.view(np.uint8).data
    start = 0
    while start < len(room):
        part = stream.read(min(len(room) - start, _CHUNK))
        if not part:
            raise EOFError
        room[start : start + len(part)] = part
        start += len(part)
    return values


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
