"""The records of a run, ``metrics.jsonl``: which lines are records, and which of them come before a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from modelpar.records import STAGES, recorded_layer
from modelpar.training.state import Position


def to_append(path: Path) -> BinaryIO:
    """A file open to the end of the run; without a buffer, so that an error is reported at the write that failed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    return os.fdopen(descriptor, "ab", buffering=0)


def records_of(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a file, none where it is missing, and how many lines are no records; the last is not counted: a
    killed run may have left it incomplete.  Raises OSError."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    records = [_record(line) for line in lines]
    return [record for record in records if record is not None], records[:-1].count(None)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("stage") not in STAGES:
        return None
    integers = all(type(record.get(name)) is int for name in ("layer", "epoch", "step"))
    numbers = all(type(value) in (int, float) for name, value in record.items() if name not in ("kind", "stage"))
    return record if integers and numbers and record.get("kind") in ("step", "epoch") and "seconds" in record else None


def is_before(line: dict[str, Any], position: Position, n_steps: int) -> bool:
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
