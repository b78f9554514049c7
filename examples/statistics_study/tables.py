"""The tables of the study, as Markdown."""

from __future__ import annotations

import numpy as np
from measures import HEADS, Measure, at_equal_time, curves, differences, measures_at_all_depths, spread
from scipy.stats import ttest_rel
from study import BATCH, PARTS, STATISTICS, Result, StepSeconds, results_of, select, setting_of


def table(results: list[Result], step_seconds: StepSeconds) -> None:
    """Print the Markdown tables of all parts that have results."""
    for part in PARTS:
        mine = results_of(results, part)
        if mine:
            print(f"\n{heading(part, mine)}\n")
            print_means(mine, step_seconds)
            of_visible = {"reconstruction": "states", "pass_up": "states"}
            standard = of_visible if part == "visible" else {"statistics": "float"}
            named = ", ".join(f"{HEADS[name]} {value}" for name, value in standard.items())
            print(f"\nDifference from {named}, paired by seed, with the p of a t-test:\n")
            print_differences(mine, standard)


def heading(part: str, results: list[Result]) -> str:
    """What a part trained."""
    setting = setting_of(results[0])
    layers = "-".join(map(str, (784, *setting.hidden)))
    rate = "" if len({result["rate"] for result in results}) > 1 else f", rate {setting.rate:g}"
    return (f"**{part}**: {layers}, {setting.method}{rate}, {setting.epochs} epochs, {BATCH} samples a minibatch, "
            f"fine-tuned on {setting.tune_samples} samples; {len(results)} networks")  # fmt: skip


def rows_of(results: list[Result]) -> list[Result]:
    """The fields that vary, with each combination of their values."""
    names = [name for name in HEADS if len({result[name] for result in results}) > 1] or ["statistics"]
    found = {tuple(result[name] for name in names) for result in results}
    return [dict(zip(names, values, strict=True)) for values in sorted(found)]


def print_means(results: list[Result], step_seconds: StepSeconds) -> None:
    """Means and standard deviations over seeds of everything that was measured."""
    columns: dict[str, tuple[Measure, int]] = {
        **{name: (measure, 2) for name, measure in measures_at_all_depths(results).items()},
        "largest weight": (lambda result: result["layers"][0]["largest_weight"], 2),
        "mean activation": (lambda result: result["layers"][0]["mean_activation"], 3),
        "seconds": (lambda result: sum(layer["seconds"] for layer in result["layers"]), 1),
    }
    rows = rows_of(results)
    print_head([*(HEADS[name] for name in rows[0]), *columns, "first RBM after equal time", "broken"])
    for row in rows:
        mine = select(results, **row)
        cells = [spelled(*spread(mine, measure), digits) for measure, digits in columns.values()]
        seconds = shortest(select(results, rate=mine[0]["rate"]), step_seconds)
        equal = spelled(*at_equal_time(mine, step_seconds, seconds), 2)
        print_row([*map(str, row.values()), *cells, equal, f"{sum(bool(r['broken']) for r in mine)} of {len(mine)}"])


def shortest(results: list[Result], step_seconds: StepSeconds) -> float:
    """The time that the fastest kind of statistics took."""
    kinds = [select(results, statistics=k, broken="") for k in STATISTICS]
    return min((curves(kind, step_seconds)[1][-1] for kind in kinds if kind), default=np.nan)


def print_differences(results: list[Result], standard: Result) -> None:
    """Of every row from the one that has the standard values in it."""
    measures, rows = measures_at_all_depths(results), rows_of(results)
    print_head([*(HEADS[name] for name in rows[0]), *measures])
    for row in rows:
        mine, others = select(results, **row), select(results, **{**row, **standard})
        if mine != others:
            cells = [tested(differences(mine, others, measure)) for measure in measures.values()]
            print_row([*map(str, row.values()), *cells])


def tested(values: np.ndarray) -> str:
    """Mean and standard deviation of paired differences, and the p of a t-test."""
    if len(values) < 2:
        return "-"
    if not values.any():
        return "none"
    p = float(ttest_rel(values, np.zeros(len(values))).pvalue)
    return f"{values.mean():+.2f} ± {values.std(ddof=1):.2f} (p {p:.2g})"


def spelled(mean: float, deviation: float, digits: int) -> str:
    """``mean ± deviation``, the latter where there is one."""
    if np.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" if np.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def print_head(cells: list[str]) -> None:
    """The first two lines of a Markdown table."""
    print_row(cells)
    print_row(["---"] * len(cells))


def print_row(cells: list[str]) -> None:
    """One line of a Markdown table."""
    print("| " + " | ".join(cells) + " |")
