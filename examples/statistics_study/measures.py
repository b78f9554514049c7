"""What is read off the results of the study: measures, their spread over seeds, and curves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from study import Result, StepSeconds, setting_of

Measure = Callable[[Result], float]


def accuracy_at(depth: int, result: Result) -> float:
    """Of the first ``depth`` hidden layers, or of all for -1, in per cent."""
    return 100 * result["accuracy"][depth - 1 if depth > 0 else -1]


MEASURES: dict[str, Measure] = {
    "pseudo-log-likelihood": lambda result: result["pseudo_likelihood"],
    "log-likelihood (AIS)": lambda result: result["log_likelihood"],
    "accuracy, %": partial(accuracy_at, -1),
}


def measures_at_all_depths(results: list[Result]) -> dict[str, Measure]:
    """The measures, with one of the accuracy for each number of layers."""
    depths = range(1, len(results[0]["hidden"]) + 1)
    if len(depths) == 1:
        return MEASURES
    likelihoods = {name: measure for name, measure in MEASURES.items() if not name.startswith("accuracy")}
    return {**likelihoods, **{f"accuracy, %, depth {depth}": partial(accuracy_at, depth) for depth in depths}}


def spread(results: list[Result], measure: Measure) -> tuple[float, float]:
    """Mean and standard deviation of a measure over those that did not break down; NaN without any."""
    return mean_and_deviation([measure(result) for result in results if not result["broken"]])


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Of a sample; NaN where it is too small."""
    return float(np.mean(values)) if values else np.nan, float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def differences(results: list[Result], others: list[Result], measure: Measure) -> np.ndarray:
    """``results`` minus ``others``, seed by seed."""
    theirs = {other["seed"]: measure(other) for other in others if not other["broken"]}
    pairs = [(measure(r), theirs[r["seed"]]) for r in results if not r["broken"] and r["seed"] in theirs]
    return np.array([mine - other for mine, other in pairs])


def curves(results: list[Result], step_seconds: StepSeconds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps (looks,), seconds (looks,), pseudo-log-likelihoods (networks, looks)) of those that did not break down.

    Of the networks' seconds the fewest count, as other programs may have slowed down the rest.
    """
    healthy = [result for result in results if not result["broken"]]
    steps, seconds, values = (
        np.array([[look[name] for look in result["curve"]] for result in healthy], float)
        for name in ("step", "seconds", "pseudo_likelihood")
    )
    setting = setting_of(healthy[0])
    method = "" if setting.method == "CD-1" else f" {setting.method}"
    a_step = step_seconds.get(f"784x{setting.hidden[0]}{method}", {}).get(setting.statistics)
    return steps[0], seconds.min(axis=0) if a_step is None else steps[0] * a_step, values


def at_equal_time(results: list[Result], step_seconds: StepSeconds, seconds: float) -> tuple[float, float]:
    """Mean and standard deviation of the pseudo-log-likelihood when ``seconds`` were over."""
    if all(result["broken"] for result in results):
        return np.nan, np.nan
    _, clock, values = curves(results, step_seconds)
    return mean_and_deviation([float(np.interp(seconds, clock, each)) for each in values])


# -- tables ----------------------------------------------------------------------------------------------------------

HEADS = {"rate": "rate", "statistics": "k", "reconstruction": "reconstruction", "pass_up": "passed up"}
