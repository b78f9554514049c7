"""The page of ``modelpar diagnose``: one figure that rank 0 draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.cli.atomic_file import atomic_write
from modelpar.diagnosis.autocorrelation import E_FOLD, TENTH
from modelpar.diagnosis.moments import Agreement
from modelpar.diagnosis.report import Diagnosis, Distances
from modelpar.diagnosis.spectrum import effective_rank

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

# Okabe and Ito's palette, which colour-blind readers can tell apart
BLACK, ORANGE, SKY, GREEN, BLUE, RED, GREY = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#777777"
STARTS = {"random": (BLUE, "random start"), "data": (ORANGE, "data start"), "run": (GREEN, "training's chains")}
SETS = {"training": (ORANGE, "training"), "held_out": (BLUE, "held out"), "samples": (GREEN, "samples")}
NEIGHBOURS = {
    "truth_truth": (BLUE, "-", "data to data"), "truth_synthetic": (BLUE, "--", "data to samples"),
    "synthetic_synthetic": (GREEN, "-", "samples to samples"), "synthetic_truth": (GREEN, "--", "samples to data"),
}  # fmt: skip
CURVES = {
    "log_likelihood": "log-likelihood", "pseudo_likelihood": "pseudo-log-likelihood",
    "reconstruction_error": "reconstruction error",
}  # fmt: skip
STYLE: Any = {
    "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "grid.linewidth": 0.5, "lines.linewidth": 1.3, "legend.frameon": False, "axes.axisbelow": True,
}  # fmt: skip
COLUMNS = 3
MANY = 3000  # points above which a scatter is drawn as densities


@dataclass(frozen=True)
class Page:
    """What is on the page.

    shape      of a sample, where it is a picture
    filters    (units, n_visible) weights of some hidden units
    white      the value that a picture shows as white; None: the largest
    over_time  (update, singular values)
    history    records of the run
    """

    title: str
    result: Diagnosis
    shape: tuple[int, int] | None
    filters: Array | None
    white: float | None
    over_time: list[tuple[int, Doubles]]
    history: list[dict[str, Any]]


Panel = Callable[[Any], None]


def save_page(path: Path, page: Page) -> None:
    """Not collective.  Raises ModelparError where the file cannot be written; an incomplete file is removed."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    r = page.result
    panels: list[Panel] = [
        lambda axes: _distance(axes, r, "means"), lambda axes: _distance(axes, r, "pairs"),
        lambda axes: _autocorrelation(axes, r),
        lambda axes: _scatter(axes, r.data.means, r.samples.means, r.moments["means"], "means"),
        lambda axes: _scatter(axes, r.data.pairs, r.samples.pairs, r.moments["pairs"], "covariances of pairs"),
    ]  # fmt: skip
    if "triples" in r.moments:
        panels.append(
            lambda axes: _scatter(axes, r.triples[0], r.triples[1], r.moments["triples"], "correlations of triples")
        )
    if r.neighbours is not None:
        panels.append(lambda axes: _neighbours(axes, r))
    panels.append(lambda axes: _free_energies(axes, r))
    if any(values is not None and len(values) for values in r.spectrum):
        panels.append(lambda axes: _spectrum(axes, r))
    if page.over_time:
        panels.append(lambda axes: _spectrum_over_time(axes, page.over_time))
    curves = [name for name in CURVES if any(name in line for line in _epochs(page.history))][:2]
    if curves:
        panels.append(lambda axes: _curves(axes, _epochs(page.history), curves))
    with_tiles = page.shape is not None and r.shown is not None and page.filters is not None
    n_rows = math.ceil(len(panels) / COLUMNS)
    heights = [*([1.15] if with_tiles else []), *([1.0] * n_rows)]
    with matplotlib.rc_context(STYLE):
        engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.04)
        figure = Figure(figsize=(10, 0.8 + 2.75 * sum(heights)), layout=engine)
        figure.suptitle(page.title, fontsize=11, fontweight="bold", parse_math=False)  # names may have dollars
        figure.supxlabel(_below(r), fontsize=7.5, color="#444444")
        grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
        if with_tiles:
            _samples_over_time(figure.add_subplot(grid[0, :2]), page)
            _filters(figure.add_subplot(grid[0, 2]), page)
        for i, panel in enumerate(panels):
            panel(figure.add_subplot(grid[i // COLUMNS + with_tiles, i % COLUMNS]))
        with atomic_write(path) as partial:
            figure.savefig(partial, dpi=150, format="png")


def _below(r: Diagnosis) -> str:
    of_training = "those of training" if r.chains_from == "run" else "those from data"
    return (
        f"{r.n_chains} chains of {r.n_sweeps} sweeps from each start; samples: chains from random starts; "
        f"autocorrelation: {of_training}, over {r.n_sweeps} further sweeps; {r.n_samples} samples of the data"
    )


# -- pictures of samples -----------------------------------------------------------------------------------------------


def _samples_over_time(axes: Any, page: Page) -> None:
    r, shape = page.result, page.shape
    assert r.shown is not None
    assert shape is not None
    n_times, _, n_chains = r.shown.shape
    height, width = shape[0] + 1, shape[1] + 1
    canvas = np.full((n_chains * height + 1, n_times * width + 1), np.nan)
    for t in range(n_times):
        for c in range(n_chains):
            tile = r.shown[t, :, c].reshape(shape)
            canvas[c * height + 1 : (c + 1) * height, t * width + 1 : (t + 1) * width] = tile
    low, high = (0.0, page.white) if page.white is not None else (np.nanmin(canvas), np.nanmax(canvas))
    _tiles(axes, canvas, "gray", low, high)
    axes.set_xticks([t * width + width / 2 for t in range(n_times)], [str(s) for s in r.shown_sweeps])
    axes.tick_params(length=0)
    axes.set_xlabel("sweeps from a random start")
    axes.set_ylabel("chains")
    axes.set_title("Samples over time")


def _filters(axes: Any, page: Page) -> None:
    assert page.filters is not None
    assert page.shape is not None
    tiles = page.filters.reshape(-1, *page.shape)
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width = page.shape[0] + 1, page.shape[1] + 1
    canvas = np.full((rows * height + 1, columns * width + 1), np.nan)
    for i, tile in enumerate(tiles):
        top, left = i // columns * height + 1, i % columns * width + 1
        canvas[top : top + height - 1, left : left + width - 1] = tile / max(float(np.abs(tile).max()), 1e-12)
    _tiles(axes, canvas, "RdBu_r", -1.0, 1.0)
    axes.set_xticks([])
    axes.set_title("Filters, each on its own scale" if len(page.result.spectrum) == 1 else "Filters of the first RBM")


def _tiles(axes: Any, canvas: Array, colours: str, low: float, high: float) -> None:
    import matplotlib

    palette = matplotlib.colormaps[colours].with_extremes(bad="#bbbbbb" if colours == "gray" else "white")
    axes.imshow(canvas, cmap=palette, vmin=low, vmax=high, interpolation="nearest")
    axes.grid(False)
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


# -- chains ------------------------------------------------------------------------------------------------------------


def _distance(axes: Any, r: Diagnosis, name: str) -> None:
    def of(distances: Distances) -> Doubles:
        return distances.means if name == "means" else distances.pairs

    for start, distances in r.distances.items():
        colour, label = STARTS[start]
        axes.plot(r.sweeps, of(distances), color=colour, marker=".", markersize=4, label=label)
    axes.plot(r.sweeps, of(r.between), color=GREY, linestyle=":", label="random to data start")
    floor = r.floor[0 if name == "means" else 1]
    if math.isfinite(floor) and floor > 0:
        axes.axhspan(0, floor, color=GREY, alpha=0.18, linewidth=0)
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(0, r.sweeps[-1])
    _positive_log(axes, [*(of(d) for d in r.distances.values()), of(r.between), np.array([floor])])
    axes.set_xlabel("sweeps")
    axes.set_ylabel("rms difference")
    axes.set_title(f"Distance in time: {'means' if name == 'means' else 'covariances of pairs'}")
    _wide_legend(axes, "to the data; shaded: as many samples of the data")


def _wide_legend(axes: Any, title: str) -> None:
    """Over the panel's width; it does not make the panel narrower where it is wider."""
    axes.legend(loc="upper left", ncols=2, columnspacing=1.0, handlelength=1.6, borderaxespad=0.1, title=title,
                title_fontsize=7, alignment="left").set_in_layout(False)  # fmt: skip


def _positive_log(axes: Any, values: list[Array]) -> None:
    positive = np.concatenate([x[np.isfinite(x) & (x > 0)] for x in values])
    if len(positive):
        axes.set_yscale("log")
        low, high = np.log10(positive.min() / 1.3), np.log10(positive.max() * 1.3)
        axes.set_ylim(10**low, 10 ** (high + 0.5 * (high - low)))  # room for a legend


def _autocorrelation(axes: Any, r: Diagnosis) -> None:
    axes.set_title("Autocorrelation at equilibrium")
    axes.set_xlabel("sweeps")
    if r.autocorrelation is None:
        axes.text(0.5, 0.5, "nothing ever changes", ha="center", transform=axes.transAxes)
        return
    rho = r.autocorrelation
    last = len(rho) // 2 if r.window is None else min(len(rho) // 2, max(20, 3 * r.window))
    axes.plot(np.arange(last + 1), rho[: last + 1], color=BLUE)
    for bound, text in ((E_FOLD, "1/e"), (TENTH, "0.1")):
        axes.axhline(bound, color=GREY, linewidth=0.8, linestyle="--")
        axes.annotate(text, (0.01, bound), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(0, last)
    axes.set_ylim(min(-0.05, float(rho[: last + 1].min()) * 1.1), 1.02)
    mixing = f"{r.mixing_time}" if r.mixing_time is not None else f"> {r.n_sweeps}"
    at_least = "" if r.window is not None else "≥ "
    lines = [f"mixing time {mixing}", f"integrated time {at_least}{r.autocorrelation_time:.3g}"]
    axes.text(0.97, 0.95, "\n".join(lines), ha="right", va="top", transform=axes.transAxes, fontsize=7.5)


# -- samples and data --------------------------------------------------------------------------------------------------


def _scatter(axes: Any, data: Array, samples: Array, agreement: Agreement, name: str) -> None:
    if len(data):
        low, high = min(data.min(), samples.min()), max(data.max(), samples.max())
        room = 0.04 * ((high - low) or 1.0)
        ends = low - room, high + room
        axes.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
        if len(data) > MANY:
            axes.hexbin(data, samples, gridsize=60, extent=(*ends, *ends), bins="log", mincnt=1, cmap="viridis",
                        linewidths=0.1, zorder=2)  # fmt: skip
        else:
            axes.plot(data, samples, ".", color=BLUE, markersize=3, alpha=0.5, markeredgewidth=0, zorder=2)
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.set_aspect("equal")
    lines = [f"rms {agreement.rms:.2g}", f"slope {agreement.slope:.2f}", f"r {agreement.r:.3f}"]
    box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.5}
    axes.text(0.04, 0.97, "\n".join(lines), va="top", transform=axes.transAxes, fontsize=7.5, bbox=box, zorder=3)
    axes.set_xlabel("data")
    axes.set_ylabel("samples")
    axes.set_title(name[0].upper() + name[1:])


def _neighbours(axes: Any, r: Diagnosis) -> None:
    assert r.neighbours is not None
    for name, (colour, line, label) in NEIGHBOURS.items():
        values = np.sort(r.neighbours.distances[name])
        axes.step(values, np.arange(1, len(values) + 1) / len(values), color=colour, linestyle=line, label=label)
    axes.set_ylim(0, 1.55)  # room for a legend
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("squared distance of the nearest neighbour")
    axes.set_ylabel("part of the set")
    axes.set_title("Nearest neighbours")
    accuracy = f"adversarial accuracy {r.neighbours.truth:.2f} (data), {r.neighbours.synthetic:.2f} (samples)"
    _wide_legend(axes, accuracy)


def _free_energies(axes: Any, r: Diagnosis) -> None:
    everything = np.concatenate(list(r.free_energies.values()))
    low, high = np.quantile(everything, [0.002, 0.998])
    fewest = min(len(values) for values in r.free_energies.values() if len(values))
    n_bins = int(np.clip(1.5 * math.sqrt(fewest), 10, 50))
    bins = np.linspace(low, high if high > low else low + 1, n_bins + 1)
    for name, (colour, label) in SETS.items():
        values = r.free_energies.get(name)
        if values is not None and len(values):
            axes.hist(np.clip(values, low, high), bins, density=True, histtype="step", color=colour, linewidth=1.3,
                      label=label)  # fmt: skip
    axes.set_xlabel("free energy in nats" if len(r.spectrum) == 1 else "minus the bound on log p*, in nats")
    axes.set_ylabel("density")
    axes.set_title("Free energies")
    title = None if r.gap is None else f"gap {r.gap.gap:.2f} ± {r.gap.error:.2f}"
    axes.legend(title=title, title_fontsize=7.5, alignment="left")


# -- weights and training ----------------------------------------------------------------------------------------------


def _spectrum(axes: Any, r: Diagnosis) -> None:
    colours = (BLUE, ORANGE, GREEN, RED, SKY, BLACK)
    for i, values in enumerate(r.spectrum):
        if values is not None and len(values):
            label = f"RBM {i}, effective rank {effective_rank(values):.1f}"
            axes.plot(np.arange(1, len(values) + 1), values, color=colours[i % len(colours)], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    largest = max(float(v[0]) for v in r.spectrum if v is not None and len(v))
    if largest > 0:
        axes.set_ylim(bottom=max(axes.get_ylim()[0], largest * 1e-4))
    axes.set_xlabel("mode")
    axes.set_ylabel("singular value")
    axes.set_title("Spectrum of the weights")
    axes.legend(loc="lower left")


def _spectrum_over_time(axes: Any, over_time: list[tuple[int, Doubles]]) -> None:
    import matplotlib

    updates, values = [u for u, _ in over_time], np.array([v for _, v in over_time])
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, values.shape[1]))
    for mode in reversed(range(values.shape[1])):
        axes.plot(updates, values[:, mode], color=shades[mode], linewidth=1)
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_yscale("log")
    axes.set_xlabel("updates")
    axes.set_ylabel("singular value")
    axes.set_title(f"The {values.shape[1]} largest modes in training")


def _epochs(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in history if (line["kind"], line["stage"]) == ("epoch", "pretrain")]


def _curves(axes: Any, epochs: list[dict[str, Any]], names: list[str]) -> None:
    """One measure, or two with an axis each; RBMs differ in their lines."""
    styles = ("-", "--", ":", "-.")
    layers = sorted({line["layer"] for line in epochs})
    for name, colour, side in zip(names, (BLUE, RED), (axes, None), strict=False):
        here = side or axes.twinx()
        for layer in layers:
            points = [(line["epoch"], line[name]) for line in epochs if line["layer"] == layer and name in line]
            if points:
                here.plot(*zip(*points, strict=True), marker=".", color=colour, linestyle=styles[layer % len(styles)],
                          label=f"RBM {layer}")  # fmt: skip
        here.set_ylabel(CURVES[name], color=colour)
        here.tick_params(axis="y", colors=colour)
        if side is None:
            here.grid(False)
            here.spines["right"].set_visible(True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_title("Training")
    if len(layers) > 1:
        axes.legend()
