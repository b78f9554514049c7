"""Annealed importance sampling, forwards from a base-rate RBM for log Z and in reverse from the data.

Both walk through the same distributions with inverse temperatures 0 = beta_0 < ... < beta_K = 1 (Salakhutdinov and
Murray 2008, equation 16), from an RBM without weights, whose log Z is known, to the one in question:

    log f_k(v) = (1 - beta_k) base.v + beta_k b.v + sum_j log(1 + exp(beta_k x_j)),   x = W^T v + c

Of hidden units with real values the potentials U stay what they are on the way, and their cumulants Gamma(beta_k x_j)
stand for log(1 + exp(beta_k x_j)).  The base-rate RBM has the potentials of the first RBM of the way.

Of Gaussian visible units -t |v - b / t|^2 / 2 stands for b.v, t their precisions, which are mixed as b is; those of the
base-rate RBM are 1, that of standardised data, where its biases are given.

With RBMs from the course of its training the way goes through them in order (Bereux, Decelle, Furtlehner, Rosset and
Seoane 2024, trajectory annealing), and beta runs to their number, a whole number at each of them.  Between two of them
W, b and c are interpolated linearly, and so are x = W^T v + c and W h + b, which are all that is needed of them; the
shape parameters of potentials are too, of which any values make a potential.

Forwards, log Z comes out too small where too few chains or temperatures find all modes, and likelihoods too large; in
reverse it is the other way round, so the truth lies between (Burda, Grosse and Salakhutdinov 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelpar.chains.tempering import lengths
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
    rounded,
    stream_of,
    sum_over_shards,
    visible_log_partition,
    whole_grid,
)
from modelpar.likelihood.legs import BaseRate, Leg, mixed
from modelpar.likelihood.steps import checked_steps, placed_steps
from modelpar.model import gaussian_visible
from modelpar.model.activations import owned_block
from modelpar.units.hidden import cumulant_sums, drawn
from modelpar.values import plain
from modelpar.values.forms import plain_array

CHAINS_AT_A_TIME = 512  # whose activations stay in the caches
PILOT = 100  # temperatures, and chains, by which those of an estimate are placed
LEAST = 10  # steps of the pilot from one RBM to the next
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
    base_bias: Array | None = None, betas: Array | None = None, kept: Sequence[ShardedRBM] = (),
) -> LogPartition:  # fmt: skip
    """log Z by annealed importance sampling (Neal 2001; Salakhutdinov and Murray 2008, section 4.1).

    base_bias   (n_visible_owned,) visible biases of the base-rate RBM, default: this RBM's own; the log-odds of
                the data means make a better start (the means themselves for Gaussian units)
    betas       inverse temperatures, from 0 up to 1, such as :func:`temperatures` places; default: ``n_betas`` of them
                in equal steps.  With ``kept`` they go up to the number of RBMs, over all whole numbers
    kept        RBMs of the same units from the course of training, in its order, which the way goes through
    Raises SpecError where there are fewer than 2 chains or 2 temperatures, DataError where ``kept`` are of other units.
    Collective over the whole grid.
    """
    base, given = _base(rbm, base_bias)
    n_betas = n_betas if betas is None else len(betas)
    what: dict[str, Any] = {"n_chains": n_chains, "n_betas": n_betas, "seed": rbm.seed if seed is None else seed}
    # each shard has the bias of its own units
    what["base_bias"] = rbm.shard_comm.allgather(None if not given else checksum(base))
    what["kept"] = len(kept)
    what["betas"] = None if betas is None else checksum(np.asarray(betas, np.float64))
    agree(whole_grid(rbm), "log_partition_ais", **what, in_replica={"base_bias": not given})
    n_chains, n_betas = plain.integer_number("n_chains", n_chains), plain.integer_number("n_betas", n_betas)
    seed = None if seed is None else plain.integer_number("seed", seed, at_least=0)
    if n_chains < 2 or n_betas < 2:
        raise SpecError(f"AIS needs at least 2 chains and 2 temperatures, but was given {n_chains} and {n_betas}")
    path = _Path([*kept, rbm], base, seed, given=given)
    even = np.arange(path.length + 1.0)
    steps = placed_steps(n_betas, even, even) if betas is None else checked_steps(betas, path.length)
    mine = np.zeros(0)
    for first, last in _pieces(rbm, n_chains):
        gains = sum(gain for _, gain in path.forwards(steps, first, last, n_chains))
        mine = np.concatenate([mine, sum_over_shards(rbm, np.asarray(gains))])
    return _estimate(np.concatenate(rbm.replica_comm.allgather(mine)), path.log_partition_of_base())


def temperatures(
    rbm: ShardedRBM, n_betas: int, seed: int | None = None, base_bias: Array | None = None,
    kept: Sequence[ShardedRBM] = (),
) -> Doubles:  # fmt: skip
    """Inverse temperatures (n_betas,) from 0 to 1 that lie close where log f changes most between chains.

    A pilot of 100 chains in equal steps measures the spread over the chains of d log f / d beta: the steps of the least
    variance of log Z are in inverse proportion to it (the thermodynamic length; Gelman and Meng 1998, section 3.2).
    With ``kept`` they go up to the number of RBMs.  Parameters and errors as in :func:`log_partition_ais`.
    Collective over the whole grid.
    """
    base, given = _base(rbm, base_bias)
    bases = rbm.shard_comm.allgather(None if not given else checksum(base))
    what: dict[str, Any] = {"n_betas": n_betas, "seed": rbm.seed if seed is None else seed, "base_bias": bases}
    what["kept"] = len(kept)
    agree(whole_grid(rbm), "temperatures", **what)
    n_betas = plain.integer_number("n_betas", n_betas, at_least=2)
    path = _Path([*kept, rbm], base, seed, given=given)
    n_even = path.length * max(-(-(PILOT - 1) // path.length), LEAST)
    even = np.linspace(0.0, path.length, n_even + 1)
    even[:: n_even // path.length] = np.arange(path.length + 1)
    gains = np.zeros((n_even, 0))
    for first, last in _pieces(rbm, PILOT):
        steps = [sum_over_shards(rbm, gain) for _, gain in path.forwards(even, first, last, PILOT)]
        gains = np.concatenate([gains, np.array(steps)], axis=1)
    spread = np.concatenate(rbm.replica_comm.allgather(gains), axis=1).std(axis=1)
    placed = placed_steps(n_betas, lengths(spread, even), even)
    return np.asarray(rbm.shard_comm.bcast(rbm.replica_comm.bcast(placed)))


def reverse_log_likelihoods(
    rbm: ShardedRBM, v: Activations, samples: IntArray, betas: Array, seed: int | None = None,
    base_bias: Array | None = None, kept: Sequence[ShardedRBM] = (),
) -> Doubles:  # fmt: skip
    """Estimates of log p(v) of every sample, (samples,), that are too small on average (RAISE; Burda et al. 2015).

    A chain goes from each sample through the temperatures backwards, by the transitions of forward AIS reversed, and is
    weighed by what forward AIS would have made of it.  What it estimates without bias is the probability of v under the
    distribution from which forward AIS draws, which approximates the RBM's.

    v         (n_visible_owned, samples of this replica), states or values of Gaussian units
    samples   (samples of this replica,) ids, which key the draws
    betas, seed, base_bias, kept   as in :func:`log_partition_ais`; base_bias defaults to the RBM's own biases
    Collective over the shards.  Raises DataError where units do not fit.
    """
    base, given = _base(rbm, base_bias)
    with on_whole_grid(rbm):
        v = owned_block(v, len(rbm.visible_ids), rbm.W.dtype, "visible activations")
    path, estimates = _Path([*kept, rbm], base, seed, given=given), []
    steps = checked_steps(betas, path.length)
    for start in range(0, v.shape[1], CHAINS_AT_A_TIME):
        stop = min(start + CHAINS_AT_A_TIME, v.shape[1])
        here = v.take(start, stop) if isinstance(v, Packed) else np.ascontiguousarray(v[:, start:stop])
        gains = sum_over_shards(rbm, path.backwards(steps, here, samples[start:stop]))
        estimates.append(gains + -free_energy(rbm, here) - path.log_partition_of_base())
    return np.concatenate(estimates) if estimates else np.zeros(0)


class _Path:
    """The distributions from a base-rate RBM through ``rbms``; its methods are collective over the shards."""

    def __init__(self, rbms: Sequence[ShardedRBM], base: Array, seed: int | None, *, given: bool) -> None:
        """base   (n_visible_owned,) visible biases of the base-rate RBM, of the type of the weights
        given   whether the caller gave them: they are means, else the biases of the first RBM, whose precisions belong
                to them

        Raises DataError on every rank where RBMs are of other units than the last one.
        """
        self.rbm, self.base, self.seed, self.length = rbms[-1], base, seed, len(rbms)
        rbm = self.rbm
        if len(rbms) > 1:
            with on_whole_grid(rbm):
                for other in rbms[:-1]:
                    _check_units(other, rbm)
        self._no_bias = np.zeros(max(len(rbm.hidden_ids), len(rbm.visible_ids)), rbm.W.dtype)
        own = rbm.precision
        self._precision = np.ones_like(own) if given and own is not None else own  # of the base-rate RBM
        first = BaseRate(base, rbms[0].parameters.potential, self._precision)
        self._rbms: list[BaseRate | ShardedRBM] = [first, *rbms]

    def _leg(self, low: float, high: float) -> Leg:
        """Between the two RBMs that ``low`` and ``high`` lie between."""
        first = min(int(low), self.length - 1)
        end = self._rbms[first + 1]
        assert not isinstance(end, BaseRate)
        return Leg(self._rbms[first], end, low - first, high - first)

    def log_partition_of_base(self) -> float:
        """2^n_hidden, or the hidden units' integrals, times the product of the visible units' own sums, as a
        logarithm."""
        if self.rbm.hidden_units is None:
            mine = len(self.rbm.hidden_ids) * float(rounded(self.rbm, np.array(math.log(2))))
        else:
            nothing = np.zeros((len(self.rbm.hidden_ids), 1))
            mine = float(cumulant_sums(self.rbm.hidden_units, nothing, self._leg(0.0, 0.0).potential(0.0))[0])
        if self.rbm.gaussian:
            mine += gaussian_visible.log_normaliser(len(self.base), self._precision)
        elif self.rbm.visible.categories:
            mine += float(visible_log_partition(self.rbm, self.base[:, None].astype(np.float64))[0])
        else:
            mine += float(softplus_sums(self.base[None, :].astype(np.float64), exact=self.rbm.exact).sum())
        return float(sum_over_shards(self.rbm, np.array([mine]))[0])

    def forwards(self, betas: Doubles, first: int, last: int, n_chains: int) -> Iterator[tuple[float, Doubles]]:
        """(beta_k, log f_k(v_k) - log f_(k-1)(v_k)) of the owned units, (chains,), of chains ``first .. last - 1``."""
        x: Array = np.repeat(self.base[:, None], last - first, axis=1)
        v = self._visible(x, START, first, self._precision)
        for k in range(1, len(betas)):
            leg = self._leg(betas[k - 1], betas[k])
            inputs = leg.hidden_inputs(v)
            yield betas[k], self._difference(leg, v, inputs)
            if k < len(betas) - 1:
                counter = k * n_chains + first  # a draw of its own for every chain at every temperature
                v = self._moved(leg, inputs, (HIDDEN, VISIBLE), counter)

    def backwards(self, betas: Doubles, v: Activations, samples: IntArray) -> Doubles:
        """Sum over k of log f_(k-1)(v_k) - log f_k(v_k) of the owned units, (samples,), from v at the end down."""
        gains, before = np.zeros(v.shape[1]), None
        ids: Any = np.asarray(samples, np.int64)
        if len(ids) and np.all(np.diff(ids) == 1):
            ids = int(ids[0])  # draws of consecutive ids are made faster
        for k in range(len(betas) - 1, 0, -1):
            leg = self._leg(betas[k - 1], betas[k])
            if leg.end is not before:
                inputs, before = leg.hidden_inputs(v), leg.end
            # ids of samples are below 2^40, and so those of different temperatures differ
            v = self._moved(leg, inputs, (REVERSE_HIDDEN, REVERSE_VISIBLE), ids + (k << 40))
            inputs = leg.hidden_inputs(v)
            gains -= self._difference(leg, v, inputs)
        return gains

    def _difference(self, leg: Leg, v: Activations, inputs: tuple[Array | None, Array]) -> Doubles:
        """log f_high(v) - log f_low(v), of the owned units on both sides."""
        if self.rbm.exact and isinstance(v, Packed):
            terms = rounded(self.rbm, (leg.high - leg.low) * (leg.end.b - leg.start.b).astype(np.float64))
            hidden = softplus_differences(inputs[1], leg.low, leg.high, inputs[0], exact=True)
            return terms @ unpack(v, np.float64) + hidden
        values: Array = unpack(v, self.rbm.W.dtype) if isinstance(v, Packed) else v
        if self.rbm.gaussian:
            visible = gaussian_visible.log_weights(values, leg.end.b, leg.end.precision)
            visible -= gaussian_visible.log_weights(values, leg.start.b, leg.start.precision)
        else:
            visible = ((leg.end.b - leg.start.b).astype(values.dtype) @ values).astype(np.float64)
        units = self.rbm.hidden_units
        if units is None:
            hidden = softplus_differences(inputs[1], leg.low, leg.high, inputs[0])
        else:
            high, low = (
                cumulant_sums(units, mixed(inputs[0], inputs[1].copy(), fraction), leg.potential(fraction))
                for fraction in (leg.high, leg.low)
            )
            hidden = high - low
        return (leg.high - leg.low) * visible + hidden

    def _moved(
        self, leg: Leg, inputs: tuple[Array | None, Array], repeats: tuple[int, int], counter: int | IntArray
    ) -> Activations:
        """v after a step of Gibbs sampling at ``leg.high``, from both W^T v + c, which are overwritten."""
        h = self._hidden(mixed(*inputs, leg.high), leg.potential(leg.high), repeats[0], counter)
        return self._visible(mixed(*leg.visible_inputs(h), leg.high), repeats[1], counter, leg.precision())

    def _hidden(self, x: Array, potential: Array, repeat: int, counter: int | IntArray) -> Activations:
        """States or values of the owned hidden units from their summed inputs, which are overwritten."""
        units, ids = self.rbm.hidden_units, self.rbm.hidden_ids
        if units is None:
            return self._drawn(x, ids, repeat, counter)
        stream = stream_of(self.rbm, self.seed, repeat)
        values = drawn(units, x, potential, stream, ids, counter).values
        assert values is not None  # they were asked for
        return values

    def _visible(
        self, x: Array, repeat: int, counter: int | IntArray, precision: Array | None
    ) -> Activations:  # fmt: skip
        """States or values of the owned visible units from their summed inputs, which are overwritten."""
        if not self.rbm.gaussian:
            return self._drawn(x, self.rbm.visible_ids, repeat, counter, self.rbm.visible.categories)
        mean, stream = gaussian_visible.to_means(x, precision), stream_of(self.rbm, self.seed, repeat)
        return gaussian_visible.drawn(mean, precision, stream, self.rbm.visible_ids, counter)

    def _drawn(
        self, x: Array, ids: IntArray, repeat: int, counter: int | IntArray, categories: int = 0
    ) -> Packed:  # fmt: skip
        stream = stream_of(self.rbm, self.seed, repeat)
        sampler = Sampler(self._no_bias[: len(ids)], ids, stream, counter, categories=categories)
        sampled = sampler.of_sums(x, 1)
        assert isinstance(sampled.states, Packed)  # they were asked for
        return sampled.states


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


def _check_units(rbm: ShardedRBM, last: ShardedRBM) -> None:
    """Raises DataError on this rank."""
    mine, theirs = (
        (it.visible, it.hidden_units, it.W.dtype, it.visible_ids.tobytes(), it.hidden_ids.tobytes())
        for it in (rbm, last)
    )
    if mine != theirs:
        raise DataError(
            f"an RBM from the course of training has {len(rbm.visible_ids)} visible and {len(rbm.hidden_ids)} hidden "
            f"units here, but the last one {len(last.visible_ids)} and {len(last.hidden_ids)}; they must be the same "
            "units, of the same kind and type"
        )


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
