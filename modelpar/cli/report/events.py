"""The records of a run as event files of TensorBoard, through the package ``tensorboardX``."""

from __future__ import annotations

import os
from pathlib import Path

from modelpar.cli.report.reading import Run, number
from modelpar.cli.run_directory import METRICS
from modelpar.cli.summary import ABOUT
from modelpar.errors import ModelparError, SpecError
from modelpar.records import recorded_layer


def check_tensorboard() -> None:
    """Raises SpecError where the package is missing."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise SpecError("--tensorboard needs tensorboardX: pip install 'modelpar[tensorboard]'") from None


def write_events(folder: Path, run: Run) -> None:
    """One scalar for each measure of each record, as ``pretrain.0/pseudo_likelihood`` over the updates of its stage.

    Records have no dates: the last one gets that of its file, and those before it lie back by their training time.
    Not collective.  Raises ModelparError where the folder cannot be written.
    """
    from tensorboardX import SummaryWriter

    try:
        end = os.stat(run.path / METRICS).st_mtime if run.records else 0.0
        ages = _ages(run)
        with SummaryWriter(str(folder)) as writer:
            for line, age in zip(run.records, ages, strict=True):
                layer = recorded_layer(line["stage"], line["layer"])
                stage = f"{line['stage']}.{layer}" if line["stage"] == "pretrain" else str(line["stage"])
                for name in line:
                    value = number(line, name)
                    if name not in (*ABOUT, "epoch") and value is not None:
                        writer.add_scalar(f"{stage}/{name}", value, line["step"], walltime=end - age)
    except OSError as error:
        raise ModelparError(f"--tensorboard {folder} cannot be written: {error.strerror or error}") from None


def _ages(run: Run) -> list[float]:
    """Seconds of training between each record and the last one."""
    at, before, stage, times = 0.0, 0.0, None, []
    for line in run.records:
        if (line["stage"], line["layer"]) != stage:
            stage, before = (line["stage"], line["layer"]), 0.0
        seconds = number(line, "seconds") or before
        at, before = at + max(seconds - before, 0.0), seconds
        times.append(at)
    return [at - time for time in times]
