"""Arrays in HDF5 files, read by h5py (the extra ``hdf5``) some rows and some columns at a time.

What the library says of an array is checked before any value is read: its values must be in this file, and no more than
the bytes that the file has for them can unpack to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.regular import check_regular
from modelpar.formats.reading import reading

Array = npt.NDArray[Any]

HDF5_START = b"\x89HDF\r\n\x1a\n"
_MOST_PACKED = 2000  # bytes that a byte of the file may become: more than HDF5's own packing can do
_MOST_AT_ONCE = 1 << 30  # bytes of a chunk, which the library unpacks as one
_MOST_OBJECTS = 10_000  # that are looked through for the arrays of a file
_SHOWN = 8  # names in messages
_BLOCK = 1 << 24  # bytes that are read at once, where chunks allow
_REASONS = {  # by words of the library
    "open for write": "a program has it open to write, or ended while it had; close it there, or mend it by h5clear -s",
    "filter": "its values are packed in a way that is not known here; get a new copy",
}
_DAMAGED = "it is damaged or cut off; get a new copy"


class Hdf5Array:
    """An array of a file, which is opened anew for each pass over it.

    inner   its name in the file; empty: the only one of two dimensions or more
    Raises DataError where there is none, several, or one that cannot be read within bounds, or h5py is not installed.
    """

    def __init__(self, path: Path, inner: str = "") -> None:
        self.path = path
        with self._opened() as file:
            self.inner = inner.strip("/") or self._only(file)
            array = self._array(file)
            self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
            self.dtype: np.dtype[Any] = array.dtype
            chunks = array.chunks or (1,) * len(self.shape)
            self._check_storage(array, math.prod(array.chunks or ()))
        self.chunk_rows = chunks[0] if chunks else 1

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.path}:{self.inner}"

    def blocks(self, units: slice) -> Iterator[Array]:
        """The values ``units`` of all samples (n, values of a sample), some samples at a time.  Raises DataError."""
        n_units = math.prod(self.shape[1:])
        read = units.stop - units.start if len(self.shape) == 2 else n_units
        at_once = max(1, _BLOCK // max(1, read * self.dtype.itemsize))
        at_once = max(1, at_once // self.chunk_rows) * self.chunk_rows  # no chunk is unpacked twice
        for start in range(0, self.shape[0], at_once):
            with self._opened() as file:
                array = self._array(file)
                if array.shape != self.shape or array.dtype != self.dtype:
                    raise DataError(f"{self.name} was changed while it was read; leave it as it is until the end")
                if len(self.shape) == 2:
                    rows = array[start : start + at_once, units]
                else:
                    some = array[start : start + at_once]
                    rows = some.reshape(len(some), n_units)[:, units]
            yield rows

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The library's own words are of no help to those who do not know it."""
        h5py = h5py_module()
        with reading(self.path):
            check_regular(self.path)
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                yield file
        except DataError:
            raise
        except (OSError, RuntimeError, LookupError, ValueError, ArithmeticError, TypeError, AttributeError) as error:
            why = next((why for words, why in _REASONS.items() if words in str(error).lower()), _DAMAGED)
            raise DataError(f"{self.path} cannot be read as HDF5: {why}") from None

    def _array(self, file: Any) -> Any:
        """The array, by links that stay in this file."""
        h5py, found = h5py_module(), file
        for word in self.inner.split("/"):
            if not isinstance(found, h5py.Group) or word not in found:
                raise DataError(f"{self.path} has no array {self.inner!r}; it has {self._names(file)}")
            if not isinstance(found.get(word, getlink=True), h5py.HardLink):
                raise DataError(f"{self.path} has {self.inner!r} by a link; name what it leads to, in this file")
            found = found[word]
        if not isinstance(found, h5py.Dataset):
            raise DataError(f"{self.path} has {self.inner!r} as a group; name an array in it: {self._names(file)}")
        return found

    def _check_storage(self, array: Any, chunk: int) -> None:
        if array.external or array.is_virtual:
            raise DataError(f"{self.name} has its values in another file, which is not opened; copy them into this one")
        n_bytes = math.prod(array.shape) * array.dtype.itemsize
        if n_bytes > _MOST_PACKED * array.id.get_storage_size() or chunk * array.dtype.itemsize > _MOST_AT_ONCE:
            raise DataError(f"{self.name} has the shape {array.shape}, but not the bytes for it; get a new copy")

    def _only(self, file: Any) -> str:
        arrays = [name for name, n_dimensions in _arrays(file) if n_dimensions >= 2]
        if len(arrays) != 1:
            one = f"; name one, as in {self.path.name}:{arrays[0]}" if arrays else ""
            raise DataError(f"{self.path} has {self._names(file)}{one}")
        return arrays[0]

    def _names(self, file: Any) -> str:
        arrays = [name for name, n_dimensions in _arrays(file) if n_dimensions >= 2]
        shown = ", ".join(arrays[:_SHOWN]) + (", ..." if len(arrays) > _SHOWN else "")
        return f"the arrays {shown}" if arrays else "no arrays of two dimensions"


def _arrays(group: Any, before: str = "", left: list[int] | None = None) -> Iterator[tuple[str, int]]:
    """(name, number of dimensions) of the arrays below a group, by links that stay in the file."""
    h5py, left = h5py_module(), [_MOST_OBJECTS] if left is None else left
    for word in group:
        left[0] -= 1
        if left[0] < 0 or before.count("/") > 30:
            return
        if isinstance(group.get(word, getlink=True), h5py.HardLink):
            found = group[word]
            if isinstance(found, h5py.Dataset):
                yield before + word, len(found.shape or ())
            elif isinstance(found, h5py.Group):
                yield from _arrays(found, f"{before}{word}/", left)


def h5py_module(what: str = "HDF5 files", extra: str = "hdf5") -> Any:
    """Raises DataError, with what needs it and the extra that brings it, where h5py is not installed."""
    try:
        import h5py
    except ImportError:
        raise DataError(f"{what} need h5py, which is not installed: pip install 'modelpar[{extra}]'") from None
    return h5py
