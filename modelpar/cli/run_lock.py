"""The lock of a job on its run directory: a second job on it ends with one line before it changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EPERM, EROFS
from pathlib import Path

from mpi4py import MPI

from modelpar.errors import CheckpointError, SpecError, together
from modelpar.files import locks
from modelpar.files.locks import FileLock, ForeignFileError, HeldError

LOCK = locks.NAME
PATIENCE = 3.0  # seconds: the processes of a job that was killed may need a moment to go


class RunLock:
    """One rank holds it; after its loss the next rank 0 takes it over.  To be closed on every rank."""

    def __init__(self) -> None:
        self._held: FileLock | None = None
        self._key = ""  # of the holder of this job

    def take(self, comm: MPI.Comm, folder: Path, *, only_if_there: bool = False) -> None:
        """Take the lock, unless this job has it.  Collective.

        only_if_there   not where the folder does not exist yet, or nothing can be written into it

        Raises SpecError, on every rank, where another job has it, CheckpointError where it cannot be written.
        """
        keys = comm.allgather(self._key if self._held is not None else "")  # a grid may have another rank 0
        with together(comm):
            if comm.rank == 0 and not any(keys) and (folder.is_dir() or not only_if_there):
                self._take(folder, only_if_there)
        self._key = max(keys) or comm.bcast(self._key)

    def _take(self, folder: Path, only_if_there: bool) -> None:
        try:
            self._held = FileLock.take(folder, predecessor=self._key, patience=PATIENCE)
            self._key = self._held.holder.key
        except HeldError as error:
            raise SpecError(_in_use(folder, error.holder)) from None
        except ForeignFileError as error:
            raise SpecError(
                f"{folder / LOCK} should be the lock of a run, but {error}; move it away, or name another directory"
            ) from None
        except OSError as error:
            if not (only_if_there and error.errno in (EACCES, EPERM, EROFS)):
                with writing_into(folder):
                    raise

    def close(self) -> None:
        """Give the lock back.  Not collective, never raises."""
        held, self._held = self._held, None
        if held is not None:
            held.release()


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """An error of the operating system becomes a CheckpointError that names the run directory.  Not collective."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise CheckpointError(
            f"the run directory {folder} cannot be written ({why}); choose another with --run-dir"
        ) from None


def _in_use(folder: Path, holder: locks.Holder | None) -> str:
    if holder is None:
        return f"the run directory {folder} is in use: another job begins just now; name another directory"
    near = holder.process.is_near
    how = "" if near else f"; if that process is gone for certain, remove {folder / LOCK}"
    return f"the run directory {folder} is in use: by {holder}; wait for its end, or name another directory{how}"
