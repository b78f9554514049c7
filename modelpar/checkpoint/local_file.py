"""A file that one rank opens by itself, and the agreement of all ranks on its failures."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.errors import CheckpointError, ModelparError, raised_by


class LocalFile:
    """A file opened by this rank alone.  The first failure is kept, and later calls do nothing.

    So a rank whose disk is full still takes part in the exchanges, and all ranks learn of it when they next agree.
    """

    def __init__(self, path: str, mode: int) -> None:
        self.path, self.failure = path, ""
        self._advice = "the permissions" if mode == MPI.MODE_RDONLY else "free space and permissions"
        self.handle: MPI.File | None = None
        with self._failure_kept("cannot be opened (every node must see its directory)"):
            self.handle = MPI.File.Open(MPI.COMM_SELF, os.fsencode(path), mode)  # type: ignore[arg-type]

    def write(self, offset: int, values: npt.NDArray[Any]) -> None:
        self._transfer("cannot be written", "Write_at", offset, values)

    def read(self, offset: int, out: npt.NDArray[Any]) -> None:
        self._transfer("cannot be read", "Read_at", offset, out)

    def read_bytes(self, offset: int, count: int) -> bytes:
        out = np.zeros(count, np.uint8)
        self.read(offset, out)
        return out.tobytes()

    def size(self) -> int:
        """Its bytes; -1 where that cannot be told."""
        with self._failure_kept("has no size"):
            if self.handle is not None:
                return int(self.handle.Get_size())
        return -1

    def sync(self) -> None:
        with self._failure_kept("cannot be synced to disk"):
            if self.handle is not None and not self.failure:
                self.handle.Sync()

    def close(self) -> None:
        with self._failure_kept("cannot be closed"):
            handle, self.handle = self.handle, None
            if handle is not None:
                handle.Close()

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _transfer(self, problem: str, verb: str, offset: int, values: npt.NDArray[Any]) -> None:
        if self.handle is None or self.failure:
            return
        with self._failure_kept(problem):
            status = MPI.Status()
            getattr(self.handle, verb)(offset, [values, values.nbytes, MPI.BYTE], status)
            if status.Get_count(MPI.BYTE) != values.nbytes:
                done = status.Get_count(MPI.BYTE)
                raise OSError(
                    f"only {done} of {values.nbytes} bytes at {offset}; the disk is full or the file truncated"
                )

    @contextmanager
    def _failure_kept(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (MPI.Exception, OSError) as error:
            self.failure = self.failure or f"{self.path} {problem}: {_reason(error)}; check {self._advice}"


def _reason(error: Exception) -> str:
    """The operating system's message in an error of MPI, whose own text is pages of internals, or says nothing."""
    text = error.Get_error_string() if isinstance(error, MPI.Exception) else str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT, errno.EIO):
        if os.strerror(number) in text:
            return os.strerror(number)
    return " ".join(text.split())[:100]


@contextmanager
def together(comm: MPI.Comm, file: LocalFile | None = None) -> Iterator[None]:
    """Run a block; if it, or ``file`` before, failed on any rank, raise one CheckpointError on all.  Collective."""
    message = None
    try:
        yield
    except ModelparError as error:
        message = str(error)
    except OSError as error:
        what = f"{error.filename or 'the checkpoint'}: {error.strerror or error}"
        message = f"{what}; check the path, its permissions and the free space"
    if file is not None and file.failure:
        message = file.failure
    for text in comm.allgather(message):
        if text is not None:
            raise raised_by(CheckpointError(text), comm.size)
