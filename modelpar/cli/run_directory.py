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
    summary.json            the results of the run; written last
    filters.png, reconstructions.png, samples.png, curves.png
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mpi4py import MPI

from modelpar import checkpoint
from modelpar.cli.atomic_file import PARTIAL, atomic_write, naming
from modelpar.cli.config import TRAJECTORY
from modelpar.comm.memory import check_room
from modelpar.errors import CheckpointError, SpecError, together
from modelpar.files.paths import printable
from modelpar.files.regular import open_regular
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.connections import Connections
from modelpar.records import NO_LAYER, STAGES, Record, recorded_layer
from modelpar.spec import MOST_LAYERS, NetworkSpec
from modelpar.training import digests
from modelpar.training.state import Position

_STEP = re.compile(r"step-(\d+)\.safetensors")
_KEPT = re.compile(r"rbm-(\d+)-update-(\d{10,})\.safetensors")
CONFIG, METRICS, SUMMARY, RANKS, RESTARTS = "config.toml", "metrics.jsonl", "summary.json", "ranks.txt", "restarts"
PICTURES = ("filters.png", "reconstructions.png", "samples.png", "curves.png")
MODELS = ("model.safetensors", "pretrained.safetensors")
NAMES = (*MODELS, CONFIG, METRICS, digests.NAME, SUMMARY, RANKS, RESTARTS, *PICTURES)


MEMORY_OF_RECORDS = 8  # bytes that a byte of metrics.jsonl takes as Python's objects, about


class KeptModel(NamedTuple):
    """A checkpoint from the course of pre-training; sorted, they are in its order."""

    rbm: int  # the RBM that was trained
    update: int  # of it, from 0: the start
    path: Path

    @staticmethod
    def name_of(rbm: int, update: int) -> str:
        return f"rbm-{rbm}-update-{update:010d}.safetensors"


class RunDirectory:
    """Rank 0 accesses the files; all ranks get the results.  Methods are collective unless they say otherwise."""

    def __init__(self, comm: MPI.Comm, path: str | Path) -> None:
        self.comm, self.path = comm, Path(path)
        self._metrics: BinaryIO | None = None
        self._digests: BinaryIO | None = None
        self.n_damaged = 0  # lines that ``open_metrics`` could not read and left out

    @classmethod
    def choose(cls, comm: MPI.Comm, asked: str | Path | None, data_name: str) -> RunDirectory:
        """The directory asked for, or ``runs/DATA-TIME`` with rank 0's time."""
        stamp = comm.bcast(time.strftime("%Y%m%d-%H%M%S"))
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", data_name).strip("-") or "data"
        return cls(comm, asked or Path("runs") / f"{name}-{stamp}")

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def pretrained(self) -> Path:
        return self.path / "pretrained.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

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
                old = self.files()
                if old and not (resume or overwrite):
                    go_on = "--resume to go on with it, " if option == "--run-dir" else ""
                    raise SpecError(
                        f"{option} {self.path} holds a run already ({old[0].name}); use {go_on}--overwrite to replace "
                        "it, or another directory"
                    )

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the directory, check that files can be written into it, and remove the run that is to be replaced, or
        the incomplete files of a run that is resumed.

        Raises as ``check`` does, and CheckpointError where it cannot be written, on every rank.
        """
        self.check(resume=resume, overwrite=overwrite)
        with together(self.comm):
            if self.comm.rank == 0:
                self._try_to_write()
                self._clear(half_written_only=resume)
        self.comm.barrier()

    def _try_to_write(self) -> None:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.checkpoints, prefix=".probe-") as probe:
                probe.write(b"modelpar")
        except OSError as error:
            why = error.strerror or str(error)
            raise CheckpointError(
                f"the run directory {self.path} cannot be written ({why}); choose another with --run-dir"
            ) from None

    def _clear(self, *, half_written_only: bool) -> None:
        """Remove the files of an old run of modelpar, and nothing else."""
        for path in self.files():
            if not half_written_only or path.name.endswith(PARTIAL):
                path.unlink()
        if not half_written_only:
            with suppress(OSError):  # the user has files in it, or it is a link
                (self.path / TRAJECTORY).rmdir()

    def files(self) -> list[Path]:
        """The files of a run, incomplete ones included; other files are the user's.  Not collective."""
        own = [self.path / (name + end) for name in NAMES for end in ("", PARTIAL)]
        steps = [path for path in self.checkpoints.glob("step-*") if _STEP.fullmatch(path.name.removesuffix(PARTIAL))]
        kept = [
            path for path in (self.path / TRAJECTORY).glob("rbm-*") if _KEPT.fullmatch(path.name.removesuffix(PARTIAL))
        ]
        return [path for path in (*own, *sorted(steps), *sorted(kept)) if path.is_symlink() or path.exists()]

    def trajectory(self) -> list[KeptModel]:
        """The models that are kept from the course of pre-training, in its order.  Not collective."""
        paths = (self.path / TRAJECTORY).glob("rbm-*.safetensors")
        named = [(matched, path) for path in paths if (matched := _KEPT.fullmatch(path.name))]
        return sorted(KeptModel(int(matched[1]), int(matched[2]), path) for matched, path in named)

    def write_text(self, name: str, text: str) -> None:
        """Raises ModelparError, on every rank, where the file cannot be written; an old one is then untouched."""
        with together(self.comm):
            if self.comm.rank == 0:
                with atomic_write(self.path / name) as partial:
                    partial.write_text(printable(text), encoding="utf-8")

    def has(self, name: str) -> bool:
        return bool(self.comm.bcast((self.path / name).exists()))

    # -- records -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the files that are open for appending."""
        for file in (self._metrics, self._digests):
            if file is not None:
                file.close()
        self._metrics = self._digests = None

    def history(self) -> list[dict[str, Any]]:
        """The records that were written so far; no file is changed.  Raises ModelparError on every rank."""
        records: list[dict[str, Any]] = []
        with together(self.comm):
            if self.comm.rank == 0:
                records, _ = _records_of(self.path / METRICS)
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
                records, self.n_damaged = _records_of(path)
                kept = [line for line in records if _is_before(line, position, n_steps)]
                with atomic_write(path) as partial:
                    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
                # open to the end of the run; without a buffer, so that an error is reported at the write that failed
                self._metrics = open(path, "ab", buffering=0)  # noqa: SIM115
        kept, self.n_damaged = self.comm.bcast((kept, self.n_damaged))
        return kept

    def write_metrics(self, record: Record) -> None:
        """Raises ModelparError, on every rank, where the line cannot be written."""
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
                kept = [update for update in old if _is_before({**vars(update), "kind": "step"}, position, n_steps)]
                with atomic_write(path) as partial, open(partial, "wb") as file:
                    for update in kept:
                        digests.append(file, update)
                self._digests = open(path, "ab", buffering=0)  # noqa: SIM115

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

    def _on_disk(self) -> list[Path]:
        """Checkpoints, the newest first.  Not collective."""
        steps = [path for path in self.checkpoints.glob("step-*.safetensors") if _STEP.fullmatch(path.name)]
        return sorted(steps, key=_updates_of, reverse=True)

    def save_step(self, network: DeepBeliefNetwork, updates: int, keep: int) -> Path:
        """Write a checkpoint after so many ``updates``, then remove all but the newest ``keep``."""
        path = self.checkpoints / f"step-{updates:08d}.safetensors"
        checkpoint.save(network, path)
        with together(self.comm):
            if self.comm.rank == 0:
                for old in self._on_disk()[keep:]:
                    old.unlink(missing_ok=True)
        return path

    def remove_end(self, *, pretrained: bool) -> None:
        """Remove the model and the summary of a run that goes on, and with ``pretrained`` that checkpoint too."""
        names = [self.model.name, SUMMARY, *([self.pretrained.name] if pretrained else [])]
        with together(self.comm):
            for name in names if self.comm.rank == 0 else ():
                (self.path / name).unlink(missing_ok=True)

    def to_resume(self, updates_of_pretraining: int) -> list[Path]:
        """The checkpoints from which a run may go on, the newest first."""
        checkpoints: list[tuple[float, Path]] = []
        if self.comm.rank == 0:
            checkpoints = [(_updates_of(path), path) for path in self._on_disk()]
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
                (self.path / CONFIG).exists() or any((self.path / name).exists() for name in MODELS) or self._on_disk()
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


def checkpoint_of(comm: MPI.Comm, path: str, *, generative: bool) -> Path:
    """The checkpoint that a path means: itself, or the one of a run directory.  Collective.

    ``generative``: that of the end of pre-training where there is one: fine-tuning changes the generative weights.
    Raises CheckpointError, on every rank, where there is none.
    """
    file = Path(path)
    with together(comm):
        if comm.rank == 0 and file.is_dir():
            directory = RunDirectory(MPI.COMM_SELF, file)
            first, second = directory.model, directory.pretrained
            preferred = [second, first] if generative else [first, second]
            existing = [candidate for candidate in (*preferred, *directory._on_disk()) if candidate.exists()]
            if not existing:
                raise CheckpointError(f"{path} is a directory without checkpoints; name a run directory or a file")
            file = existing[0]
    return Path(comm.bcast(file))


def _updates_of(path: Path) -> int:
    matched = _STEP.fullmatch(path.name)
    return int(matched[1]) if matched else 0


def _records_of(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a file, none where it is missing, and how many lines are no records; the last is not counted: a
    killed run may have left it incomplete.  Raises OSError and OutOfMemoryError."""
    if not path.exists():
        return [], 0
    check_room(MEMORY_OF_RECORDS * path.stat().st_size, f"{path}")
    with open_regular(path) as file:
        records = [_record(line) for line in digests.lines_of(file)]
    return [record for record in records if record is not None], records[:-1].count(None)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("stage") not in STAGES:
        return None
    integers = all(type(record.get(name)) is int for name in ("layer", "epoch", "step"))
    if not integers or not NO_LAYER <= record["layer"] <= MOST_LAYERS:
        return None
    numbers = all(
        type(value) is float or (type(value) is int and abs(value) < digests.MOST)
        for name, value in record.items() if name not in ("kind", "stage")
    )  # fmt: skip
    return record if numbers and record.get("kind") in ("step", "epoch") and "seconds" in record else None


def _is_before(line: dict[str, Any], position: Position, n_steps: int) -> bool:
    """Whether a record was made before ``position``."""
    recorded, reached = (
        (STAGES.index(stage), recorded_layer(stage, layer))
        for stage, layer in ((line["stage"], line["layer"]), (position.stage, position.layer))
    )
    if recorded != reached:
        return recorded < reached
    if line["kind"] == "epoch":
        return int(line["epoch"]) <= position.epoch
    return int(line["step"]) <= position.epoch * n_steps + position.step
