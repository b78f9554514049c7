"""``modelpar report``, and the page that a run writes at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli import config as configuration
from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.config import Settings
from modelpar.cli.evaluate import open_network
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.own_data import open_to_evaluate
from modelpar.cli.report.curves import mark
from modelpar.cli.report.events import check_tensorboard, write_events
from modelpar.cli.report.moments import Course, course_of, kept_models
from modelpar.cli.report.pages import page_of
from modelpar.cli.report.reading import FINISHED, GOES_ON, Line, Run, end_of_pretraining, number, read_run
from modelpar.cli.report.weights import Weights, read_weights
from modelpar.cli.run_directory import CONFIG, REPORT, RunDirectory
from modelpar.cli.terminal import Say, speak
from modelpar.comm.grid import Grid
from modelpar.data import Dataset
from modelpar.errors import CheckpointError, ModelparError, described, together
from modelpar.model.network import DeepBeliefNetwork
from modelpar.plan.memory import memory_bytes


def report(comm: MPI.Comm, paths: Sequence[str], *, out: str, tensorboard: str | None = None) -> None:
    """Write the page of one run, or of two.  Rank 0 works.  Collective.

    tensorboard   a folder for event files of the records too

    Raises SpecError, on every rank, where a path is no run, or where the file cannot be written.
    """
    say = speak(comm)
    if tensorboard is not None:
        check_tensorboard()
    for path in paths:
        check_outputs(comm, Settings({}), {"--out": out}, checkpoint=path)
    with together(comm):
        if comm.rank == 0:
            runs = [read_run(Path(path)) for path in paths]
            courses = [_course(run) for run in runs]
            for run in runs:
                for note in run.notes:
                    say(f"{run.name}: {note}")
            write_page(Path(out), runs, courses, sources=[run.path / CONFIG for run in runs])
            for i, run in enumerate(runs if tensorboard is not None else ()):
                name = run.name if len({run.name for run in runs}) == len(runs) else f"{mark(i)}-{run.name}"
                write_events(Path(str(tensorboard)) / name, run)
            say(f"{' and '.join(_told(run) for run in runs)}: {out}")


def _told(run: Run) -> str:
    return run.name if run.state == FINISHED else f"{run.name} ({run.state})"


def write_page(out: Path, runs: Sequence[Run], courses: Sequence[Course | None], **how: Any) -> None:
    """Not collective.   how: as for ``atomic_write``

    Raises ModelparError where the file cannot be written; an old one is then untouched.
    """
    weights = [_weights(run) for run in runs]
    text = page_of(runs, weights, courses, [predicted_memory(run) for run in runs])
    with atomic_write(out, **how) as partial:
        partial.write_text(text, encoding="utf-8")


def _weights(run: Run) -> list[Weights]:
    if run.checkpoint is None:
        return []
    try:
        return read_weights(run.checkpoint)
    except CheckpointError as error:
        run.notes.append(f"no weights are shown: {error}")
        return []


def predicted_memory(run: Run) -> float | None:
    """Bytes of the arrays of the largest shard, as they are estimated before a run; None where that is not known."""
    shards, batch = run.number("grid", "model_shards"), number(run.config, "training", "batch_size")
    if run.checkpoint is None or shards is None or batch is None:
        return None
    try:
        spec = checkpoint.read_spec(run.checkpoint, files.read_header(run.checkpoint, MPI.COMM_SELF))
        return memory_bytes(spec, max(int(shards), 1), max(int(batch), 1))
    except ModelparError:
        return None


def _course(run: Run) -> Course | None:
    """What the models that a run has kept make of its data; a line of its notes where that cannot be shown."""
    directory, end = RunDirectory(MPI.COMM_SELF, run.path), end_of_pretraining(run.records)
    try:
        if run.checkpoint is None or not run.pictures or len(kept_models(directory, end)) < 2:
            return None  # without pictures a sample is none, or none were wanted
        settings = configuration.gather(MPI.COMM_SELF, {}, None, beside=str(run.path))
        with Grid(MPI.COMM_SELF) as grid:

            def load(path: Path) -> DeepBeliefNetwork:
                return open_network(path, grid, settings)

            network = load(run.checkpoint)
            dataset = open_to_evaluate(settings, network, "test", with_labels=False, say=lambda text: None)
            return course_of(directory, dataset, load, end)
    except (ModelparError, OSError) as error:
        # a run that goes on may have removed a checkpoint meanwhile
        why = "" if run.state == GOES_ON and isinstance(error, CheckpointError) else f": {described(error)}"
        run.notes.append(f"no samples and reconstructions over time{why}")
        return None


def report_at_end(
    network: DeepBeliefNetwork, dataset: Dataset, directory: RunDirectory, history: Sequence[Line], summary: Line,
    say: Say, *, pictures: bool,
) -> None:  # fmt: skip
    """``report.html`` of a run that is about to write its summary.  Collective.

    history, summary   what is in ``metrics.jsonl``, and what will be in ``summary.json``
    pictures           whether what the kept models make is shown

    What fails is one line, and no error: a run is worth more than its page.
    """
    comm, course = directory.comm, None
    if pictures:
        try:
            grid, layout = network.grid, network.layout
            course = course_of(
                directory, dataset, lambda path: checkpoint.load(path, grid, layout, to_train=False),
                end_of_pretraining(history),
            )  # fmt: skip
        except ModelparError as error:  # the same on every rank
            say(f"warning: no samples and reconstructions over time: {error}")
    if comm.rank == 0:
        try:
            run = read_run(directory.path, summary)
            write_page(directory.path / REPORT, [run], [course], follow=False, sources=directory.private)
        except Exception as error:
            say(f"warning: no report: {described(error) or type(error).__name__}")
