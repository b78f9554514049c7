"""Pictures of contacts, and of samples beside data: each function returns a figure of matplotlib, to be saved.

All raise SpecError with one line where matplotlib is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from modelpar.analysis.components import Components
from modelpar.analysis.contacts import CONTACT, Structure, precision, ranked_pairs
from modelpar.analysis.frequencies import Comparison, PairStatistics
from modelpar.analysis.linkage import Decay
from modelpar.diagnosis.moments import Agreement
from modelpar.errors import SpecError

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Drawing = TypeVar("Drawing", bound=Callable[..., Any])

# Okabe and Ito's palette, which colour-blind readers can tell apart
ORANGE, SKY, GREEN, BLUE, RED, GREY = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#777777"
DATA, SAMPLES = ORANGE, BLUE
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
    "lines.linewidth": 1.6, "legend.frameon": False, "axes.axisbelow": True,
}  # fmt: skip
BINS, SMOOTH = 80, 2.0  # of densities: cells of a side, and the width of their smoothing in cells
MASS = (0.9, 0.7, 0.5, 0.3, 0.1)  # parts of all samples that are within a contour


def figure(width: float, height: float) -> Any:
    """An empty figure of so many inches.  Raises SpecError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SpecError("pictures need matplotlib, which is not installed: pip install 'modelpar[plots]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def styled(draw: Drawing) -> Drawing:
    """A function that draws, in this module's style."""

    def drawn(*args: Any, **keywords: Any) -> Any:
        figure(1, 1)  # says what is missing
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **keywords)

    drawn.__doc__, drawn.__name__ = draw.__doc__, draw.__name__
    return drawn  # type: ignore[return-value]


@styled
def contact_map(pair_scores: Array, structure: Structure, *, n_pairs: int | None = None, title: str = "") -> Any:
    """The first ``n_pairs`` predicted pairs (as many as sites) above the diagonal, distances of the structure below."""
    n_sites = len(pair_scores)
    n_pairs = n_pairs or n_sites
    pairs = ranked_pairs(pair_scores, structure)[:n_pairs]
    right = structure.contacts[pairs[:, 0], pairs[:, 1]]
    made = figure(6.2, 5.6)
    axes = made.subplots()
    below = np.triu(np.ones((n_sites, n_sites), bool), 1)  # a row of the image is a y, and the first is at the bottom
    image = axes.imshow(
        np.where(below, structure.distances, np.nan), origin="lower", cmap="bone", vmin=0, vmax=2.5 * CONTACT,
        interpolation="nearest", extent=(0.5, n_sites + 0.5, 0.5, n_sites + 0.5),
    )  # fmt: skip
    i, j = np.nonzero(np.triu(structure.contacts, 1))
    side = (made.get_figwidth() * 60 / n_sites) ** 2  # points: about one cell
    axes.scatter(
        i + 1, j + 1, s=side * 0.75, marker="s", color="#dcdcdc", linewidths=0, label="contact in the structure"
    )
    for what, colour, label in ((right, BLUE, "predicted, a contact"), (~right, RED, "predicted, none")):
        chosen = pairs[what] + 1
        size = max(side * 0.45, 3)
        axes.scatter(chosen[:, 0], chosen[:, 1], s=size, color=colour, linewidths=0, label=f"{label}: {len(chosen)}")
    axes.plot([0.5, n_sites + 0.5], [0.5, n_sites + 0.5], color=GREY, linewidth=0.8)
    axes.set(xlim=(0.5, n_sites + 0.5), ylim=(0.5, n_sites + 0.5), xlabel="site", ylabel="site")
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_title(title or f"the first {len(pairs)} pairs: precision {precision(pair_scores, structure, n_pairs):.2f}")
    bar = made.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("distance in the structure (Å), below the diagonal")
    bar.ax.axhline(CONTACT, color=RED, linewidth=1.5)
    made.legend(loc="outside lower center", ncols=3, markerscale=1.0)
    return made


@styled
def component_densities(data: Array, others: Mapping[str, Array], basis: Components, *, name: str = "data") -> Any:
    """Densities along the first two components of the data: one panel of the data, one of each other set, same axes.

    data, others   projections (samples, 2 or more) by ``basis.project``
    """
    sets = {name: data, **others}
    everything = np.concatenate([values[:, :2] for values in sets.values()])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.06 * (high - low)
    edges = [np.linspace(a, b, BINS + 1) for a, b in zip(low - margin, high + margin, strict=True)]
    made = figure(3.6 * len(sets) + 0.3, 3.7)
    panels = made.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (label, values) in zip(panels, sets.items(), strict=True):
        colour = DATA if label == name else SAMPLES
        _density(axes, values, edges, colour)
        axes.set_title(f"{label} ({len(values):,})".replace(",", " "))
        axes.set_xlabel(f"component 1 ({basis.explained[0]:.1%} of the variance)")
    panels[0].set_ylabel(f"component 2 ({basis.explained[1]:.1%})")
    return made


def _density(axes: Any, values: Array, edges: list[Doubles], colour: str) -> None:
    """Filled contours that hold given parts of the samples, and the samples outside of them as points."""
    from matplotlib.colors import LinearSegmentedColormap
    from scipy.ndimage import gaussian_filter

    counts, _, _ = np.histogram2d(values[:, 0], values[:, 1], bins=edges)
    smooth = gaussian_filter(counts, SMOOTH)
    ordered = np.sort(smooth.ravel())[::-1]
    mass = np.cumsum(ordered) / max(ordered.sum(), 1e-300)
    levels = np.unique(ordered[np.minimum(np.searchsorted(mass, MASS), len(ordered) - 1)])
    centres = [(e[1:] + e[:-1]) / 2 for e in edges]
    shades = LinearSegmentedColormap.from_list("", ["#ffffff", colour, "#1a1a1a"])
    outside = smooth[tuple(np.clip(np.searchsorted(e, values[:, k]) - 1, 0, BINS - 1) for k, e in enumerate(edges))]
    points = values[outside < levels[0]]
    axes.scatter(points[:, 0], points[:, 1], s=2, color=colour, alpha=0.5, linewidths=0, rasterized=True)
    colours = [shades(0.25 + 0.5 * k / max(len(levels) - 1, 1)) for k in range(len(levels))]
    axes.contourf(*centres, smooth.T, levels=[*levels, smooth.max() * 1.001 + 1e-12], colors=colours)


@styled
def linkage(decays: Mapping[str, Decay], *, unit: str = "distance", log: bool = True) -> Any:
    """r^2 over distance of data and of samples; the first set is the data's.   unit: what the axis says"""
    made = figure(5.0, 3.6)
    axes = made.subplots()
    for k, (label, decay) in enumerate(decays.items()):
        style: Any = {"color": DATA, "marker": "o", "linewidth": 2.5, "markersize": 5}
        if k > 0:  # lines that agree are both seen
            style = {"color": (SAMPLES, GREEN, RED)[(k - 1) % 3], "marker": "s", "linestyle": "--", "markersize": 3}
        there = np.isfinite(decay.r_squared)
        axes.plot(decay.distances[there], decay.r_squared[there], label=label, **style)
    if log:
        axes.set_xscale("log")
    axes.set(xlabel=unit, ylabel="linkage $r^2$, mean over pairs", ylim=(0, None))
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend()
    return made


@styled
def agreement(data: PairStatistics, samples: PairStatistics, result: Comparison) -> Any:
    """Frequencies and connected correlations of samples over those of the data, a point or a density each."""
    made = figure(7.4, 3.6)
    left, right = made.subplots(1, 2)
    _scatter(left, data.frequencies.ravel(), samples.frequencies.ravel(), result.frequencies)
    left.set_title(f"frequencies of states: at most {result.site_frequency_error:.3f} apart")
    _scatter(right, data.pairs, samples.pairs, result.pairs)
    right.set_title(f"connected correlations: r {result.pairs.r:.3f}, slope {result.pairs.slope:.2f}")
    for axes in (left, right):
        axes.set(xlabel="data", ylabel="samples")
    return made


def _scatter(axes: Any, x: Doubles, y: Doubles, of: Agreement) -> None:
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.04 * (high - low or 1.0)
    ends = [low - margin, high + margin]
    axes.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
    if len(x) > 5000:
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("", ["#b4d2ea", SAMPLES, "#06223f"])
        axes.hexbin(x, y, gridsize=110, bins="log", cmap=shades, extent=(*ends, *ends), mincnt=1, linewidths=0.1)
    else:
        axes.scatter(x, y, s=6, color=SAMPLES, alpha=0.5, linewidths=0, zorder=2)
    if math.isfinite(of.slope):
        line = y.mean() + of.slope * (np.array(ends) - x.mean())
        axes.plot(ends, line, color=RED, linewidth=1, linestyle="--", zorder=3)
    axes.set(xlim=ends, ylim=ends)
    axes.set_aspect("equal")
