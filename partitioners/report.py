"""One HTML page of a comparison: volumes, tables that readers can sort, predictions, and placements in the plane."""

from __future__ import annotations

import os
from collections.abc import Sequence

from partitioners.charts import Bar, Series, bar_chart, line_chart, short
from partitioners.columns import Column, cell, columns, problems, readable, searches
from partitioners.compare import Result
from partitioners.networks import Network
from partitioners.page import (
    COLOURS,
    details,
    document,
    escaped,
    figure,
    grid,
    image,
    notes,
    paragraph,
    section,
    table,
    tiles,
)
from partitioners.pixels import owners_png
from partitioners.writing import write_text

PLACEMENTS = 8  # methods whose placements are drawn: those of the least volume
FEASIBLE, INFEASIBLE = 0, 5  # colours of bars
NAMED = 3  # methods that are named where several are best


def write_report(
    path: str | os.PathLike[str], networks: Sequence[Network], results: Sequence[Result], command: str = ""
) -> None:
    """Write the page; networks with coordinates are drawn at the smallest number of parts above one.

    Raises GraphError where the page cannot be written.
    """
    parts = [_section(i, network, results) for i, network in enumerate(networks)]
    links = "".join(f"<a href='#network-{i}'>{escaped(one.name)}</a>" for i, one in enumerate(networks))
    head = paragraph(
        "Who owns which unit decides what travels. The fewer states travel, the better; where the heaviest part of a "
        "layer is beyond the layer's limit, a partition is infeasible, and other parts wait for that one."
    )
    head += f"<p><code>{escaped(command)}</code></p>" if command else ""
    head += f"<nav aria-label='networks'>{links}</nav>" if len(networks) > 1 else ""
    write_text(path, document("Partitions compared", "\n".join(parts), head=head, sorting=True))


def _section(i: int, network: Network, results: Sequence[Result]) -> str:
    own = [result for result in results if result.network == network.name]
    solved = [result for result in own if result.problem is None]
    layers = "-".join(map(str, network.graph.layers))
    numbers = sorted({result.n_parts for result in solved})
    of_parts = [[result for result in solved if result.n_parts == n] for n in numbers]
    charts = [_volumes(network, some) for some in of_parts]
    return section(
        f"network-{i}",
        network.name,
        paragraph(f"{network.about}; layers {layers}."),
        notes(problems(own)),
        tiles(_best(some) for some in of_parts),
        grid(*charts, _over_parts(network, solved) if len(numbers) > 1 else ""),
        _table(network, own),
        *(paragraph(line, "muted") for line in searches(own)),
        grid(*(chart for some in of_parts for chart in _predictions(network, some))),
        _placements(network, solved) if network.graph.coordinates is not None and solved else "",
    )


def _best(results: Sequence[Result]) -> tuple[str, str, str]:
    """The least volume of the feasible, and which methods have it."""
    known = [result for result in results if result.feasible] or list(results)
    least = min(result.volume for result in known)
    names = [result.method for result in known if result.volume == least]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    broken = "" if known[0].feasible else ", infeasible"
    return (f"{_parts(results[0].n_parts)}, least volume", f"{least:,}", ", ".join(names[:NAMED]) + more + broken)


def _parts(n: int) -> str:
    return f"{n} part{'' if n == 1 else 's'}"


def _name(result: Result) -> str:
    return result.method if result.feasible else f"{result.method} (infeasible)"


def _volumes(network: Network, results: Sequence[Result]) -> str:
    """A bar for each method, the least first."""
    ordered = sorted(results, key=lambda result: result.volume)
    bars = [
        Bar(_name(one), [("", one.volume, FEASIBLE if one.feasible else INFEASIBLE)]) for one in ordered
    ]  # fmt: skip
    title = f"Volume of {network.name} at {_parts(results[0].n_parts)}"
    return bar_chart(title, bars, shown=lambda v: f"{v:,.0f}", note="states a sample; grey: infeasible")


def _over_parts(network: Network, results: Sequence[Result]) -> str:
    series = []
    for i, name in enumerate(dict.fromkeys(result.method for result in results)):
        mine = sorted((result for result in results if result.method == name), key=lambda result: result.n_parts)
        points = [(float(one.n_parts), float(one.volume)) for one in mine]
        hollow = [point for point, one in zip(points, mine, strict=True) if not one.feasible]
        series.append(Series(name, points, (), i % COLOURS, i // COLOURS, hollow))
    return line_chart(
        f"Volume of {network.name} over parts", series, x="parts", y="states a sample", log_x=True, log_y=True,
        apart=True,
        ticks_x=sorted({float(result.n_parts) for result in results}),
        note="Methods lie beside each other, so that equal ones are seen; rings: infeasible.",
    )  # fmt: skip


def _table(network: Network, results: Sequence[Result]) -> str:
    ordered = sorted(results, key=lambda result: (result.n_parts, result.problem is not None, result.volume))
    shown = [column for column in columns(results) if column.head != "network"]
    shown = [shown[1], shown[0], *shown[2:]]  # methods name the rows
    one_number = len({result.n_parts for result in results}) == 1
    explained = "".join(
        f"<dt>{escaped(column.head)}{f', {escaped(column.unit)}' if column.unit else ''}</dt>"
        f"<dd>{escaped(column.about)}</dd>"
        for column in shown if column.about
    )  # fmt: skip
    heads = [column.head for column in shown]
    return table(
        heads,
        [[cell(column, result) for column in shown] for result in ordered],
        numbers={i for i, column in enumerate(shown) if column.is_number},
        units=[column.unit for column in shown],
        values=[[_value(column, result) for column in shown] for result in ordered],
        kinds=["" if result.feasible else "faint" for result in ordered],
        caption=f"All measures of {network.name}; infeasible partitions are grey. Heads sort.",
        named_by=0,
        sorted_by=heads.index("volume" if one_number else "parts"),
    ) + details("What the columns say", f"<dl class='about'>{explained}</dl>")


def _value(column: Column, result: Result) -> float | None:
    """A number by which readers sort."""
    value = column.value(result) if result.problem is None or column.head == "parts" else None
    return float(value) if column.is_number and value is not None else None


def _predictions(network: Network, results: Sequence[Result]) -> list[str]:
    """Bars of what was predicted, each with a mark where it was measured."""
    charts = []
    for title, unit, scale, name in (
        ("Traffic", "kB a minibatch", 1e-3, "bytes"),
        ("Step", "ms", 1e3, "step_seconds"),
    ):
        known = [result for result in results if name in result.measured]
        predicted = [one.predicted_bytes if name == "bytes" else one.predicted_seconds for one in known]
        bars = [
            Bar(_name(one), [("", value * scale, FEASIBLE)], ("measured", one.measured[name] * scale))
            for one, value in sorted(zip(known, predicted, strict=True), key=lambda pair: pair[1])
        ]
        about = f"{title} of {network.name} at {_parts(results[0].n_parts)}: predicted and measured"
        note = f"{unit}; bar: predicted, line: measured"
        charts.append(bar_chart(about, bars, shown=readable, note=note))
    return charts


def _placements(network: Network, results: Sequence[Result]) -> str:
    """A row for each of the best methods, a picture for each layer; of maps at one place the first is drawn."""
    assert network.graph.coordinates is not None
    n_parts = min((result.n_parts for result in results if result.n_parts > 1), default=results[0].n_parts)
    same_parts = [result for result in results if result.n_parts == n_parts and result.partition is not None]
    shown = []
    for result in sorted(same_parts, key=lambda result: (not result.feasible, result.volume))[:PLACEMENTS]:
        assert result.partition is not None
        layers = []
        for layer, (owners, places) in enumerate(
            zip(result.partition.owners, network.graph.coordinates, strict=True)
        ):  # fmt: skip
            alt = f"owners of layer {layer} of {network.name} by {result.method}, {_parts(n_parts)}"
            layers.append(f"<div><span>layer {layer}</span>{image(owners_png(owners, places, n_parts), alt)}</div>")
        inside = f"<div class='placement'>{''.join(layers)}</div>"
        shown.append(figure(inside, _name(result), f"volume {short(result.volume)}"))
    title = f"<h3>Who owns what at {_parts(n_parts)}: a colour for every part</h3>"
    title += paragraph("Of several maps at one place the first is drawn.", "muted")
    return title + grid(*shown, wide=True)
