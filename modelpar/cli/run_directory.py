"""The directory of one run: its configuration, its records, its checkpoints, its summary and its pictures.

::

    config.toml             the effective configuration; --config accepts it
    metrics.jsonl           one record a line
    digests.jsonl           with --exact or --digests: digests of every update, for ``modelpar diff``
    checkpoints/            step-XXXXXXXX.safetensors, by updates since the run began; the newest few
    trajectory/             with --keep-trajectory: rbm-X-update-XXXXXXXXXX.safetensors, from the course of pre-training
    pretrained.safetensors  at the end of pre-training, whose weights still generate
    model.safetensors       at the end of the run
    ranks.txt               the process of each rank, of the latest start: some launchers do not name a killed rank
    restarts                how many times the run was resumed
    lock                    which job works on the run, while one does (``run_lock``)
    summary.json            the results of the run; written last
    filters.png, reconstructions.png, samples.png, curves.png
    report.html             all of it on one page

A run directory may come from somebody else: no symbolic link in it is followed where something is written.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mpi4py import MPI

from modelpar import checkpoint, faults
from modelpar.checkpoint.health import Verdict
from modelpar.cli.atomic_file import atomic_write, naming
from modelpar.cli.config import TRAJECTORY
from modelpar.cli.config_file import complete
from modelpar.cli.run_lock import RunLock, writing_into
from modelpar.cli.run_records import is_before, records_of, to_append
from modelpar.errors import CheckpointError, SpecError, together
from modelpar.files import partials
from modelpar.files.outputs import Output, make_folder, sync_folder
from modelpar.files.paths import printable
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.connections import Connections
from modelpar.records import Record
from modelpar.spec import NetworkSpec
from modelpar.training import digests
from modelpar.training.state import Position

_STEP = re.compile(r"step-(\d+)\.safetensors")
_KEPT = re.compile(r"rbm-(\d+)-update-(\d{10,})\.safetensors")
_PROBE = ".probe"  # a file in checkpoints/, to see whether one can be written there
CONFIG, METRICS, SUMMARY, RANKS, RESTARTS = "config.toml", "metrics.jsonl", "summary.json", "ranks.txt", "restarts"
REPORT = "report.html"
PICTURES = ("filters.png", "reconstructions.png", "samples.png", "curves.png")
MODELS = ("model.safetensors", "pretrained.safetensors")
NAMES = (*MODELS, CONFIG, METRICS, digests.NAME, SUMMARY, RANKS, RESTARTS, *PICTURES, REPORT)


class KeptModel(NamedTuple):
    """A checkpoint from the course of pre-training; sorted, they are in its order."""

    rbm: int  # the RBM that was trained
    update: int  # of it, from 0: the start
    path: Path

    @staticmethod
    def name_of(rbm: int, update: int) -> str:
        return f"rbm-{rbm}-update-{update:010d}.safetensors"


class RunDirectory:
    """Rank 0 accesses the files; all ranks get the results.  Methods are collective unless they say otherwise.

    lock   that of the job, which may have taken it before; None: one for this object
    """

    def __init__(self, comm: MPI.Comm, path: str | Path, lock: RunLock | None = None) -> None:
        self.comm, self.path, self.lock = comm, Path(path), lock or RunLock()
        self._metrics: BinaryIO | None = None
        self._digests: BinaryIO | None = None
        self.n_damaged = 0  # lines that ``open_metrics`` could not read and left out

    @classmethod
    def choose(
        cls, comm: MPI.Comm, asked: str | Path | None, data_name: str, lock: RunLock | None = None
    ) -> RunDirectory:
        """The directory asked for, or ``runs/DATA-TIME`` with rank 0's time."""
        stamp = comm.bcast(time.strftime("%Y%m%d-%H%M%S"))
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", data_name).strip("-") or "data"
        return cls(comm, asked or Path("runs") / f"{name}-{stamp}", lock)

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def pretrained(self) -> Path:
        return self.path / "pretrained.safetensors"

    @property
    def private(self) -> tuple[Path, ...]:
        """Files that only some may read if others of the run are to be so too.  Not collective."""
        return (self.path / CONFIG,)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check_configuration(self) -> None:
        """Raise SpecError, on every rank, where there are checkpoints, but nothing says how they were made."""
        with together(self.comm):
            if self.comm.rank == 0 and not (self.path / CONFIG).exists():
                first = next((path for path in self.files() if path.suffix == ".safetensors"), None)
                if first is not None:
                    raise SpecError(
                        f"--run-dir {self.path} has {first.name}, but no {CONFIG}, so that the options of its run are "
                        "not known; give them by --config FILE"
                    )

    def check(self, *, resume: bool, overwrite: bool, option: str = "--run-dir") -> None:
        """Raise SpecError, on every rank, where there is no run to resume, or one that would be lost.

        option   the option that names the directory; only that of a run can be resumed

        Nothing is changed.
        """
        with together(self.comm):
            if self.comm.rank == 0:
                if self.path.exists() and not self.path.is_dir():
                    raise SpecError(f"{option} {self.path} is a file; name a directory, or one that is not there yet")
                if resume and not self.path.is_dir():
                    raise SpecError(f"--run-dir {self.path} holds no run to resume; leave --resume out to start one")
                # what is half written is of a start that was ended before it had anything
                old = [path for path in self.files() if partials.completed_name(path.name) is None]
                if old and not (resume or overwrite):
                    go_on = "--resume to go on with it, " if option == "--run-dir" else ""
                    raise SpecError(
                        f"{option} {self.path} holds a run already ({old[0].name}); use {go_on}--overwrite to replace "
                        "it, or another directory"
                    )

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the directory, take its lock, check that files can be written into it, and remove the run that is to be
        replaced, or the incomplete files of a run that is resumed.

        Raises as ``check`` does, SpecError where another job works in it, and CheckpointError where it cannot be
        written, on every rank.  ``close`` gives the lock back.
        """
        self.check(resume=resume, overwrite=overwrite)
        faults.at("begin directory")
        with together(self.comm):
            if self.comm.rank == 0:
                with writing_into(self.path):
                    make_folder(self.path)
        self.lock.take(self.comm, self.path)
        self.check(resume=resume, overwrite=overwrite)  # another job may have begun before the lock was taken
        with together(self.comm):
            if self.comm.rank == 0:
                for folder in (self.checkpoints, self.path / TRAJECTORY):
                    if folder.is_symlink():
                        raise SpecError(
                            f"{folder} is a symbolic link, and nothing is written through those of a run directory; "
                            "put a folder in its place, or name another directory"
                        )
                with writing_into(self.path):
                    make_folder(self.checkpoints)
                    Output(self.checkpoints / _PROBE, follow=False).check()
                self._clear(half_written_only=resume)
        self.comm.barrier()

    def _clear(self, *, half_written_only: bool) -> None:
        """Remove the files of an old run of modelpar, and nothing else; the summary first, the configuration last, so
        that what a kill leaves of them is no finished run, and durably, so that nothing of it comes back later."""
        order = {SUMMARY: -1, CONFIG: 1}
        for path in sorted(self.files(), key=lambda path: order.get(path.name, 0)):
            is_partial = partials.completed_name(path.name) is not None
            if (is_partial or not half_written_only) and not partials.is_at_work(path.name):
                path.unlink(missing_ok=True)
        if not half_written_only:
            with suppress(OSError):  # the user has files in it, or it is a link
                (self.path / TRAJECTORY).rmdir()
        for folder in (self.path, self.checkpoints, self.path / TRAJECTORY):
            sync_folder(folder)

    def files(self) -> list[Path]:
        """The files of a run, incomplete ones included, but for its lock; other files are the user's.

        Not collective.
        """

        def in_folder(folder: Path, is_own: Callable[[str], object]) -> list[Path]:
            names = {path: partials.completed_name(path.name) for path in folder.iterdir()} if folder.is_dir() else {}
            return sorted(path for path, name in names.items() if is_own(name or path.name) or name == _PROBE)

        own = in_folder(self.path, NAMES.__contains__)
        own.sort(key=lambda path: (NAMES.index(partials.completed_name(path.name) or path.name), path.name))
        steps = in_folder(self.checkpoints, _STEP.fullmatch)
        return [*own, *steps, *in_folder(self.path / TRAJECTORY, _KEPT.fullmatch)]

    def trajectory(self) -> list[KeptModel]:
        """The models that are kept from the course of pre-training, in its order.  Not collective."""
        paths = (self.path / TRAJECTORY).glob("rbm-*.safetensors")
        named = [(matched, path) for path in paths if (matched := _KEPT.fullmatch(path.name))]
        return sorted(KeptModel(int(matched[1]), int(matched[2]), path) for matched, path in named)

    def write_text(self, name: str, text: str) -> None:
        """Raises ModelparError, on every rank, where the file cannot be written; an old one is then untouched."""
        with together(self.comm):
            if self.comm.rank == 0:
                with atomic_write(self.path / name, follow=False, sources=self.private) as partial:
                    partial.write_text(printable(text), encoding="utf-8")

    def write_config(self, text: str, sources: Iterable[str | Path] = ()) -> None:
        """Write ``config.toml``.   sources: what the run is made from; where one of them is private, all files are

        Raises ModelparError, on every rank, where it cannot be written; an old one is then untouched.
        """
        with together(self.comm):
            if self.comm.rank == 0:
                with atomic_write(self.path / CONFIG, follow=False, sources=sources) as partial:
                    partial.write_text(complete(text), encoding="utf-8")

    def has(self, name: str) -> bool:
        return bool(self.comm.bcast((self.path / name).exists()))

    # -- records -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the files that are open for appending, and give the lock back.  Not collective."""
        for file in (self._metrics, self._digests):
            if file is not None:
                file.close()
        self._metrics = self._digests = None
        self.lock.close()

    def history(self) -> list[dict[str, Any]]:
        """The records that were written so far; no file is changed.  Raises ModelparError on every rank."""
        records: list[dict[str, Any]] = []
        with together(self.comm):
            if self.comm.rank == 0:
                records, _ = records_of(self.path / METRICS)
        return self.comm.bcast(records)  # type: ignore[no-any-return]

    def open_metrics(self, position: Position, n_steps: int) -> list[dict[str, Any]]:
        """Begin ``metrics.jsonl``, or go on at ``position``: later lines are dropped, earlier ones returned.

        n_steps   updates of one epoch of the stage that ``position`` is in

        Lines that are not records are dropped too, and counted by ``n_damaged``.  Raises ModelparError on every rank
        where the file cannot be read or written.
        """
        kept: list[dict[str, Any]] = []
        path = self.path / METRICS
        with together(self.comm):
            if self.comm.rank == 0:
                records, self.n_damaged = records_of(path)
                kept = [line for line in records if is_before(line, position, n_steps)]
                with atomic_write(path, follow=False, sources=self.private) as partial:
                    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
                self._metrics = to_append(path)
        kept, self.n_damaged = self.comm.bcast((kept, self.n_damaged))
        return kept

    def write_metrics(self, record: Record) -> None:
        """Raises ModelparError, on every rank, where the line cannot be written."""
        faults.at("record")
        with together(self.comm):
            if self._metrics is not None:  # on rank 0, where open_metrics comes first
                unwritten = (json.dumps(record.as_line()) + "\n").encode()
                with naming(self.path / METRICS):
                    while unwritten:
                        unwritten = unwritten[self._metrics.write(unwritten) :]

    def open_digests(self, position: Position, n_steps: int) -> None:
        """Begin ``digests.jsonl``, or go on at ``position``, as ``open_metrics``."""
        path = self.path / digests.NAME
        with together(self.comm):
            if self.comm.rank == 0:
                old = digests.read(path)[0] if path.is_file() else []
                kept = [update for update in old if is_before({**vars(update), "kind": "step"}, position, n_steps)]
                with atomic_write(path, follow=False, sources=self.private) as partial, open(partial, "wb") as file:
                    for update in kept:
                        digests.append(file, update)
                self._digests = to_append(path)

    def write_digests(self, record: Record) -> None:
        """One line for the update of a record that has digests.  Raises ModelparError on every rank."""
        if record.digests is None:
            return
        with together(self.comm):
            if self._digests is not None:
                update = digests.UpdateDigests(record.stage, record.layer, record.epoch, record.step, record.digests)
                with naming(self.path / digests.NAME):
                    digests.append(self._digests, update)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def steps_on_disk(self) -> list[Path]:
        """Checkpoints, the newest first.  Not collective."""
        steps = [path for path in self.checkpoints.glob("step-*.safetensors") if _STEP.fullmatch(path.name)]
        return sorted(steps, key=_updates_of, reverse=True)

    def save_step(self, network: DeepBeliefNetwork, updates: int, keep: int) -> tuple[Path, Verdict]:
        """Write a checkpoint after so many ``updates``, then remove all but the newest ``keep``, and the newest healthy
        one where none of these is healthy.  Returns its path, and the verdict on it."""
        path = self.checkpoints / f"step-{updates:08d}.safetensors"
        verdict = self.save(network, path)
        with together(self.comm):
            if self.comm.rank == 0:
                spared = None if verdict.healthy else self._newest_healthy()
                for old in self.steps_on_disk()[keep:]:
                    if old != spared:
                        old.unlink(missing_ok=True)
        return path, verdict

    def _newest_healthy(self) -> Path | None:
        """The newest checkpoint that says that it is healthy, else the newest that does not say; None where all say
        that they are not.  Not collective."""
        unknown = None
        for path in self.steps_on_disk():
            with suppress(CheckpointError):
                verdict = verdict_of(path)
                if verdict is not None and verdict.healthy:
                    return path
                unknown = unknown or (path if verdict is None else None)
        return unknown

    def save(self, network: DeepBeliefNetwork, path: Path) -> Verdict:
        """Write a checkpoint of the run, and return the verdict on it; the records before it are then on the disk too.

        Raises CheckpointError, or ModelparError, on every rank, where that fails.
        """
        with together(self.comm):
            for name, file in ((METRICS, self._metrics), (digests.NAME, self._digests)):
                if file is not None:
                    with naming(self.path / name):
                        os.fsync(file.fileno())
        return checkpoint.save(network, path, follow_links=False, sources=self.private)

    def remove_end(self, *, pretrained: bool) -> None:
        """Remove the model, the page and the summary of a run that goes on, and with ``pretrained`` that checkpoint and
        the pictures of it too.  The summary goes first: a run that has one has finished."""
        names = [SUMMARY, REPORT, self.model.name, *((self.pretrained.name, *PICTURES) if pretrained else ())]
        with together(self.comm):
            for name in names if self.comm.rank == 0 else ():
                (self.path / name).unlink(missing_ok=True)
                sync_folder(self.path)

    def to_resume(self, updates_of_pretraining: int) -> list[Path]:
        """The checkpoints from which a run may go on, the newest first."""
        checkpoints: list[tuple[float, Path]] = []
        if self.comm.rank == 0:
            checkpoints = [(_updates_of(path), path) for path in self.steps_on_disk()]
            if self.pretrained.exists():
                checkpoints.append((updates_of_pretraining + 0.5, self.pretrained))
            if self.model.exists():
                checkpoints.append((float("inf"), self.model))
        return [path for _, path in sorted(self.comm.bcast(checkpoints), reverse=True)]

    @staticmethod
    def number_of(path: Path) -> int | None:
        """The number of updates in the name of a checkpoint; None for those of the ends of stages.  Not collective."""
        return _updates_of(path) if _STEP.fullmatch(path.name) else None

    def check_begun(self) -> None:
        """Raise SpecError, on every rank, where an existing directory has no files of a run."""
        with together(self.comm):
            if self.comm.rank == 0 and self.path.is_dir() and not (
                any((self.path / name).exists() for name in (CONFIG, *MODELS)) or self.steps_on_disk()
            ):  # fmt: skip
                raise SpecError(
                    f"--run-dir {self.path} holds no run to resume: it has neither {CONFIG} nor a checkpoint; leave "
                    "--resume out to start one there"
                )

    def connections(self, spec: NetworkSpec) -> tuple[Connections | None, ...] | None:
        """The connections of a run that is resumed, from the newest checkpoint that has them; None where none has."""
        for path in self.to_resume(0):
            with suppress(CheckpointError):
                header = checkpoint.files.read_header(path, self.comm)
                return checkpoint.structure.read(path, header, spec, self.comm)
        return None


def verdict_of(path: Path) -> Verdict | None:
    """The verdict that a checkpoint records; None where it has none.  Not collective.

    Raises CheckpointError where it cannot be read.
    """
    return Verdict.recorded(checkpoint.files.read_header(path, MPI.COMM_SELF).metadata)


def _updates_of(path: Path) -> int:
    matched = _STEP.fullmatch(path.name)
    return int(matched[1]) if matched else 0
