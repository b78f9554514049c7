"""Scores of a network with an output layer on labelled samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from modelpar.collective.agreement import agree
from modelpar.data import Dataset, Split, check_range
from modelpar.data.doubts import check_fills_range, check_same_scale
from modelpar.errors import DataError, SpecError, warn
from modelpar.model.backprop import hits_and_losses, score_batch, softmax
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.feeds import check_width, real_values, sample_chunks
from modelpar.training.state import TrainingRun
from modelpar.values import plain

IntArray = npt.NDArray[np.int64]

LOOKED_AT = 512  # samples whose answers tell whether all are alike


def required_labels(dataset: Dataset, split: Split, n_classes: int) -> IntArray:
    """The labels (len(split),); raises DataError where there are none or the output layer is too small for them."""
    if split.labels is None:
        raise DataError(f"{dataset.name} has no labels, but fine-tuning needs them; give --labels, or --pretrain-only")
    if len(split.labels) and split.labels.max() >= n_classes:
        raise DataError(
            f"{dataset.name} has a label {split.labels.max()}, but the output layer has {n_classes} classes, 0 to "
            f"{n_classes - 1}; use --classes {split.labels.max() + 1}"
        )
    return split.labels


def check_split(network: DeepBeliefNetwork, dataset: Dataset, split: Split) -> None:
    """Raise DataError, on every rank, where the width or a value does not fit the visible units; warn where values are
    on another scale than those that the network was trained on.  Collective."""
    check_width(network, dataset, split)
    alone, comm, mine = (
        replace(dataset, train=split, validation=None, test=None),
        network.grid.comm,
        network.visible_ids,
    )
    check_range(alone, mine, network.spec.visible, comm=comm)
    if not len(split):
        return
    if network.spec.visible == "gaussian":
        # what never varied in training was left unscaled
        constant = (network.input_scale == 1) & (split.summary(mine).std == 0)
        std = np.where(constant, 0.0, network.input_scale).astype(np.float64)
        check_same_scale(split, mine, network.input_offset.astype(np.float64), std, "given", comm)
    elif TrainingRun.of(network).binarise in ("none", "stochastic"):
        summary = split.summary(mine) if len(mine) else None
        ends = (np.inf, -np.inf) if summary is None else (float(summary.low.min()), float(summary.high.max()))
        all_ends = comm.allgather(ends)
        check_fills_range(alone, min(low for low, _ in all_ends), max(high for _, high in all_ends), comm)


def has_labels(split: Split | None) -> bool:
    """Whether the split has samples with labels."""
    return split is not None and split.labels is not None and len(split) > 0


def evaluate(network: DeepBeliefNetwork, dataset: Dataset, split: Split | None) -> dict[str, float]:
    """``accuracy`` and ``cross_entropy`` (mean, in nats) of the network on a split, by the weights of its samples,
    shared between the replicas.

    The same on every rank.  Collective.  Raises DataError where there is no such split, or where values or labels do
    not fit the network, SpecError where that has no output layer, DisagreementError where ranks bring different data.
    """
    plain.instance("network", network, DeepBeliefNetwork)
    plain.instance("dataset", dataset, Dataset, error=DataError)
    plain.instance("split", split, Split, error=DataError, optional=True)
    agree(network.grid.comm, "evaluate", network=network, scale=dataset.scale, split=split)
    return measured(network, dataset, split)


def measured(network: DeepBeliefNetwork, dataset: Dataset, split: Split | None) -> dict[str, float]:
    """:func:`evaluate` where the ranks are known to have the same data.  Collective."""
    if network.output is None:
        raise SpecError("the network has no output layer to classify with; train it with --classes, or with labels")
    if split is None:
        raise DataError(f"{dataset.name} has no such split; give --test-fraction or --validation-fraction")
    check_width(network, dataset, split)
    labels = required_labels(dataset, split, network.spec.classes)
    check_split(network, dataset, split)
    return _accuracy(network, dataset, split, labels)


def _accuracy(network: DeepBeliefNetwork, dataset: Dataset, split: Split, labels: IntArray) -> dict[str, float]:
    """As :func:`evaluate`, of values that were checked before."""
    grid = network.grid
    feed = real_values(network, dataset, split)
    correct, cross_entropy = 0.0, 0.0
    for samples in sample_chunks(len(split), grid.replica, grid.n_replicas, network.samples_at_once):
        v = np.empty((feed.n_units, len(samples)), network.dtype)
        feed.fill(samples, 0, v)
        with network.traffic.measuring():
            probabilities = network.logits(v)
        softmax(probabilities)
        if split.weights is None:
            score = score_batch(probabilities, labels[samples])
            correct, cross_entropy = correct + score.n_correct, cross_entropy + score.cross_entropy
        else:
            hits, losses = hits_and_losses(probabilities, labels[samples])
            correct += float(split.weights[samples] @ hits)
            cross_entropy += float(split.weights[samples] @ losses)
    correct, cross_entropy = grid.replica_comm.allreduce(np.array([correct, cross_entropy]))
    n = max(len(split), 1) if split.weights is None else float(split.weights.sum())
    # the sums over replicas are the same on all shards; one shard's word keeps every rank at the same decision
    accuracy, cross_entropy = grid.comm.bcast((float(correct) / n, float(cross_entropy) / n))
    return {"accuracy": accuracy, "cross_entropy": cross_entropy}


def accuracy_measures(network: DeepBeliefNetwork, dataset: Dataset) -> dict[str, float]:
    """``validation_accuracy`` and ``test_accuracy``, each where the data set has that split.  Collective."""
    splits = {"validation_accuracy": dataset.validation, "test_accuracy": dataset.test}
    accuracies = {}
    for name, split in splits.items():
        if split is not None and has_labels(split):
            labels = required_labels(dataset, split, network.spec.classes)
            accuracies[name] = _accuracy(network, dataset, split, labels)["accuracy"]
    return accuracies


def check_predictions(network: DeepBeliefNetwork, dataset: Dataset) -> None:
    """Warn where a network has one answer for samples of many classes: a look at a few, spread over a split.

    Collective.
    """
    which, split = next((w, s) for w, s in (
        ("test", dataset.test), ("validation", dataset.validation), ("training", dataset.train)
    ) if has_labels(s) and s is not None)  # fmt: skip
    assert split.labels is not None  # has_labels
    looked_at = np.unique(np.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).astype(np.int64))
    classes = np.unique(split.labels[looked_at])
    if len(classes) < 2:
        return
    few = replace(split, rows=split.rows[looked_at], labels=split.labels[looked_at], weights=None)
    grid, feed = network.grid, real_values(network, dataset, few)
    answers: set[int] = set()
    for samples in sample_chunks(len(few), grid.replica, grid.n_replicas, network.samples_at_once):
        v = np.empty((feed.n_units, len(samples)), network.dtype)
        feed.fill(samples, 0, v)
        answers.update(network.logits(v).argmax(axis=0).tolist())
    answers = set().union(*grid.comm.allgather(answers))
    if len(answers) == 1:
        warn(
            grid.comm,
            f"the network answers class {answers.pop()} to all of {len(few)} {which} samples, which are of "
            f"{len(classes)} classes: it has not learned to tell them apart; use more --finetune-epochs, a larger "
            "--weight-scale, more units, or fewer --layers",
        )
