"""One run of training: from data and options to a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mpi4py import MPI

from modelpar import checkpoint, faults
from modelpar.checkpoint import files
from modelpar.cli import pictures
from modelpar.cli.announcement import announcement
from modelpar.cli.config import Settings, write_config
from modelpar.cli.ending import draw_missing
from modelpar.cli.overwriting import inputs
from modelpar.cli.own_data import check_resumed
from modelpar.cli.preparation import fine_tunes
from modelpar.cli.progress import TrainingProgress, summary_table
from modelpar.cli.recorded_paths import recorded
from modelpar.cli.report.command import report_at_end
from modelpar.cli.resuming import check_changes, check_fewer, go_on, in_order, report_fewer
from modelpar.cli.run_directory import RANKS, SUMMARY, RunDirectory
from modelpar.cli.same_network import difference, other_connections
from modelpar.cli.stopping import Stopping
from modelpar.cli.summary import Clock, for_people, predicted, summarise
from modelpar.cli.threads import Placement
from modelpar.cli.trajectory import Trajectory
from modelpar.collective.ending import closed
from modelpar.comm.grid import Grid
from modelpar.comm.watchdog import Watchdog
from modelpar.data import DataFeed, Dataset, Minibatches
from modelpar.errors import CheckpointError, TrainingError, n_ranks_that_raise, raised_by
from modelpar.kernels.warm_up import Task
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.records import Record, recorded_layer
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training import monitor
from modelpar.training.checks import check_before_saving
from modelpar.training.evaluation import accuracy_measures
from modelpar.training.minibatch_loop import check_position
from modelpar.training.recovery import Snapshots, SurvivorState, rebuild
from modelpar.training.scoring import ONLY_AT_THE_END
from modelpar.training.state import Position, TrainingRun
from modelpar.training.trainer import fine_tune, pretrain
from modelpar.training.warm_up import rehearse, tasks_of


class Session:
    """One run of training: the network, its records, checkpoints and display."""

    def __init__(
        self, settings: Settings, spec: NetworkSpec, layout: NetworkLayout, grid: Grid, dataset: Dataset,
        directory: RunDirectory, placement: Placement, progress: TrainingProgress, watchdog: Watchdog,
        stopping: Stopping,
    ) -> None:  # fmt: skip
        self.settings, self.spec, self.layout, self.grid, self.dataset = settings, spec, layout, grid, dataset
        self.directory, self.placement, self.progress, self.stopping = directory, placement, progress, stopping
        self.status, self.names = watchdog.status, watchdog.names
        self.network: DeepBeliefNetwork
        self.training: TrainingRun
        self.snapshots: Snapshots | None = None  # where the run can go on without a lost rank
        self.last_good = ""  # what is said of the last checkpoint that is healthy
        self.stages: dict[tuple[str, int], float] = {}  # training seconds of each stage and RBM, resumed ones included
        self.samples, self.seconds_before = 0, 0.0  # of this process; of those that a resumed run had before
        self.history: list[dict[str, Any]] = []  # the lines of metrics.jsonl
        self.fine_tunes = fine_tunes(settings, spec, dataset)
        self._done: dict[tuple[str, int], int] = {}  # updates of each stage and RBM
        self._has_drawn = False  # the network at the end of its pre-training, by this process
        self._ahead = 0  # difference of ``_number`` and the updates that are counted from the records
        self._number: int | None = None  # updates in the name of that checkpoint
        n = len(dataset.train)
        self._steps = {
            "pretrain": Minibatches(n, settings.training.batch_size, spec.seed).n_steps,
            "finetune": Minibatches(n, settings.finetune.batch_size, spec.seed).n_steps,
            "done": 0,
        }

    def run(
        self, *, resume: bool, overwrite: bool, accept_other_data: bool = False,
        survivor: SurvivorState | None = None, message: str = "",
    ) -> None:  # fmt: skip
        """All stages that are left, then the summary.  Collective.

        accept_other_data   go on with other data than the run was started with
        survivor            the state that this rank brings from a grid that lost a rank, which ``message`` reports
        """
        for line in announcement(self.dataset, self.spec, self.layout, self.grid, self.placement):
            self.progress.say(line)
        self.progress.say(f"run directory: {self.directory.path}")
        if message:
            self.progress.say(f"warning: {message}")
        with self.status.phase("compiling", steady=True):
            compile_seconds = self._warm_up()
        with self.status.phase("making the network"):
            network = rebuild(survivor, self.spec, self.grid, self.layout) if survivor is not None else None
            if network is None:
                network = self._resumed() if resume else DeepBeliefNetwork(self.spec, self.grid, self.layout)
        self.network, self.training = network, TrainingRun.of(network)
        if self.grid.tolerant:
            self.snapshots = Snapshots(network)
        self.trajectory = Trajectory(
            self.directory, network, keeps=self.settings.run.keep_trajectory, check_health=self._check_health
        )
        self.training.keep = self._keep
        resumed = resume and not message  # by the user, perhaps with other options
        if resumed:
            where = str(self.directory.path)
            check_resumed(network, self.dataset, where, accept=accept_other_data, say=self.progress.say)
        finished = self._has_finished() and not (resumed and self._goes_on())
        if resumed and finished:
            check_fewer(self.settings)
            self._check_changes()
        if finished and self.directory.has(SUMMARY) and self.directory.has(self.directory.model.name):
            self.progress.say(
                f"this run has finished: see {self.directory.path / SUMMARY}; more epochs go on with it, all else "
                "needs another run"
            )
            return
        self._check_position()
        if finished:
            self.progress.say("this run has had all its updates; what was to follow them is made up for")
        elif resumed:
            self._check_changes()
            report_fewer(network, self.settings, self._steps, self.progress.say)
        self.training.data = self.dataset.fingerprint or self.training.data
        self.training.alphabet = self.dataset.alphabet or self.training.alphabet
        position = self.training.position
        self.directory.prepare(resume=resume, overwrite=overwrite)  # no file was changed so far
        if not finished:
            self._remove_end(position)  # before the options say that there is more to come: see ``_goes_on``
        self._write_config()
        self.directory.write_text(RANKS, "".join(f"{name}\n" for name in self.names))
        self.history = self.directory.open_metrics(position, self._steps[position.stage])
        self.training.record_digests = self.settings.training.digests or self.spec.exact
        if self.training.record_digests:
            self.directory.open_digests(position, self._steps[position.stage])
        if self.directory.n_damaged:
            self.progress.say(f"warning: {self.directory.n_damaged} damaged line(s) of metrics.jsonl were left out")
        self._restore_clock()
        if self._number is not None:
            self._ahead = self._number - self._updates_done()
        if self.settings.training.trains:
            self.trajectory.begin(self._updates_of_stage(), self._planned)
        with self.stopping.steps(str(self.directory.model)):
            self._train()
            if not (finished and self.directory.has(self.directory.model.name)):
                self.directory.save(self.network, self.directory.model)
        self.stopping.has_trained(self.grid.comm)
        self._conclude(compile_seconds)

    def _train(self) -> None:
        """The stages that are left.  Collective.  Raises TrainingError, StoppedError."""
        try:
            if self.training.position.stage == "pretrain" and self.settings.training.trains:
                self._take(pretrain(self.network, self.dataset, self._pretraining(), self.settings.sync))
                self._check_health()
                self.directory.save(self.network, self.directory.pretrained)
                self._remember(str(self.directory.pretrained))
                self._draw_generative()
            if self.fine_tunes:
                self._take(fine_tune(self.network, self.dataset, self.settings.finetune, self.settings.sync))
            self._check_health()
        except TrainingError as error:
            self._save_start()
            raise raised_by(type(error)(f"{error}; {self.last_good}"), n_ranks_that_raise(error)) from None

    # -- before ------------------------------------------------------------------------------------------------------

    def _warm_up(self) -> float:
        """Seconds of compiling the kernels, or loading them from a cache, and of opening the data.  Collective."""
        started = time.perf_counter()
        feed, training = self._feed(self.dataset.binarise), self._pretraining()
        todo = tasks_of(
            self.spec, training, self.settings.finetune if self.fine_tunes else None, binary=feed.binary,
            n_replicas=self.grid.n_replicas,
            digests=training.digests or self.spec.exact or self.settings.sync.check_memory,
        )  # fmt: skip
        todo.append(Task("data", 2.0, lambda: feed.warm_up(self.spec.dtype)))
        if training.score_every and not feed.binary and self.spec.visible == "bernoulli":
            drawn = self._feed("stochastic")  # as scores see grey values
            todo.append(Task("states of data", 1.0, lambda: drawn.warm_up(self.spec.dtype)))
        rehearse(todo, self.grid.node_comm, self.progress.compiling)
        return float(self.grid.comm.allreduce(time.perf_counter() - started, MPI.MAX))

    def _feed(self, binarise: str) -> DataFeed:
        """The training samples as the visible units see them."""
        visible = self.layout.layers[0].owned(self.grid.shard)
        return DataFeed(self.dataset.train, visible, binarise=binarise, seed=self.spec.seed, comm=self.grid.comm)

    def _resumed(self) -> DeepBeliefNetwork:
        """The network of the newest intact checkpoint, or a new one where there is none."""
        self._count_done(self.directory.history())
        newest = None
        checkpoints = self.directory.to_resume(self._updates_before("finetune", -1))
        for path in in_order(checkpoints, self.directory, self.settings, self._steps):
            try:
                spec = checkpoint.read_spec(path, files.read_header(path, self.grid.comm))
                differs = difference(spec, self.spec) or other_connections(
                    path, spec, self.spec, self.settings, self.grid.comm
                )  # fmt: skip
                if not differs:
                    network = checkpoint.load(
                        path, self.grid, self.layout, halo=self.spec.halo, healthy=True,
                        verify=self.settings.run.verify,
                    )  # fmt: skip
            except CheckpointError as error:
                newest = newest or error
                self.progress.say(f"warning: {error}; going back to the checkpoint before")
                continue
            if differs:
                raise CheckpointError(f"{path} is of another network: {differs}")
            self._number = self.directory.number_of(path)
            self.progress.say(f"going on from {path}")
            self._remember(str(path))
            return network
        if newest:
            raise CheckpointError(
                f"no checkpoint of {self.directory.path} can be gone on from ({newest}); use --overwrite to start again"
            )
        self.progress.say(
            f"no checkpoint to go on from was found in {self.directory.path}: starting from the beginning"
        )
        return DeepBeliefNetwork(self.spec, self.grid, self.layout)

    def _has_finished(self) -> bool:
        stage = self.training.position.stage
        return stage == "done" or (stage == "finetune" and not self.fine_tunes)

    def _goes_on(self) -> bool:
        return go_on(
            self.network, self.dataset, self.settings, self.directory.history(), fine_tunes=self.fine_tunes,
            say=self.progress.say,
        )  # fmt: skip

    def _remove_end(self, position: Position) -> None:
        """A run that goes on after its end will have another one: remove the files of the old end, so that the run can
        be resumed from a checkpoint before the new one.  Collective."""
        if not self.directory.has(self.directory.model.name):
            return
        if self._number is None:
            self.directory.save_step(self.network, self._updates_done(), self.settings.run.keep)
        self.directory.remove_end(pretrained=position.stage == "pretrain")

    def _check_changes(self) -> None:
        check_changes(self.settings, self.network, fine_tunes=self.fine_tunes, say=self.progress.say)

    def _check_position(self) -> None:
        """Raise SpecError, on every rank, where these options do not go on with what the checkpoint has begun."""
        position, training = self.training.position, self.settings.training
        if position.stage == "finetune" or (position.stage == "pretrain" and training.trains):
            own = training if position.stage == "pretrain" else self.settings.finetune
            check_position(position, position.stage, len(self.dataset.train), own.batch_size)

    def _restore_clock(self) -> None:
        """Take the times of earlier stages from the records: checkpoints do not have them."""
        self._count_done(self.history)
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
        sources = [file for _, file in inputs(self.settings, None)]
        self.directory.write_config(write_config(recorded(specs)), sources)

    def _pretraining(self) -> TrainingSpec:
        """With a score after the last epoch of the top RBM, unless there are more or none."""
        training = self.settings.training
        if self.settings.run.score and not training.score_every:
            return replace(training, score_every=ONLY_AT_THE_END)
        return training

    # -- during ------------------------------------------------------------------------------------------------------

    def _take(self, records: Iterator[Record]) -> None:
        """All records of a stage, whose training ends on all ranks where one of these does not go on."""
        with closed(records, self.grid.comm):
            self._consume(records)

    def _consume(self, records: Iterator[Record]) -> None:
        """Show and write every record, and save where a checkpoint is due."""
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
            self._done[record.stage, record.layer] = record.step
            if record.kind == "epoch" and record.stage == "pretrain" and record.step == record.steps:
                self.trajectory.keep(record.step)
            updates = self._updates_before(record.stage, record.layer) + record.step
            due = updates // every > saved // every if every else self._ends_rbm(record)
            saved = updates
            stops = self.stopping.is_due(self.grid.comm, alike=self.training.sync is None or self.training.sync.alike)
            if due or stops:
                self._check_health()
                path, verdict = self.directory.save_step(self.network, updates, keep)
                if verdict.healthy:
                    self._remember(str(path))
                else:
                    self.progress.say(f"warning: {path} is not healthy, no run goes on from it: {verdict.reasons[0]}")
            if stops:
                self.stopping.end_saved(str(path), self.grid.comm)

    def _keep(self) -> None:
        """Keep what is due where all replicas are alike, before a step.  Collective."""
        if self.snapshots is not None:
            self.snapshots.keep()
        self.trajectory.keep_due(self._updates_of_stage())

    def _ends_rbm(self, record: Record) -> bool:
        is_last = record.layer == len(self.spec.layers) - 2  # after the last one comes pretrained.safetensors
        return record.kind == "epoch" and record.stage == "pretrain" and record.step == record.steps and not is_last

    def _updates_before(self, stage: str, layer: int) -> int:
        """Updates since the run began, before a stage: those that were made, and where no record tells of them those
        that were planned.  Epochs and minibatches may have been others before a run was taken up again."""
        lower = layer if stage == "pretrain" else len(self.spec.layers) - 1
        return self._ahead + sum(self._done.get(("pretrain", i), self._planned) for i in range(lower))

    @property
    def _planned(self) -> int:
        """Updates that each RBM is to have."""
        training = self.settings.training
        return training.updates or training.epochs * self._steps["pretrain"]

    def _updates_of_stage(self) -> int:
        """Updates of this stage, and in pre-training of this RBM."""
        position = self.training.position
        return position.epoch * self._steps[position.stage] + position.step

    def _updates_done(self) -> int:
        """Updates since the run began, before the next record."""
        position, done = self.training.position, self._updates_of_stage()
        if position.stage == "pretrain":
            self._done["pretrain", position.layer] = done
        return self._updates_before(position.stage, position.layer) + done

    def _count_done(self, history: Sequence[dict[str, Any]]) -> None:
        for line in history:
            self._done[line["stage"], line["layer"]] = line["step"]

    def _remember(self, path: str) -> None:
        self.last_good = f"the last good checkpoint is {path}"

    def _check_health(self) -> None:
        """No broken network is ever saved, nor one of replicas apart.  Collective.  Raises TrainingError together."""
        check_before_saving(self.network, mend=self.settings.sync.repair)
        monitor.check_values(self.network)

    def _save_start(self) -> None:
        """Where training broke down before its first checkpoint, leave one of the network as it was at the start."""
        if not self.last_good:
            self.network.start_again()
            path, _ = self.directory.save_step(self.network, 0, self.settings.run.keep)
            self._remember(str(path))

    def _draw_generative(self) -> None:
        self._has_drawn = True
        if self.settings.run.pictures:
            pictures.draw_network(self.network, self.dataset, self.directory, self.progress.say)

    # -- after -------------------------------------------------------------------------------------------------------

    def _conclude(self, compile_seconds: float) -> None:
        if self.settings.run.pictures:
            if not self._has_drawn:
                draw_missing(self.network, self.dataset, self.directory, self.progress.say)
            pictures.draw_curves(self.history, self.directory, self.progress.say)
        with self.status.phase("scoring"):
            accuracies = accuracy_measures(self.network, self.dataset) if self.fine_tunes else {}
        faults.at("summarise")
        clock = Clock(self.stages, self.seconds_before, self.samples, compile_seconds)
        summary = summarise(self.network, accuracies, clock, self.history, self.placement.threads)
        summary |= predicted(self.settings, self.network, self.placement)
        if self.settings.run.report:
            with self.status.phase("writing the report"):
                report_at_end(self.network, self.dataset, self.directory, self.history, summary, self.progress.say,
                              pictures=self.settings.run.pictures)  # fmt: skip
        self.directory.write_text(SUMMARY, json.dumps(summary, indent=1) + "\n")
        self.progress.console.print(summary_table(for_people(summary), "Summary"))
        self.progress.say(f"model: {self.directory.model}")
