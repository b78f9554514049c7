"""Annealed importance sampling, forwards from a base-rate RBM for log Z and in reverse from the data.

Both walk through the same distributions with inverse temperatures 0 = beta_0 < ... < beta_K = 1 (Salakhutdinov and
Murray 2008, equation 16), from an RBM without weights, whose log Z is known, to the one in question:

    log f_k(v) = (1 - beta_k) base.v + beta_k b.v + sum_j log(1 + exp(beta_k x_j)),   x = W^T v + c

Forwards, log Z comes out too small where too few chains or temperatures find all modes, and likelihoods too large; in
reverse it is the other way round, so the truth lies between (Burda, Grosse and Salakhutdinov 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelpar import draws
from modelpar.chains.tempering import placed
from modelpar.collective.agreement import agree, checksum
from modelpar.errors import DataError, SpecError
from modelpar.kernels.products.product import Activations, Sampler
from modelpar.kernels.sampling.softplus import softplus_differences, softplus_sums
from modelpar.kernels.states import Packed, unpack
from modelpar.likelihood.energy import (
    Array,
    Doubles,
    IntArray,
    ShardedRBM,
    free_energy,
    on_whole_grid,
    stream_of,
    sum_over_shards,
    whole_grid,
)
from modelpar.model.rbm import owned_block
from modelpar.values import plain
from modelpar.values.forms import plain_array

CHAINS_AT_A_TIME = 512  # whose activations stay in the caches
PILOT = 100  # temperatures, and chains, by which those of an estimate are placed
# repeats of the stream of Purpose.SCORE: 0 belongs to the pseudo-likelihood
START, HIDDEN, VISIBLE, REVERSE_HIDDEN, REVERSE_VISIBLE = range(1, 6)


@dataclass(frozen=True)
class LogPartition:
    """An estimate of log Z; ``low`` and ``high`` are log(Z - 3 s) and log(Z + 3 s), s its standard error.

    ``effective_chains`` is what the weights of the chains are worth (Kish): far below the number of chains, the
    estimate hangs on few of them and ``low`` and ``high`` are not to be trusted.
    """

    value: float
    low: float
    high: float
    effective_chains: float
    error: float  # s / Z


def log_partition_ais(
    rbm: ShardedRBM, n_chains: int = 100, n_betas: int = 1000, seed: int | None = None,
    base_bias: Array | None = None, betas: Array | None = None,
) -> LogPartition:  # fmt: skip
    """log Z by annealed importance sampling (Neal 2001; Salakhutdinov and Murray 2008, section 4.1).

    base_bias   (n_visible_owned,) visible biases of the base-rate RBM, default: this RBM's own; the log-odds of
                the data means make a better start (the means themselves for Gaussian units)
    betas       inverse temperatures, from 0 up to 1, such as :func:`temperatures` places; default: ``n_betas`` of them
                in equal steps
    Raises SpecError where there are fewer than 2 chains or 2 temperatures.  Collective over the whole grid.
    """
    base, given = _base(rbm, base_bias)
    n_betas = n_betas if betas is None else len(betas)
    what: dict[str, Any] = {"n_chains": n_chains, "n_betas": n_betas, "seed": rbm.seed if seed is None else seed}
    # each shard has the bias of its own units
    what["base_bias"] = rbm.shard_comm.allgather(None if not given else checksum(base))
    what["betas"] = None if betas is None else checksum(np.asarray(betas, np.float64))
    agree(whole_grid(rbm), "log_partition_ais", **what, in_replica={"base_bias": not given})
    n_chains, n_betas = plain.integer_number("n_chains", n_chains), plain.integer_number("n_betas", n_betas)
    seed = None if seed is None else plain.integer_number("seed", seed, at_least=0)
    if n_chains < 2 or n_betas < 2:
        raise SpecError(f"AIS needs at least 2 chains and 2 temperatures, but was given {n_chains} and {n_betas}")
    steps = np.linspace(0.0, 1.0, n_betas) if betas is None else _checked(betas)
    path = _Path(rbm, base, seed)
    mine = np.zeros(0)
    for first, last in _pieces(rbm, n_chains):
        gains = sum(gain for _, gain in path.forwards(steps, first, last, n_chains))
        mine = np.concatenate([mine, sum_over_shards(rbm, np.asarray(gains))])
    return _estimate(np.concatenate(rbm.replica_comm.allgather(mine)), path.log_partition_of_base())


def temperatures(rbm: ShardedRBM, n_betas: int, seed: int | None = None, base_bias: Array | None = None) -> Doubles:
    """Inverse temperatures (n_betas,) from 0 to 1 that lie close where log f changes most between chains.

    A pilot of 100 chains in equal steps measures the spread over the chains of d log f / d beta: the steps of the least
    variance of log Z are in inverse proportion to it (the thermodynamic length; Gelman and Meng 1998, section 3.2).
    Parameters and errors as in :func:`log_partition_ais`.  Collective over the whole grid.
    """
    base, given = _base(rbm, base_bias)
    bases = rbm.shard_comm.allgather(None if not given else checksum(base))
    what: dict[str, Any] = {"n_betas": n_betas, "seed": rbm.seed if seed is None else seed, "base_bias": bases}
    agree(whole_grid(rbm), "temperatures", **what)
    n_betas = plain.integer_number("n_betas", n_betas, at_least=2)
    even = np.linspace(0.0, 1.0, PILOT)
    gains = np.zeros((PILOT - 1, 0))
    for first, last in _pieces(rbm, PILOT):
        steps = [sum_over_shards(rbm, gain) for _, gain in _Path(rbm, base, seed).forwards(even, first, last, PILOT)]
        gains = np.concatenate([gains, np.array(steps)], axis=1)
    spread = np.concatenate(rbm.replica_comm.allgather(gains), axis=1).std(axis=1)
    return np.asarray(rbm.shard_comm.bcast(rbm.replica_comm.bcast(placed(spread, even, n_betas))))


def reverse_log_likelihoods(
    rbm: ShardedRBM, v: Activations, samples: IntArray, betas: Array, seed: int | None = None,
    base_bias: Array | None = None,
) -> Doubles:  # fmt: skip
    """Estimates of log p(v) of every sample, (samples,), that are too small on average (RAISE; Burda et al. 2015).

    A chain goes from each sample through the temperatures backwards, by the transitions of forward AIS reversed, and is
    weighed by what forward AIS would have made of it.  What it estimates without bias is the probability of v under the
    distribution from which forward AIS draws, which approximates the RBM's.

    v         (n_visible_owned, samples of this replica), states or values of Gaussian units
    samples   (samples of this replica,) ids, which key the draws
    betas, seed, base_bias   as in :func:`log_partition_ais`; base_bias defaults to the RBM's own biases
    Collective over the shards.  Raises DataError where units do not fit.
    """
    base, _ = _base(rbm, base_bias)
    with on_whole_grid(rbm):
        v = owned_block(v, len(rbm.visible_ids), rbm.W.dtype, "visible activations")
    steps, path, estimates = _checked(betas), _Path(rbm, base, seed), []
    for start in range(0, v.shape[1], CHAINS_AT_A_TIME):
        stop = min(start + CHAINS_AT_A_TIME, v.shape[1])
        here = v.take(start, stop) if isinstance(v, Packed) else np.ascontiguousarray(v[:, start:stop])
        gains = sum_over_shards(rbm, path.backwards(steps, here, samples[start:stop]))
        estimates.append(gains + -free_energy(rbm, here) - path.log_partition_of_base())
    return np.concatenate(estimates) if estimates else np.zeros(0)


class _Path:
    """The distributions between a base-rate RBM and ``rbm``; its methods are collective over the shards."""

    def __init__(self, rbm: ShardedRBM, base: Array, seed: int | None) -> None:
        """base   (n_visible_owned,) visible biases of the base-rate RBM, of the type of the weights"""
        self.rbm, self.base, self.seed = rbm, base, seed
        self._no_bias = np.zeros(max(len(rbm.hidden_ids), len(rbm.visible_ids)), rbm.W.dtype)
        self._shift = (rbm.b - base).astype(rbm.W.dtype)

    def log_partition_of_base(self) -> float:
        """2^n_hidden times the product of the visible units' own sums, as a logarithm."""
        mine = len(self.rbm.hidden_ids) * math.log(2)
        if self.rbm.gaussian:
            mine += 0.5 * len(self.base) * math.log(2 * math.pi)
        else:
            mine += float(softplus_sums(self.base[None, :].astype(np.float64)).sum())
        return float(sum_over_shards(self.rbm, np.array([mine]))[0])

    def forwards(self, betas: Doubles, first: int, last: int, n_chains: int) -> Iterator[tuple[float, Doubles]]:
        """(beta_k, log f_k(v_k) - log f_(k-1)(v_k)) of the owned units, (chains,), of chains ``first .. last - 1``."""
        rbm = self.rbm
        x: Array = np.repeat(self.base[:, None], last - first, axis=1)
        v = self._visible(x, START, first)
        for k in range(1, len(betas)):
            x = rbm.hidden_input(v)
            yield betas[k], self._difference(v, x, betas[k - 1], betas[k])
            if k < len(betas) - 1:
                counter = k * n_chains + first  # a draw of its own for every chain at every temperature
                v = self._moved(x, betas[k], (HIDDEN, VISIBLE), counter)

    def backwards(self, betas: Doubles, v: Activations, samples: IntArray) -> Doubles:
        """Sum over k of log f_(k-1)(v_k) - log f_k(v_k) of the owned units, (samples,), from v at beta = 1 down."""
        rbm, gains = self.rbm, np.zeros(v.shape[1])
        x = rbm.hidden_input(v)
        ids: Any = np.asarray(samples, np.int64)
        if len(ids) and np.all(np.diff(ids) == 1):
            ids = int(ids[0])  # draws of consecutive ids are made faster
        for k in range(len(betas) - 1, 0, -1):
            # ids of samples are below 2^40, and so those of different temperatures differ
            v = self._moved(x, betas[k], (REVERSE_HIDDEN, REVERSE_VISIBLE), ids + (k << 40))
            x = rbm.hidden_input(v)
            gains -= self._difference(v, x, betas[k - 1], betas[k])
        return gains

    def _difference(self, v: Activations, x: Array, low: float, high: float) -> Doubles:
        """log f_high(v) - log f_low(v), of the owned units on both sides."""
        values: Array = unpack(v, self.rbm.W.dtype) if isinstance(v, Packed) else v
        if self.rbm.gaussian:
            wide, own, old = (a.astype(np.float64) for a in (values, self.rbm.b[:, None], self.base[:, None]))
            visible = 0.5 * ((wide - old) ** 2 - (wide - own) ** 2).sum(axis=0)
        else:
            visible = (self._shift @ values).astype(np.float64)
        return (high - low) * visible + softplus_differences(x, low, high)

    def _moved(self, x: Array, beta: float, repeats: tuple[int, int], counter: int | IntArray) -> Activations:
        """v after a step of Gibbs sampling at ``beta``, from x = W^T v + c, which is overwritten."""
        rbm = self.rbm
        x *= x.dtype.type(beta)
        h = self._drawn(x, rbm.hidden_ids, repeats[0], counter)
        x = rbm.visible_input(h)
        x *= x.dtype.type(beta)
        x += x.dtype.type(1 - beta) * self.base[:, None]
        return self._visible(x, repeats[1], counter)

    def _visible(self, x: Array, repeat: int, counter: int | IntArray) -> Activations:
        """States or values of the owned visible units from their summed inputs, which are overwritten."""
        if not self.rbm.gaussian:
            return self._drawn(x, self.rbm.visible_ids, repeat, counter)
        v = np.empty_like(x)
        draws.sample_gaussian(x, stream_of(self.rbm, self.seed, repeat), self.rbm.visible_ids, counter, v)
        return v

    def _drawn(self, x: Array, ids: IntArray, repeat: int, counter: int | IntArray) -> Packed:
        sampler = Sampler(self._no_bias[: len(ids)], ids, stream_of(self.rbm, self.seed, repeat), counter)
        drawn = sampler.of_sums(x, 1)
        assert drawn.states is not None  # they were asked for
        return drawn.states


def _pieces(rbm: ShardedRBM, n_chains: int) -> list[tuple[int, int]]:
    """(first, last) of this replica's chains, some at a time; one without chains where it has none."""
    replica, n_replicas = rbm.replica_comm.rank, rbm.replica_comm.size
    begin, end = n_chains * replica // n_replicas, n_chains * (replica + 1) // n_replicas
    return [
        (start, min(start + CHAINS_AT_A_TIME, end)) for start in range(begin, max(end, begin + 1), CHAINS_AT_A_TIME)
    ]


def _base(rbm: ShardedRBM, base_bias: Array | None) -> tuple[Array, bool]:
    """(visible biases of the base-rate RBM, whether the caller gave them).  Collective.  Raises DataError."""
    base = rbm.b
    with on_whole_grid(rbm):
        if base_bias is not None:
            base = plain_array(base_bias, "base biases")
            if base.shape != rbm.b.shape or base.dtype.kind not in "buif":
                raise DataError(
                    f"base biases came as {base.dtype} of shape {base.shape}, but this rank owns {len(rbm.b)} visible "
                    "units"
                )
    return base.astype(rbm.W.dtype), base_bias is not None


def _checked(betas: Array) -> Doubles:
    """Raises SpecError, on every rank alike, where inverse temperatures do not rise from 0 to 1."""
    steps = np.asarray(betas, np.float64)
    if steps.ndim != 1 or len(steps) < 2 or steps[0] != 0 or steps[-1] != 1 or np.any(np.diff(steps) < 0):
        raise SpecError(f"inverse temperatures must rise from 0 to 1, at least 2 of them, but are {plain.shown(betas)}")
    return steps


def _estimate(log_weights: Doubles, log_partition_of_base: float) -> LogPartition:
    """Salakhutdinov and Murray (2008), equations 12 and 14: the mean weight, and 3 standard errors to each side."""
    top = float(log_weights.max())
    weights = np.exp(log_weights - top)
    mean, error = float(weights.mean()), float(weights.std(ddof=1)) / math.sqrt(len(weights))
    low, high = mean - 3 * error, mean + 3 * error
    scale = top + log_partition_of_base
    return LogPartition(
        value=scale + math.log(mean),
        low=scale + math.log(low) if low > 0 else -math.inf,
        high=scale + math.log(high),
        effective_chains=float(weights.sum() ** 2 / (weights**2).sum()),
        error=error / mean,
    )
