"""``.npy`` files: their header, and their values where these are read whole."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.reading import check_size, read_exactly, read_values, reading
from modelpar.machine.memory import check_room

Array = npt.NDArray[Any]

NPY_START = b"\x93NUMPY"
_MOST_DIMENSIONS = 32  # of NumPy before 2.0; no data have more
_LONGEST = 10_000  # bytes of a header, as NumPy has it for files that are not trusted
_LARGEST = 1 << 63  # bytes of an array


@dataclass(frozen=True)
class Header:
    """The header of a ``.npy`` file."""

    shape: tuple[int, ...]
    fortran: bool  # first index fastest
    dtype: np.dtype[Any]
    n_bytes: int  # of the header

    @property
    def values_size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes that the whole file should have."""
        return self.n_bytes + self.values_size


def read_header(stream: IO[bytes], name: str) -> Header:
    """The header of a ``.npy`` stream, which then stands at the first value.  Raises DataError."""
    try:
        start = stream.read(8)
        width = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4, b"\x93NUMPY\x03\x00": 4}.get(start)
        if width is None:
            raise ValueError
        length = read_exactly(stream, width)
        n_text = int.from_bytes(length, "little")
        if n_text > _LONGEST:
            raise ValueError
        text = length + read_exactly(stream, n_text)
        read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():  # a damaged header may be odd Python
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read(io.BytesIO(text))  # type: ignore[no-untyped-call]
        shape = tuple(int(n) for n in shape)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise
    except Exception:  # ValueError, SyntaxError, TokenError, TypeError, RecursionError ...
        raise DataError(f"{name} has a damaged header; save the array again with NumPy") from None
    n_bytes = math.prod(n for n in shape if n) * max(1, dtype.itemsize)
    if any(n < 0 for n in shape) or n_bytes >= _LARGEST or len(shape) > _MOST_DIMENSIONS:
        raise DataError(f"{name} has a damaged header: no array has the shape {shape}; save the array again with NumPy")
    return Header(shape, bool(fortran) and len(shape) > 1, dtype, len(start) + len(text))


def read_array(stream: IO[bytes], header: Header, name: str) -> Array:
    """The values of a stream that stands behind its header, which has just these.  Raises DataError, EOFError."""
    if header.dtype.hasobject:
        raise DataError(f"{name} holds Python objects, but numbers are needed")
    if header.dtype.kind not in "biufcSU" or not header.dtype.itemsize or header.dtype.subdtype is not None:
        raise DataError(
            f"{name} holds {header.dtype} values of shape {header.shape}, but numbers are needed; save it again as "
            "plain numbers"
        )
    check_room(header.values_size, name)
    values = read_values(stream, math.prod(header.shape), header.dtype)
    return values.reshape(header.shape, order="F" if header.fortran else "C")


def load_npy(path: Path, check: Callable[[Header], None] = lambda header: None) -> Array:
    """A whole array.   check: raises where its header does not fit, before values are read.   Raises DataError."""
    with reading(path), open_regular(path) as file:
        header = read_header(file, str(path))
        check(header)
        if not header.dtype.hasobject:
            check_size(str(path), os.fstat(file.fileno()).st_size, header.size)
        return read_array(file, header, str(path))
