"""The figures of the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import clusters
import numpy as np
from measures import Group, best_of_each, lowest_shown, studies
from settings import PARTS
from study import Result

# the methods, or sets of them, whose best settings have a curve
METHODS = {
    "mnist": ("Hinton's", "defaults", "CD-1", "CD-25", "PCD-1", "PCD-25", "PTT-5"),
    "digits": ("Hinton's", "defaults", "CD-1", "CD-5", "PCD-1", "PCD-5"),
    "wide": ("Hinton's", "defaults"),
    "hard": ("CD-1", "CD-10", "PCD-1", "PCD-10", "PCD-100", "PT-1/PT-10", "PTT-1/PTT-10", "restart-10"),
}
NAMES = {"mnist": "MNIST, drawn at random", "digits": "Digits", "hard": "Clusters", "wide": "MNIST, drawn at random"}
COLOURS = ("tab:grey", "tab:orange", "tab:red", "tab:green", "tab:blue", "tab:purple", "tab:brown", "tab:pink")


def plot(results: list[Result], out: Path) -> None:
    """Draw the figures of all parts that have results, those of the longest time where there are several."""
    import matplotlib

    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    for part, clock, found in studies(results):
        for name, draw in (("curves", draw_curves), ("settings", draw_settings)):
            figure = draw(part, clock, [group for group in found if group.healthy])
            if figure is not None:
                figure.savefig(out / f"likelihood_{part}_{name}.png", dpi=110)


def title(part: str, clock: str) -> str:
    """What a figure shows."""
    return f"{NAMES[part]}, {PARTS[part].data().n_visible}-{PARTS[part].hidden}, {clock} of training on one thread"


def draw_curves(part: str, clock: str, found: list[Group]) -> Any:
    """Log-likelihood over training time: the best setting of each method."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    chosen = best_of_each(found, METHODS[part])
    if not chosen:
        return None
    figure, axis = plt.subplots(figsize=(9.5, 4.6), layout="constrained")
    for i, group in enumerate(chosen):
        seconds = group.curve("seconds").mean(axis=0)
        high, low = group.curve("optimistic"), group.curve("pessimistic")
        middle = (high + low) / 2
        deviation = middle.std(axis=0, ddof=1) if len(middle) > 1 else None
        look: dict[str, Any] = {"color": COLOURS[i], "marker": "osD^vxP*"[i], "ms": 4, "lw": 1.3, "capsize": 2}
        axis.errorbar(seconds, middle.mean(axis=0), deviation, label=group.name, **look)
        axis.fill_between(seconds, low.mean(axis=0), high.mean(axis=0), color=COLOURS[i], alpha=0.15, lw=0)
    if part == "hard":
        truth = clusters.log_likelihood(clusters.samples(1000, seed=2))
        axis.axhline(truth, color="black", ls="--", lw=1, label="the distribution itself")
    ends = [group.at_end("pessimistic")[0] for group in chosen]
    later = [group.curve("pessimistic").mean(axis=0)[-5:].min() for group in chosen]  # before, all are far below
    low_end = max(min(later), lowest_shown(ends, least=0.3))
    high_end = max(axis.dataLim.ymax, low_end + 1e-3)
    axis.set_ylim(low_end - 0.05 * (high_end - low_end), high_end + 0.05 * (high_end - low_end))
    axis.set(xscale="log", xlabel="training time, seconds", ylabel="test log-likelihood, nats a sample")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.set_title(title(part, clock), fontsize=11)
    figure.legend(loc="outside right center", title="best setting of each method", fontsize=9)
    return figure


def draw_settings(part: str, clock: str, found: list[Group]) -> Any:
    """All settings at the end: every seed between its pessimistic and its optimistic value, the best on top.

    A red mark stands at the edge for one that is farther down.
    """
    import matplotlib.pyplot as plt

    if not found:
        return None
    figure, axis = plt.subplots(figsize=(9.5, 1.3 + 0.24 * len(found)), layout="constrained")
    means = [group.at_end("pessimistic")[0] for group in found]
    lowest = min(result["curve"][-1]["pessimistic"] for group in found for result in group.healthy)
    left = max(lowest, lowest_shown(means, least=0.05))
    for row, group in enumerate(found):
        ends = [result["curve"][-1] for result in group.healthy]
        shifts = row + 0.16 * (np.arange(len(ends)) - (len(ends) - 1) / 2)
        low, high = (np.array([end[name] for end in ends]) for name in ("pessimistic", "optimistic"))
        axis.hlines(shifts, low, high, color="tab:blue", lw=1.3)
        middle = (low + high) / 2
        axis.plot(middle, shifts, "o", color="tab:blue", ms=3.5)
        beyond = middle < left
        axis.plot(np.full(beyond.sum(), left), shifts[beyond], "<", color="tab:red", ms=5)
    if part == "hard":
        axis.axvline(clusters.log_likelihood(clusters.samples(1000, seed=2)), color="black", ls="--", lw=1)
    right = axis.dataLim.xmax
    axis.set_xlim(left - 0.03 * (right - left + 1e-3), right + 0.03 * (right - left + 1e-3))
    axis.set_yticks(range(len(found)), [group.name for group in found], fontsize=9)
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set(xlabel="test log-likelihood at the end, nats a sample (each seed: pessimistic to optimistic)")
    axis.grid(alpha=0.3)
    axis.set_title(title(part, clock), fontsize=11)
    return figure
