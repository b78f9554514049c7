"""Which file a path means, where a run directory may stand for one of its checkpoints."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mpi4py import MPI

from modelpar.cli.run_directory import RunDirectory, verdict_of
from modelpar.errors import CheckpointError, together


def checkpoint_of(comm: MPI.Comm, path: str, *, generative: bool) -> Path:
    """The checkpoint that a path means: itself, or the one of a run directory.  Collective.

    ``generative``: that of the end of pre-training where there is one: fine-tuning changes the generative weights.
    One that says that it is not healthy is taken where there is no other.
    Raises CheckpointError, on every rank, where there is none.
    """
    file = Path(path)
    with together(comm):
        if comm.rank == 0 and file.is_dir():
            directory = RunDirectory(MPI.COMM_SELF, file)
            first, second = directory.model, directory.pretrained
            preferred = [second, first] if generative else [first, second]
            existing = [candidate for candidate in (*preferred, *directory.steps_on_disk()) if candidate.exists()]
            if not existing:
                raise CheckpointError(f"{path} is a directory without checkpoints; name a run directory or a file")
            file = next((candidate for candidate in existing if not _is_unhealthy(candidate)), existing[0])
    return Path(comm.bcast(file))


def _is_unhealthy(path: Path) -> bool:
    """Whether a checkpoint says so; what is wrong with one that cannot be read says whoever opens it."""
    with suppress(CheckpointError):
        verdict = verdict_of(path)
        return verdict is not None and not verdict.healthy
    return False
