"""What a network with an output layer says of labelled samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from modelpar.collective.agreement import agree
from modelpar.data import Dataset, Split, check_range
from modelpar.errors import DataError, SpecError
from modelpar.model.backprop import score_batch, softmax
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.feeds import check_width, real_values, shares

IntArray = npt.NDArray[np.int64]


def check_labels(dataset: Dataset, split: Split, n_classes: int) -> IntArray:
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
    """Raise DataError, on every rank, where the width or a value does not fit the visible units.  Collective."""
    check_width(network, dataset, split)
    alone = replace(dataset, train=split, validation=None, test=None)
    check_range(alone, network.visible_ids, network.spec.visible, comm=network.grid.comm)


def has_labels(split: Split | None) -> bool:
    """Whether there are samples with labels in it."""
    return split is not None and split.labels is not None and len(split) > 0


def evaluate(network: DeepBeliefNetwork, dataset: Dataset, split: Split | None) -> dict[str, float]:
    """``accuracy`` and ``cross_entropy`` (mean, in nats) of the network on a split, shared between the replicas.

    The same on every rank.  Collective.  Raises DataError where there is no such split, or where values or labels do
    not fit the network, SpecError where that has no output layer, DisagreementError where ranks bring different data.
    """
    agree(network.grid.comm, "evaluate", network=network, scale=dataset.scale, split=split)
    return measured(network, dataset, split)


def measured(network: DeepBeliefNetwork, dataset: Dataset, split: Split | None) -> dict[str, float]:
    """:func:`evaluate` where the ranks are known to have the same data.  Collective."""
    if network.output is None:
        raise SpecError("the network has no output layer to classify with; train it with --classes, or with labels")
    if split is None:
        raise DataError(f"{dataset.name} has no such split; give --test-fraction or --validation-fraction")
    check_width(network, dataset, split)
    labels = check_labels(dataset, split, network.spec.classes)
    grid = network.grid
    check_split(network, dataset, split)
    feed = real_values(network, dataset, split)
    correct, cross_entropy = 0, 0.0
    for samples in shares(len(split), grid.replica, grid.n_replicas, network.samples_at_once):
        v = np.empty((feed.n_units, len(samples)), network.dtype)
        feed.fill(samples, 0, v)
        with network.traffic.measuring():
            probabilities = network.logits(v)
        softmax(probabilities)
        score = score_batch(probabilities, labels[samples])
        correct, cross_entropy = correct + score.n_correct, cross_entropy + score.cross_entropy
    correct, cross_entropy = grid.replica_comm.allreduce(np.array([correct, cross_entropy]))
    n = max(len(split), 1)
    # the sums over replicas are the same on all shards; one shard's word keeps every rank at the same decision
    accuracy, cross_entropy = grid.comm.bcast((float(correct) / n, float(cross_entropy) / n))
    return {"accuracy": accuracy, "cross_entropy": cross_entropy}


def accuracy_measures(network: DeepBeliefNetwork, dataset: Dataset) -> dict[str, float]:
    """``validation_accuracy`` and ``test_accuracy``, each where the data set has that split.  Collective."""
    splits = {"validation_accuracy": dataset.validation, "test_accuracy": dataset.test}
    return {name: measured(network, dataset, split)["accuracy"] for name, split in splits.items() if has_labels(split)}
