"""Records that were collected, which a notebook shows as curves and a table."""

from __future__ import annotations

from pathlib import Path

from modelpar.cli.progress import describe
from modelpar.cli.report.curves import learning, stage_name, units
from modelpar.cli.report.reading import Run
from modelpar.records import Record
from partitioners.cards import card
from partitioners.page import details, grid, table

MOST_ROWS = 200  # of the table: the last ones


class History(list[Record]):
    """A list of records: ``History(shown(pretrain(network, data, spec)))``, or what was appended in a loop.

    As the last value of a notebook's cell it is curves of what was measured, and a table of the epochs.
    """

    @property
    def epochs(self) -> list[Record]:
        """The records of ends of epochs."""
        return [record for record in self if record.kind == "epoch"]

    def __repr__(self) -> str:
        return f"History({len(self.epochs)} epochs in {len(self)} records)"

    def _repr_html_(self) -> str:
        run = Run(
            Path(), "", records=[record.as_line() for record in self if record.kind == "epoch" or record.measures]
        )
        return card(
            f"History: {len(self.epochs):,} epoch(s) in {len(self):,} record(s)",
            grid(*learning([run]), *units([run])),
            details(f"The last {MOST_ROWS} epochs" if len(self.epochs) > MOST_ROWS else "All epochs", self._table()),
        )

    def _table(self) -> str:
        rows = [
            [stage_name(one.stage, one.layer), str(one.epoch), f"{one.step:,}", f"{one.seconds:,.2f}",
             describe(one.measures)]
            for one in self.epochs[-MOST_ROWS:]
        ]  # fmt: skip
        return table(("stage", "epoch", "updates", "seconds", "measures"), rows, numbers=(1, 2, 3))
