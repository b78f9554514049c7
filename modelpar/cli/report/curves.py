"""The curves of the records: what was measured, over epochs, of one run or of two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from modelpar.cli.report.reading import Line, Run, number
from modelpar.records import NO_LAYER
from partitioners.charts import Point, Series, line_chart

# measure -> title, title of the axis
OF_LEARNING = {
    "log_likelihood": ("Log-likelihood", "nats a sample"),
    "pseudo_likelihood": ("Pseudo-log-likelihood", "nats a sample"),
    "reconstruction_error": ("Reconstruction error", "mean squared error"),
    "loss": ("Loss of fine-tuning", "cross-entropy, nats a sample"),
}
ACCURACIES = {"train_accuracy": "training", "validation_accuracy": "validation", "test_accuracy": "test"}
OF_UNITS = {
    "dead_units": ("Dead hidden units", "% of the units"),
    "saturated_units": ("Saturated hidden units", "% of the units"),
    "mean_activation": ("Mean activation of hidden units", "mean over units and samples"),
    "largest_weight": ("Largest weight", "absolute value"),
    "swap_acceptance": ("Swaps of tempered chains", "% accepted"),
}
OF_ONE_RBM = ("log_likelihood", "pseudo_likelihood")  # their scale is that of the RBM's own visible units
MOST_CHARTS = 8  # of one measure
PERCENT = ("dead_units", "saturated_units", "swap_acceptance", *ACCURACIES)
Pick = Callable[[Line], float | None]


def learning(runs: Sequence[Run]) -> list[str]:
    """Likelihoods where there are any, then what stands in for them; accuracies last."""
    charts: list[str] = []
    for name, (title, y) in OF_LEARNING.items():
        layers = sorted({layer for _, _, _, layer in _stages(runs)} - {NO_LAYER}) if name in OF_ONE_RBM else []
        if len(layers) > 1:  # each has other data, and so another scale
            lowest = layers[:MOST_CHARTS]
            charts += [measure_chart(runs, name, f"{title}, RBM {layer}", y, layer) for layer in lowest]
        else:
            charts.append(measure_chart(runs, name, title, y))
    return [*charts, accuracy_chart(runs)]


def units(runs: Sequence[Run]) -> list[str]:
    """What tells of dead and saturated units, and of growing weights.  A measure that was always 0 has no chart."""
    ever = {name for run in runs for line in run.records for name in OF_UNITS if number(line, name)}
    return [measure_chart(runs, name, *titles) for name, titles in OF_UNITS.items() if name in ever]


def idle_units(runs: Sequence[Run]) -> str:
    """A sentence on dead and saturated units at the end; empty where nothing is known."""
    worst: list[str] = []
    measured = False
    for i, run, stage, layer in _stages(runs):
        lines = [line for line in run.epochs if (line["stage"], line["layer"]) == (stage, layer)]
        dead, saturated = ((number(lines[-1], name) if lines else None) for name in ("dead_units", "saturated_units"))
        measured = measured or dead is not None
        if dead or saturated:
            worst.append(f"{_label(runs, i, stage, layer)}: {dead or 0:.1%} dead, {saturated or 0:.1%} saturated")
    if not measured:
        return ""
    return f"After the last epoch: {'; '.join(worst) or 'no unit is always off, and none is always on'}."


def measure_chart(runs: Sequence[Run], name: str, title: str, y: str, only: int | None = None) -> str:
    """A curve for each RBM, or stage, of each run that has this measure; an interval where the records have one.

    only   the RBM that is shown; None: all
    """
    series = []
    for i, run, stage, layer in _stages(runs):
        if only not in (None, layer):
            continue
        points = _points(run, stage, layer, lambda line: _scaled(line, name))
        ends = [
            dict(_points(run, stage, layer, lambda line, end=end: _scaled(line, f"{name}_{end}")))  # type: ignore[misc]
            for end in ("low", "high")
        ]
        band = [(x, ends[0][x], ends[1][x]) for x, _ in points if x in ends[0] and x in ends[1]]
        alone = len(runs) == 1
        colour, dashes = (max(layer, 0), 0) if alone else (i, max(layer, 0))
        series.append(Series(_label(runs, i, stage, layer), points, band, colour, dashes))
    shown = [one for one in series if one.points]
    if len(runs) == len(shown) == 1:  # the title says it all
        shown = [replace(shown[0], label="")]
    return line_chart(title, shown, x="epoch", y=y, whole_x=True)


def accuracy_chart(runs: Sequence[Run]) -> str:
    series = []
    for i, run in enumerate(runs):
        for j, (name, label) in enumerate(ACCURACIES.items()):
            points = _points(run, "finetune", NO_LAYER, lambda line, name=name: _scaled(line, name))  # type: ignore[misc]
            who = f"{mark(i)}: {label}" if len(runs) > 1 else label
            series.append(Series(who, points, (), j if len(runs) == 1 else i, 0 if len(runs) == 1 else j))
    return line_chart("Accuracy", series, x="epoch of fine-tuning", y="% of the samples", whole_x=True)


def rate_chart(runs: Sequence[Run]) -> str:
    """Samples a second of every epoch, by the training time that its record adds."""
    series = []
    for i, run, stage, layer in _stages(runs):
        points, before = [], 0.0
        for line in run.epochs:
            if (line["stage"], line["layer"]) == (stage, layer):
                seconds, samples = number(line, "seconds"), number(line, "samples")
                if seconds is not None and samples is not None and seconds > before:
                    points.append((float(line["epoch"]), samples / (seconds - before)))
                before = seconds or before
        colour, dashes = (max(layer, 0) if stage == "pretrain" else 3, 0) if len(runs) == 1 else (i, max(layer, 0))
        series.append(Series(_label(runs, i, stage, layer), points, (), colour, dashes))
    return line_chart("Samples a second", series, x="epoch", y="samples/s", whole_x=True)


def mark(i: int) -> str:
    """How two runs are told apart on a page."""
    return "AB"[i]


def stage_name(stage: str, layer: int) -> str:
    return f"RBM {layer}" if stage == "pretrain" else "fine-tuning"


def _stages(runs: Sequence[Run]) -> Iterator[tuple[int, Run, str, int]]:
    for i, run in enumerate(runs):
        for stage, layer in dict.fromkeys((line["stage"], line["layer"]) for line in run.records):
            yield i, run, stage, layer


def _label(runs: Sequence[Run], i: int, stage: str, layer: int) -> str:
    name = stage_name(stage, layer)
    return f"{mark(i)}: {name}" if len(runs) > 1 else name


def _points(run: Run, stage: str, layer: int, pick: Pick) -> list[Point]:
    """(epoch, value) of the records that have it; within an epoch its fraction, by updates."""
    lines = [line for line in run.records if (line["stage"], line["layer"]) == (stage, layer)]
    whole = next((line for line in reversed(lines) if line["kind"] == "epoch" and line["epoch"] > 0), None)
    per_epoch = whole["step"] / whole["epoch"] if whole else 0
    points = []
    for line in lines:
        value = pick(line)
        if value is not None:
            within = line["kind"] == "step" and per_epoch > 0
            points.append((line["step"] / per_epoch if within else float(line["epoch"]), value))
    return points


def _scaled(line: Line, name: str) -> float | None:
    value = number(line, name)
    return value if value is None or name not in PERCENT else 100 * value
