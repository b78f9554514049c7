"""Cards: what a notebook shows of a value, as a piece of HTML without scripts that goes with any theme.

Text has the colour of the notebook around it, and nothing has a background; the colours of charts are between light and
dark, at least 3:1 against the pages of both (WCAG 2.2, 1.4.11).  Every text is escaped, as by :mod:`partitioners.page`.
Where a notebook is not trusted it drops the style, and what is left is plain text and tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from partitioners.charts import Bar, bar_chart
from partitioners.page import escaped

COLOURS = ("#2a7fc9", "#c8641e", "#1b8a63", "#a35fae", "#8a7a1a", "#6f7b87")
STYLE = f"""
.modelpar {{ {" ".join(f"--c{i}: {colour};" for i, colour in enumerate(COLOURS))} --text: currentColor;
  --grid: rgb(128 128 128 / .3); max-width: 60rem; font-family: system-ui, sans-serif; }}
.modelpar p {{ margin: .3rem 0; }} .modelpar .muted, .modelpar .note {{ opacity: .8; }}
.modelpar .scroll {{ overflow-x: auto; }} .modelpar table {{ border-collapse: collapse; margin: .4rem 0; }}
.modelpar th, .modelpar td {{ text-align: left; padding: .15rem .8rem .15rem 0; }}
.modelpar .n {{ text-align: right; font-variant-numeric: tabular-nums; }}
.modelpar .grid {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }}
.modelpar figure {{ margin: .4rem 0; max-width: 26rem; }} .modelpar figcaption {{ font-weight: 600; }}
.modelpar .note {{ display: block; font-weight: 400; font-size: .85em; }}
.modelpar .chart {{ width: 100%; height: auto; display: block; }}
.modelpar .chart text {{ font: 13px system-ui, sans-serif; fill: currentColor; }}
.modelpar .gridline, .modelpar .frame {{ stroke: rgb(128 128 128 / .5); }} .modelpar .hit {{ fill: transparent; }}
.modelpar .legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0; padding: 0; }}
.modelpar .legend svg {{ width: 1.7rem; height: .7rem; margin-right: .35rem; }}
.modelpar progress {{ width: 20rem; max-width: 100%; vertical-align: middle; }}
"""
MOST_OWNERS = 12  # of a picture, which has as many colours, twice
MOST_UNITS, MOST_RUNS = 1 << 20, 100  # of a layer whose owners are looked at; of units of one owner, in a bar


def card(title: str, *pieces: str) -> str:
    """pieces   HTML, as :mod:`partitioners.page` makes it"""
    inside = "\n".join(piece for piece in pieces if piece)
    return f"<div class='modelpar'><style>{STYLE}</style><p><strong>{escaped(title)}</strong></p>\n{inside}</div>"


def facts(values: Iterable[tuple[str, str]]) -> str:
    """Names with their values, one after the other in a line; those without a value are left out."""
    shown = [f"<span class='muted'>{escaped(name)}</span> {escaped(value)}" for name, value in values if value]
    return f"<p>{' · '.join(shown)}</p>" if shown else ""


def by_layer(values: Iterable[npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.int64]]:
    return {f"layer {i}": value for i, value in enumerate(values)}


def counted(owner: npt.NDArray[np.int64], n_owners: int) -> npt.NDArray[np.int64]:
    """The units of each owner that has any, and a 0 where others have none: ``n_owners`` may be many."""
    counts = np.unique(owner, return_counts=True)[1].astype(np.int64)
    return counts if len(counts) == n_owners else np.append(counts, 0)


def spread(counts: npt.NDArray[np.int64]) -> str:
    """``250`` or ``180 to 301``: how many, of the least and the most."""
    if not len(counts):
        return "0"
    least, most = int(counts.min()), int(counts.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def is_drawable(sizes: Iterable[int], n_owners: int) -> bool:
    """Whether layers of these sizes have a picture of owners: there are some to tell apart, and not too many."""
    return 1 < n_owners <= MOST_OWNERS and max(sizes, default=0) <= MOST_UNITS


def owners_chart(owners: Mapping[str, npt.NDArray[np.int64]], n_owners: int, word: str) -> str:
    """A bar for each layer, in the order of the units, in the colours of their owners; empty where it is not drawable.

    word   for an owner: ``shard``, ``part``
    """
    if not is_drawable(map(len, owners.values()), n_owners):
        return ""
    bars = []
    for name, owner in owners.items():
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        if len(starts) > MOST_RUNS:
            name, owner = f"{name}, sorted by owner", np.sort(owner)
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
        lengths = np.diff(np.append(starts, len(owner))).tolist()
        runs = zip(owner[starts].tolist(), lengths, strict=True)
        bars.append(Bar(name, [(f"{word} {who}", float(n), who) for who, n in runs]))
    return bar_chart("Owners", bars, shown=lambda n: f"{n:,.0f} units", note="units in the order of their ids")
