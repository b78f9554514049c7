"""Files that a command reads are not overwritten: this is checked before it begins, links included.

Rank 0 checks; its error is raised on all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mpi4py import MPI

from modelpar.cli.config import Settings, home_of
from modelpar.cli.run_directory import CONFIG, PICTURES, REPORT, RunDirectory
from modelpar.data.named import FILES, SETS, candidate_folders
from modelpar.errors import SpecError, together
from modelpar.files.outputs import Output
from modelpar.files.paths import identity, split_inner
from modelpar.patterns import MASK
from modelpar.spec import option_name

Named = tuple[str, str | Path]  # a description for messages, and a path


def check_outputs(
    comm: MPI.Comm, settings: Settings, outputs: Mapping[str, str | None], *, checkpoint: str | None = None,
    more: Iterable[Named] = (), seekable: bool = False,
) -> None:  # fmt: skip
    """Raise SpecError, on every rank, where an output would replace an input or another output, or cannot be written.

    outputs      by option or argument; None where there is none
    checkpoint   a checkpoint or run directory that is read
    more         other files that are read
    seekable     they must be regular files, since all ranks write at their own positions

    Collective.
    """
    with together(comm):
        if comm.rank == 0:
            given = [(option, path) for option, path in outputs.items() if path is not None]
            read = {identity(path): (what, path) for what, path in (*inputs(settings, checkpoint), *more)}
            read.pop(None, None)
            seen: dict[object, str] = {}
            for option, path in given:
                _check(option, path, read, seekable)
                if not os.path.exists(path) or os.path.isfile(path):
                    file = identity(path) or os.path.realpath(path)
                    if file in seen:
                        raise SpecError(f"{seen[file]} and {option} both name {path}; give each a file of its own")
                    seen[file] = option


def check_run_directory(
    comm: MPI.Comm, settings: Settings, path: str | None, *, option: str = "--run-dir", checkpoint: str | None = None
) -> None:
    """Raise SpecError, on every rank, where a run in ``path`` would replace or remove what the command reads.

    Collective.
    """
    with together(comm):
        if comm.rank == 0 and path is not None:
            own = {identity(file): file for file in RunDirectory(MPI.COMM_SELF, path).files()}
            for what, file in inputs(settings, checkpoint):
                mine = own.get(identity(file))
                if mine is not None:
                    raise SpecError(
                        f"{option} {path} would write over {mine}, {what}, which this command reads; name another "
                        "directory, or move the file"
                    )


def _check(option: str, path: str, read: Mapping[tuple[int, int] | None, Named], seekable: bool) -> None:
    try:
        output = Output(path)
        if output.streamed and seekable:
            raise SpecError(
                f"{option} {path} is not a regular file, but all ranks write a .safetensors at their own positions; "
                "name a file"
            )
        what, file = ("", "") if output.streamed else read.get(identity(output.target), ("", ""))
        if what:
            raise SpecError(
                f"{option} {path} would write over {file}, {what}, which this command reads; name another file"
            )
        output.check()
    except OSError as error:
        raise SpecError(f"{option} {path} cannot be written: {error.strerror or error}") from None


def inputs(settings: Settings, checkpoint: str | None) -> Iterator[Named]:
    """All files that the options name, and those of the run that a checkpoint belongs to."""
    if settings.config is not None:
        yield "the file of --config", settings.config
    data = settings.tables.get("data", {})
    for field in ("data", "test_data"):
        for file in _files_of(data.get(field)):
            yield f"a file of {option_name(field)}", file
    for field in ("labels", "test_labels"):
        if data.get(field) is not None:
            yield f"the file of {option_name(field)}", data[field]
    if settings.grid.partition is not None:
        yield "the file of --partition", settings.grid.partition
    for word in settings.tables.get("network", {}).get("connections", "").split(","):
        if word.strip().startswith(MASK):
            yield "a mask of --connections", word.strip().removeprefix(MASK)
    if checkpoint is not None:
        home = home_of(checkpoint)
        if Path(checkpoint).is_dir() or (home / CONFIG).is_file():
            for file in RunDirectory(MPI.COMM_SELF, home).files():
                if file.name not in (*PICTURES, REPORT):
                    yield "a file of the run", file
        yield "the checkpoint", checkpoint


def _files_of(data: str | None) -> Iterator[str | Path]:
    """The files of the data that ``--data`` names."""
    if data is None:
        return
    folders = candidate_folders(data) if data in SETS else [Path(data)]
    yield split_inner(data)[0]
    if data.lower().endswith(".bed"):
        yield from (Path(data).with_suffix(ending) for ending in (".bim", ".fam"))
    for folder in folders:
        yield from (folder / f"{file}{end}" for file in FILES for end in ("", ".gz"))
