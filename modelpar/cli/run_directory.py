"""The directory of one run: its configuration, its records, its checkpoints, its summary and its pictures.

::

    config.toml             the effective configuration; --config accepts it
    metrics.jsonl           one record a line
    checkpoints/            step-XXXXXXXX.safetensors, by updates since the run began; the newest few
    pretrained.safetensors  at the end of pre-training, whose weights still generate
    model.safetensors       at the end of the run
    summary.json            what the run came to; written last
    filters.png, reconstructions.png, curves.png
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from mpi4py import MPI

from modelpar import checkpoint
from modelpar.errors import CheckpointError, SpecError, together
from modelpar.network import DeepBeliefNetwork, Position
from modelpar.records import Record

_STEP = re.compile(r"step-(\d+)\.safetensors")


class RunDirectory:
    """Rank 0 looks, makes and removes; what it finds, all ranks know.  Methods are collective unless they say not."""

    def __init__(self, comm: MPI.Comm, path: str | Path) -> None:
        self.comm, self.path = comm, Path(path)
        self._metrics: TextIO | None = None

    @classmethod
    def choose(cls, comm: MPI.Comm, asked: str | None, data_name: str) -> RunDirectory:
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

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the directory, and see that files can be written into it.

        Raises SpecError where it holds another run, CheckpointError where it cannot be written, on every rank.
        """
        with together(self.comm):
            if self.comm.rank == 0:
                if resume and not self.path.is_dir():
                    raise SpecError(f"--run-dir {self.path} holds no run to resume; leave --resume out to start one")
                old = [path for path in (self.model, self.pretrained, *self._on_disk()) if path.exists()]
                if old and not (resume or overwrite):
                    raise SpecError(
                        f"--run-dir {self.path} holds a run already; use --resume to go on with it, --overwrite to "
                        "replace it, or another directory"
                    )
                self._try_to_write()
                if not resume:
                    self._clear()
        self.comm.barrier()

    def _try_to_write(self) -> None:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe = self.checkpoints / ".probe"
            probe.write_bytes(b"modelpar")
            probe.unlink()
        except OSError as error:
            why = error.strerror or str(error)
            raise CheckpointError(
                f"the run directory {self.path} cannot be written ({why}); choose another with --run-dir"
            ) from None

    def _clear(self) -> None:
        """Remove what an old run of modelpar left, and nothing else."""
        shutil.rmtree(self.checkpoints)
        self.checkpoints.mkdir()
        names = ["metrics.jsonl", "summary.json", "filters.png", "reconstructions.png", "curves.png"]
        for path in (self.model, self.pretrained, *(self.path / name for name in names)):
            path.unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        with together(self.comm):
            if self.comm.rank == 0:
                (self.path / name).write_text(text, encoding="utf-8")

    def has(self, name: str) -> bool:
        return bool(self.comm.bcast((self.path / name).exists()))

    # -- records -----------------------------------------------------------------------------------------------------

    def open_metrics(self, position: Position, n_steps: int) -> list[dict[str, Any]]:
        """Begin ``metrics.jsonl``, or go on where ``position`` stands: later lines are dropped, earlier ones returned.

        n_steps   updates of one epoch of the stage that ``position`` is in
        """
        kept: list[dict[str, Any]] = []
        path = self.path / "metrics.jsonl"
        with together(self.comm):
            if self.comm.rank == 0:
                old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
                kept = [line for line in _whole(old) if _is_before(line, position, n_steps)]
                path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            # open to the end of the run
            self._metrics = open(path if self.comm.rank == 0 else os.devnull, "a", encoding="utf-8")  # noqa: SIM115
        told: list[dict[str, Any]] = self.comm.bcast(kept)
        return told

    def write_metrics(self, record: Record) -> None:
        """Not collective."""
        assert self._metrics is not None  # open_metrics comes first
        self._metrics.write(json.dumps(record.as_line()) + "\n")
        self._metrics.flush()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _on_disk(self) -> list[Path]:
        """Checkpoints, the newest first.  Not collective."""
        found = [path for path in self.checkpoints.glob("step-*.safetensors") if _STEP.fullmatch(path.name)]
        return sorted(found, key=_updates_of, reverse=True)

    def save_step(self, network: DeepBeliefNetwork, updates: int, keep: int) -> Path:
        """Write a checkpoint after so many ``updates``, then remove all but the newest ``keep``."""
        path = self.checkpoints / f"step-{updates:08d}.safetensors"
        checkpoint.save(network, path)
        with together(self.comm):
            if self.comm.rank == 0:
                for old in self._on_disk()[keep:]:
                    old.unlink(missing_ok=True)
        return path

    def to_resume(self, updates_of_pretraining: int) -> list[Path]:
        """Where a run may go on, the newest first."""
        found: list[tuple[float, Path]] = []
        if self.comm.rank == 0:
            found = [(_updates_of(path), path) for path in self._on_disk()]
            if self.pretrained.exists():
                found.append((updates_of_pretraining + 0.5, self.pretrained))
            if self.model.exists():
                found.append((float("inf"), self.model))
        return [path for _, path in sorted(self.comm.bcast(found), reverse=True)]


def checkpoint_of(comm: MPI.Comm, path: str, *, generative: bool) -> Path:
    """The checkpoint that a path means: itself, or the one of a run directory.  Collective.

    ``generative``: that of the end of pre-training where there is one, since fine-tuning bends the generative weights.
    Raises CheckpointError, on every rank, where there is none.
    """
    found = Path(path)
    with together(comm):
        if comm.rank == 0 and found.is_dir():
            directory = RunDirectory(MPI.COMM_SELF, found)
            first, second = directory.model, directory.pretrained
            wanted = [second, first] if generative else [first, second]
            there = [candidate for candidate in (*wanted, *directory._on_disk()) if candidate.exists()]
            if not there:
                raise CheckpointError(f"{path} is a directory without checkpoints; name a run directory or a file")
            found = there[0]
    return Path(comm.bcast(found))


def _updates_of(path: Path) -> int:
    matched = _STEP.fullmatch(path.name)
    return int(matched[1]) if matched else 0


def _whole(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Parsed lines; one that was cut off as the run ended is left out."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _is_before(line: dict[str, Any], position: Position, n_steps: int) -> bool:
    """Whether a record was made before training came to ``position``."""
    order = {"pretrain": 0, "finetune": 1, "done": 2}
    stage, here = order[line["stage"]], order[position.stage]
    mine, there = (stage, max(line["layer"], 0)), (here, position.layer if position.stage == "pretrain" else 0)
    if mine != there:
        return mine < there
    if line["kind"] == "epoch":
        return int(line["epoch"]) <= position.epoch
    return int(line["step"]) <= position.epoch * n_steps + position.step
