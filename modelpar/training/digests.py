"""The digests of every update in ``digests.jsonl``, and where two such files part.  No MPI here.

One JSON object a line, in the order of the updates::

    {"stage": "pretrain", "layer": 0, "epoch": 1, "step": 17, "digests": {"v0": "0123456789abcdef", "h0": ...}}

The tensors of an update stand in the order in which they are computed, each by its digest
(:mod:`modelpar.kernels.digest`) in 16 hexadecimal digits: ``v0 h0 v1 h1 W b c`` in pre-training; in fine-tuning, whose
``layer`` is -1, the parameters after the update, ``rbm.0.W`` to ``output.c``.  The digest does not tell the grid, so
runs of different grids can be compared.  Lines of later formats say their number, as ``format``; lines without it are
of format 1, which this is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from modelpar.errors import CheckpointError
from modelpar.records import STAGES

NAME = "digests.jsonl"  # in a run directory
FORMAT = 1
_HEX = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class UpdateDigests:
    """One line: the digests of the tensors of one update, as they were computed."""

    stage: str  # "pretrain", "finetune"
    layer: int  # index of the RBM in pre-training, -1 in fine-tuning
    epoch: int  # counted from 1
    step: int  # updates done in this stage and layer, this one included
    digests: dict[str, int]  # tensor -> digest below 2^64

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Stage, layer, step: later updates of a run have greater keys."""
        return STAGES.index(self.stage), self.layer, self.step

    def as_line(self) -> dict[str, Any]:
        """The JSON object."""
        digests = {name: f"{value:016x}" for name, value in self.digests.items()}
        return {**vars(self), "digests": digests}

    @classmethod
    def from_line(cls, line: bytes) -> UpdateDigests | None:
        """The update of a line; None where it is damaged.  Raises CheckpointError for one of a later format."""
        try:
            entry = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None
        _check_format(entry)
        if not isinstance(entry, dict) or entry.get("stage") not in STAGES[:-1]:
            return None
        layer, epoch, step, digests = (entry.get(name) for name in ("layer", "epoch", "step", "digests"))
        if type(layer) is not int or type(epoch) is not int or type(step) is not int or not isinstance(digests, dict):
            return None
        if not all(isinstance(value, str) and _HEX.fullmatch(value) for value in digests.values()):
            return None
        return cls(entry["stage"], layer, epoch, step, {name: int(value, 16) for name, value in digests.items()})


def _check_format(entry: Any) -> None:
    found = entry.get("format", FORMAT) if isinstance(entry, dict) else FORMAT
    if found != FORMAT:
        raise CheckpointError(
            f"{NAME} has updates of format {str(found)[:20]}, but this version reads format {FORMAT}; use the version "
            "of modelpar that wrote it, or a later one"
        )


def append(file: BinaryIO, update: UpdateDigests) -> None:
    """Write one line at the end of a file open for bytes, buffered or not.

    Raises OSError where it cannot be written whole: the caller names the file, and tells the other ranks.
    """
    left = (json.dumps(update.as_line(), separators=(",", ":")) + "\n").encode()
    while left:
        left = left[file.write(left) :]


def read(path: str | Path) -> tuple[list[UpdateDigests], int]:
    """The updates of a file in their order, and how many lines in between could not be read.

    A last line that was cut off is left out.  Where a run went back to a checkpoint, what it did again counts,
    whether it has taken the old lines away or not.  Raises OSError where there is no such file,
    CheckpointError for one of a later format.
    """
    kept: list[UpdateDigests] = []
    n_damaged, is_last_damaged = 0, False
    with open(path, "rb") as file:
        for line in file:
            update = UpdateDigests.from_line(line)
            is_last_damaged = update is None
            if update is None:
                n_damaged += 1
                continue
            while kept and kept[-1].sort_key >= update.sort_key:
                kept.pop()
            kept.append(update)
    return kept, n_damaged - is_last_damaged


@dataclass(frozen=True)
class Parting:
    """The first update at which two runs differ."""

    stage: str
    layer: int
    epoch: int
    step: int
    tensor: str | None  # the first that differs; None where only one run has this update
    also: tuple[str, ...] = ()  # later tensors of this update that differ
    missing_in: int | None = None  # the run that lacks the update, 0 or 1
    instead: str | None = None  # what that run does instead, as ``describe`` tells it; None where its digests end


@dataclass(frozen=True)
class Comparison:
    """The outcome of comparing the digests of two runs."""

    n_alike: int  # updates before the parting whose digests agree
    n_alone: int  # updates that could not be compared: a damaged line in one run, or recorded from a later update on
    parting: Parting | None


def compare(first: Sequence[UpdateDigests], second: Sequence[UpdateDigests], n_damaged: tuple[int, int]) -> Comparison:
    """The first difference of two runs; both in order, with the number of damaged lines of each.

    An update that one run lacks is a parting, unless that run has damaged lines that could have been it, or
    began to record later.  Of an update, the tensors that both have recorded are compared, in their order.
    """
    runs, at, damaged = (first, second), [0, 0], list(n_damaged)
    n_alike = n_alone = 0

    def result(parting: Parting | None) -> Comparison:
        return Comparison(n_alike, n_alone, parting)

    while at[0] < len(first) or at[1] < len(second):
        here = [run[i] if i < len(run) else None for run, i in zip(runs, at, strict=True)]
        a, b = here
        if a is not None and b is not None and a.sort_key == b.sort_key:
            differing = [name for name in a.digests if name in b.digests and a.digests[name] != b.digests[name]]
            if differing:
                return result(Parting(a.stage, a.layer, a.epoch, a.step, differing[0], tuple(differing[1:])))
            n_alike += 1
            at = [at[0] + 1, at[1] + 1]
            continue
        ahead = 0 if b is None or (a is not None and a.sort_key < b.sort_key) else 1  # the run with the earlier update
        lacking, update = 1 - ahead, here[ahead]
        assert update is not None  # the loop ends where both have ended
        begins_later = at[lacking] == 0 and here[lacking] is not None
        if not begins_later:
            if damaged[lacking] == 0:
                other = here[lacking]
                instead = None if other is None else describe(other.stage, other.layer, other.step)
                place = update.stage, update.layer, update.epoch, update.step
                return result(Parting(*place, None, missing_in=lacking, instead=instead))
            damaged[lacking] -= 1
        n_alone += 1
        at[ahead] += 1
    return result(None)


def describe(stage: str, layer: int, step: int) -> str:
    """``step 5 of RBM 1``"""
    return f"step {step} of " + (f"RBM {layer}" if stage == "pretrain" else "fine-tuning")
