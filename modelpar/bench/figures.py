"""Rows of benchmarks as pictures: bars of rates over SGEMM's.  Needs matplotlib, which is loaded when it is called."""

from __future__ import annotations

from typing import Any

from modelpar.bench.kernels import BLAS, COUNTS, SAMPLE, SOFT

Results = dict[str, Any]
Row = dict[str, Any]

# One colour for one kernel in all panels (Okabe and Ito 2008: told apart by colour-blind people too).
COLOURS = {
    "registers": "#0072B2", "tables": "#56B4E9", "lists": "#E69F00", BLAS: "#999999", SAMPLE: "#009E73",
    COUNTS.format(1): "#0072B2", COUNTS.format(3): "#3390C8", COUNTS.format(8): "#8CC5E8", SOFT: "#D55E00",
}  # fmt: skip
STATISTICS = {"1": "#0072B2", "3": "#009E73", "float": "#D55E00"}
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999", "#000000")


def kernel_figure(results: Results) -> Any:
    """A matplotlib Figure: for each size and number of threads the panels up and down, by density, and statistics."""
    from matplotlib.figure import Figure

    rows = results["rows"]
    groups = list(dict.fromkeys((row["size"], row["threads"]) for row in rows))
    figure = Figure(figsize=(13, 2.9 * len(groups) + 0.7), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False, width_ratios=(3, 3, 2))
    for (size, threads), line in zip(groups, panels, strict=True):
        for axes, direction in zip(line, ("up", "down", "statistics"), strict=True):
            panel_rows = [
                row for row in rows if (row["size"], row["threads"], row["direction"]) == (size, threads, direction)
            ]
            _kernel_panel(axes, panel_rows, direction)
            axes.set_title(f"{direction}, {size}, {threads} thread{'s' if threads > 1 else ''}", fontsize=10)
        line[1].sharey(line[0])
        line[0].set_ylabel("rate over SGEMM")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.supxlabel("fraction of the states that are on;  * chosen by the dispatcher;  "
                     "statistics: both phases and the update, not compared by density", fontsize=9)  # fmt: skip
    return figure


def _kernel_panel(axes: Any, rows: list[Row], direction: str) -> None:
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    if direction == "statistics":
        heights = [row["over_sgemm"] for row in rows]
        bars = axes.bar(range(len(rows)), heights, 0.8, color=[COLOURS.get(k, OTHERS[-1]) for k in kernels])
        axes.set_xticks(range(len(rows)), [_words(k) for k in kernels])
        axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=8)
    else:
        groups = [str(density) for density in dict.fromkeys(row["density"] for row in rows)]
        bars_of = {
            kernel: [(row["over_sgemm"], "*" if row["chosen"] else "") for row in rows if row["kernel"] == kernel]
            for kernel in kernels
        }
        _grouped(axes, groups, bars_of, COLOURS)
    _reference(axes)


def cd1_figure(results: Results) -> Any:
    """Updates over SGEMM by size and statistics, and a panel of the engine over its peers where there are any."""
    from matplotlib.figure import Figure

    rows, machine = results["rows"], results["machine"]
    contested = [row for row in rows if row.get("peers", {}).get("peers")]
    n_panels = 2 if contested else 1
    figure = Figure(figsize=(max(8.0, 2.5 + 1.4 * len(contested)), 3.6 * n_panels + 0.4), layout="constrained")
    panels = figure.subplots(n_panels, 1, squeeze=False)[:, 0]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    names = list(dict.fromkeys(row["statistics"] for row in rows))
    bars = {
        name: [(row["over_sgemm"], f"{row['over_sgemm']:.1f}") for row in rows if row["statistics"] == name]
        for name in names
    }
    others = dict(zip([name for name in names if name not in STATISTICS], OTHERS, strict=False))
    colours = {**STATISTICS, **others}
    _grouped(panels[0], sizes, bars, colours)
    _reference(panels[0])
    panels[0].set_ylabel("update's rate over SGEMM")
    panels[0].set_title(
        f"CD-1, {machine['grid']}, {machine['threads']} thread(s) a rank, {machine['dtype']}", fontsize=10
    )
    panels[0].legend(title="statistics\n(bits)", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if contested:
        _peer_panel(panels[1], contested)
    return figure


def _peer_panel(axes: Any, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]["peers"]))
    groups = [f"{row['size']}\n{row['statistics']}" for row in rows]
    ratios = {name: [row["peers"]["peers"].get(name, {}).get("ratio", 0.0) for row in rows] for name in names}
    bars = {name: [(ratio, f"{ratio:.1f}" if ratio else "") for ratio in values] for name, values in ratios.items()}
    _grouped(axes, groups, bars, {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(names)})
    _reference(axes)
    axes.set_ylabel("engine over peer, samples/s")
    axes.legend(title="peer", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _grouped(
    axes: Any, groups: list[str], bars_of: dict[str, list[tuple[float, str]]], colours: dict[str, str]
) -> None:
    """Bars side by side in groups: for each name (height, text above it) in the order of the groups."""
    width = 0.84 / max(1, len(bars_of))
    for i, (name, bars) in enumerate(bars_of.items()):
        positions = [g - 0.42 + (i + 0.5) * width for g in range(len(bars))]
        drawn = axes.bar(positions, [h for h, _ in bars], width, label=name, color=colours.get(name, OTHERS[-1]))
        axes.bar_label(drawn, [text for _, text in bars], fontsize=8)
    axes.set_xticks(range(len(groups)), groups)


def _reference(axes: Any) -> None:
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)


def _words(kernel: str) -> str:
    return f"k = {kernel[:-4]}" if kernel.endswith("-bit") else kernel
