"""Progress of a training that a program drives: a bar in a terminal, a card in a notebook, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from modelpar.cli.progress import TrainingProgress, describe
from modelpar.cli.report.curves import stage_name
from modelpar.records import Record
from partitioners.cards import card, facts
from partitioners.page import escaped, table

if TYPE_CHECKING:
    from mpi4py import MPI

REFRESH = 0.25  # seconds between updates of a card: each travels to the browser


def shown(records: Iterable[Record], comm: MPI.Comm | None = None) -> Iterator[Record]:
    """The same records, with progress shown while they pass:  ``for record in shown(pretrain(network, data, spec)):``

    In a terminal that is a bar, with a line for each epoch, as of ``modelpar train``; in a notebook a card that is
    replaced in place; a line for each epoch elsewhere, and in the engines of ipyparallel, whose cards cannot change.

    comm   whose first rank shows; None: this rank does

    Collective where taking the records is, as those of ``pretrain`` and ``fine_tune``: all ranks take all of them.
    """
    if comm is not None and comm.rank > 0:
        yield from records
        return
    with CardProgress() if _has_cards() else TrainingProgress() as progress:
        for record in records:
            progress.show(record)
            yield record


def _has_cards() -> bool:
    """Whether this process is the kernel of a notebook, whose outputs can be replaced."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return kernel is not None and not type(kernel).__module__.startswith("ipyparallel")


class CardProgress:
    """A card in a notebook: what is trained now, and a line for each stage.  A context manager, as TrainingProgress."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], Record] = {}  # of each stage and layer; its measures are the last ones
        self._samples = 0  # of the stage, since the first record that was seen of it
        self._since = 0.0
        self._state, self._drawn = "begins", 0.0
        self._handle: Any = None  # IPython's, of what it displays

    def __enter__(self) -> CardProgress:
        self._handle = import_module("IPython.display").display(self, display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state = "finished" if kind is None else "ended before its time"  # by break, an interrupt or an error
        self._draw()

    def show(self, record: Record) -> None:
        """Take a record, and replace the card if the last time is long enough ago."""
        stage = (record.stage, record.layer)
        before = self._last.get(stage)
        if before is None:
            self._samples, self._since = 0, record.seconds  # the first update may have waited for compilation
        elif record.kind == "step":
            self._samples += record.samples
        self._last[stage] = record if record.measures or before is None else replace(record, measures=before.measures)
        self._state = "goes on"
        if record.kind == "epoch" or time.monotonic() - self._drawn >= REFRESH:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._handle is not None:
            self._handle.update(self)

    def __repr__(self) -> str:
        return f"training {self._state}"

    def _repr_html_(self) -> str:
        if not self._last:
            return card(f"Training {self._state}")
        now = list(self._last.values())[-1]
        seconds = now.seconds - self._since
        rate = f"{self._samples / seconds:,.0f}" if seconds > 0 and self._samples else ""
        done = f"{now.step:,} of {now.steps:,} updates"
        bar = f"<progress value='{now.step}' max='{max(now.steps, 1)}'></progress> {escaped(done)}"
        rows = [
            [stage_name(one.stage, one.layer), str(one.epoch), f"{one.step:,} of {one.steps:,}", f"{one.seconds:,.1f}",
             describe(one.measures)]
            for one in self._last.values()
        ]  # fmt: skip
        return card(
            f"{stage_name(now.stage, now.layer)}, epoch {now.epoch}: training {self._state}",
            f"<p>{bar}</p>" if self._state == "goes on" else "",
            facts([("samples/s", rate)]),
            table(("stage", "epochs", "updates", "seconds", "measures"), rows, numbers=(1, 2, 3)),
        )
