"""What the summary of a run says of its cost: time, traffic, staleness and memory, as charts and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelpar.cli.progress import size_text
from modelpar.cli.report.curves import mark, rate_chart, stage_name
from modelpar.cli.report.reading import Run, number
from partitioners.charts import Bar, bar_chart
from partitioners.page import details, grid, paragraph, table

AXES = {"shard": "between model shards", "replica": "between replicas"}
PURPOSES = {"": "training", "upkeep": "upkeep", "measures": "measures"}
KINDS = ("bits", "integers", "floats")  # in the order of their colours
MOST_STALENESS = 12  # bars: the last one counts all that is staler


def time(runs: Sequence[Run]) -> list[str]:
    """Seconds of each part of a run, and the rate of its epochs."""
    bars = [
        Bar(f"{_who(runs, i)}{name}", [("", seconds, i if len(runs) > 1 else 0)])
        for name in dict.fromkeys(name for run in runs for name in times_of(run))
        for i, run in enumerate(runs)
        if (seconds := times_of(run).get(name)) is not None
    ]
    note = "Clocks of rank 0; scores, compilation, checkpoints and pictures are not training time."
    charts = [bar_chart("Seconds by part", bars, shown=seconds_text, note=note), rate_chart(runs)]
    if (updates := updates_chart(runs)) is not None:
        charts.append(updates)
    return [grid(*charts)]


def updates_chart(runs: Sequence[Run]) -> str | None:
    """Seconds of an update of each RBM, measured beside predicted; None where nothing was predicted."""
    bars = []
    for i, run in enumerate(runs):
        predicted = run.summary.get("predicted_update_seconds")
        measured = {f"{line['stage']}.{line['layer']}": line for line in run.records if line["stage"] == "pretrain"}
        for key, line in measured.items():
            expected = number(predicted, key) if isinstance(predicted, dict) else None
            seconds, updates = number(line, "seconds"), number(line, "step")
            if expected is not None and seconds is not None and updates:
                name = f"{_who(runs, i)}{stage_name(line['stage'], line['layer'])}"
                bars.append(Bar(f"{name}, measured", [("", seconds / updates, 0)]))
                bars.append(Bar(f"{name}, predicted", [("", expected, 1)]))
    if not bars:
        return None
    note = (
        "Predicted by the rates that modelpar plan has kept of this machine, without reading data and keeping records."
    )
    return bar_chart("Seconds of an update", bars, shown=seconds_text, note=note)


def times_of(run: Run) -> dict[str, float]:
    """Seconds of each part of a run, resumed ones included, as far as records and summary tell."""
    times: dict[str, float] = {}
    if (compiling := run.number("compile_seconds")) is not None:
        times["compiling kernels"] = compiling
    for line in run.records:
        name = stage_name(line["stage"], line["layer"])
        seconds = number(line, "seconds")
        if seconds is not None:
            times[f"pre-training, {name}" if line["stage"] == "pretrain" else name] = seconds
    scores = [value for line in run.records if (value := number(line, "score_seconds")) is not None]
    if scores:
        times["likelihood scores"] = sum(scores)
    return times


def seconds_text(seconds: float) -> str:
    """``0.41 s``, ``12.3 s``, ``5 min 04 s``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def traffic(runs: Sequence[Run]) -> list[str]:
    """Bytes that crossed between ranks, by axis, verb and kind, for training and for all else."""
    charts, rows = [], []
    for axis, where in AXES.items():
        bars: list[Bar] = []
        for i, run in enumerate(runs):
            for purpose, verb, kinds in _bytes_of(run, axis):
                who = _who(runs, i)
                label = f"{who}{verb}{'' if purpose == 'training' else f', {purpose}'}"
                bars.append(Bar(label, [(kind, n, _colour(kind)) for kind, n in kinds.items()]))
                rows += [
                    [
                        who.rstrip(": "),
                        where,
                        purpose,
                        verb,
                        kind,
                        f"{n:,.0f}",
                        _far_text(run, purpose, axis, verb, kind),
                    ]
                    for kind, n in kinds.items()
                ]
        charts.append(bar_chart(f"Bytes {where}", bars, shown=size_text))
    if not rows:
        alone = all(run.summary for run in runs)
        return [paragraph("Nothing crossed between ranks.")] if alone else []
    heads = ["run", "axis", "for", "verb", "kind", "bytes", "of these between nodes"]
    first = 0 if len(runs) > 1 else 1
    listed = table(heads[first:], [row[first:] for row in rows], numbers={5 - first, 6 - first})
    note = paragraph(
        "Over all ranks, since the process began that wrote the summary; nothing that stays within a rank."
    )
    return [note, grid(*charts), details("Every number", listed)]


def _far_text(run: Run, purpose: str, axis: str, verb: str, kind: str) -> str:
    """Bytes of training that came from other nodes; empty where the summary does not say."""
    if purpose != "training" or "far_bytes" not in run.summary:
        return ""
    return f"{number(run.summary, 'far_bytes', axis, verb, kind) or 0:,.0f}"


def _bytes_of(run: Run, axis: str) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(purpose, verb, bytes by kind), the largest verbs first within a purpose."""
    for key, purpose in PURPOSES.items():
        of_all = run.summary.get("other_bytes") if key else run.summary.get("bytes")
        verbs = _below(_below(of_all, key) if key else of_all, axis)
        named = [
            (str(verb), {str(kind): n for kind in kinds if (n := number(kinds, kind)) is not None and n > 0})
            for verb, kinds in verbs.items()
            if isinstance(kinds, Mapping)
        ]
        for verb, kinds in sorted(named, key=lambda entry: -sum(entry[1].values())):
            if kinds:
                yield purpose, verb, kinds


def _below(values: Any, key: str) -> Mapping[str, Any]:
    below = values.get(key) if isinstance(values, Mapping) else None
    return below if isinstance(below, Mapping) else {}


def _colour(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def staleness(runs: Sequence[Run]) -> list[str]:
    """How many pushes to a parameter server had each staleness."""
    bars = []
    for i, run in enumerate(runs):
        counts = _below(run.summary, "staleness")
        by_value = sorted((int(key), n) for key in counts if key.isdecimal() and (n := number(counts, key)) is not None)
        kept, rest = by_value[: MOST_STALENESS - 1], by_value[MOST_STALENESS - 1 :]
        named = [(str(value), n) for value, n in kept]
        if rest:
            named.append((f"{rest[0][0]} and more", sum(n for _, n in rest)))
        colour = i if len(runs) > 1 else 0
        bars += [Bar(f"{_who(runs, i)}{name} updates behind", [("", n, colour)]) for name, n in named]
    note = "Updates of others between a fetch of the parameters and the push that it led to."
    chart = bar_chart("Staleness of pushes", bars, shown=lambda n: f"{n:,.0f} pushes", note=note)
    return [grid(chart)] if chart else []


def memory(runs: Sequence[Run], predicted: Sequence[float | None]) -> list[str]:
    """The most memory of every rank, beside what the arrays of a rank were predicted to take."""
    bars, lines = [], []
    for i, run in enumerate(runs):
        peaks = run.summary.get("peak_rss_per_rank")
        for rank, peak in enumerate(peaks if isinstance(peaks, list) else []):
            if (size := number({"": peak}, "")) is not None:
                bars.append(Bar(f"{_who(runs, i)}rank {rank}", [("", size, i if len(runs) > 1 else 0)]))
        arrays = predicted[i]
        if arrays is not None and isinstance(peaks, list):
            lines.append(
                f"{_who(runs, i)}Predicted for the arrays of the largest shard: {size_text(arrays)}; the rest is "
                "Python, its libraries and compiled kernels, and the data."
            )
    chart = bar_chart("Peak memory of each rank", bars, shown=size_text)
    return [*(paragraph(line) for line in lines), grid(chart)] if chart else []


def _who(runs: Sequence[Run], i: int) -> str:
    return f"{mark(i)}: " if len(runs) > 1 else ""
