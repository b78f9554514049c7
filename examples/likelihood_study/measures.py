"""What is read off the results: groups of seeds, means and standard deviations, and curves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from settings import PARTS
from study import Result


@dataclass(frozen=True)
class Group:
    """The seeds of one setting."""

    name: str
    results: list[Result]

    @property
    def healthy(self) -> list[Result]:
        """Those that did not break down."""
        return [result for result in self.results if not result["broken"]]

    def at_end(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation over seeds of a value at the end of training; NaN where there are too few."""
        values = [result["curve"][-1][name] for result in self.healthy]
        return float(np.mean(values)) if values else np.nan, float(np.std(values, ddof=1)) if len(
            values
        ) > 1 else np.nan

    def curve(self, name: str) -> np.ndarray:
        """A value at all looks, (seeds, looks that every seed has)."""
        n = min(len(result["curve"]) for result in self.healthy)
        return np.array([[look[name] for look in result["curve"][-n:]] for result in self.healthy])


def studies(results: list[Result]) -> list[tuple[str, str, list[Group]]]:
    """(part, training time in words, settings, the best first) of all that has results."""
    found = []
    for part in PARTS:
        times = sorted({(result["seconds"], result["clock"]) for result in results if result["part"] == part})
        for seconds, clock in times:
            here = [r for r in results if (r["part"], r["seconds"], r["clock"]) == (part, seconds, clock)]
            found.append((part, f"{seconds:g} {'processor ' if clock == 'cpu' else ''}seconds", groups(here)))
    return found


def groups(results: list[Result]) -> list[Group]:
    """One for each setting, by the pessimistic value at the end, the best first."""

    def name_of(result: Result) -> str:
        return result["name"]

    found = [Group(name, list(mine)) for name, mine in groupby(sorted(results, key=name_of), name_of)]
    return sorted(found, key=lambda group: np.nan_to_num(group.at_end("pessimistic")[0], nan=-np.inf), reverse=True)


def lowest_shown(values: list[float], least: float) -> float:
    """Where an axis may begin at the lowest, so that a few very low values do not stretch it.

    least   part of the best value that it has room for in any case
    """
    best = max(values)
    return best - max(4 * (best - float(np.median(values))), least * abs(best))


def best_of_each(found: list[Group], methods: tuple[str, ...]) -> list[Group]:
    """The best setting of each method, or set of methods (``A/B``); its name begins with that.  None where none ran."""
    best = (
        next((g for g in found if g.name.split(",")[0] in method.split("/") and g.healthy), None) for method in methods
    )
    return [group for group in best if group is not None]
