"""Greedy layer-wise pre-training (Algorithm 2) and fine-tuning (Algorithm 3), as generators of records.

The loop yields, the caller decides: saving, printing and stopping are not here.  At every yield all ranks stand at the
same step and the network can be saved; taken up again, from a file or by another call, training goes on from there.
Replicas that go at their own pace come to a yield where they meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np

from modelpar.collective.agreement import agree
from modelpar.collective.ending import all_raise
from modelpar.data import Dataset
from modelpar.data.feed import Feed
from modelpar.data.memory import OwnColumns
from modelpar.data.missing import MissingValues
from modelpar.errors import DataError, ModelparError, SpecError, TrainingError
from modelpar.kernels.products.precision import products_in
from modelpar.model import gauge, gaussian_visible, real_hidden
from modelpar.model.backprop import BackPropagation
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.normalisable import Normalisable
from modelpar.model.rbm import RBM
from modelpar.records import Record
from modelpar.spec import FineTuneSpec, SyncSpec, TrainingSpec
from modelpar.sync import Average, Sync, Work, strategy
from modelpar.training import averaging, monitor
from modelpar.training.chain_supply import ChainSupply
from modelpar.training.checks import StageChecks
from modelpar.training.completion import CompletedFeed, missing_values
from modelpar.training.evaluation import accuracy_measures, check_predictions, required_labels
from modelpar.training.exactness import Recorder, check_exact, digests_of_parts
from modelpar.training.feeds import (
    DrawnOnce,
    check_width,
    feed_above,
    learn_scaling,
    real_values,
    visible_feed,
)
from modelpar.training.first_biases import set_visible_biases
from modelpar.training.minibatch_loop import MinibatchLoop
from modelpar.training.optimizer import Optimizer
from modelpar.training.preconditions import check_hidden, check_products, check_strategy, check_tuning, check_values
from modelpar.training.schedule import StepSize, step_size
from modelpar.training.scoring import Scorer
from modelpar.training.state import Checks, Position, Sum, TrainingRun
from modelpar.values import plain
from modelpar.weights.parameters import Parameters
from modelpar.weights.penalties import Penalties

FINE_TUNING = 255  # where the shuffles of pre-training use the index of the RBM


def pretrain(
    network: DeepBeliefNetwork, dataset: Dataset, training: TrainingSpec, sync: SyncSpec | None = None
) -> Iterator[Record]:
    """Train one RBM after another, each on the hidden activations of those below (Hinton, Osindero, Teh 2006).

    sync   how replicas stay together; an all-reduce at every step where None

    Yields a ``step`` record after every update (of a parameter server: after those between two meetings) and an
    ``epoch`` record after every epoch, and nothing where the network's pre-training has been finished before.
    Collective: every rank must take every record.
    Warns where the data are such that little can come of it (see ``check_training``).
    Raises DataError where the data do not fit or are all alike, SpecError where they or the minibatches are not those
    that the stage was begun with, TrainingError where training breaks down, DisagreementError where ranks bring
    different arguments.
    """
    _check_kinds(network, dataset, training, TrainingSpec, sync)
    run = TrainingRun.of(network)
    agree(network.grid.comm, "pretrain", network=network, dataset=dataset, training=training, sync=sync)
    position = run.position
    if position.stage != "pretrain":
        return
    run.record_digests = run.record_digests or training.digests
    sync = sync or SyncSpec()
    check_sync(network, sync, training)
    check_products(network.spec, training)
    check_hidden(network.spec, training)
    _check_data(network, run, dataset)
    visible = visible_feed(network, dataset, dataset.train, run.binarise)
    feed: Feed = visible
    below: Feed = real_values(network, dataset, dataset.train)
    check_exact(network.spec, training, binary=visible.binary)
    spread: Feed | None = None
    everywhere = not isinstance(dataset.train.table, OwnColumns)
    missing = missing_values(network, dataset.train)
    everywhere = everywhere and missing is None  # what is drawn here is not in the data of others
    if network.rbms[0].weights.spreads_visible and visible.binary and position.layer == 0 and everywhere:
        # states of units that others own are read from the data, not received
        spread = visible_feed(network, dataset, dataset.train, run.binarise, spread=True)
    for rbm in network.rbms:
        if rbm.index == position.layer:
            scorer = Scorer(network, dataset, training, rbm.index + 1, position.seconds)
            yield from _train_rbm(network, run, rbm, feed, below, spread, training, sync, scorer, missing)
            _next_layer(network, run)
        if position.stage != "pretrain":
            return
        if network.spec.exact and rbm.index == 0:
            below = DrawnOnce(visible)  # a grey value is not a state
        if missing is not None:
            below = CompletedFeed(rbm, below, missing, training.missing_steps, once=True)
            missing = None
        feed = below = feed_above(network, rbm, below, pass_up=training.pass_up, cache=training.cache)
        spread = None


def _train_rbm(
    network: DeepBeliefNetwork, run: TrainingRun, rbm: RBM, feed: Feed, real_feed: Feed, spread: Feed | None,
    training: TrainingSpec, how: SyncSpec, scorer: Scorer, missing: MissingValues | None = None,
) -> Iterator[Record]:  # fmt: skip
    """``feed`` is what the RBM is trained on, ``real_feed`` the same before draws, ``spread`` as in MinibatchLoop,
    ``missing`` what is missing in the feed, and drawn."""
    grid, position = network.grid, run.position
    drawn = feed if missing is None else CompletedFeed(rbm, feed, missing, training.missing_steps)
    loop = MinibatchLoop(network, run, drawn, epochs=training.epochs, n_updates=training.updates,
                         batch_size=training.batch_size, stage="pretrain", shuffle=rbm.index, packed=True,
                         spread=spread, sums={"squared_error": Sum(0.0, over_shards=True)})  # fmt: skip
    if loop.unfinished and loop.n_done == 0:
        set_visible_biases(network, rbm, real_feed, missing)
        rbm.enter_gauge()
    velocity = run.velocity[rbm.name] = run.velocity.get(rbm.name) or rbm.parameters.like()
    if loop.unfinished:
        averaging.go_on(network, run)
    if not training.average:  # of an earlier call that had it
        run.average.pop(rbm.name, None)
    base_rate = training.rate(gaussian=rbm.gaussian, real_hidden=rbm.hidden_units is not None)
    n_visible, more = network.spec.layers[rbm.index], real_hidden.variance_alone(rbm, training)
    normalisable, falls = Normalisable.of(rbm), monitor.Falls(rbm)
    recorder = Recorder(network, rbm) if run.record_digests or network.spec.exact else None

    def size_now() -> StepSize:
        return step_size(training, base_rate, position.epoch, loop.progress)

    average = Average(run.average, training.average) if training.average else None
    keeps = rbm.hidden_units is not None and how.sync == "allreduce"
    penalties = Penalties.of(training, rbm.name, rbm.weights, rbm.visible.categories, keeps_means=keeps)
    with _together(network, run, how, {rbm.name: rbm.parameters}, loop.n_done, penalties, average) as sync:
        optimizer, supply = Optimizer(sync), ChainSupply(network, run, rbm, training, drawn, loop.n_done)
        while loop.unfinished:
            size = size_now()
            for segment in loop.segments(sync, lambda: size_now().rate):
                size = size_now()
                supply.begin_segment(loop.n_done)
                for batch in segment:
                    chains = supply.at(batch)
                    # statistics are not among them: the small difference of two phases, of which one is exact, does
                    # not survive the rounding of the other
                    with products_in(training.products):
                        step = rbm.contrastive_divergence(
                            batch.v, batch.first_draw, training, chains, n_all_samples=batch.n_all,
                            v0_spread=batch.v_spread, in_step=sync.in_step, chain_draw=supply.first_draw(batch),
                        )  # fmt: skip
                    run.checks.verify()
                    penalties.follow(rbm.name, optimizer.learn(
                        rbm.parameters, velocity, step.statistics, size, batch.n_mine, centred=training.centred,
                        standardised=training.standardised, gaussian=rbm.gaussian, clip=training.clip, real_hidden=more,
                        keeps_means=keeps, visible_bias_rate=training.visible_bias_rate,
                    ))  # fmt: skip
                    gauge.project(rbm.parameters, rbm.visible)
                    gaussian_visible.keep_within_bounds(rbm.parameters)
                    if normalisable is not None:
                        normalisable.keep()
                    # chains of their own never reconstruct the data: they have no error, and the probe's stands in
                    loop.count(batch, squared_error=0.0 if chains else step.error)
                record = loop.synchronise()
                if sync.alike:
                    supply.meet(loop.n_done)
                if recorder is not None:  # replicas in step have had one minibatch each
                    offset = batch.offset if chains is None else chains.first
                    record = replace(record, digests=recorder.of(step.states, batch.offset, offset))
                if monitor.look_is_due(loop.n_before, loop.n_done):
                    with network.traffic.measuring(), network.traffic.status.phase("checking"):
                        monitor.look(network, rbm, feed)
                yield record
            run.settle()
            supply.meet(loop.n_done)
            run.refresh(network)  # statistics of real values have rounded the blocks of a dual layout apart
            totals = position.total_sums(grid)
            # what scores and samples is the average
            with network.traffic.measuring(), network.traffic.status.phase("scoring"), averaging.in_use(run, rbm):
                measures = monitor.measure(rbm, feed, n_visible, grid, network.samples_at_once) | supply.end_epoch()
                if scorer.due(position.epoch + 1, is_last=not loop.will_go_on):
                    measures |= scorer.measures(position.seconds)
            error = totals["squared_error"] / (totals["samples"] * n_visible)
            measures["reconstruction_error"] = measures["probe_error"] if training.n_chains else error
            monitor.check_rbm(rbm.index, measures, monitor.rate_of(rbm))
            falls.see(measures, grid.comm)
            monitor.look(network, rbm, None)
            if not loop.will_go_on:
                with run.checks.changing():
                    averaging.take_over(network, run, rbm)
            yield loop.end_epoch({**measures, "learning_rate": size.rate})
    # a run that was taken up again with fewer epochs, or after its last update, has had no end of an epoch here
    averaging.take_over(network, run, rbm)


@contextmanager
def _together(
    network: DeepBeliefNetwork, run: TrainingRun, how: SyncSpec, parts: dict[str, Parameters], done: int,
    penalties: Penalties | None = None, average: Average | None = None,
) -> Iterator[Sync]:  # fmt: skip
    """The strategy of one stage, which is the run's while the stage lasts."""
    sync = run.sync = strategy(how, network.grid, network.traffic, run.staleness)
    refresh = partial(run.refresh, network)
    sync.begin(Work(parts, run.velocity, run.outer, run.squares, refresh, done, penalties or Penalties(), average))
    run.checks = StageChecks(network, how, done)
    try:
        yield sync
        run.checks.finish()
    except GeneratorExit:
        _end(run, sync)  # as all ranks leave the loop
        raise
    except ModelparError as error:
        if all_raise(network.grid.comm, error):  # after an error of this rank alone the others are not here
            _end(run, sync)
        raise
    _end(run, sync)


def _end(run: TrainingRun, sync: Sync) -> None:
    run.sync, run.checks = None, Checks()
    sync.end()


def check_sync(network: DeepBeliefNetwork, sync: SyncSpec, training: TrainingSpec | None = None) -> None:
    """Raise SpecError, on every rank alike, where a strategy or connections cannot do what else was asked for."""
    digests = TrainingRun.of(network).record_digests
    check_strategy(network.spec, sync, training, n_replicas=network.grid.n_replicas, digests=digests)


def _check_kinds(network: object, dataset: object, spec: object, kind: type, sync: object) -> None:
    """Raise SpecError or DataError for arguments of other classes."""
    plain.instance("network", network, DeepBeliefNetwork)
    plain.instance("dataset", dataset, Dataset, error=DataError)
    plain.instance("the options", spec, kind)
    plain.instance("sync", sync, SyncSpec, optional=True)


def fine_tune(
    network: DeepBeliefNetwork, dataset: Dataset, spec: FineTuneSpec, sync: SyncSpec | None = None
) -> Iterator[Record]:
    """Train all layers for classification by back-propagation, from where pre-training has left them.

    sync   how replicas stay together; an all-reduce at every step where None

    Yields a ``step`` record after every update (with accuracies where ``spec.evaluate_every`` asks for them) and an
    ``epoch`` record after every epoch.  With ``spec.patience`` the parameters of the best validation accuracy are
    put back at the end.  A network that was fine-tuned to the end yields nothing.  Collective: every rank must take
    every record.
    Warns of classes without training samples, and where the network ends in one answer for all samples.
    Raises DataError where labels do not fit the output layer, SpecError without one, TrainingError on a breakdown,
    DisagreementError where ranks bring different arguments.
    """
    _check_kinds(network, dataset, spec, FineTuneSpec, sync)
    run = TrainingRun.of(network)
    agree(network.grid.comm, "fine_tune", network=network, dataset=dataset, tuning=spec, sync=sync)
    if network.output is None:
        raise SpecError("fine-tuning needs an output layer; give --classes, or data with labels")
    if run.position.stage == "done":
        return
    # nothing is changed before all that was asked for is known to be possible
    sync = sync or SyncSpec()
    check_sync(network, sync)
    check_width(network, dataset, dataset.validation, dataset.test)
    check_tuning(network.spec, spec, dataset, network.grid.comm)
    _check_data(network, run, dataset)
    if run.position.stage == "pretrain":  # none of the layers, or not all, were pre-trained
        run.forget_stage()
        run.position = Position("finetune")
    run.forget_end()  # of weights that are bent from here on
    if not spec.patience:  # of an earlier call that had it
        run.best.clear()
    yield from _descend(network, run, dataset, spec, sync)
    if run.best and not run.position.reached:
        for part in network.parts():
            part.parameters.flat[:] = run.best[part.name].flat
    network.refresh()  # which is sampled from hereafter
    if spec.epochs:
        with network.traffic.measuring(), network.traffic.status.phase("scoring"):
            check_predictions(network, dataset)
    run.stand_at(Position("done"))


def _descend(
    network: DeepBeliefNetwork, run: TrainingRun, dataset: Dataset, spec: FineTuneSpec, how: SyncSpec
) -> Iterator[Record]:
    """The epochs of fine-tuning, until they are over, or the accuracy is reached, or no longer grows."""
    grid, position = network.grid, run.position
    labels = required_labels(dataset, dataset.train, network.spec.classes)
    backprop, parts = BackPropagation(network, spec), network.parts()
    for part in parts:
        if part.name not in run.velocity:
            run.velocity[part.name] = part.parameters.like(rows=False)
    feed = real_values(network, dataset, dataset.train)
    loop = MinibatchLoop(network, run, feed, epochs=spec.epochs, batch_size=spec.batch_size, stage="finetune",
                         shuffle=FINE_TUNING, sums={"cross_entropy": Sum(0.0), "n_correct": Sum(0.0)})  # fmt: skip
    with _together(network, run, how, {part.name: part.parameters for part in parts}, loop.n_done) as sync:
        optimizer = Optimizer(sync)

        def size_now() -> StepSize:
            return step_size(spec, spec.learning_rate, position.epoch)

        # looked at before an epoch, not after: a network that was saved at the last record must not go on either
        while loop.unfinished and not position.reached and not _impatient(run, spec):
            size = size_now()
            for segment in loop.segments(sync, lambda: size_now().rate, spec.evaluate_every):
                for batch in segment:
                    with products_in(spec.products):
                        score, gradients = backprop.run(batch.v, labels[batch.samples], batch.first_draw, batch.n_all)
                        run.checks.verify()
                        optimizer.descend(gradients, parts, run.velocity, size, batch.n_mine, spec.max_norm)
                    loop.count(batch, cross_entropy=score.cross_entropy, n_correct=score.n_correct)
                record = loop.synchronise()
                if run.record_digests or network.spec.exact:
                    record = replace(record, digests=digests_of_parts(network))
                if monitor.look_is_due(loop.n_before, loop.n_done):
                    monitor.check_values(network)
                in_between = position.step < loop.batches.n_steps
                if spec.evaluate_every and in_between and loop.n_done % spec.evaluate_every == 0:
                    run.settle()
                    with network.traffic.measuring(), network.traffic.status.phase("scoring"):
                        record.measures.update(accuracy_measures(network, dataset))
                    position.reached = _reached(spec, record.measures)
                yield record
                if position.reached:
                    return
            run.settle()
            totals = position.total_sums(grid)
            with network.traffic.measuring(), network.traffic.status.phase("scoring"):
                accuracies = accuracy_measures(network, dataset)
            measures = {"loss": totals["cross_entropy"] / totals["samples"],
                        "train_accuracy": totals["n_correct"] / totals["samples"],
                        **accuracies, "learning_rate": size.rate}  # fmt: skip
            if not np.isfinite(measures["loss"]):
                raise TrainingError(f"fine-tuning: the loss is {measures['loss']}; use a smaller {monitor.TUNING_RATE}")
            monitor.check_values(network)
            if spec.patience:
                with run.checks.changing():
                    remember_best(network, run, measures["validation_accuracy"])
            position.reached = _reached(spec, measures)
            yield loop.end_epoch(measures)


def _impatient(run: TrainingRun, spec: FineTuneSpec) -> bool:
    return spec.patience > 0 and run.epochs_since_best >= spec.patience


def _reached(spec: FineTuneSpec, measures: dict[str, float]) -> bool:
    accuracy = measures.get("test_accuracy", measures.get("validation_accuracy"))
    return spec.until_accuracy is not None and accuracy is not None and accuracy > spec.until_accuracy


def remember_best(network: DeepBeliefNetwork, run: TrainingRun, accuracy: float) -> None:
    """Keep the present parameters where their validation accuracy is the best so far, else count an epoch in vain."""
    run.epochs_since_best += 1
    if accuracy > run.best_accuracy:
        run.best_accuracy, run.epochs_since_best = accuracy, 0
        for part in network.parts():
            if part.name not in run.best:
                run.best[part.name] = part.parameters.like(rows=False)
            run.best[part.name].flat[:] = part.parameters.flat


def _check_data(network: DeepBeliefNetwork, run: TrainingRun, dataset: Dataset) -> None:
    """Check width and values of the data; a network that was never trained also learns how to scale and binarise."""
    check_width(network, dataset, dataset.validation, dataset.test)
    position, comm, fingerprint = run.position, network.grid.comm, network.grid.comm.bcast(dataset.fingerprint)
    fresh = position == Position()
    check_values(network.spec, dataset, network.visible_ids, comm, again=not fresh)
    begun = position.epoch > 0 or position.step > 0
    if begun and run.data is not None and fingerprint is not None and (difference := fingerprint.differs(run.data)):
        raise SpecError(
            f"{dataset.name} is not what this stage of training was begun with: {difference}; "
            "go on with the same data, or set network.run.data to None to go on with these"
        )
    if fingerprint is not None:
        run.data = fingerprint
    run.alphabet = dataset.alphabet or run.alphabet
    if fresh:
        learn_scaling(network, dataset)
        run.binarise = dataset.binarise


def _next_layer(network: DeepBeliefNetwork, run: TrainingRun) -> None:
    layer = run.position.layer + 1
    run.forget_stage()
    if layer == len(network.rbms):  # what its end has kept stays
        fresh = Position("finetune" if network.output else "done")
    else:
        run.forget_end()
        fresh = Position("pretrain", layer)
    vars(run.position).update(vars(fresh))
