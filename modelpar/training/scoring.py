"""The likelihood of a data set under a network: states from its samples, shared between the replicas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modelpar.collective.agreement import agree
from modelpar.data import Dataset, Split
from modelpar.data.feed import DataFeed
from modelpar.data.minibatches import Minibatches
from modelpar.kernels.products.product import Activations
from modelpar.likelihood.score import Score, score
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.evaluation import check_split
from modelpar.training.feeds import DrawnOnce, visible_feed
from modelpar.training.state import TrainingRun

IntArray = npt.NDArray[np.int64]


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
    v, samples = share_of_split(network, dataset, split)
    return score(network, v, samples, method, n_chains=n_chains, n_betas=n_betas, seed=seed, kept=kept)


def share_of_split(
    network: DeepBeliefNetwork, dataset: Dataset, split: Split, at_most: int | None = None
) -> tuple[Activations, IntArray]:
    """(This replica's samples of a split, (n_visible_owned, samples), as scores see them; their positions in it).

    at_most   samples over all replicas, spread evenly over the split
    Collective.  Raises DataError where the data do not fit the network.
    """
    feed, _ = states_of(network, dataset, split)
    n = len(split)
    chosen = np.unique(np.linspace(0, n - 1, min(n, n if at_most is None else at_most)).astype(np.int64))
    samples = chosen[Minibatches.slice_of(len(chosen), network.grid.replica, network.grid.n_replicas)]
    first = int(samples[0]) if len(samples) else 0
    if feed.binary:
        return feed.states(samples, first), samples
    v = np.empty((feed.n_units, len(samples)), network.dtype)
    feed.fill(samples, first, v)
    return v, samples


def states_of(network: DeepBeliefNetwork, dataset: Dataset, split: Split) -> tuple[DataFeed | DrawnOnce, bool]:
    """(what Bernoulli units see as states, or Gaussian ones as values; whether they are drawn from grey values).

    Collective.  Raises DataError where the data do not fit the network.
    """
    binarise = TrainingRun.of(network).binarise
    as_given = visible_feed(network, dataset, split, "none" if binarise == "stochastic" else binarise)
    if as_given.binary or network.spec.visible == "gaussian":
        return as_given, False
    return DrawnOnce(visible_feed(network, dataset, split, "stochastic")), True
