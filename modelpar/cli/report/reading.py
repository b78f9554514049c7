"""What a run directory tells: options, records, summary, pictures and state, as far as they can be read.

Nothing is changed and no lock is taken, so a run that goes on does not notice; what is damaged, missing or not complete
yet becomes a line of ``notes``, and the rest is shown.  A directory may come from somebody else: no value is trusted to
be of the type that this version writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpi4py import MPI

from modelpar.checkpoint.health import Verdict
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import MOST_BYTES, parse_toml
from modelpar.cli.restarts import restarts
from modelpar.cli.run_directory import (
    CONFIG,
    METRICS,
    MODELS,
    PICTURES,
    SUMMARY,
    RunDirectory,
    verdict_of,
)
from modelpar.cli.run_lock import LOCK
from modelpar.cli.run_records import records_of
from modelpar.errors import CheckpointError, ModelparError, OutOfMemoryError, SpecError
from modelpar.files.locks import SIZE, ForeignFileError, Holder
from modelpar.files.paths import in_one_line, printable
from modelpar.files.regular import read_bounded

Line = dict[str, Any]
MOST_SUMMARY = 1 << 22  # bytes
MOST_PICTURE = 350_000  # bytes of one picture: four of them, and all else, are less than 2 MB
FINISHED, GOES_ON, STOPPED = "finished", "in progress", "stopped before its end"
SHOWN = [name for name in PICTURES if name != "curves.png"]  # the page has curves of its own


@dataclass
class Run:
    """One run, as it is just now.

    records  the lines of ``metrics.jsonl``; ``checkpoint`` the file whose weights are shown, of the end of pre-training
             where there is one
    """

    path: Path
    name: str
    state: str = FINISHED
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: list[Line] = field(default_factory=list)
    summary: Line = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    checkpoint: Path | None = None
    n_restarts: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> list[Line]:
        return [line for line in self.records if line["kind"] == "epoch"]

    def number(self, *keys: str) -> float | None:
        """A number of the summary; None where there is none."""
        return number(self.summary, *keys)

    @property
    def layers(self) -> str:
        """``784-500-10``; empty where it is not known."""
        network = self.config.get("network", {})
        layers = network.get("layers") or self.summary.get("layers")
        classes = self.summary.get("classes") or network.get("classes")
        sizes = [*layers, *([classes] if classes else [])] if isinstance(layers, list) else []
        return "-".join(str(size) for size in sizes if type(size) is int)


def number(values: Any, *keys: str) -> float | None:
    """The finite number below these keys; None where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    is_number = type(values) in (int, float) and abs(values) < 1e300
    return values if is_number and math.isfinite(values) else None


def end_of_pretraining(records: Sequence[Line]) -> int | None:
    """Updates of the uppermost RBM of these records, where it had all of them."""
    lines = [line for line in records if line["kind"] == "epoch" and line["stage"] == "pretrain"]
    last = max(lines, key=lambda line: (line["layer"], line["step"]), default=None)
    return None if last is None or last["step"] != last.get("steps") else int(last["step"])


def read_run(path: Path, summary: Line | None = None) -> Run:
    """Everything of a run but what is in its checkpoints.   summary: that of a run that is about to write it

    Not collective.  Raises SpecError where the path is no directory of a run.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise SpecError(f"{path} {what}; name the directory of a run, as train --run-dir makes one")
    directory = RunDirectory(MPI.COMM_SELF, path)
    names = {file.name for file in directory.files()}
    if not names & {CONFIG, METRICS, SUMMARY, *MODELS} and not any(name.startswith("step-") for name in names):
        raise SpecError(f"{path} holds no run: it has no {CONFIG}, no {METRICS} and no checkpoint; name another one")
    run = Run(path, in_one_line(printable(path.resolve().name)))
    run.config = _config(run)
    run.records = _records(run)
    run.summary = _summary(run) if summary is None else summary
    run.state = _state(run)
    run.pictures = _pictures(run)
    run.checkpoint = _checkpoint(run)
    with suppress(SpecError, OSError):
        run.n_restarts = restarts(path)
    return run


def _config(run: Run) -> dict[str, dict[str, Any]]:
    file = run.path / CONFIG
    try:
        tables = parse_toml(read_bounded(file, MOST_BYTES).decode("utf-8-sig"), str(file))
        return {name: table for name, table in tables.items() if isinstance(table, dict)}
    except FileNotFoundError:
        run.notes.append(f"{CONFIG} is missing, so the options of the run are not known")
    except (OSError, ValueError, SpecError) as error:
        run.notes.append(f"{CONFIG} cannot be read, so the options of the run are not known: {_why(error)}")
    return {}


def _records(run: Run) -> list[Line]:
    try:
        records, n_damaged = records_of(run.path / METRICS)
    except (OSError, OutOfMemoryError) as error:
        run.notes.append(f"{METRICS} cannot be read, so there are no curves: {_why(error)}")
        return []
    if n_damaged:
        run.notes.append(f"{n_damaged} damaged line(s) of {METRICS} are left out")
    elif not records:
        run.notes.append("there are no records yet: the first comes at the end of an epoch")
    return records


def _summary(run: Run) -> Line:
    file = run.path / SUMMARY
    try:
        summary = json.loads(read_bounded(file, MOST_SUMMARY))
        if isinstance(summary, dict):
            return summary
        run.notes.append(f"{SUMMARY} is not one JSON object and is left out")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        run.notes.append(f"{SUMMARY} cannot be read and is left out: {_why(error)}")
    return {}


def _state(run: Run) -> str:
    if run.summary:
        return FINISHED
    with suppress(OSError, ForeignFileError):
        holder = Holder.from_bytes(read_bounded(run.path / LOCK, SIZE))
        if holder is None or holder.process.runs is not False:
            return GOES_ON
    return STOPPED


def _pictures(run: Run) -> dict[str, bytes]:
    pictures = {}
    for name in SHOWN:
        with suppress(FileNotFoundError):
            try:
                content = read_bounded(run.path / name, MOST_PICTURE)
            except FileNotFoundError:
                raise
            except OSError as error:
                run.notes.append(f"{name} is left out: {_why(error)}")
                continue
            if content.startswith(b"\x89PNG\r\n\x1a\n"):
                pictures[name] = content
            else:
                run.notes.append(f"{name} is left out: it is not a PNG")
    return pictures


def _checkpoint(run: Run) -> Path | None:
    """A run that goes on may remove a checkpoint at any moment: whoever opens it is told, and goes on without it."""
    try:
        path = checkpoint_of(MPI.COMM_SELF, str(run.path), generative=True)
        verdict: Verdict | None = verdict_of(path)
    except CheckpointError as error:
        run.notes.append(f"no weights are shown: {_why(error)}" if run.state != GOES_ON else "no checkpoint yet")
        return None
    if verdict is not None and not verdict.healthy:
        run.notes.append(f"{path.name} says that it is not healthy: {verdict.reasons[0]}")
    return path


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ModelparError):
        return error.strerror or str(error)
    return in_one_line(str(error))
