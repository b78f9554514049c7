"""The tables of the study, as Markdown."""

from __future__ import annotations

import clusters
import numpy as np
from measures import Group, studies
from settings import PARTS
from study import Result

COLUMNS = {
    "step": ("updates", 0),
    "optimistic": ("optimistic", 2),
    "pessimistic": ("pessimistic", 2),
    "gap": ("gap", 2),
}


def table(results: list[Result]) -> None:
    """Print a Markdown table for every part and training time that has results."""
    for part, clock, found in studies(results):
        print(f"\n{heading(part, clock, found)}\n")
        print_row(["setting", *(head for head, _ in COLUMNS.values()), "seeds", "broken"])
        print_row(["---"] * (len(COLUMNS) + 3))
        for group in found:
            cells = [spelled(*group.at_end(name), digits) for name, (_, digits) in COLUMNS.items()]
            n = len(group.results)
            print_row([group.name, *cells, str(n), str(n - len(group.healthy))])


def heading(part: str, clock: str, found: list[Group]) -> str:
    """What a part trained."""
    layers = f"{PARTS[part].data().n_visible}-{PARTS[part].hidden}"
    n = sum(len(group.results) for group in found)
    text = f"**{part}**: {layers}, {clock} of training, {n} RBMs; test log-likelihood, nats a sample"
    if part == "hard":
        text += f" (exact; of the distribution itself: {clusters.log_likelihood(clusters.samples(1000, seed=2)):.2f})"
    return text


def spelled(mean: float, deviation: float, digits: int) -> str:
    """``mean ± deviation``, the latter where there is one."""
    if np.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" if np.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def print_row(cells: list[str]) -> None:
    """One line of a Markdown table."""
    print("| " + " | ".join(cells) + " |")
