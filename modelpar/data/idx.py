"""IDX files, plain or gzip, the format of MNIST (LeCun and Cortes 1998).

Big-endian: two zero bytes, a type code, the number of dimensions, the size of each dimension (uint32), the values.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import MappedTable, Source, Table, check_shape, image_shape_of, scale_of
from modelpar.data.mapped import MappedFile
from modelpar.data.reading import StreamedTable
from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.reading import MOST_PACKED, check_size, is_gzip, read_exactly, read_values, reading
from modelpar.machine.memory import check_room

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class Header:
    """The first bytes of an IDX file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of the header."""
        return 4 + 4 * len(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the whole file, unpacked."""
        return self.n_bytes + math.prod(self.shape) * self.dtype.itemsize


def is_idx(start: bytes) -> bool:
    """Whether these first (uncompressed) bytes begin an IDX file."""
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] in _TYPES and start[3] > 0


def open_idx(path: Path) -> Source:
    """An IDX file of samples, dimensions (samples, ...).  Reads the header.

    Plain files of bytes are memory-mapped; gzip files and other types are read in chunks when columns are asked for.

    Raises DataError.
    """
    header, compressed = read_header(path)
    name = str(path)
    check_shape(header.shape, name)
    scale = scale_of(header.dtype, name)
    n_samples, n_units = header.shape[0], math.prod(header.shape[1:])
    table: Table
    if header.dtype == np.uint8 and not compressed:
        file = MappedFile(path, header.size)
        table = MappedTable(name, file.array(np.uint8, header.n_bytes, (n_samples, n_units)), file)
    else:
        table = StreamedTable(name, n_samples, n_units, header.dtype, _values(path, header), path)
    return Source(table, scale, image_shape_of(header.shape))


def read_idx(path: Path, check: Callable[[Header], None] = lambda header: None) -> npt.NDArray[Any]:
    """All values of a small IDX file, such as labels.   check: raises where its header does not fit.

    Raises DataError.
    """
    header, _ = read_header(path)
    check(header)
    check_room(header.size, str(path))
    with reading(path), _values(path, header)() as stream:
        values = read_values(stream, math.prod(header.shape), header.dtype)
        if stream.read(1):
            raise DataError(f"{path} goes on after its last value; its header is wrong")
    return values.reshape(header.shape)


def read_header(path: Path) -> tuple[Header, bool]:
    """The header, and whether the file is compressed.  Raises DataError, for a file of the wrong size too."""
    with reading(path), open_regular(path) as file:
        compressed = is_gzip(file.read(2))
        file.seek(0)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if compressed else file
        start = read_exactly(stream, 4)
        if not is_idx(start):
            raise DataError(
                f"{path} begins with {start.hex(' ')}, but an IDX file begins with 00 00, a type code and the number "
                "of dimensions"
            )
        shape = np.frombuffer(read_exactly(stream, 4 * start[3]), ">u4")
        header = Header(np.dtype(_TYPES[start[2]]), tuple(int(n) for n in shape))
        if compressed:
            _check_unpacked(file, str(path), header.size)
        else:
            check_size(str(path), os.fstat(file.fileno()).st_size, header.size)
    return header, compressed


def _check_unpacked(file: IO[bytes], name: str, needed: int) -> None:
    """Raise DataError unless a gzip file unpacks to ``needed`` bytes; unpacks it only where its end leaves a doubt.

    The last four bytes of a gzip file tell its unpacked size modulo 2^32, or that of its last part where it has many.
    """
    size = os.fstat(file.fileno()).st_size
    if needed > MOST_PACKED * size:
        raise DataError(
            f"{name} is truncated or its header is wrong: it tells of {needed} bytes, which its {size} compressed "
            "bytes cannot hold; get a new copy"
        )
    file.seek(max(0, size - 4))
    if needed == int.from_bytes(file.read(4), "little"):
        return
    file.seek(0)
    n_bytes = 0
    with gzip.GzipFile(fileobj=file) as stream:
        while n_bytes <= needed and (part := stream.read(1 << 20)):
            n_bytes += len(part)
    if n_bytes > needed:
        raise DataError(f"{name} goes on after its last value; its header is wrong")
    check_size(name, n_bytes, needed)


def _values(path: Path, header: Header) -> Callable[[], Any]:
    """Opens the file and skips its header."""

    @contextmanager
    def open_rows() -> Iterator[IO[bytes]]:
        with open_regular(path) as file:
            compressed = is_gzip(file.read(2))
            file.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if compressed else file
            read_exactly(stream, header.n_bytes)
            yield stream

    return open_rows
