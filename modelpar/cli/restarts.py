"""How many times an unfinished run was taken up again, so that a loop that starts it over and over comes to an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpi4py import MPI

from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.run_directory import RESTARTS, SUMMARY
from modelpar.errors import ModelparError, SpecError, together


@contextmanager
def taken_up_again(comm: MPI.Comm, run_dir: str | Path | None, limit: int | None, *, resume: bool) -> Iterator[None]:
    """Count that the run in ``run_dir`` is taken up again, before anything of it can fail in the block.  Collective.

    A run that has finished is not counted, nor is one that ends in a mistake of the user.  With a ``limit`` a run that
    was never started is started, and its directory is there from now on: what ends it before its first step counts.
    Raises SpecError, on every rank, where the run was taken up again ``limit`` times before.
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
    except (ModelparError, OSError):  # one of these comes on all ranks together
        if comm.rank == 0:
            with suppress(ModelparError, OSError):
                _write(path, before)
                if made:
                    path.rmdir()  # where nothing else is in it
        raise


def restarts(run_dir: Path) -> int:
    """How many times a run was taken up again.  Not collective.  Raises SpecError where the file has no number."""
    path = run_dir / RESTARTS
    if not path.exists():
        return 0
    text = path.read_text(encoding="utf-8-sig", errors="replace").strip()
    if not text.isdecimal():
        raise SpecError(f"{path} should hold a whole number, but holds {text[:20]!r}; remove it to count from 0")
    return int(text)


def _write(path: Path, count: int) -> None:
    if not path.is_dir():
        return
    if count == 0:  # as before it was ever counted
        (path / RESTARTS).unlink(missing_ok=True)
        return
    with atomic_write(path / RESTARTS) as partial:
        partial.write_text(f"{count}\n", encoding="utf-8")
