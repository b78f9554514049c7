"""The display while training: a live bar on a terminal, one plain line per epoch elsewhere.

The output of ranks other than 0 is discarded (by ``main``), so the same code runs on all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from modelpar.cli.terminal import Unfailing, make_console
from modelpar.files.paths import in_one_line
from modelpar.machine.memory import size_text as size_text
from modelpar.records import Record

REFRESH = 0.1  # seconds between updates of the bar

# measure -> (name, format)
SHOWN = {
    "reconstruction_error": ("error", "{:.4f}"),
    "pseudo_likelihood": ("pseudo-likelihood", "{:.1f}"),
    "log_likelihood": ("log-likelihood", "{:.2f}"),
    "swap_acceptance": ("swaps", "{:.0%}"),
    "round_trips": ("round trips", "{:.0f}"),
    "loss": ("loss", "{:.4f}"),
    "train_accuracy": ("training", "{:.2%}"),
    "validation_accuracy": ("validation", "{:.2%}"),
    "test_accuracy": ("test", "{:.2%}"),
}


class TrainingProgress:
    """Shows records as they arrive.  A context manager that removes the bar at the end."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console()
        self.console.file = cast(IO[str], Unfailing(self.console.file))
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[measures]}", markup=False), TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console, transient=True, auto_refresh=False, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None, measures="", rate="")
        self._stage: tuple[str, int] | None = None
        self._measures = ""
        self._mark = (0.0, 0)  # training seconds and samples where the measurement of the rate began
        self._samples = 0
        self._drawn = 0.0

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line, above the bar."""
        self.console.print(in_one_line(text), markup=False, soft_wrap=True)

    def compiling(self, what: str, done: int, n: int) -> None:
        """Show what is being compiled before training begins; the bar of the first stage replaces this."""
        if not self._bar.disable:
            self._bar.update(
                self._task, completed=done, total=n, description="compiling", measures=what, refresh=True
            )  # fmt: skip

    def show(self, record: Record) -> None:
        """Update the bar with a record, and print a line if it ends an epoch."""
        if (record.stage, record.layer) != self._stage:
            self._begin(record)
        if record.kind == "step":
            self._samples += record.samples
        if record.measures:
            self._measures = describe(record.measures)
        if record.kind == "epoch":
            self.say(f"{self._name(record)}  epoch {record.epoch:>3}  {self._measures}  {self._rate(record)}")
            self._mark, self._samples = (record.seconds, 0), 0
        if self._bar.disable or (time.monotonic() - self._drawn < REFRESH and record.step < record.steps):
            return
        self._drawn = time.monotonic()
        self._bar.update(
            self._task, completed=record.step, description=self._name(record),
            measures=self._measures, rate=self._rate(record), refresh=True,
        )  # fmt: skip

    def _begin(self, record: Record) -> None:
        self._stage = (record.stage, record.layer)
        before = record.step - record.n_updates if record.kind == "step" else record.step
        self._mark, self._samples, self._measures = (record.seconds if before else 0.0, 0), 0, ""
        self._bar.reset(self._task, total=record.steps, completed=before, measures="", rate="")

    def _name(self, record: Record) -> str:
        return f"RBM {record.layer}" if record.stage == "pretrain" else "fine-tuning"

    def _rate(self, record: Record) -> str:
        seconds = record.seconds - self._mark[0]
        return f"{self._samples / seconds:,.0f} samples/s" if seconds > 0 and self._samples else ""


def describe(measures: dict[str, float]) -> str:
    """``error 0.0213  test 97.10%``"""
    return "  ".join(
        f"{label} {form.format(measures[name])}" for name, (label, form) in SHOWN.items() if name in measures
    )


def summary_table(summary: Mapping[str, object], title: str) -> Table:
    """Names and values, for people; a list is shown with a line for each of its elements."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in summary.items():
        lines = value if isinstance(value, list) else [value]
        # Text, since names of files may have brackets, which are not markup
        table.add_row(name, Text("\n".join(in_one_line(str(line)) for line in lines)))
    return table
