"""Resuming a run with other options: which of them act from here on, and more epochs of a run that has finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli.config import Settings
from modelpar.cli.idle import shown_option
from modelpar.cli.options import SPECS, shown_value
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.terminal import Say
from modelpar.data import Dataset
from modelpar.errors import CheckpointError, SpecError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.records import NO_LAYER
from modelpar.training.evaluation import accuracy_measures
from modelpar.training.state import Position, TrainingRun
from modelpar.training.trainer import remember_best

SPLIT = ("test_fraction", "validation_fraction", "binarise")  # decided with the first step of a run


class Change(NamedTuple):
    """An option that a run had, and another value of it."""

    table: str
    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        before = "the default" if self.before is None else shown_value(self.before)
        return f"{shown_option(self.table, self.name, self.now)} (was {before})"


def changes(settings: Settings) -> list[Change]:
    """Options that are asked for and differ from those of the run, except files and options of a machine."""
    if not settings.before:
        return []
    before, changed = Settings(settings.before), list[Change]()
    for table in ("network", "training", "finetune", "sync", "data"):
        mine, theirs = (_spec_of(some, table) for some in (settings, before))
        for f in fields(SPECS[table]):  # type: ignore[arg-type]
            if f.name not in settings.asked.get(table, {}):
                continue
            if (table == "data" and f.name not in SPLIT) or (table, f.name) == ("network", "connections"):
                continue  # compared by the content of files
            change = Change(table, f.name, getattr(theirs, f.name), getattr(mine, f.name))
            if change.before != change.now:
                changed.append(change)
    return changed


def _spec_of(settings: Settings, table: str) -> Any:
    return settings.network() if table == "network" else getattr(settings, table)


def check_changes(settings: Settings, network: DeepBeliefNetwork, *, fine_tunes: bool, say: Say) -> None:
    """Report which of the changed options act from here on.

    Raises SpecError, on every rank alike, for one of the command line that cannot; those of a file are reported.
    """
    acting: list[str] = []
    idle: list[str] = []
    for change in changes(settings):
        why = _cannot(change, TrainingRun.of(network).position.stage, fine_tunes)
        if not why:
            acting.append(str(change))
        elif change.name in settings.mine.get(change.table, {}):
            raise SpecError(f"{change} cannot act any more: {why}; leave it out, or start another run")
        else:
            idle.append(f"{change}, as {why}")
    if acting:
        say(f"from here on: {', '.join(acting)}")
    if idle:
        say(f"without effect on this run: {'; '.join(idle)}")


def _cannot(change: Change, stage: str, fine_tunes: bool) -> str:
    """Why an option cannot act on a run in ``stage``; empty where it does."""
    if change.table == "data":
        return "the samples of the run are fixed"
    if change.table == "network":
        return "" if change.name in ("layout", "halo") else "the network exists already"
    if stage == "done" or (stage == "finetune" and not fine_tunes):
        return "the run has finished"
    if change.table == "training" and stage != "pretrain" and change.name != "digests":
        return "pre-training is over"
    return "the run does not fine-tune" if change.table == "finetune" and not fine_tunes else ""


# -- more epochs, and fewer --------------------------------------------------------------------------------------------


def more_epochs(settings: Settings) -> str:
    """``finetune`` or ``training`` where more epochs of it are asked for than the run was started with, else empty."""
    if not settings.before:
        return ""
    before = Settings(settings.before)
    tables = ("finetune", "training")
    return next((t for t in tables if _spec_of(settings, t).epochs > _spec_of(before, t).epochs), "")


def go_on(
    network: DeepBeliefNetwork, dataset: Dataset, settings: Settings, history: Sequence[dict[str, Any]], *,
    fine_tunes: bool, say: Say,
) -> bool:  # fmt: skip
    """Whether a finished run goes on, since more epochs are asked for; its position is then moved to before them.

    history   the records of the run

    Pre-training goes on in the uppermost RBM only, since every RBM was trained on the output of those below it.
    Collective.  Raises SpecError, on every rank alike, where more pre-training is asked for after fine-tuning.
    """
    if not settings.before:
        return False
    before, top, run = Settings(settings.before), len(network.rbms) - 1, TrainingRun.of(network)
    was_tuned = run.position.stage == "done" and network.output is not None
    tuned = _last_epoch(history, "finetune", NO_LAYER, before.finetune.epochs)
    trained = _last_epoch(history, "pretrain", top, before.training.epochs)
    if was_tuned and settings.training.epochs > before.training.epochs:
        raise SpecError(
            f"--epochs {settings.training.epochs} cannot act any more: the {before.training.epochs} epochs of "
            "pre-training are over and the network was fine-tuned since; --finetune-epochs goes on with that, or start "
            "another run"
        )
    if was_tuned and fine_tunes and settings.finetune.epochs > max(tuned, before.finetune.epochs):
        run.stand_at(Position("finetune", epoch=tuned))
        say(f"the run had finished: fine-tuning goes on after {tuned} epochs, its momentum from 0")
        if settings.finetune.patience:
            remember_best(network, run, accuracy_measures(network, dataset).get("validation_accuracy", 0.0))
        return True
    if not was_tuned and settings.training.epochs > max(trained, before.training.epochs):
        run.stand_at(Position("pretrain", layer=top, epoch=trained))
        below = f"; the RBM{'s' if top > 1 else ''} below it stay{'' if top > 1 else 's'} as they are" if top else ""
        say(f"the run had finished: RBM {top} goes on after {trained} epochs, its momentum from 0{below}")
        return True
    return False


def report_fewer(network: DeepBeliefNetwork, settings: Settings, n_steps: Mapping[str, int], say: Say) -> None:
    """Report in one line that a run has had more epochs than are asked for.   n_steps: of an epoch of each stage"""
    position = TrainingRun.of(network).position
    epochs_done, steps_done = divmod(
        position.epoch * n_steps[position.stage] + position.step, max(n_steps[position.stage], 1)
    )
    what, epochs, flag = (
        ("fine-tuning", settings.finetune.epochs, "--finetune-epochs") if position.stage == "finetune" else
        (f"RBM {position.layer}", settings.training.epochs, "--epochs")
    )  # fmt: skip
    if position.stage != "done" and (epochs_done, steps_done) > (epochs, 0):
        begun = f" and {steps_done} steps of another" if steps_done else ""
        say(f"{what} has had {epochs_done} epochs{begun}, more than {flag} {epochs}: nothing is undone, it ends here")


def check_fewer(settings: Settings) -> None:
    """Raise SpecError, on every rank alike, where a run that has finished is asked for fewer epochs than it had."""
    before = Settings(settings.before)
    for table in ("training", "finetune") if settings.before else ():
        now, then = _spec_of(settings, table).epochs, _spec_of(before, table).epochs
        if now < then and "epochs" in settings.mine.get(table, {}):
            raise SpecError(
                f"{shown_option(table, 'epochs', now)} asks for fewer epochs than the {then} of this run, which has "
                "finished, and nothing is undone; start another run"
            )


def in_order(
    paths: Sequence[Path], directory: RunDirectory, settings: Settings, n_steps: Mapping[str, int]
) -> list[Path]:
    """Checkpoints to go on from, the newest first, in the order of ``paths``; but where a finished run is to have more
    epochs, the one that was saved after its last step comes before the model, since it has the momentum too.

    n_steps   of an epoch of each stage
    Collective.
    """
    more, ordered = more_epochs(settings), list(paths)
    last = next((path for path in ordered if path.parent == directory.checkpoints), None)
    if not more or last is None or directory.model not in ordered:
        return ordered
    try:
        heads = [files.read_header(path, directory.comm) for path in (directory.model, last)]
        n_rbms = len(checkpoint.read_spec(directory.model, heads[0]).layers) - 1
    except CheckpointError:
        return ordered  # whoever opens them reports it
    model, position = map(checkpoint.read_position, heads)
    if model is None or position is None:
        return ordered
    was_tuned = model.stage == "done" and "output.W" in heads[0].tensors
    stage = "finetune" if was_tuned else "pretrain"
    epochs = _spec_of(Settings(settings.before), "finetune" if was_tuned else "training").epochs
    done = position.epoch * n_steps[stage] + position.step
    at_end = position.stage == stage and done == epochs * n_steps[stage]
    if at_end and was_tuned == (more == "finetune") and (was_tuned or position.layer == n_rbms - 1):
        ordered.insert(0, last)
    return ordered


def _last_epoch(history: Sequence[dict[str, Any]], stage: str, layer: int, otherwise: int) -> int:
    done = [line["epoch"] for line in _epochs(history) if (line["stage"], line["layer"]) == (stage, layer)]
    return max(done, default=otherwise)


def _epochs(history: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (line for line in history if line["kind"] == "epoch")
