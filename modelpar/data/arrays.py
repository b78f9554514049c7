"""NumPy's files: ``.npy``, memory-mapped where its order allows, and ``.npz``, read in chunks."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import LoadedTable, MappedTable, Source, Table, check_shape, image_shape_of, scale_of
from modelpar.data.reading import StreamedTable, check_labels, check_size, reading, unpacking
from modelpar.errors import DataError

Array = npt.NDArray[Any]

NPY_START, ZIP_START = b"\x93NUMPY", b"PK\x03\x04"
_MOST_DIMENSIONS = 32  # of NumPy before 2.0; no data have more
DATA_KEYS = ("data", "x", "samples")
LABEL_KEYS = ("labels", "y", "target", "targets")


@dataclass(frozen=True)
class Header:
    """The header of a ``.npy`` file."""

    shape: tuple[int, ...]
    fortran: bool  # first index fastest
    dtype: np.dtype[Any]
    n_bytes: int  # of the header

    @property
    def size(self) -> int:
        """Bytes that the whole file should have."""
        return self.n_bytes + math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], name: str) -> Header:
    """The header of a ``.npy`` stream, which then stands at the first value.  Raises DataError."""
    try:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():  # a damaged header may be odd Python
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read(stream)  # type: ignore[no-untyped-call]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise
    except Exception:  # ValueError, SyntaxError, TokenError, TypeError, RecursionError ...
        raise DataError(f"{name} has a damaged header; save the array again with NumPy") from None
    n_bytes = math.prod(n for n in shape if n) * max(1, dtype.itemsize)
    if any(n < 0 for n in shape) or n_bytes >= 1 << 63 or len(shape) > _MOST_DIMENSIONS:
        raise DataError(f"{name} has a damaged header: no array has the shape {shape}; save the array again with NumPy")
    return Header(shape, bool(fortran) and len(shape) > 1, dtype, stream.tell())


def open_npy(path: Path) -> Source:
    """Samples in a ``.npy`` file (samples, ...).  Reads the header.  Raises DataError."""
    name = str(path)
    with reading(path), open(path, "rb") as file:
        header = read_header(file, name)
        scale = _check(header, name)
        check_size(name, os.fstat(file.fileno()).st_size, header.size)
    table: Table
    n_samples, n_units = header.shape[0], math.prod(header.shape[1:])
    order: Any = "F" if header.fortran else "C"
    if header.fortran:
        # Whole columns lie together on disk: copy the wanted ones.
        table = LoadedTable(name, header.shape, lambda: _mapped(path, header, header.shape, order))
    elif header.dtype.isnative and (header.dtype.kind in "bf" or header.dtype == np.uint8):
        table = MappedTable(name, _mapped(path, header, (n_samples, n_units), order))
    else:

        @contextmanager
        def open_rows() -> Iterator[IO[bytes]]:
            with open(path, "rb") as file:
                file.seek(header.n_bytes)
                yield file

        table = StreamedTable(name, n_samples, n_units, header.dtype, open_rows, path)
    return Source(table, scale, image_shape_of(header.shape))


def _mapped(path: Path, header: Header, shape: tuple[int, ...], order: Any) -> Array:
    with reading(path):
        return np.asarray(np.memmap(path, header.dtype, "r", header.n_bytes, shape, order))


def _check(header: Header, name: str) -> float:
    """Raise DataError where an array cannot be samples; else the raw value that means 1.0."""
    scale = scale_of(header.dtype, name)
    check_shape(header.shape, name)
    return scale


class Archive:
    """A ``.npz`` file: its arrays by lower-case name, and their headers.  Raises DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: dict[str, Header] = {}
        self.members: dict[str, str] = {}
        with reading(path), unpacking(path), zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                key = member.filename.removesuffix(".npy").lower()
                with archive.open(member) as stream:
                    header = read_header(stream, self.where(key))
                if not header.dtype.hasobject:
                    check_size(self.where(key), member.file_size, header.size)
                self.headers[key], self.members[key] = header, member.filename

    def where(self, key: str) -> str:
        """The name of an array in error messages."""
        return f"array {key!r} of {self.path}"

    def values(self, key: str) -> Callable[[], Any]:
        """Opens an array's stream after its header."""

        @contextmanager
        def open_values() -> Iterator[IO[bytes]]:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.members[key]) as stream:
                stream.read(self.headers[key].n_bytes)
                yield stream

        return open_values

    def load(self, key: str) -> Array:
        """A whole array.  Raises DataError."""
        header = self.headers[key]
        if header.dtype.hasobject:
            raise DataError(f"{self.where(key)} holds Python objects, but numbers are needed")
        with reading(self.path), self.values(key)() as stream:
            content = stream.read()
        try:
            return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
        except ValueError:
            raise DataError(
                f"{self.where(key)} holds {header.dtype} values of shape {header.shape}, but numbers are needed; "
                "save it again as plain numbers"
            ) from None

    def source(self, data: str, labels: str | None) -> Source:
        """Samples and their labels out of two arrays."""
        header, name = self.headers[data], self.where(data)
        scale = _check(header, name)
        table: Table
        if header.fortran:
            table = LoadedTable(name, header.shape, lambda: self.load(data), self.path)
        else:
            n_samples, n_units = header.shape[0], math.prod(header.shape[1:])
            table = StreamedTable(name, n_samples, n_units, header.dtype, self.values(data), self.path)
        classes = None if labels is None else check_labels(self.load(labels), header.shape[0], self.where(labels))
        return Source(table, scale, image_shape_of(header.shape), classes)

    def key_of(self, names: tuple[str, ...]) -> str | None:
        """The first of ``names`` that is there."""
        return next((name for name in names if name in self.headers), None)


def open_npz(archive: Archive) -> Source:
    """Samples, labels and test set in a ``.npz`` file, by the names of its arrays.  Reads headers and labels.

    ``x_train, y_train, x_test, y_test``; else ``data``, ``x`` or ``samples``, or the only array of two dimensions or
    more, with ``labels``, ``y`` or ``target``; of arrays without names the first, with the second as labels where that
    has one integer a sample.  Raises DataError.
    """
    if "x_train" in archive.headers:
        train = archive.source("x_train", archive.key_of(("y_train",)))
        if "x_test" not in archive.headers:
            return train
        test = archive.source("x_test", archive.key_of(("y_test",)))
        return Source(train.table, train.scale, train.image_shape, train.labels, test)
    labels = archive.key_of(LABEL_KEYS)
    data = archive.key_of(DATA_KEYS)
    if data is None:
        wide = [key for key, header in archive.headers.items() if len(header.shape) > 1 and key != labels]
        if wide == ["arr_0", "arr_1"] and _may_label(archive.headers["arr_1"], archive.headers["arr_0"]):
            wide = wide[:1]
        if len(wide) != 1:
            names = ", ".join(sorted(archive.headers)) or "none"
            raise DataError(
                f"{archive.path} has the arrays {names}, so it is not clear which are the samples; name them data "
                "(and labels)"
            )
        data = wide[0]
    if labels is None and data == "arr_0" and _may_label(archive.headers.get("arr_1"), archive.headers[data]):
        labels = "arr_1"
    return archive.source(data, labels)


def _may_label(header: Header | None, samples: Header) -> bool:
    """Whether an array without a name, as ``numpy.savez(file, samples, labels)`` writes it, has a class a sample."""
    if header is None or not samples.shape or not header.shape:
        return False
    one_each = header.shape in ((samples.shape[0],), (samples.shape[0], 1))
    return one_each and header.dtype.kind in "uib"
