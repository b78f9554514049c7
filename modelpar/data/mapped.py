"""Files that are memory-mapped, and must keep their length meanwhile.

A page that is touched behind the end of a file is SIGBUS: the process is gone, without a word.  So whoever touches
mapped values asks for the length first, which takes a microsecond; only a file that is cut in between ends that way.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.reading import reading

Array = npt.NDArray[Any]


class MappedFile:
    """A regular file, open as long as an array is mapped to it.  Raises DataError where it has fewer bytes."""

    def __init__(self, path: Path, n_bytes: int) -> None:
        self.name, self.n_bytes = str(path), n_bytes
        with reading(path):
            self._file = open_regular(path)
        weakref.finalize(self, self._file.close)
        self.check()

    def array(self, dtype: npt.DTypeLike, start: int, shape: tuple[int, ...], order: Any = "C") -> Array:
        """The values from byte ``start`` on, read-only."""
        with reading(self.name):
            return np.asarray(np.memmap(self._file, dtype, "r", start, shape, order))

    def check(self) -> None:
        """Raise DataError where the file was truncated."""
        with reading(self.name):
            size = os.fstat(self._file.fileno()).st_size
        if size < self.n_bytes:
            raise DataError(
                f"{self.name} was truncated while it was in use: it had {self.n_bytes} bytes, and has {size}; bring it "
                "back, and leave it as it is until the run has ended"
            )
