"""The likelihood of a data set under a network: states from its samples, shared between the replicas."""

from __future__ import annotations

import math
import time
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
from modelpar.spec import TrainingSpec
from modelpar.training.evaluation import check_split
from modelpar.training.feeds import DrawnOnce, visible_feed
from modelpar.training.state import TrainingRun

IntArray = npt.NDArray[np.int64]

LEAST, MOST = 300, 10000  # temperatures of a score in training, where its share of the time decides,
ONLY_AT_THE_END = 1 << 62  # as --score-every: after the last epoch of the top RBM
SCORED = 10000  # samples at most, spread evenly over the split: all are in memory
EXACT_UP_TO = 12  # units of the smaller side up to which they enumerate: less than a second
FIXED = 300  # and where it must not: an exact run records the same numbers on any machine


def score_split(
    network: DeepBeliefNetwork, dataset: Dataset, split: Split, method: str = "auto", *,
    n_chains: int = 100, n_betas: int = 10000, seed: int = 0, kept: Sequence[RBM] = (),
) -> Score:  # fmt: skip
    """The mean log-likelihood of the samples of a split, by their weights; see :func:`modelpar.likelihood.score.score`.

    Grey values of Bernoulli units are made states by one fixed draw, keyed by the sample's position in the split, the
    unit and the network's seed: a likelihood is one of states.  Collective.
    Raises DataError where the data do not fit the network, SpecError for a method that cannot be used.
    """
    agree(network.grid.comm, "score_split", network=network, scale=dataset.scale, split=split)
    check_split(network, dataset, split)
    v, samples = share_of_split(network, dataset, split)
    return score(
        network, v, samples, method, n_chains=n_chains, n_betas=n_betas, seed=seed, kept=kept,
        weights=weights_of(split, samples),
    )  # fmt: skip


def weights_of(split: Split, samples: IntArray) -> npt.NDArray[np.float64] | None:
    """The weights of some samples of a split, None where all count alike."""
    return None if split.weights is None else split.weights[samples]


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


class Scorer:
    """Scores of the RBM that is trained, on those below it, every ``score_every`` epochs and after the last one.

    Of at most 10000 of the validation samples where there are any, else of the test samples, else of those of training.
    ``score_temperatures`` decides how many temperatures there are, or, where it is 0, the time: about as many as take
    ``score_share`` of the training time since the last score, at the pace of that one.
    """

    def __init__(
        self, network: DeepBeliefNetwork, dataset: Dataset, training: TrainingSpec, n_rbms: int, seconds: float
    ) -> None:
        """n_rbms   up to the one that is trained;  seconds: training time of the stage so far"""
        self._network, self._dataset, self._training, self._n_rbms = network, dataset, training, n_rbms
        self._split = next((x for x in (dataset.validation, dataset.test) if x is not None and len(x)), dataset.train)
        self._seconds, self._pace = seconds, math.nan  # when the last score was made; its seconds per temperature

    def due(self, epoch: int, *, is_last: bool) -> bool:
        """Whether there is a score at the end of this epoch, counted from 1."""
        every = self._training.score_every
        if every == ONLY_AT_THE_END:
            return is_last and self._n_rbms == len(self._network.rbms)
        return every > 0 and (is_last or epoch % every == 0)

    def measures(self, seconds: float) -> dict[str, float]:
        """``log_likelihood``, ``log_likelihood_low`` and ``_high`` where they are finite, and ``score_seconds``, the
        time that they took.  Collective.

        seconds   training time of the stage
        """
        began = time.perf_counter()
        v, samples = share_of_split(self._network, self._dataset, self._split, SCORED)
        n_betas, made = self._temperatures(seconds), 0
        while n_betas > 2 * made:  # the first score tells the pace, and is made again where that was too few
            started, made = time.perf_counter(), n_betas
            result = score(
                self._network, v, samples, n_betas=n_betas, n_rbms=self._n_rbms, exact_up_to=EXACT_UP_TO,
                weights=weights_of(self._split, samples),
            )  # fmt: skip
            self._pace = (time.perf_counter() - started) / n_betas
            n_betas = self._temperatures(seconds) if result.method != "exact" else 0
        self._seconds = seconds
        values = {f"log_likelihood{end}": getattr(result, of) for end, of in
                  (("", "log_likelihood"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
        # one rank's last bits, and its clock, for all
        values = self._network.grid.comm.bcast({**values, "score_seconds": time.perf_counter() - began})
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _temperatures(self, seconds: float) -> int:
        if self._training.score_temperatures or self._network.spec.exact:
            return self._training.score_temperatures or FIXED
        wanted = self._training.score_share * (seconds - self._seconds) / self._pace
        affordable = LEAST if math.isnan(wanted) else int(min(max(wanted, LEAST), MOST))
        return self._network.grid.comm.bcast(affordable)


def states_of(network: DeepBeliefNetwork, dataset: Dataset, split: Split) -> tuple[DataFeed | DrawnOnce, bool]:
    """(what Bernoulli units see as states, or Gaussian ones as values; whether they are drawn from grey values).

    Collective.  Raises DataError where the data do not fit the network.
    """
    binarise = TrainingRun.of(network).binarise
    as_given = visible_feed(network, dataset, split, "none" if binarise == "stochastic" else binarise)
    if as_given.binary or network.spec.visible == "gaussian":
        return as_given, False
    return DrawnOnce(visible_feed(network, dataset, split, "stochastic")), True
