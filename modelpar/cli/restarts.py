"""The number of times that an unfinished run was resumed, so that a loop that restarts it comes to an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpi4py import MPI

from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.run_directory import CONFIG, RESTARTS, SUMMARY
from modelpar.errors import ModelparError, SpecError, together
from modelpar.files.regular import read_bounded

MOST_BYTES, MOST_DIGITS = 1 << 10, 9  # of the file, and of the number in it


@contextmanager
def counted_restart(comm: MPI.Comm, run_dir: str | Path | None, limit: int | None, *, resume: bool) -> Iterator[None]:
    """Count that the run in ``run_dir`` is resumed, before anything of it can fail in the block.  Collective.

    A run that has finished is not counted, nor is one that ends in a mistake of the user.  With a ``limit`` the
    directory of a run that was never started is made, so that a failure before its first step counts.
    Raises SpecError, on every rank, where the run was resumed ``limit`` times before.
    """
    if not resume or run_dir is None:
        yield
        return
    path, made, before = Path(run_dir), False, 0
    with together(comm):
        if comm.rank == 0:
            if limit is not None and not path.is_dir():
                path.mkdir(parents=True)
                made = True
            if path.is_dir() and not (path / SUMMARY).exists():
                before = restarts(path)
                if limit is not None and before >= limit and not made:
                    raise SpecError(
                        f"the run in {path} was taken up again {before} time(s) and has not finished, and "
                        f"--max-restarts is {limit}; see why it fails, then give more, or remove {path / RESTARTS}"
                    )
                _write(path, before if made else before + 1)
    try:
        yield
    except (ModelparError, OSError):  # these are raised on all ranks together
        if comm.rank == 0:
            with suppress(ModelparError, OSError):
                _write(path, before)
                if made:
                    path.rmdir()  # only where it is empty
        raise


def restarts(run_dir: Path) -> int:
    """How many times a run was resumed.  Not collective.

    Raises SpecError where the file does not have a number, OSError where it cannot be read.
    """
    path = run_dir / RESTARTS
    if not path.exists():
        return 0
    text = read_bounded(path, MOST_BYTES).decode("utf-8-sig", errors="replace").strip()
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise SpecError(f"{path} should hold an integer, but holds {text[:20]!r}; remove it to count from 0")
    return int(text)


def _write(path: Path, count: int) -> None:
    if not path.is_dir():
        return
    if count == 0:  # as before the first restart
        (path / RESTARTS).unlink(missing_ok=True)
        return
    with atomic_write(path / RESTARTS, follow=False, sources=(path / CONFIG,)) as partial:
        partial.write_text(f"{count}\n", encoding="utf-8")
