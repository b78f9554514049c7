"""The figures of the study."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from measures import MEASURES, accuracy_at, curves, differences, spread
from study import PARTS, STATISTICS, Result, StepSeconds, results_of, select, settings_of


def plot(results: list[Result], out: Path, step_seconds: StepSeconds) -> None:
    """Draw the figures whose parts have results."""
    import matplotlib

    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    for draw in (draw_rates, draw_curves, draw_differences, draw_depths):
        figure = draw(results, step_seconds)
        if figure is not None:
            figure.savefig(out / f"statistics_{draw.__name__.removeprefix('draw_')}.png", dpi=110)


def style(k: str) -> dict[str, Any]:
    """How the curves of k look; those of floats are black and broken."""
    i = STATISTICS.index(k)
    colour = ("tab:red", "tab:orange", "tab:green", "tab:cyan", "tab:blue", "black")[i]
    look = {"color": colour, "marker": "osD^vx"[i], "ms": 4, "lw": 1.2, "capsize": 2}
    return {**look, "ls": "--", "label": "floats"} if k == "float" else {**look, "ls": "-", "label": f"k = {k}"}


def draw_rates(results: list[Result], step_seconds: StepSeconds) -> Any:
    """The measures of CD-1 by learning rate."""
    import matplotlib.pyplot as plt

    mine = results_of(results, "cd1")
    if not mine:
        return None
    rates = sorted({result["rate"] for result in mine})
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for (name, measure), axis in zip(MEASURES.items(), axes, strict=True):
        for i, k in enumerate(STATISTICS):
            points = [spread(select(mine, rate=rate, statistics=k), measure) for rate in rates]
            shift = 1 + 0.02 * (i - 2.5)  # or the error bars lie on each other
            mean, deviation = np.array(points).reshape(-1, 2).T
            axis.errorbar(np.array(rates) * shift, mean, deviation, **style(k))
        axis.set(xscale="log", xlabel="learning rate", title=name)
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    epochs = settings_of("cd1")[0].epochs
    figure.suptitle(f"MNIST, 784-500, CD-1, {epochs} epochs: mean and standard deviation of five seeds")
    return figure


def draw_curves(results: list[Result], step_seconds: StepSeconds) -> Any:
    """The pseudo-log-likelihood as training goes on, after equal steps and after equal time."""
    import matplotlib.pyplot as plt

    parts = [part for part in ("cd1", "wide") if results_of(results, part)]
    if not parts:
        return None
    figure, grid = plt.subplots(len(parts), 2, figsize=(11, 4 * len(parts)), layout="constrained", squeeze=False)
    for part, axes in zip(parts, grid, strict=True):
        mine = results_of(results, part)
        rate = best_rate(mine)
        for k, (axis, at) in product(STATISTICS, zip(axes, (0, 1), strict=True)):
            chosen = select(mine, rate=rate, statistics=k, broken="")
            if chosen:
                *x, values = curves(chosen, step_seconds)
                deviation = values.std(axis=0, ddof=min(1, len(values) - 1))
                axis.errorbar(x[at], values.mean(axis=0), deviation, **style(k))
        clock = "seconds" if step_seconds else "seconds (as the study itself ran: its k-bit statistics are not fast)"
        layers = f"784-{mine[0]['hidden'][0]}, CD-1, rate {rate:g}"
        for axis, label, title in zip(axes, ("steps", clock), ("equal steps", "equal time"), strict=True):
            axis.set(xlabel=label, ylabel="pseudo-log-likelihood", title=f"{layers}: {title}")
            axis.grid(alpha=0.3)
        axes[0].legend(loc="lower right")
    return figure


def best_rate(results: list[Result]) -> float:
    """At which floats have the best pseudo-log-likelihood."""
    likelihoods: dict[float, float] = {}
    for rate in {result["rate"] for result in results}:
        floats = select(results, rate=rate, statistics="float")
        likelihoods[rate] = spread(floats, MEASURES["pseudo-log-likelihood"])[0]
    return max(likelihoods, key=lambda rate: np.nan_to_num(likelihoods[rate], nan=-np.inf))


def draw_differences(results: list[Result], step_seconds: StepSeconds) -> Any:
    """What each k loses against floats, in every part."""
    import matplotlib.pyplot as plt

    parts = [part for part in PARTS if part != "visible" and results_of(results, part)]
    if not parts:
        return None
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for (name, measure), axis in zip(MEASURES.items(), axes, strict=True):
        for i, part in enumerate(parts):
            mine = results_of(results, part)
            rate = best_rate(mine)
            floats = select(mine, rate=rate, statistics="float")
            gaps = [differences(select(mine, rate=rate, statistics=k), floats, measure) for k in STATISTICS[:-1]]
            mean = [gap.mean() if len(gap) > 1 else np.nan for gap in gaps]
            deviation = [gap.std(ddof=1) if len(gap) > 1 else 0 for gap in gaps]
            x = np.arange(len(gaps)) + 0.1 * (i - (len(parts) - 1) / 2)
            axis.errorbar(x, mean, deviation, fmt="osD^v"[i], ms=5, capsize=2, label=f"{part}, rate {rate:g}")
        if name.startswith("log-likelihood"):
            axis.set_yscale("symlog", linthresh=10)
        axis.axhline(0, color="black", ls="--", lw=1)
        axis.set(xlabel="k", title=name, ylabel="difference from floats" if axis is axes[0] else "")
        axis.set_xticks(range(len(STATISTICS) - 1), STATISTICS[:-1])
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle("Paired by seed: mean and standard deviation of five differences, at the best rate of floats")
    return figure


def draw_depths(results: list[Result], step_seconds: StepSeconds) -> Any:
    """Accuracy by the number of layers: for each k, and for states and probabilities of the visible side."""
    import matplotlib.pyplot as plt

    deep, visible = results_of(results, "deep"), results_of(results, "visible")
    if not deep:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for i, k in enumerate(STATISTICS):
        draw_depth(axes[0], select(deep, statistics=k), 0.04 * (i - 2.5), **style(k))
    names, rows = ("reconstruction", "pass_up"), product(("states", "probabilities"), repeat=2)
    for i, (row, mark) in enumerate(zip(rows, "osD^", strict=True)):
        chosen = select(visible, **dict(zip(names, row, strict=True)))
        draw_depth(axes[1], chosen, 0.04 * (i - 1.5), label=f"{row[0]}, {row[1]}", marker=mark, ms=4, lw=1.2, capsize=2)
    axes[0].set(title="by the statistics' bits", ylabel="test accuracy after fine-tuning, %")
    axes[1].set(title="k = 3, by (reconstruction, what is passed up)")
    for axis in axes:
        axis.set(xlabel="hidden layers of 500 units")
        axis.set_xticks((1, 2, 3))
        axis.grid(alpha=0.3)
        axis.legend(loc="center right" if axis is axes[1] else "lower right")
    figure.suptitle("MNIST, 784-500-500-500, CD-1: mean and standard deviation of five seeds")
    return figure


def draw_depth(axis: Any, results: list[Result], shift: float, **look: Any) -> None:
    """Accuracy at depth 1, 2 and 3, where more than one seed has it."""
    if len(results) < 2:
        return
    points = [spread(results, partial(accuracy_at, depth)) for depth in (1, 2, 3)]
    axis.errorbar(np.array([1, 2, 3]) + shift, *np.array(points).T, **look)
