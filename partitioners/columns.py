"""The columns of a comparison: heads in words, one unit a column; and the table of a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from partitioners.compare import Result

BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
PIPED = 1000  # characters: a table that is piped is complete, and as wide as it is
SCALES = {"bytes": BYTES, "seconds": SECONDS}


@dataclass(frozen=True)
class Column:
    """One column.

    kind   of its values: "words", "count", "percent", "yes", "bytes" or "seconds"
    value  None where a result has none
    rank   the larger, the sooner it is left out of a terminal that is too narrow; 0 never is
    """

    head: str
    unit: str
    kind: str
    about: str
    value: Callable[[Result], str | float | None]
    rank: int = 0

    @property
    def is_number(self) -> bool:
        return self.kind not in ("words", "yes")


_FIXED = (
    Column("network", "", "words", "", lambda r: r.network),
    Column("parts", "", "count", "", lambda r: r.n_parts),
    Column("method", "", "words", "", lambda r: r.method),
    Column("volume", "states", "count", "unit states that travel between parts for one sample, in one pass up and one "
           "down of every RBM", lambda r: r.volume),
    Column("largest send", "states", "count", "of these, what the busiest part sends", lambda r: r.largest_send, 8),
    Column("messages", "", "count", "pairs of parts between which something travels, over RBMs and directions",
           lambda r: r.messages, 9),
    Column("edge cut", "connections", "count", "connections between units of different parts", lambda r: r.edge_cut,
           10),
    Column("imbalance", "%", "percent", "what the heaviest part of a layer weighs above the mean part, in the worst "
           "layer", lambda r: 100 * max(r.imbalance, default=0.0), 7),
    Column("feasible", "", "yes", "whether the heaviest part of every layer is within the layer's limit",
           lambda r: "yes" if r.feasible else "no", 2),
    Column("time to find", "", "seconds", "what the method took", lambda r: r.seconds, 1),
    Column("traffic, predicted", "", "bytes", "bytes that travel for a minibatch in one pass up and one down, of all "
           "parts together", lambda r: r.predicted_bytes, 6),
    Column("step, predicted", "", "seconds", "a step of training with a minibatch", lambda r: r.predicted_seconds, 3),
)  # fmt: skip
# what the engine measures: names that scripts rely on, and what they are
_MEASURED = {
    "bytes": ("traffic, measured", "bytes", "the same bytes, counted by the engine", 5),
    "step_bytes": ("CD-1 traffic, measured", "bytes", "bytes of an update by CD-1, counted by the engine", 11),
    "step_predicted": ("CD-1 traffic, predicted", "bytes", "the same bytes, predicted from the halos", 12),
    "step_seconds": ("step, measured", "seconds", "an update by CD-1, by the clock", 4),
}


def columns(results: Sequence[Result]) -> list[Column]:
    """The columns of these results, with the units that suit them: the fixed ones, then what was measured."""
    names = dict.fromkeys(name for result in results for name in result.measured)
    return [_scaled(column, results) for column in [*_FIXED, *map(_measured, names)]]


def _measured(name: str) -> Column:
    head, kind, about, rank = _MEASURED.get(name, (name.replace("_", " "), "count", "", 13))
    return Column(head, "", kind, about, lambda result: result.measured.get(name), rank)


def _scaled(column: Column, results: Sequence[Result]) -> Column:
    """The column in the unit in which its largest value is at least 1."""
    if column.kind not in SCALES:
        return column
    known = [column.value(result) for result in results if result.problem is None]
    most = max((float(value) for value in known if value is not None), default=0.0)
    unit, scale = next(((unit, scale) for unit, scale in SCALES[column.kind] if most >= scale), SCALES[column.kind][-1])

    def value(result: Result) -> float | None:
        own = column.value(result)
        return None if own is None else float(own) / scale

    return Column(column.head, unit, column.kind, column.about, value, column.rank)


def cell(column: Column, result: Result) -> str:
    """``1,200``, ``3.4``, ``yes``; an en dash where there is no value."""
    if result.problem is not None and column.head not in ("network", "parts", "method"):
        return "–"
    value = column.value(result)
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if column.kind == "percent" else readable(value)


def readable(value: float) -> str:
    """Three digits, or all before the point: ``0.012``, ``12.3``, ``1,234``; never in powers of ten."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return "<0.001"
    return f"{value:.{min(3, max(0, 2 - math.floor(math.log10(abs(value)))))}f}"


def rows(results: Sequence[Result]) -> Iterator[list[str]]:
    """The cells of the table, a row for each result."""
    shown = columns(results)
    for result in results:
        yield [cell(column, result) for column in shown]


def problems(results: Sequence[Result]) -> list[str]:
    """Why methods failed, and where there are more parts than units, each once."""
    failed = [f"{result.method}, {result.network}: {result.problem}" for result in results if result.problem]
    idle = [
        f"{result.network}, {result.n_parts} parts, {result.method}: {max(result.empty_parts)} parts own no unit of "
        f"layer {int(np.argmax(result.empty_parts))}"
        for result in results if any(result.empty_parts)
    ]  # fmt: skip
    return list(dict.fromkeys([*failed, *idle]))


def searches(results: Sequence[Result]) -> list[str]:
    """What searches in rounds have told of their end."""
    return [
        f"{result.method}, {result.network}, {result.n_parts} parts: {result.stopped} after {result.rounds} "
        f"round{'' if result.rounds == 1 else 's'} of searches"
        for result in results if result.rounds is not None
    ]  # fmt: skip


def table(results: Sequence[Result], width: int | None = None) -> Table:
    """The results as a table for a terminal; columns for which ``width`` is too small are named below it."""
    every, cells = columns(results), list(rows(results))
    widths = [
        max([*map(len, column.head.split()), len(column.unit), *(len(row[i]) for row in cells)])
        for i, column in enumerate(every)
    ]
    kept = list(range(len(every)))
    while width is not None and sum(widths[i] + 3 for i in kept) + 1 > width and any(every[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: every[i].rank))
    output = Table(title="Partitions: the fewer states travel, the better; infeasible ones leave parts waiting")
    for i in kept:
        head = "\n".join([*every[i].head.split(), *([every[i].unit] if every[i].unit else [])])
        output.add_column(
            Text(head), justify="right" if every[i].is_number else "left", overflow="fold", vertical="bottom"
        )
    last: tuple[str, int] | None = None
    for result, row in zip(results, cells, strict=True):
        section = (result.network, result.n_parts)
        if last not in (None, section):
            output.add_section()
        output.add_row(*(Text(row[i]) for i in kept))
        last = section
    left_out = [column.head for i, column in enumerate(every) if i not in kept]
    told = [f"left out for the width of the terminal: {'; '.join(left_out)} (--html and --json have them)"]
    caption = "\n".join([*problems(results), *searches(results), *(told if left_out else [])])
    output.caption = Text(caption) if caption else None  # a Text: brackets are not markup
    output.caption_justify = "left"
    return output
