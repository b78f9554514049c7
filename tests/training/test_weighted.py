"""Training on samples with weights, and their scores: against the reference, and against samples that are repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli.evaluate import generative_measures
from modelpar.data import Split
from modelpar.data.minibatches import order_of
from modelpar.likelihood.pseudo_likelihood import pseudo_log_likelihood
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training import monitor
from modelpar.training.evaluation import evaluate
from modelpar.training.feeds import mean_of, visible_feed
from modelpar.training.scoring import score_split, share_of_split
from tests import networks, reference, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)
ERROR_OF_STACK = "network_reconstruction_error"
TIMES = np.random.default_rng(4).integers(0, 4, small.N_TRAIN)  # how often a sample counts


def weighted(data, weights):
    return replace(data, train=replace(data.train, weights=weights))


def repeated(data):
    """The same samples, each as often as it counts."""
    train = data.train
    return replace(data, train=Split(train.table, np.repeat(train.rows, TIMES), np.repeat(train.labels, TIMES)))


@shapes
@pytest.mark.parametrize("cache", ["keep", "recompute"])
@pytest.mark.parametrize("layout", ["column", "row"])
def test_training_equals_the_reference(comm, agree, shape, layout, cache):
    training = TrainingSpec(
        statistics="1", reconstruction="states", pass_up="states", learning_rate=0.25, weight_decay=0.0, momentum=0.5,
        initial_momentum=0.5, batch_size=16, epochs=3, centred=False, cache=cache,
    )  # fmt: skip
    weights = np.random.default_rng(5).random(small.N_TRAIN) * (np.arange(small.N_TRAIN) % 5 > 0)
    network = networks.sharded(comm, NetworkSpec((13, 9, 6), layout=layout, seed=5), shape, "random")
    data, twins = weighted(small.dataset(13), weights), networks.twin(network)
    drawn: set[int] = set()

    def order(layer, epoch):
        positions = order_of(5, (layer << 24) + epoch, small.N_TRAIN, weights)
        drawn.update(positions.tolist())
        return positions

    reference.pretrain(twins, small.columns(data), order, training, weights=weights)
    records = small.train(network, data, training)
    for rbm, twin in zip(network.rbms, twins, strict=True):
        agree(networks.same_block(rbm, twin), f"RBM {rbm.index}")
    agree(records[-1].samples == small.N_TRAIN and not drawn & set(np.flatnonzero(weights == 0).tolist()))


@pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")
@shapes
def test_scores_are_those_of_repeated_samples(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7), classes=3, dtype="float64"), shape, "random")
    networks.twin(network)
    plain = small.dataset(13)
    data, longer = weighted(plain, TIMES / 3), repeated(plain)
    one, other = (score_split(network, it, it.train, "exact") for it in (data, longer))
    agree(np.isclose(one.log_likelihood, other.log_likelihood, rtol=1e-12), "log-likelihood")
    agree(not np.isclose(one.log_likelihood, score_split(network, plain, plain.train, "exact").log_likelihood))
    small.train(network, plain, TrainingSpec(epochs=1), FineTuneSpec(epochs=1))
    found, expected = (evaluate(network, it, it.train) for it in (data, longer))
    agree(all(np.isclose(found[name], expected[name], rtol=1e-9) for name in expected), f"{found} {expected}")
    rbm, feeds = network.rbms[0], [visible_feed(network, it, it.train, "none") for it in (data, longer)]
    agree(np.allclose(mean_of(network, feeds[0]), mean_of(network, feeds[1]), rtol=1e-12), "means")
    one, other = (generative_measures(network, it, it.train) for it in (data, longer))
    agree(all(np.isclose(one[name], other[name], rtol=1e-9) for name in ("reconstruction_error", ERROR_OF_STACK)))
    one, other = (monitor.measure(rbm, feed, 13, network.grid) for feed in feeds)
    for name in ("probe_error", "mean_activation", "largest_weight"):
        agree(np.isclose(one[name], other[name], rtol=1e-9), name)


@shapes
def test_pseudo_likelihood_is_the_mean_by_weights(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7), dtype="float64"), shape, "random")
    networks.twin(network)
    data, rbm = small.dataset(13), network.rbms[0]
    v, samples = share_of_split(network, data, data.train)
    each = (np.arange(small.N_TRAIN) == samples[:, None]).astype(float).T
    single = [pseudo_log_likelihood(rbm, v, samples, weights=alone) for alone in each]
    found = pseudo_log_likelihood(rbm, v, samples, weights=TIMES[samples].astype(float))
    agree(np.isclose(found, np.average(single, weights=TIMES), rtol=1e-12))
    agree(np.isclose(pseudo_log_likelihood(rbm, v, samples), np.mean(single), rtol=1e-12))


@shapes
def test_stacks_have_errors_by_weights(comm, agree, shape):
    """Of draws of the layers between: with all weight on one sample there is no spread to tell of."""
    network = networks.sharded(comm, NetworkSpec((13, 7, 5), dtype="float64"), shape, "random")
    networks.twin(network)
    plain = small.dataset(13)
    values = [score_split(network, it, it.train, "exact") for it in (plain, weighted(plain, TIMES))]
    agree(all(value.low < value.log_likelihood < value.high for value in values))
    alone = weighted(plain, (np.arange(small.N_TRAIN) == 3).astype(float))
    of_one = score_split(network, alone, alone.train, "exact")
    agree(np.isclose(of_one.low, of_one.high))
