"""The likelihood of a data set under a network: states from its samples, shared between the replicas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelpar.collective.agreement import agree
from modelpar.data import Dataset, Split
from modelpar.data.feed import DataFeed
from modelpar.kernels.products.product import Activations
from modelpar.likelihood.score import Score, score
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.evaluation import check_split
from modelpar.training.feeds import DrawnOnce, visible_feed
from modelpar.training.state import TrainingRun


def score_split(
    network: DeepBeliefNetwork, dataset: Dataset, split: Split, method: str = "auto", *,
    n_chains: int = 100, n_betas: int = 10000, seed: int = 0, kept: Sequence[RBM] = (),
) -> Score:  # fmt: skip
    """The mean log-likelihood of the samples of a split; see :func:`modelpar.likelihood.score.score`.

    Grey values of Bernoulli units are made states by one fixed draw, keyed by the sample's position in the split, the
    unit and the network's seed: a likelihood is one of states.  Collective.
    Raises DataError where the data do not fit the network, SpecError for a method that cannot be used.
    """
    agree(network.grid.comm, "score_split", network=network, scale=dataset.scale, split=split)
    check_split(network, dataset, split)
    feed, _ = states_of(network, dataset, split)
    grid, n = network.grid, len(split)
    samples = np.arange(n * grid.replica // grid.n_replicas, n * (grid.replica + 1) // grid.n_replicas)
    v: Activations
    if feed.binary:
        v = feed.states(samples, int(samples[0]) if len(samples) else 0)
    else:
        v = np.empty((feed.n_units, len(samples)), network.dtype)
        feed.fill(samples, int(samples[0]) if len(samples) else 0, v)
    return score(network, v, samples, method, n_chains=n_chains, n_betas=n_betas, seed=seed, kept=kept)


def states_of(network: DeepBeliefNetwork, dataset: Dataset, split: Split) -> tuple[DataFeed | DrawnOnce, bool]:
    """(what Bernoulli units see as states, or Gaussian ones as values; whether they are drawn from grey values).

    Collective.  Raises DataError where the data do not fit the network.
    """
    binarise = TrainingRun.of(network).binarise
    as_given = visible_feed(network, dataset, split, "none" if binarise == "stochastic" else binarise)
    if as_given.binary or network.spec.visible == "gaussian":
        return as_given, False
    return DrawnOnce(visible_feed(network, dataset, split, "stochastic")), True
