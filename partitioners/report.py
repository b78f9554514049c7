"""One HTML page of a comparison, with embedded pictures: placements in the plane, volume over parts."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from partitioners.compare import COLUMNS, Result, measured_names, problems, rows
from partitioners.graph import GraphError
from partitioners.networks import Network
from partitioners.page import document, escaped, notes, paragraph, picture, section, table
from partitioners.writing import write_text

PLACEMENTS = 8  # methods whose placements are drawn: those of the least volume


def write_report(
    path: str | os.PathLike[str], networks: Sequence[Network], results: Sequence[Result], command: str = ""
) -> None:
    """Write the page; networks with coordinates are drawn at the smallest number of parts above one.

    Raises GraphError without matplotlib, and where the page cannot be written.
    """
    figure_class = _figure_class()
    pieces = [
        paragraph(
            "Volume is the number of unit states that travel between parts for one sample, in one pass up and one down "
            "of every RBM.  A partition is feasible where the heaviest part of every layer is within the layer's limit."
        )
    ]
    for i, network in enumerate(networks):
        own = [result for result in results if result.network == network.name]
        layers = "-".join(map(str, network.graph.layers))
        parts = [paragraph(f"{network.about}; layers {layers}."), notes(problems(own)), _html_table(own)]
        solved = [result for result in own if result.partition is not None]
        if solved:
            parts.append(_picture(_volumes(figure_class, solved), f"volume over parts, {network.name}"))
        if any("bytes" in result.measured for result in solved):
            parts.append(_picture(_predictions(figure_class, solved), f"predicted against measured, {network.name}"))
        if network.graph.coordinates is not None and solved:
            parts.append(_picture(_placements(figure_class, network, solved), f"placements, {network.name}"))
        pieces.append(section(f"network-{i}", network.name, *parts))
    head = f"<p><code>{escaped(command)}</code></p>" if command else ""
    write_text(path, document("Partitions compared", "\n".join(pieces), head=head))


def _figure_class() -> Any:
    """The class of figures, without pyplot, which would keep them open and need a display."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise GraphError("a report needs matplotlib: pip install 'modelpar[plots]'") from None
    return Figure


def _html_table(results: Sequence[Result]) -> str:
    heads = [*COLUMNS, *measured_names(results)]
    words = {0, 2}  # network and method; the rest are numbers
    kinds = ["" if result.feasible else "faint" for result in results]
    return table(heads, list(rows(results)), numbers=set(range(len(heads))) - words, kinds=kinds)


def _picture(drawn: Any, text: str) -> str:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    return picture(buffer.getvalue(), text, text[0].upper() + text[1:])


def _volumes(figure_class: Any, results: Sequence[Result]) -> Any:
    """A line for each method; infeasible partitions are drawn hollow."""
    figure = figure_class(figsize=(7, 4))
    axes = figure.add_subplot()
    for name in dict.fromkeys(result.method for result in results):
        mine = sorted((result for result in results if result.method == name), key=lambda result: result.n_parts)
        xs, ys = [result.n_parts for result in mine], [result.volume for result in mine]
        (line,) = axes.plot(xs, ys, label=name, linewidth=1)
        for result in mine:
            inside = line.get_color() if result.feasible else "white"
            axes.plot(result.n_parts, result.volume, "o", color=line.get_color(), markerfacecolor=inside)
    parts = sorted({result.n_parts for result in results})
    if min(parts) > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(parts, [str(n) for n in parts])
    axes.set_xlabel("parts")
    axes.set_ylabel("volume, states a sample")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def _predictions(figure_class: Any, results: Sequence[Result]) -> Any:
    """Bytes and milliseconds: each partition a point, on the diagonal where the prediction is right."""
    known = [result for result in results if "bytes" in result.measured]
    panels: list[tuple[str, list[tuple[float, float]]]]
    panels = [("bytes", [(result.predicted_bytes, result.measured["bytes"]) for result in known])]
    if all("step_seconds" in result.measured for result in known):
        pairs = [(1e3 * result.predicted_seconds, 1e3 * result.measured["step_seconds"]) for result in known]
        panels.append(("ms of a step", pairs))
    figure = figure_class(figsize=(4.8 * len(panels), 4.5))
    for i, (unit, pairs) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        most = max(max(pair) for pair in pairs) or 1
        axes.plot([0, most], [0, most], color="#bbbbbb", linewidth=1)
        for name in dict.fromkeys(result.method for result in known):
            mine = [pair for pair, result in zip(pairs, known, strict=True) if result.method == name]
            axes.plot(*zip(*mine, strict=True), "o", label=name)
        axes.set_xlabel(f"predicted {unit}")
        axes.set_ylabel(f"measured {unit}")
        axes.locator_params(axis="x", nbins=4)  # numbers of bytes have many digits
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def _placements(figure_class: Any, network: Network, results: Sequence[Result]) -> Any:
    """A row for each of the best methods, a column for each layer; of maps at one position the first is drawn."""
    assert network.graph.coordinates is not None
    n_parts = min((result.n_parts for result in results if result.n_parts > 1), default=results[0].n_parts)
    same_parts = [result for result in results if result.n_parts == n_parts]
    drawn = sorted(same_parts, key=lambda result: result.volume)[:PLACEMENTS]
    n_layers = len(network.graph.layers)
    figure = figure_class(figsize=(2.6 * n_layers, 2.6 * len(drawn)))
    for row, result in enumerate(drawn):
        assert result.partition is not None
        for layer, points in enumerate(network.graph.coordinates):
            axes = figure.add_subplot(len(drawn), n_layers, row * n_layers + layer + 1)
            _, first = np.unique(points, axis=0, return_index=True)
            rows_, columns = points[first].T
            colours = result.partition.owners[layer][first]
            axes.scatter(columns, rows_, c=colours, s=4, marker="s", cmap="tab20", vmin=0, vmax=max(n_parts - 1, 1))
            axes.invert_yaxis()
            axes.set_aspect("equal")
            axes.set_xticks([])
            axes.set_yticks([])
            if layer == 0:
                axes.set_ylabel(f"{result.method}\n{result.volume}", fontsize=8)
            if row == 0:
                axes.set_title(f"layer {layer}, {n_parts} parts", fontsize=8)
    return figure
