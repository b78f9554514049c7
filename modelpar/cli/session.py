"""One run of training: from data and options to a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli import pictures
from modelpar.cli.config import Settings, write_config
from modelpar.cli.progress import TrainingProgress, summary_table
from modelpar.cli.run_directory import CONFIG, RANKS, SUMMARY, RunDirectory
from modelpar.cli.summary import Clock, for_people, summarise
from modelpar.cli.threads import Placement
from modelpar.comm.grid import Grid
from modelpar.comm.memory import check_fits
from modelpar.comm.watchdog import Watchdog
from modelpar.data import DataFeed, Dataset, Minibatches, check_range
from modelpar.errors import CheckpointError, DataError, SpecError, TrainingError
from modelpar.model.network import DeepBeliefNetwork, memory_bytes
from modelpar.ownership.layout import NetworkLayout
from modelpar.records import Record, recorded_layer
from modelpar.spec import NetworkSpec, option_name
from modelpar.training import monitor
from modelpar.training.evaluation import accuracy_measures, check_labels, has_labels
from modelpar.training.exactness import check_exact, check_exact_tuning
from modelpar.training.minibatch_loop import check_position
from modelpar.training.recovery import Snapshots, SurvivorState, rebuild
from modelpar.training.state import TrainingRun
from modelpar.training.trainer import fine_tune, pretrain
from modelpar.training.warm_up import rehearse

CHECKED_AT_ONCE = 1 << 20  # parameters looked through for NaN at a time, so that the look takes no memory


def check_memory(settings: Settings, spec: NetworkSpec, grid: Grid) -> None:
    """Raise OutOfMemoryError, on every rank, where the network will not fit.  Collective."""
    batch = max(settings.training.batch_size, settings.finetune.batch_size)
    needed = memory_bytes(spec, grid.n_shards, -(-batch // grid.n_replicas), keep_best=settings.finetune.patience > 0)
    check_fits(needed, f"a network of {'-'.join(map(str, _sizes(spec)))} units", grid.comm, grid.node_comm)


def check_data(settings: Settings, spec: NetworkSpec, layout: NetworkLayout, grid: Grid, dataset: Dataset) -> None:
    """What training will need of the data is looked at now: before an old run goes, and not after hours of
    pre-training.  Collective.  Raises SpecError or DataError on every rank."""
    if spec.exact:
        visible = layout.layers[0].owned(grid.shard)
        feed = DataFeed(
            dataset.train, visible, scale=dataset.scale, binarise=dataset.binarise, seed=spec.seed, comm=grid.comm
        )
        check_exact(spec, settings.training, binary=feed.binary)
    if fine_tunes(settings, spec, dataset):
        check_exact_tuning(spec, settings.finetune)
        for split in (dataset.train, dataset.validation, dataset.test):
            if split is not None and (split is dataset.train or has_labels(split)):
                check_labels(dataset, split, spec.classes)
        if settings.finetune.patience and not has_labels(dataset.validation):
            raise SpecError("--patience needs a validation set with labels; give --validation-fraction")
        judged = has_labels(dataset.validation) or has_labels(dataset.test)
        if settings.finetune.until_accuracy is not None and not judged:
            raise SpecError("--until-accuracy needs a test or validation set with labels; give --test-fraction")
    if spec.visible == "gaussian" and dataset.binarise != "none":
        raise SpecError(f"--binarise {dataset.binarise} makes states, but --visible is gaussian; leave one of them out")
    check_range(dataset, layout.layers[0].owned(grid.shard), spec.visible, comm=grid.comm)


def network_spec(settings: Settings, dataset: Dataset) -> NetworkSpec:
    """The network that was asked for, completed by what the data tell: their width and their classes.

    Raises SpecError where the layers do not begin with the width of the data.
    """
    asked = settings.tables.get("network", {})
    more: dict[str, Any] = {}
    if "layers" not in asked:
        more["layers"] = (dataset.n_visible, *settings.network().layers[1:])
    elif asked["layers"][0] != dataset.n_visible:
        given = "-".join(map(str, asked["layers"]))
        right = "-".join(map(str, (dataset.n_visible, *asked["layers"][1:])))
        raise SpecError(
            f"--layers {given} begins with {asked['layers'][0]} units, but {dataset.name} has {dataset.n_visible} "
            f"values a sample; use --layers {right}"
        )
    if "classes" not in asked:
        if dataset.n_classes == 1:
            raise DataError(
                f"the labels of {dataset.name} are all 0, but a classifier needs at least 2 classes; give other "
                "--labels, or --classes 0 to train without them"
            )
        more["classes"] = dataset.n_classes
    return settings.network(**more)


def fine_tunes(settings: Settings, spec: NetworkSpec, dataset: Dataset) -> bool:
    """Whether pre-training is followed by fine-tuning."""
    possible = dataset.train.labels is not None and spec.classes > 0 and settings.finetune.epochs > 0
    return possible and not settings.run.pretrain_only


class Session:
    """One run of training: the network and everything that watches it."""

    def __init__(
        self, settings: Settings, spec: NetworkSpec, layout: NetworkLayout, grid: Grid, dataset: Dataset,
        directory: RunDirectory, place: Placement, progress: TrainingProgress, watchdog: Watchdog,
    ) -> None:  # fmt: skip
        self.settings, self.spec, self.layout, self.grid, self.dataset = settings, spec, layout, grid, dataset
        self.directory, self.place, self.progress = directory, place, progress
        self.status, self.names = watchdog.status, watchdog.names
        self.network: DeepBeliefNetwork
        self.training: TrainingRun
        self.snapshots: Snapshots | None = None  # where the run can go on without a rank
        self.last_good = "no checkpoint was written yet"
        self.stages: dict[tuple[str, int], float] = {}  # training seconds of each stage and RBM, resumed ones included
        self.samples = 0  # of this process
        self.seconds_before = 0.0  # of a run that was resumed
        self.history: list[dict[str, Any]] = []  # the lines of metrics.jsonl
        self.fine_tunes = fine_tunes(settings, spec, dataset)
        n = len(dataset.train)
        self._steps = {
            "pretrain": Minibatches(n, settings.training.batch_size, spec.seed).n_steps,
            "finetune": Minibatches(n, settings.finetune.batch_size, spec.seed).n_steps,
            "done": 0,
        }

    def run(self, *, resume: bool, overwrite: bool, survivor: SurvivorState | None = None, told: str = "") -> None:
        """All stages that are left, then the summary.  Collective.

        survivor   what the ranks have brought from a grid that lost a rank, which is ``told`` of
        """
        self._announce()
        if told:
            self.progress.say(f"warning: {told}")
        with self.status.phase("compiling", steady=True):
            compile_seconds = self._warm_up()
        with self.status.phase("making the network"):
            network = rebuild(survivor, self.spec, self.grid, self.layout) if survivor is not None else None
            if network is None:
                network = self._resumed() if resume else self._fresh()
        self.network, self.training = network, TrainingRun.of(network)
        if self.grid.tolerant:
            self.snapshots = Snapshots(network)
            self.training.keep = self.snapshots.keep
        position = self.training.position
        if position.stage == "done" or (position.stage == "finetune" and not self.fine_tunes):
            self.progress.say(
                f"this run has finished: see {self.directory.path / SUMMARY}; start another to train differently"
            )
            return
        self._check_position()
        self.directory.prepare(resume=resume, overwrite=overwrite)  # nothing was changed so far
        self._write_config()
        self.directory.write_text(RANKS, "".join(f"{name}\n" for name in self.names))
        self.history = self.directory.open_metrics(position, self._steps[position.stage])
        self.training.record_digests = self.settings.training.digests or self.spec.exact
        if self.training.record_digests:
            self.directory.open_digests(position, self._steps[position.stage])
        if self.directory.n_damaged:
            self.progress.say(f"warning: {self.directory.n_damaged} damaged line(s) of metrics.jsonl were left out")
        self._restore_clock()
        try:
            if position.stage == "pretrain" and self.settings.training.epochs:
                self._consume(pretrain(self.network, self.dataset, self.settings.training, self.settings.sync))
                self._check_finite()
                checkpoint.save(self.network, self.directory.pretrained)
                self._remember(str(self.directory.pretrained))
                self._draw_generative()
            if self.fine_tunes:
                self._consume(fine_tune(self.network, self.dataset, self.settings.finetune, self.settings.sync))
            self._check_finite()
        except TrainingError as error:
            raise TrainingError(f"{error}; {self.last_good}") from None
        checkpoint.save(self.network, self.directory.model)
        self._conclude(compile_seconds)

    # -- before ------------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        grid, spec = self.grid, self.spec
        bound = "" if self.place.own_cores >= self.place.threads else f", bound to {self.place.own_cores} core(s)"
        self.progress.say(
            f"{self.dataset.name}: {len(self.dataset.train):,} samples of {self.dataset.n_visible} values; "
            f"network {'-'.join(map(str, _sizes(spec)))}; grid of {grid.n_replicas} replica(s) x {grid.n_shards} model "
            f"shard(s), {self.place.threads} thread(s) a rank{bound}"
        )
        self.progress.say(f"run directory: {self.directory.path}")
        for name, layer in zip(_layer_names(spec), self.layout.layers, strict=True):
            idle = int((layer.counts == 0).sum())
            if idle and name != "output layer":
                self.progress.say(
                    f"warning: the {name} has {layer.n_units} units for {grid.n_shards} model shards: {idle} shard(s) "
                    "own none of it and stand idle there"
                )

    def _warm_up(self) -> float:
        """Seconds of compiling the kernels, or loading them from a cache, and of opening the data.  Collective."""
        started = time.perf_counter()
        rehearse(self.spec.dtype, self.grid.node_comm, listed=not all(p.dense for p in self.spec.patterns))
        visible = self.layout.layers[0].owned(self.grid.shard)
        DataFeed(
            self.dataset.train, visible, binarise=self.dataset.binarise, seed=self.spec.seed, comm=self.grid.comm
        ).warm_up(self.spec.dtype)
        return float(self.grid.comm.allreduce(time.perf_counter() - started, MPI.MAX))

    def _fresh(self) -> DeepBeliefNetwork:
        return DeepBeliefNetwork(self.spec, self.grid, self.layout)

    def _resumed(self) -> DeepBeliefNetwork:
        """The network of the newest checkpoint that is whole, or a new one where there is none."""
        n_pretraining = self.settings.training.epochs * self._steps["pretrain"] * (len(self.spec.layers) - 1)
        newest = None
        for path in self.directory.to_resume(n_pretraining):
            try:
                spec = checkpoint.read_spec(path, files.read_header(path, self.grid.comm))
                if not self._differs(spec):
                    network = checkpoint.load(path, self.grid, self.layout, halo=self.spec.halo)
            except CheckpointError as error:
                newest = newest or error
                self.progress.say(f"warning: {error}; going back to the checkpoint before")
                continue
            if self._differs(spec):
                raise CheckpointError(f"{path} is of another network: {self._differs(spec)}")
            self.progress.say(f"going on from {path}")
            self._remember(str(path))
            return network
        if newest:
            raise CheckpointError(
                f"no checkpoint of {self.directory.path} can be read ({newest}); use --overwrite to start again"
            )
        self.progress.say("no checkpoint to go on from was found: starting from the beginning")
        return self._fresh()

    def _check_position(self) -> None:
        """Raise SpecError, on every rank, where these options do not go on with what the checkpoint has begun."""
        position, settings = self.training.position, self.settings
        if position.stage == "pretrain" and settings.training.epochs:
            check_position(position, "pretrain", len(self.dataset.train), settings.training.batch_size)
        elif position.stage == "finetune":
            check_position(position, "finetune", len(self.dataset.train), settings.finetune.batch_size)

    def _differs(self, found: NetworkSpec) -> str:
        """In what a checkpoint's network is not the one that was asked for; empty where it is."""
        for name in ("layers", "connections", "visible_grid", "classes", "visible", "dtype", "exact", "seed"):
            theirs, ours = getattr(found, name), getattr(self.spec, name)
            if theirs != ours:
                return f"its {option_name(name)} is {_text(theirs)}, but {_text(ours)} was asked for"
        return ""

    def _restore_clock(self) -> None:
        """The times of what was done before, from the records: checkpoints do not hold them."""
        for line in self.history:
            self.stages[line["stage"], line["layer"]] = line["seconds"]
        position = self.training.position
        layer = recorded_layer(position.stage, position.layer)
        position.seconds = self.stages.get((position.stage, layer), 0.0)
        self.seconds_before = sum(self.stages.values())

    def _write_config(self) -> None:
        run = self.settings.run
        specs = {
            "network": self.spec, "training": self.settings.training, "finetune": self.settings.finetune,
            "data": self.settings.data, "grid": self.settings.grid, "sync": self.settings.sync, "run": run,
        }  # fmt: skip
        self.directory.write_text(CONFIG, write_config(specs))

    # -- during ------------------------------------------------------------------------------------------------------

    def _consume(self, records: Iterator[Record]) -> None:
        """Take every record: show it, write it, and save where a checkpoint is due."""
        every, keep = self.settings.run.checkpoint_every, self.settings.run.keep
        saved = self._updates_done()
        for record in records:
            self.progress.show(record)
            self.stages[record.stage, record.layer] = record.seconds
            if record.kind == "step":
                self.samples += record.samples
                self.directory.write_digests(record)
            if record.kind == "epoch" or record.measures:
                self.directory.write_metrics(record)
                self.history.append(record.as_line())
            updates = self._updates(record)
            due = updates // every > saved // every if every else self._ends_rbm(record)
            saved = updates
            if due:
                self._check_finite()
                self._remember(str(self.directory.save_step(self.network, updates, keep)))

    def _ends_rbm(self, record: Record) -> bool:
        is_last = record.layer == len(self.spec.layers) - 2  # after the last one comes pretrained.safetensors
        return record.kind == "epoch" and record.stage == "pretrain" and record.step == record.steps and not is_last

    def _updates(self, record: Record) -> int:
        """Updates since the run began."""
        if record.stage == "pretrain":
            return record.layer * record.steps + record.step
        return (len(self.spec.layers) - 1) * self.settings.training.epochs * self._steps["pretrain"] + record.step

    def _updates_done(self) -> int:
        """Updates since the run began, before the next record."""
        position = self.training.position
        n_steps = self._steps[position.stage]
        done = position.epoch * n_steps + position.step
        per_rbm = self.settings.training.epochs * self._steps["pretrain"]
        return done + per_rbm * (position.layer if position.stage == "pretrain" else len(self.spec.layers) - 1)

    def _remember(self, path: str) -> None:
        self.last_good = f"the last good checkpoint is {path}"

    def _check_finite(self) -> None:
        """No broken network is ever saved.  Collective.  Raises TrainingError on every rank."""
        pieces = [
            part.parameters.flat[start : start + CHECKED_AT_ONCE]
            for part in self.network.parts()
            for start in range(0, part.parameters.flat.size, CHECKED_AT_ONCE)
        ]
        monitor.check_finite("the network", pieces, self.grid.comm)

    def _draw_generative(self) -> None:
        if self.settings.run.pictures:
            pictures.draw_network(self.network, self.dataset, self.directory, self.progress.say)

    # -- after -------------------------------------------------------------------------------------------------------

    def _conclude(self, compile_seconds: float) -> None:
        if self.settings.run.pictures:
            if not self.directory.has("filters.png"):
                self._draw_generative()
            pictures.draw_curves(self.history, self.directory, self.progress.say)
        with self.status.phase("scoring"):
            accuracies = accuracy_measures(self.network, self.dataset) if self.fine_tunes else {}
        clock = Clock(self.stages, self.seconds_before, self.samples, compile_seconds)
        found = summarise(self.network, accuracies, clock, self.history, self.place.threads)
        self.directory.write_text(SUMMARY, json.dumps(found, indent=1) + "\n")
        self.progress.console.print(summary_table(for_people(found), "Summary"))
        self.progress.say(f"model: {self.directory.model}")


def _sizes(spec: NetworkSpec) -> tuple[int, ...]:
    return (*spec.layers, spec.classes) if spec.classes else spec.layers


def _layer_names(spec: NetworkSpec) -> list[str]:
    names = ["visible layer", *(f"hidden layer {i}" for i in range(1, len(spec.layers)))]
    return [*names, "output layer"] if spec.classes else names


def _text(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
