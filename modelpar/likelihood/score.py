"""The log-likelihood of data under a network, exact or between an optimistic and a pessimistic estimate."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from modelpar.collective.agreement import agree
from modelpar.errors import DataError, SpecError
from modelpar.kernels.products.product import Activations, Sampler
from modelpar.kernels.sampling.softplus import softplus_sums
from modelpar.kernels.states import WORD, Packed, pack, unpack
from modelpar.likelihood.annealing import LogPartition, log_partition_ais, reverse_log_likelihoods, temperatures
from modelpar.likelihood.energy import (
    Array,
    Doubles,
    IntArray,
    free_energy,
    on_whole_grid,
    rounded,
    stream_of,
    sum_over_shards,
    visible_log_partition,
    visible_values,
)
from modelpar.likelihood.enumeration import enumerated_side, has_states, log_partition_exact
from modelpar.model import gaussian_visible
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM

METHODS = ("auto", "exact", "ais", "reverse-ais", "trajectory")
AUTO_EXACT = 20  # units of the smaller side up to which `auto` enumerates: some seconds at most
CONFIDENCE = 0.95  # of the intervals
WIDE_GAP = 1.0  # nats between the optimistic and the pessimistic estimate above which neither is to be trusted
FEW_CHAINS = 0.1  # part of the chains that the weights must be worth, and
FEWEST_CHAINS = 5  # chains
# repeats of the stream of Purpose.SCORE, after those of annealing
UPWARDS = 16


@dataclass(frozen=True)
class Score:
    """A mean log-likelihood per sample, in nats, with its interval.

    log_likelihood    by forward AIS, an optimistic value, also where both directions were used; of ``reverse-ais`` the
                      pessimistic one
    low, high         95 % intervals: of forward AIS, its own; with chains in reverse, what those of both directions
                      cover.  They tell how well the model's value is known for these very samples, not how much it
                      would vary over others
    effective_chains  what the chains' weights are worth; NaN where there were none
    gap               optimistic minus pessimistic estimate; NaN where only one was made.  It is negative by more than
                      chance where chains in reverse are pessimistic about the model's own samples, as they always are,
                      but not about these: the distribution at the end of too short an annealing lies between the base
                      rate and a model that fits other samples better than these
    doubts            why the value is not to be trusted, in words; empty where nothing speaks against it
    """

    log_likelihood: float
    low: float
    high: float
    log_partition: float
    effective_chains: float
    method: str
    seconds: float
    gap: float
    samples: int
    doubts: tuple[str, ...] = ()


def score(
    network: DeepBeliefNetwork, v: Activations, samples: IntArray, method: str = "auto", *,
    n_chains: int = 100, n_betas: int = 10000, seed: int = 0, n_rbms: int | None = None, kept: Sequence[RBM] = (),
    exact_up_to: int = AUTO_EXACT, weights: Doubles | None = None,
) -> Score:  # fmt: skip
    """The mean log-likelihood of the samples of all replicas under ``network``.

    Of a stack it is the variational lower bound of Salakhutdinov and Murray (2008, equation 20), with states of the
    hidden layers drawn once a sample from the posterior of the trained RBMs.

    v         (n_visible_owned, samples of this replica), states, or values of Gaussian units
    samples   (samples of this replica,) ids, which key the draws
    method    ``exact`` (enumeration, up to 25 units on one side of the top RBM), ``ais`` (optimistic), ``reverse-ais``
              (pessimistic; chains go forwards too, see below), ``auto``: exact up to ``exact_up_to`` units, else both
              directions of AIS; or ``trajectory``: both directions through the RBMs ``kept`` from the course of the
              top RBM's training, instead of temperatures
    n_chains  of forward AIS, and samples that reverse AIS starts from, at most
    n_betas   inverse temperatures; for ``trajectory`` points on the way
    n_rbms    of the stack, from below: that of the first RBMs alone, while those above are not trained yet; None: all
    kept      of the same units as the top RBM, in the order of training
    exact_up_to   units of the smaller side of the top RBM up to which ``auto`` enumerates
    weights   (samples of this replica,) by which the mean is made; None: all samples count alike
    Collective.  Raises SpecError for a method that cannot be used, DataError where there are no samples or units do
    not fit.
    """
    started = time.perf_counter()
    what: dict[str, Any] = {"n_chains": n_chains, "n_betas": n_betas, "n_rbms": n_rbms, "kept": len(kept)}
    agree(network.grid.comm, "score", method=method, seed=seed, **what)
    rbms = network.rbms[:n_rbms]
    top = rbms[-1]
    if method not in METHODS:
        raise SpecError(f"the method is {method!r}, but must be one of {', '.join(METHODS)}")
    if bool(kept) != (method == "trajectory"):
        raise SpecError(f"{len(kept)} RBMs kept from training came with method {method}; only trajectory takes some")
    n_samples = network.grid.replica_comm.allreduce(v.shape[1])
    if not n_samples:
        raise DataError("there are no samples to score")
    unnormalised, h = log_unnormalised(network, v, samples, seed, n_rbms)
    total, error = _mean_and_error(top, unnormalised, weights, exact_terms=len(rbms) == 1)
    n_visible, n_hidden, over_hidden = enumerated_side(top)
    if method == "auto":
        few = (n_hidden if over_hidden else n_visible) <= exact_up_to
        method = "exact" if few and has_states(top) else "both"
    if method == "exact":
        log_z = log_partition_exact(top)
        value, half = total - log_z, special.ndtri(0.5 + CONFIDENCE / 2) * error
        return Score(value, value - half, value + half, log_z, math.nan, "exact", time.perf_counter() - started,
                     math.nan, n_samples)  # fmt: skip
    base = _base_rate(top, h, n_samples)
    betas = temperatures(top, n_betas, seed, base, kept)
    # also beside chains in reverse: these bound the likelihood under the last distribution of the annealing, and what
    # lies between that and the model only chains forwards tell
    forwards = log_partition_ais(top, n_chains, seed=seed, base_bias=base, betas=betas, kept=kept)
    optimistic, pessimistic = _by_forward(total, error, forwards), None
    if method != "ais":
        pessimistic = _by_reverse(top, h, samples, betas, seed, base, total, error, n_chains, n_samples, kept)
    seconds = time.perf_counter() - started
    estimates = [optimistic] if pessimistic is None else [optimistic, pessimistic]
    gap = math.nan if pessimistic is None else optimistic[0] - pessimistic[0]
    doubts = _doubts(optimistic, pessimistic, forwards.effective_chains, n_chains)
    shown = estimates[-1 if method == "reverse-ais" else 0]
    lowest, highest = min(low for _, low, _, _ in estimates), max(high for _, _, high, _ in estimates)
    name = "ais+reverse-ais" if method == "both" else method
    return Score(shown[0], lowest, highest, shown[3], forwards.effective_chains, name, seconds, gap, n_samples, doubts)


Estimate = tuple[float, float, float, float]  # log-likelihood, low, high, log Z


def _by_forward(total: float, error: float, log_z: LogPartition) -> Estimate:
    """log Z from below on average: E[Z] is right, so E[log Z] is too small (Jensen)."""
    spread = math.hypot(error, log_z.error)
    half = float(special.stdtrit(max(log_z.effective_chains - 1, 1), 0.5 + CONFIDENCE / 2)) * spread
    value = total - log_z.value
    return value, value - half, value + half, log_z.value


def _by_reverse(
    top: RBM, h: Activations, samples: IntArray, betas: Doubles, seed: int, base: Array,
    total: float, error: float, n_chains: int, n_samples: int, kept: Sequence[RBM],
) -> Estimate:  # fmt: skip
    """The mean over all samples of log p* less a log Z that some of them, spread evenly, find in reverse."""
    comm = top.replica_comm
    before = sum(comm.allgather(h.shape[1])[: comm.rank])
    wanted = np.unique(np.linspace(0, n_samples - 1, min(n_chains, n_samples)).astype(np.int64))
    mine = wanted[(wanted >= before) & (wanted < before + h.shape[1])] - before
    chosen = unpack(h, top.W.dtype) if isinstance(h, Packed) else h
    chosen = np.ascontiguousarray(chosen[:, mine])
    start = pack(chosen) if isinstance(h, Packed) else chosen
    estimates = reverse_log_likelihoods(top, start, np.asarray(samples)[mine], betas, seed, base, kept)
    log_z = np.concatenate(comm.allgather(-free_energy(top, start) - estimates))
    value, n = total - float(log_z.mean()), len(log_z)
    noise = float(log_z.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    half = float(special.stdtrit(max(n - 1, 1), 0.5 + CONFIDENCE / 2)) * math.hypot(error, noise)
    return value, value - half, value + half, float(log_z.mean())


def _doubts(optimistic: Estimate, pessimistic: Estimate | None, chains: float, n_chains: int) -> tuple[str, ...]:
    """Why estimates are not to be trusted.   chains: what those of the optimistic one are worth, of ``n_chains``"""
    doubts = []
    if pessimistic is not None:
        gap, more = optimistic[0] - pessimistic[0], "use more temperatures"
        if gap > WIDE_GAP:
            doubts.append(f"the optimistic and the pessimistic estimate are {gap:.3g} nats apart: {more}")
        elif gap < -WIDE_GAP or optimistic[2] < pessimistic[1]:
            doubts.append(f"the pessimistic estimate is {-gap:.3g} nats above the optimistic one: {more}")
    if chains < max(FEW_CHAINS * n_chains, FEWEST_CHAINS):
        doubts.append(f"the estimate hangs on {chains:.2g} of {n_chains} chains: use more temperatures or chains")
    return tuple(doubts)


def log_unnormalised(
    network: DeepBeliefNetwork, v: Activations, samples: IntArray, seed: int, n_rbms: int | None = None
) -> tuple[Doubles, Activations]:
    """(log p* of every sample, or what bounds it from below, (samples,); states of the top RBM's visible units).

    The states h of each layer are drawn once from q, the RBM's posterior, which is factorial; each RBM below the top
    one gains log p(v | h) - log q(h | v), and the top one -F(h).  Some samples at a time.  Collective over the shards.
    """
    rbms = network.rbms[:n_rbms]
    with on_whole_grid(rbms[0]):
        visible_values(rbms[0], v)
    at_once = max(WORD, network.samples_at_once // network.grid.n_replicas // WORD * WORD)
    gains, states = [np.zeros(0)], []
    for start in range(0, v.shape[1], at_once):
        stop = min(start + at_once, v.shape[1])
        here = _samples(v, start, stop)
        total = np.zeros(stop - start)
        for rbm in rbms[:-1]:
            total += _gain(rbm, here, above := _states_above(rbm, here, samples[start:stop], seed))
            here = above
        gains.append(total - free_energy(rbms[-1], here))
        states.append(here)
    if len(rbms) == 1:
        return np.concatenate(gains), v
    top = [piece for piece in states if isinstance(piece, Packed)]
    empty = Packed.empty(len(rbms[-1].visible_ids), 0)
    return np.concatenate(gains), Packed.join(top) if top else empty


def _states_above(rbm: RBM, v: Activations, samples: IntArray, seed: int) -> Packed:
    """Hidden states drawn given v, keyed by the samples' ids."""
    x = rbm.hidden_input(v)
    sampler = Sampler(
        np.zeros_like(rbm.c), rbm.hidden_ids, stream_of(rbm, seed, UPWARDS), np.asarray(samples, np.int64)
    )
    drawn = sampler.of_sums(x, 1)
    assert drawn.states is not None  # they were asked for
    return drawn.states


def _gain(rbm: RBM, v: Activations, h: Packed) -> Doubles:
    """log p(v | h) - log q(h | v) of every sample, (samples,)."""
    x = rbm.hidden_input(v).astype(np.float64)
    # rounded before it is multiplied: h is 0 or 1
    mine = softplus_sums(x, exact=rbm.exact) - (unpack(h, np.float64) * rounded(rbm, x)).sum(axis=0)
    # -log q = sum_j log(1 + exp(x_j)) - h_j x_j
    return sum_over_shards(rbm, mine + _log_given_hidden(rbm, v, rbm.visible_input(h).astype(np.float64)))


def _samples(v: Activations, start: int, stop: int) -> Activations:
    return v.take(start, stop) if isinstance(v, Packed) else np.ascontiguousarray(v[:, start:stop])


def _log_given_hidden(rbm: RBM, v: Activations, x: Doubles) -> Doubles:
    """log p(v | h) of the owned visible units, (samples,), from x = W h + b."""
    values = unpack(v, np.float64) if isinstance(v, Packed) else v.astype(np.float64)
    if rbm.gaussian:
        quadratic = gaussian_visible.log_weights(values, np.zeros(len(x)), rbm.precision)
        return np.asarray(quadratic + (values * x).sum(axis=0) - visible_log_partition(rbm, x))
    return np.asarray((values * rounded(rbm, x)).sum(axis=0) - visible_log_partition(rbm, x))


def _mean_and_error(
    rbm: RBM, values: Doubles, weights: Doubles | None = None, *, exact_terms: bool
) -> tuple[float, float]:
    """(mean over all replicas by weights, standard error of the draws that it depends on: 0 where terms are exact)"""
    everything = np.concatenate(rbm.replica_comm.allgather(values))
    n = len(everything)
    if weights is not None:
        parts = np.concatenate(rbm.replica_comm.allgather(np.asarray(weights, np.float64)))
        parts /= parts.sum()
        mean = float(parts @ everything)
        spread = math.sqrt(float(parts**2 @ (everything - mean) ** 2))
        return mean, 0.0 if exact_terms or n < 2 else spread * math.sqrt(n / (n - 1))
    return float(everything.mean()), 0.0 if exact_terms or n < 2 else float(everything.std(ddof=1)) / math.sqrt(n)


def _base_rate(rbm: RBM, h: Activations, n_samples: int) -> Array:
    """Visible biases of the RBM without weights that fits these samples: their log-odds (log-frequencies of
    categories), or their means.  Collective

    One half of a sample more of each state keeps the odds of a unit that never changes finite.
    """
    sums = np.asarray(h.sums(), np.float64) if isinstance(h, Packed) else h.sum(axis=1, dtype=np.float64)
    total = np.sum(rbm.replica_comm.allgather(sums), axis=0)
    if rbm.gaussian:
        return np.asarray(total / n_samples)
    if rbm.visible.categories:
        return np.asarray(np.log((total + 0.5) / (n_samples + 0.5 * rbm.visible.categories)))
    mean = (total + 0.5) / (n_samples + 1)
    return np.asarray(np.log(mean / (1 - mean)))
