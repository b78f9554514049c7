"""The page of one run, or of two side by side: its parts in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from typing import Any

from modelpar.cli.options import SPECS, TITLES, shown_value
from modelpar.cli.progress import size_text
from modelpar.cli.report import curves, figures
from modelpar.cli.report.curves import mark, stage_name
from modelpar.cli.report.moments import Course, strip
from modelpar.cli.report.reading import FINISHED, GOES_ON, Run, number
from modelpar.cli.report.weights import Weights
from modelpar.cli.summary import ABOUT
from modelpar.diagnosis.spectrum import effective_rank
from modelpar.files.paths import printable
from partitioners.charts import Series, line_chart, short
from partitioners.page import (
    details,
    document,
    escaped,
    figure,
    grid,
    image,
    notes,
    paragraph,
    picture,
    section,
    table,
    tiles,
)

CAPTIONS = {
    "filters.png": ("Filters", "weights of hidden units of the first RBM, each on its own scale; grey is zero"),
    "reconstructions.png": ("Reconstructions", "samples of the data, each above its reconstruction"),
    "samples.png": ("Samples", "fantasies of the model, by Gibbs sampling from random states"),
}
LEAST = 1e-3  # of the largest singular value: smaller ones are not drawn
COLOUR_OF_STATE = {FINISHED: "good", GOES_ON: "busy"}


def page_of(
    runs: Sequence[Run], weights: Sequence[list[Weights]], courses: Sequence[Course | None],
    predicted: Sequence[float | None],
) -> str:  # fmt: skip
    """The HTML of one run or of two.   weights, courses, predicted (bytes of arrays): of each run"""
    parts = [
        section("figures", "Key figures", _figures(runs)),
        section("learning", "Learning", grid(*curves.learning(runs))),
        section("pictures", "What the model has learnt", _pictures(runs)),
        section("course", "In the course of pre-training", *_courses(runs, courses)),
        section("weights", "Weights", *_weights(runs, weights)),
        section("units", "Hidden units", paragraph(curves.idle_units(runs)), grid(*curves.units(runs))),
        section("time", "Time", *figures.time(runs)),
        section("traffic", "Bytes between ranks", *figures.traffic(runs)),
        section("staleness", "Staleness", *figures.staleness(runs)),
        section("memory", "Memory", *figures.memory(runs, predicted)),
        section("records", "Last records", _last_records(runs)),
        section("options", "Options", *_options(runs)),
        section("environment", "Environment", _environment(runs)),
    ]
    title = " and ".join(run.name for run in runs)
    names = [part.split("'", 2)[1] for part in parts if part]
    titles = [part.split("<h2>", 1)[1].split("</h2>", 1)[0] for part in parts if part]
    links = "".join(f"<a href='#{name}'>{text}</a>" for name, text in zip(names, titles, strict=True))
    told = [f"{_who(runs, i)}{note}" for i, run in enumerate(runs) for note in run.notes]
    head = "".join(_headline(runs, i) for i in range(len(runs))) + f"<nav aria-label='parts of the page'>{links}</nav>"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    foot = paragraph(
        f"Made by modelpar report on {when}, from the files of the run; nothing is fetched from elsewhere."
    )
    return document(title, notes(told) + "".join(parts), head=head, foot=foot)


def _headline(runs: Sequence[Run], i: int) -> str:
    run = runs[i]
    kind = COLOUR_OF_STATE.get(run.state, "bad")
    words = [run.layers, _data_of(run), _grid_of(run), _version_of(run)]
    if run.n_restarts:
        words.append(f"resumed {run.n_restarts} time(s)")
    who = f"<strong>{mark(i)}: {escaped(run.name)}</strong> " if len(runs) > 1 else ""
    about = escaped("; ".join(word for word in words if word))
    state = f"<span class='state {kind}'>{escaped(run.state)}</span>"
    return f"<p>{who}{state} {about}{escaped(_progress(run))}</p>"


def _data_of(run: Run) -> str:
    data = run.config.get("data", {}).get("data")
    return printable(data).rpartition("/")[2] if isinstance(data, str) else ""


def _grid_of(run: Run) -> str:
    replicas, shards = run.number("grid", "replicas"), run.number("grid", "model_shards")
    if replicas is None or shards is None:
        return ""
    threads = run.number("threads")
    with_threads = f", {threads:.0f} thread(s) a rank" if threads is not None else ""
    return f"{replicas:.0f} replica(s) × {shards:.0f} model shard(s){with_threads}"


def _version_of(run: Run) -> str:
    version = run.summary.get("version")
    return f"modelpar {version}" if isinstance(version, str) else ""


def _progress(run: Run) -> str:
    """Where a run that has not finished stands."""
    if run.state == FINISHED or not run.records:
        return ""
    last = run.records[-1]
    steps = number(last, "steps")
    of_all = f" of {steps:,.0f}" if steps else ""
    name = stage_name(last["stage"], last["layer"])
    return f"; last record: {name}, epoch {last['epoch']}, {last['step']:,}{of_all} updates of this stage"


def _who(runs: Sequence[Run], i: int) -> str:
    return f"{mark(i)}: " if len(runs) > 1 else ""


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return tiles(figures_of(runs[0]))
    both = [{name: f"{value} {f'({below})' if below else ''}".strip() for name, value, below in figures_of(run)}
            for run in runs]  # fmt: skip
    names = dict.fromkeys(name for one in both for name in one)
    rows = [[name, *(one.get(name, "–") for one in both)] for name in names]
    return table(["", *(f"{mark(i)}: {run.name}" for i, run in enumerate(runs))], rows)


def figures_of(run: Run) -> list[tuple[str, str, str]]:
    """(name, value, what is to be said of it) of the results of a run, the most telling first."""
    found: list[tuple[str, str, str]] = []
    for name in ("test_accuracy", "validation_accuracy"):
        if (accuracy := run.number(name)) is not None:
            found.append((name.replace("_", " "), f"{accuracy:.2%}", "of the samples"))
    scored = next((line for line in reversed(run.records) if number(line, "log_likelihood") is not None), run.summary)
    if (likelihood := number(scored, "log_likelihood")) is not None:
        low, high = (number(scored, f"log_likelihood_{end}") for end in ("low", "high"))
        between = f", {low:.2f} to {high:.2f}" if low is not None and high is not None else ""
        found.append(
            ("log-likelihood", f"{likelihood:.2f}".replace("-", "−"), f"nats a sample{between}".replace("-", "−"))
        )
    measured = [("pseudo_likelihood", "pseudo-log-likelihood", "nats a sample"),
                ("reconstruction_error", "reconstruction error", "mean squared")]  # fmt: skip
    for name, title, unit in measured:
        lines = [line for line in run.epochs if number(line, name) is not None]
        if lines:  # of the lowest RBM, which sees the data
            line = max(lines, key=lambda line: (-line["layer"], line["epoch"]))
            found.append((title, short(float(line[name])), f"{unit}, {stage_name(line['stage'], line['layer'])}"))
    trained = run.number("train_seconds") or sum(
        {(line["stage"], line["layer"]): number(line, "seconds") or 0.0 for line in run.records}.values()
    )
    if trained:
        rate = run.number("samples_per_second")
        found.append(("training time", figures.seconds_text(trained), f"{rate:,.0f} samples/s" if rate else ""))
    if (parameters := run.number("parameters")) is not None:
        found.append(("parameters", f"{parameters:,.0f}", ""))
    peaks = run.summary.get("peak_rss_per_rank")
    sizes = [
        size for peak in (peaks if isinstance(peaks, list) else []) if (size := number({"": peak}, "")) is not None
    ]
    if sizes:
        found.append(("peak memory", size_text(max(sizes)), f"of a rank, {len(sizes)} rank(s)"))
    return found


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(runs: Sequence[Run]) -> str:
    shown = []
    for name, (caption, alt) in CAPTIONS.items():
        for i, run in enumerate(runs):
            if name in run.pictures:
                who = _who(runs, i)
                shown.append(picture(run.pictures[name], f"{who}{caption}: {alt}", f"{who}{caption}", alt))
    return grid(*shown, wide=len(runs) > 1)


def _courses(runs: Sequence[Run], courses: Sequence[Course | None]) -> list[str]:
    """Strips of samples and reconstructions, one for each model that the run has kept."""
    shown = []
    for i, course in enumerate(courses):
        if course is None:
            continue
        who, rows = _who(runs, i), []
        samples = [
            (f"update {one.updates:,}", strip(one.samples), f"{who}samples of the model after {one.updates:,} updates")
            for one in course.moments
        ]
        rebuilt = [("data", strip(course.originals), f"{who}samples of the data")] + [
            (f"update {one.updates:,}", strip(one.reconstructions), f"{who}their reconstructions after {one.updates:,} "
             "updates") for one in course.moments
        ]  # fmt: skip
        about = f"after {course.steps} steps of Gibbs sampling from the same random states"
        for title, note, strips in (("Samples over time", about, samples),
                                    ("Reconstructions over time", "of the same samples", rebuilt)):  # fmt: skip
            lines = "".join(f"<span>{escaped(label)}</span>{image(png, alt)}" for label, png, alt in strips)
            rows.append(figure(f"<div class='strip'>{lines}</div>", f"{who}{title}", note))
        shown += rows
    return [grid(*shown, wide=True)]


# -- weights -----------------------------------------------------------------------------------------------------------


def _weights(runs: Sequence[Run], weights: Sequence[list[Weights]]) -> list[str]:
    histograms, spectra, rows, told = [], [], [], []
    for i, parts in enumerate(weights):
        for j, part in enumerate(parts):
            if not part.largest:  # an output layer before fine-tuning
                continue
            label, looks = f"{_who(runs, i)}{part.name}", (j, 0) if len(runs) == 1 else (i, j)
            share = 100 / max(part.n_seen, 1)
            shares = [(float(x), float(n) * share) for x, n in zip(part.centres, part.counts, strict=True)]
            histograms.append(Series(label, shares, (), *looks))
            values = part.spectrum
            if values is not None:
                spectra.append(
                    Series(
                        label, [(k + 1.0, float(v)) for k, v in enumerate(values) if v > LEAST * values[0]], (), *looks
                    )
                )
            else:
                told.append(f"{label}: no spectrum, as {part.without_spectrum}.")
            seen = "" if part.n_seen == part.n else f" (of {part.n_seen:,} looked at)"
            rows.append([
                label, " × ".join(map(str, part.shape)), f"{part.n:,}", f"{part.rms:.3g}", f"{part.largest:.3g}",
                f"{part.n_zero / max(part.n_seen, 1):.1%}{seen}",
                f"{effective_rank(values):.1f}" if values is not None else "–",
            ])  # fmt: skip
    if not rows:
        return []
    drawn = [
        line_chart("Histogram of the weights", histograms, x="weight", y="% of the weights a bin", log_y=True),
        line_chart("Spectrum of the weights", spectra, x="mode", y="singular value", log_x=True, log_y=True),
    ]
    heads = ["part", "shape", "weights", "rms", "largest", "exactly zero", "effective rank"]
    files = ", ".join(
        f"{_who(runs, i)}{run.checkpoint.name}" for i, run in enumerate(runs) if run.checkpoint is not None
    )
    return [
        paragraph(f"From {files}. A spectrum that stands out above a flat rest is what the RBM has learnt."),
        grid(*drawn),
        *(paragraph(line, "muted") for line in told),
        table(heads, rows, numbers=range(2, 7)),
    ]


# -- records and options -----------------------------------------------------------------------------------------------


def _last_records(runs: Sequence[Run]) -> str:
    """The measures of the last record of every stage and RBM: measures down, stages across."""
    columns: dict[str, dict[str, str]] = {}
    for i, run in enumerate(runs):
        for line in run.epochs:
            last = columns[f"{_who(runs, i)}{stage_name(line['stage'], line['layer'])}"] = {}
            for name, value in line.items():
                if name not in ABOUT and isinstance(value, int | float):
                    last[name] = f"{value}" if isinstance(value, int) else f"{value:.6g}"
    names = dict.fromkeys(name for last in columns.values() for name in last)
    rows = [[name.replace("_", " "), *(last.get(name, "–") for last in columns.values())] for name in names]
    return table(["measure", *columns], rows, numbers=range(1, len(columns) + 1))


def _options(runs: Sequence[Run]) -> list[str]:
    """Options that differ from their defaults, or between the runs; then all of them."""
    values = [
        {(name, key): _shown(value) for name, table_ in run.config.items() for key, value in table_.items()}
        for run in runs
    ]
    keys = dict.fromkeys(key for one in values for key in one)
    if not keys:
        return []
    rows, told = [], []
    for name, key in keys:
        mine = [one.get((name, key), "–") for one in values]
        row = [TITLES.get(name, name), f"--{key.replace('_', '-')}", *mine]
        differ = len(set(mine)) > 1
        rows.append((row, differ))
        if differ or any(value not in ("–", _default(name, key)) for value in mine):
            told.append((row, differ))
    heads = ["table", "option", *([f"{mark(i)}" for i in range(len(runs))] if len(runs) > 1 else ["value"])]

    def shown(chosen: list[tuple[list[str], bool]], caption: str) -> str:
        cells = [[*row, "differs" if differ else ""] if len(runs) > 1 else row for row, differ in chosen]
        marks = ["marked" if differ else "" for _, differ in chosen]
        return table([*heads, *([""] if len(runs) > 1 else [])], cells, caption=caption, kinds=marks)

    told.sort(key=lambda entry: not entry[1])  # those that differ between the runs first
    caption = "other than their defaults" if len(runs) == 1 else "that differ between the runs, or from their defaults"
    return [shown(told, f"Options {caption}"), details("All options", shown(rows, "All options"))]


def _default(name: str, key: str) -> str | None:
    spec = SPECS.get(name)
    for field in fields(spec) if spec is not None else ():  # type: ignore[arg-type]
        if field.name == key and field.default is not MISSING:
            return _shown(field.default)
    return None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value) if isinstance(value, str) else shown_value(value)


def _environment(runs: Sequence[Run]) -> str:
    """What the run was made with, as far as it says."""
    columns = []
    for run in runs:
        known = run.summary.get("environment")
        facts = {"modelpar": run.summary.get("version"), **(known if isinstance(known, dict) else {})}
        columns.append({
            str(name).replace("_", " "): " ".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in facts.items() if value is not None
        })  # fmt: skip
    names = dict.fromkeys(name for one in columns for name in one)
    rows = [[name, *(one.get(name, "–") for one in columns)] for name in names]
    return table(["", *([mark(i) for i in range(len(runs))] if len(runs) > 1 else ["value"])], rows)
