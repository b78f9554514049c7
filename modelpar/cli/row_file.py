"""Files that rank 0 writes while all ranks send them rows, for other programs' formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from modelpar.cli.atomic_file import cannot_write
from modelpar.errors import CheckpointError
from modelpar.files.outputs import Output
from modelpar.formats.hdf5 import h5py_module


class RowFile(ABC):
    """Rank 0's file; an error is reported at the end, since the others go on sending rows.  No file on other ranks.

    A format says how its file is opened (``_begin``), made complete (``_complete``), and left as it is (``_abandon``).
    """

    def __init__(self, target: Path | None, sources: Iterable[str | Path] = ()) -> None:
        """target   None on other ranks than 0;  sources: files that it is made from, see ``Output``"""
        self.target, self.sources, self.failure = target, sources, ""
        self._output: Output | None = None
        self._attempt(self._open)

    def _open(self) -> None:
        assert self.target is not None  # checked in _attempt
        self._output = Output(self.target, sources=self.sources)
        self._output.open()
        self._begin(self._output.partial)

    @abstractmethod
    def _begin(self, partial: Path) -> None: ...

    @abstractmethod
    def _complete(self) -> None: ...

    @abstractmethod
    def _abandon(self) -> None: ...

    def finish(self) -> None:
        """Close and rename.  Raises CheckpointError where anything has failed."""

        def work() -> None:
            assert self._output is not None  # set by _open, unless that failed
            self._complete()
            self._output.finish()

        self._attempt(work)
        if self.failure:
            raise CheckpointError(self.failure)

    def give_up(self) -> None:
        """Remove the file."""
        if self.target is None:
            return
        with suppress(Exception):
            self._abandon()
        if self._output is not None:
            self._output.give_up()

    def _attempt(self, work: Callable[[], object]) -> None:
        if self.target is None or self.failure:
            return
        try:
            work()
        except OSError as error:
            self.failure = cannot_write(self.target, error)


class Hdf5RowFile(RowFile):
    """An HDF5 file.   _file: of h5py; _row: where the next rows go"""

    _file: Any = None
    _row = 0

    def _begin(self, partial: Path) -> None:
        self._file = h5py_module().File(partial, "w")

    def _complete(self) -> None:
        self._file.close()

    def _abandon(self) -> None:
        self._file.close()

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            super()._attempt(work)
        except (RuntimeError, ValueError) as error:  # what HDF5's own errors become
            self.failure = f"{self.target} cannot be written ({' '.join(str(error).split())})"
