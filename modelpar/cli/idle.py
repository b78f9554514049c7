"""Options without effect on a run: refused on the command line, reported where they come from a file.

An option is idle where the run does not do what it asks for.  One that asks for what happens anyway, such as
``--pretrain-only`` without labels or ``--patience 0``, is not; nor are defaults.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mpi4py import MPI

from modelpar.cli.config import Settings
from modelpar.cli.options import SPECS, shown_value
from modelpar.cli.recorded_paths import is_data_set
from modelpar.cli.terminal import Say
from modelpar.data import Dataset
from modelpar.errors import DataError, SpecError
from modelpar.formats.archive import Archive
from modelpar.spec import AUTO, NetworkSpec, SyncSpec
from modelpar.training.evaluation import has_labels

OFF = (0, 0.0, False, None, "", "auto", "none", "full")  # values that ask for nothing


class Idle(NamedTuple):
    """A field without effect.   depends_on_epochs: other epochs would give it one, so it is reported, not refused"""

    table: str
    name: str
    why: str
    depends_on_epochs: bool = False


def check_idle(settings: Settings, spec: NetworkSpec, dataset: Dataset, say: Say) -> None:
    """Raise SpecError, on every rank alike, for an option of the command line without effect on this run, and report
    in one line those of a file that differ from their defaults."""
    reported: dict[str, None] = {}
    if spec.exact and settings.mine.get("training", {}).get("digests") is False:
        raise SpecError("--no-digests has no effect: --exact records digests; leave it out")
    if settings.training.standardised and settings.mine.get("training", {}).get("centred") is False:
        raise SpecError("--no-centred has no effect: --standardised gradients are centred ones; leave it out")
    if settings.training.score_every and settings.mine.get("run", {}).get("score") is False:
        raise SpecError("--no-score has no effect beside --score-every, which asks for scores; leave one of them out")
    for table, name, why, depends_on_epochs in idle_options(settings, spec, dataset):
        f = next(f for f in fields(SPECS[table]) if f.name == name)  # type: ignore[arg-type]
        shown = shown_option(table, name, settings.tables.get(table, {}).get(name))
        if settings.mine.get(table, {}).get(name, None) not in OFF and not depends_on_epochs:
            raise SpecError(f"{shown} has no effect: {why}; leave it out")
        if settings.asked.get(table, {}).get(name, f.default) not in (*OFF, f.default):
            reported[f"{shown} ({why})"] = None
    if reported:
        say(f"without effect here: {'; '.join(reported)}")


def shown_option(table: str, name: str, value: Any) -> str:
    """``--epochs 3``, ``--no-pictures``"""
    flag = next(SPECS[table].flag(f) for f in fields(SPECS[table]) if f.name == name)  # type: ignore[arg-type]
    if isinstance(value, bool):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    return f"{flag} {shown_value(value)}"


def idle_options(settings: Settings, spec: NetworkSpec, dataset: Dataset) -> Iterator[Idle]:
    """All options without effect, given or not."""
    yield from _of_network(spec)
    yield from _of_data(settings, dataset)
    yield from _of_strategy(settings.sync)
    why = why_not_tuned(settings, spec, dataset)
    for idle in _of_pretraining(settings, spec):
        if idle.name != "products" or why:  # else it is that of fine-tuning too
            yield idle
    if why:
        yield from _all_but("finetune", ("epochs",) if settings.finetune.epochs == 0 else (), why)
        return
    yield from _of_rates(settings, "finetune")
    if not (has_labels(dataset.validation) or has_labels(dataset.test)):
        yield Idle("finetune", "evaluate_every", "there is no test or validation set with labels")


def why_not_tuned(settings: Settings, spec: NetworkSpec, dataset: Dataset) -> str:
    """Why pre-training is not followed by fine-tuning; empty where it is."""
    if settings.run.pretrain_only:
        return "--pretrain-only leaves out fine-tuning"
    if settings.finetune.epochs == 0:
        return "there is no fine-tuning (--finetune-epochs 0)"
    if spec.hidden != "bernoulli":
        return f"there is no fine-tuning of --hidden {spec.hidden}"
    if spec.classes == 0 and dataset.train.labels is not None:
        return "--classes 0 leaves out fine-tuning"
    return "" if dataset.train.labels is not None else f"{dataset.name} has no labels, so there is no fine-tuning"


def report_missing_labels(comm: MPI.Comm, settings: Settings, spec: NetworkSpec, dataset: Dataset, say: Say) -> None:
    """Report in one line what is left out because labels are missing.  Collective."""
    wanted = settings.finetune.epochs and not settings.run.pretrain_only
    if not wanted or settings.mine.get("network", {}).get("classes") == 0:
        return
    if dataset.train.labels is None:
        others = comm.bcast(_arrays(settings.data.data) if comm.rank == 0 else "")
        say(f"{dataset.name} has no labels, so there is no fine-tuning and no accuracy{others}; see --labels")
    elif spec.classes and dataset.test is not None and not has_labels(dataset.test):
        say("the test set has no labels, so there is no test accuracy; see --test-labels")


def _arrays(data: str) -> str:
    """The arrays of an archive that might be meant as labels, for people."""
    path = Path(os.path.expanduser(data))
    try:
        if is_data_set(data) or not zipfile.is_zipfile(path):
            return ""
        names = sorted(Archive(path).headers)
    except (OSError, DataError):
        return ""
    return f" (of its arrays {', '.join(names)} none is called labels)" if len(names) > 1 else ""


def _all_but(table: str, kept: Iterable[str], why: str) -> Iterator[Idle]:
    for f in fields(SPECS[table]):  # type: ignore[arg-type]
        if f.name not in kept:
            yield Idle(table, f.name, why)


def _of_network(spec: NetworkSpec) -> Iterator[Idle]:
    if not spec.has_lists:
        yield Idle("network", "halo", "all connections are complete, and only listed ones have a halo")
    if all(pattern.kind != "local" for pattern in spec.patterns):
        yield Idle("network", "visible_grid", "no connections are local")
    if not any(pattern.dense for pattern in spec.patterns) and not spec.classes:
        yield Idle("network", "layout", "no connections are complete, and only these are split by columns or rows")


def _of_data(settings: Settings, dataset: Dataset) -> Iterator[Idle]:
    if dataset.fingerprint is not None and dataset.fingerprint.test is not None:
        yield Idle("data", "test_fraction", "there is a test set already, and no samples are set aside for one")
    if dataset.train.missing is None:
        yield Idle("training", "missing_steps", "no values are missing that --missing sample would draw")
    if settings.data.sample_weights != AUTO:
        yield Idle("data", "identity", "neighbours are counted by --sample-weights auto only")
    if settings.tables.get("network", {}).get("classes") == 0:
        for name in ("labels", "test_labels"):
            yield Idle("data", name, "--classes 0 leaves out what labels are for")


def _of_strategy(sync: SyncSpec) -> Iterator[Idle]:
    for strategy, names in SyncSpec.BELONGING.items():
        if sync.sync != strategy:
            for name in names:
                yield Idle("sync", name, f"it belongs to --sync {strategy}, but --sync is {sync.sync}")


def _of_pretraining(settings: Settings, spec: NetworkSpec) -> Iterator[Idle]:
    training = settings.training
    if not training.trains:
        yield from _all_but("training", ("epochs", "digests"), "there is no pre-training (--epochs 0)")
        for name in ("keep_trajectory", "score"):
            yield Idle("run", name, "there is no pre-training (--epochs 0)")
        return
    if training.updates:
        yield Idle("training", "epochs", f"--updates {training.updates} says how long each RBM is trained")
    if not training.n_chains:
        for name in ("chain_steps", "chain_start", "chain_temperatures"):
            yield Idle(
                "training", name, "there are no chains of their own without --chains, --persistent or --chain-restart"
            )
    elif training.chain_steps:
        yield Idle("training", "gibbs_steps", f"--chain-steps {training.chain_steps} says how far the chains go")
    if training.n_chains and training.chain_method == "gibbs":
        yield Idle("training", "chain_temperatures", "chains move by --chain-method gibbs, without temperatures")
    if training.chains:
        yield Idle("training", "persistent", "--chains are persistent, unless there is --chain-restart")
    if training.n_chains:
        yield Idle("training", "reconstruction", "chains of their own do not reconstruct the data")
    if training.score_every:
        yield Idle("run", "score", f"--score-every {training.score_every} scores after the last epoch anyway")
    if not training.score_every and not settings.run.score:
        for name in ("score_share", "score_temperatures"):
            yield Idle("training", name, "there are no scores with --no-score")
    elif training.score_temperatures or spec.exact:
        said = f"--score-temperatures {training.score_temperatures}" if training.score_temperatures else "--exact"
        yield Idle("training", "score_share", f"{said} says how many temperatures a score has")
    yield from _of_rates(settings, "training")
    single = len(spec.layers) == 2
    if not any(pattern.dense for pattern in spec.patterns):
        yield Idle("training", "products", "no connections are complete, and only these have products of matrices")
    if spec.hidden != "bernoulli" and single:
        yield Idle(
            "training", "statistics", f"the statistics of --hidden {spec.hidden} are means, which are not rounded"
        )
    if spec.visible != "gaussian":
        yield Idle("training", "gaussian_learning_rate", f"--visible is {spec.visible}; the rate is --learning-rate")
        yield Idle("network", "variances", f"--visible is {spec.visible}, whose units have none")
    elif single:
        yield Idle("training", "learning_rate", "the only RBM has Gaussian units; its rate is --gaussian-learning-rate")
    if not training.sparsity_cost:
        yield Idle("training", "sparsity_target", "there is no sparsity penalty without --sparsity-cost")
    if single:
        for name in ("pass_up", "cache"):
            yield Idle("training", name, "there is one RBM, which passes nothing to another")


def _of_rates(settings: Settings, table: str) -> Iterator[Idle]:
    spec = settings.training if table == "training" else settings.finetune
    prefix = "--" + SPECS[table].prefix.replace("_", "-")
    if spec.schedule == "constant" and spec.final_rate != 1:
        yield Idle(table, "final_rate", f"the rate is constant without {prefix}schedule")
    by_updates = table == "training" and settings.training.updates
    if spec.epochs == 1 and spec.schedule != "constant" and not by_updates:
        for name in ("schedule", "final_rate"):
            yield Idle(
                table, name, "the rate falls from one epoch to the next, and there is one", depends_on_epochs=True
            )
    if settings.sync.adagrad:
        for name in ("momentum", "initial_momentum", "momentum_epochs"):
            yield Idle(table, name, "--adagrad takes the place of momentum")
    elif spec.initial_momentum is None:
        yield Idle(table, "momentum_epochs", f"all epochs have the same momentum without {prefix}initial-momentum")
    elif spec.lasting_momentum != spec.initial_momentum:
        if spec.momentum_epochs >= spec.epochs and not by_updates:
            why = f"it begins after {prefix}momentum-epochs {spec.momentum_epochs}, but there are {spec.epochs} epochs"
            yield Idle(table, "momentum", why, depends_on_epochs=True)
        if spec.momentum_epochs == 0:
            yield Idle(table, "initial_momentum", f"no epoch has it without {prefix}momentum-epochs")
