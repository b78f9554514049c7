"""Scores of an RBM: free energy, pseudo-likelihood, and the likelihood by enumeration or by AIS.

Every function is collective over the ranks of ``shard_comm``, and those that end in a mean or an estimate over
``replica_comm`` too, between whose replicas the samples and the chains are shared.  Visible activations are owned
blocks, (n_visible_owned, samples of this replica).  Sums are made in float64.  The result is the same on all ranks.
All raise DisagreementError where ranks bring different arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy.special import expit, logsumexp

from modelpar import draws
from modelpar.collective.agreement import agree, checksum
from modelpar.draws import Purpose, Stream
from modelpar.errors import DataError, SpecError, together
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, unpack
from modelpar.model.rbm import owned_block
from modelpar.values import plain
from modelpar.values.forms import plain_array

Array = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ENUMERABLE = 20  # units of the smaller side up to which all states are visited
STATES_AT_A_TIME = 4096
# Streams of Purpose.SCORE differ in ``repeat``
_SITES, _START, _HIDDEN, _VISIBLE = range(4)


class ShardedRBM(Protocol):
    """The interface of an RBM for the scores; the inputs include the biases, W^T v + c and W h + b."""

    index: int
    seed: int
    gaussian: bool
    visible_ids: IntArray
    hidden_ids: IntArray
    shard_comm: MPI.Comm
    replica_comm: MPI.Comm

    @property
    def W(self) -> Array: ...
    @property
    def b(self) -> Array: ...
    @property
    def c(self) -> Array: ...
    def hidden_input(self, v: Array) -> Array: ...
    def visible_input(self, h: Array) -> Array: ...


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


def free_energy(rbm: ShardedRBM, v: Array) -> Doubles:
    """F(v) = -log sum_h exp(-E(v, h)) of every sample, (samples,).

    Bernoulli: -b.v - sum_j log(1 + exp(x_j)); Gaussian: |v - b|^2 / 2 in place of -b.v; x = W^T v + c (Hinton 2010,
    section 16.1 and 13.2).  Collective over the shards.

    Raises DataError on every shard where any brings values of other units than its own.
    """
    v = _owned(rbm, v)
    agree(rbm.shard_comm, "free_energy", samples=v.shape[1])
    mine = -_softplus(rbm.hidden_input(v)).sum(axis=0) - _visible_term(rbm, v)
    return _sum_over_shards(rbm, mine)


def pseudo_log_likelihood(rbm: ShardedRBM, v: Array, samples: IntArray, seed: int | None = None) -> float:
    """Mean over all replicas' samples of n_visible log p(v_i | all others), with one unit i drawn for each sample.

    An unbiased estimate of the pseudo-log-likelihood (Besag 1975), in nats.  A value between 0 and 1 counts as the
    probability of a one.  NaN without any samples.

    samples   (samples of this replica,) ids of the samples, which key the choice of the unit: ids that come back
              in every epoch choose the same units, so that epochs can be compared
    seed      of the choice; default: the RBM's own
    Raises SpecError where the visible units are Gaussian, DataError where samples or units do not fit.  Collective.
    """
    with _together(rbm):
        v = _values(rbm, v)
        samples = plain_array(samples, "ids of samples")
        if samples.shape != (v.shape[1],) or (len(samples) and samples.dtype.kind not in "ui"):
            raise DataError(f"ids of samples came as {samples.dtype} of shape {samples.shape}, but v has {v.shape[1]}")
    of_replica = {"samples": samples, "batch": v.shape[1]}
    agree(_whole_grid(rbm), "pseudo_log_likelihood", seed=rbm.seed if seed is None else seed, in_replica=of_replica)
    seed = None if seed is None else plain.integer_number("seed", seed, at_least=0)
    if rbm.gaussian:
        raise SpecError(
            "the pseudo-likelihood needs Bernoulli visible units, but these are Gaussian; use the reconstruction error"
        )
    n_visible = rbm.shard_comm.allreduce(len(rbm.visible_ids))
    u = np.empty((1, len(samples)), v.dtype)
    draws.uniform(_stream(rbm, seed, _SITES), np.zeros(1, np.int64), np.asarray(samples, np.int64), u)
    sites = np.minimum((u[0].astype(np.float64) * n_visible).astype(np.int64), n_visible - 1)
    rows, columns = np.nonzero(rbm.visible_ids[:, None] == sites[None, :])  # the sites that are ours
    observed = np.zeros(len(samples))
    observed[columns] = v[rows, columns]
    trial = v.copy()
    trial[rows, columns] = 0
    without = free_energy(rbm, trial)
    trial[rows, columns] = 1
    evidence = without - free_energy(rbm, trial)  # log-odds of a one given the other units
    observed = _sum_over_shards(rbm, observed)
    log_p = -observed * _softplus(-evidence) - (1 - observed) * _softplus(evidence)
    return _mean_over_replicas(rbm, n_visible * log_p)


def log_likelihood(rbm: ShardedRBM, v: Array, log_partition: float) -> float:
    """Mean over all replicas' samples of log p(v) = -F(v) - log Z, in nats; a log-density for Gaussian units.

    NaN without any samples.  Collective.  Raises DataError where units do not fit, SpecError for no finite log Z.
    """
    with _together(rbm):
        v = _values(rbm, v)
        log_partition = plain.real_number("log_partition", log_partition)
    # to six digits: it may have been computed here, and processors of other kinds differ in a last bit
    of_replica = {"samples": v.shape[1]}
    agree(_whole_grid(rbm), "log_likelihood", log_partition=f"{log_partition:.6g}", in_replica=of_replica)
    return _mean_over_replicas(rbm, -free_energy(rbm, v) - log_partition)


def log_partition_exact(rbm: ShardedRBM) -> float:
    """log Z by visiting all states of the smaller side (the hidden one where the visible units are Gaussian).

    Raises SpecError where that side has more than 20 units.  Collective over the shards.
    """
    agree(rbm.shard_comm, "log_partition_exact")
    n_visible = rbm.shard_comm.allreduce(len(rbm.visible_ids))
    n_hidden = rbm.shard_comm.allreduce(len(rbm.hidden_ids))
    over_hidden = rbm.gaussian or n_hidden <= n_visible
    n_units, ids = (n_hidden, rbm.hidden_ids) if over_hidden else (n_visible, rbm.visible_ids)
    if n_units > ENUMERABLE:
        side = "hidden" if over_hidden else "visible"
        raise SpecError(
            f"log Z by enumeration needs at most {ENUMERABLE} {side} units, but there are {n_units}; estimate it by AIS"
        )
    parts = []
    for start in range(0, 2**n_units, STATES_AT_A_TIME):
        codes = np.arange(start, min(start + STATES_AT_A_TIME, 2**n_units))
        states = np.ascontiguousarray((codes[None, :] >> ids[:, None] & 1).astype(rbm.W.dtype))
        if over_hidden:
            x = rbm.visible_input(states).astype(np.float64)
            mine = rbm.c.astype(np.float64) @ states
            if rbm.gaussian:  # the integral over v of exp(-|v - b|^2 / 2 + v.(x - b)), without its power of 2 pi
                mine += 0.5 * (x**2 - rbm.b.astype(np.float64)[:, None] ** 2).sum(axis=0)
            else:
                mine += _softplus(x).sum(axis=0)
        else:
            mine = rbm.b.astype(np.float64) @ states + _softplus(rbm.hidden_input(states)).sum(axis=0)
        parts.append(logsumexp(_sum_over_shards(rbm, mine)))
    return float(logsumexp(parts)) + (0.5 * n_visible * math.log(2 * math.pi) if rbm.gaussian else 0.0)


def log_partition_ais(
    rbm: ShardedRBM, n_chains: int = 100, n_betas: int = 1000, seed: int | None = None, base_bias: Array | None = None
) -> LogPartition:
    """log Z by annealed importance sampling (Neal 2001; Salakhutdinov and Murray 2008, section 4.1).

    The chains go from a base-rate RBM without weights, whose log Z is known, to this one through ``n_betas``
    distributions with inverse temperatures 0 = beta_0 < ... < beta_K = 1 in equal steps:
    log p*_k(v) = (1 - beta_k) base.v + beta_k b.v + sum_j log(1 + exp(beta_k x_j)), their equation 16.

    base_bias   (n_visible_owned,) visible biases of the base-rate RBM, default: this RBM's own; the log-odds of
                the data means make a better start (the means themselves for Gaussian units)
    Raises SpecError where there are fewer than 2 chains or 2 temperatures.  Collective over the whole grid.
    """
    base = rbm.b
    with _together(rbm):
        if base_bias is not None:
            base = plain_array(base_bias, "base biases")
            if base.shape != rbm.b.shape or base.dtype.kind not in "buif":
                raise DataError(
                    f"base biases came as {base.dtype} of shape {base.shape}, but this rank owns {len(rbm.b)} visible "
                    "units"
                )
    # each shard has the bias of its own units
    bases = rbm.shard_comm.allgather(None if base_bias is None else checksum(base))
    what = {"n_chains": n_chains, "n_betas": n_betas, "seed": rbm.seed if seed is None else seed, "base_bias": bases}
    agree(_whole_grid(rbm), "log_partition_ais", **what, in_replica={"base_bias": base_bias is None})
    n_chains, n_betas = plain.integer_number("n_chains", n_chains), plain.integer_number("n_betas", n_betas)
    seed = None if seed is None else plain.integer_number("seed", seed, at_least=0)
    if n_chains < 2 or n_betas < 2:
        raise SpecError(f"AIS needs at least 2 chains and 2 temperatures, but was given {n_chains} and {n_betas}")
    replica, n_replicas = rbm.replica_comm.rank, rbm.replica_comm.size
    first, last = n_chains * replica // n_replicas, n_chains * (replica + 1) // n_replicas
    base = base.astype(rbm.W.dtype)
    betas = np.linspace(0.0, 1.0, n_betas)
    v = np.repeat(base[:, None], last - first, axis=1)
    v = _draw_visible(rbm, v, _stream(rbm, seed, _START), first)
    log_weights = np.zeros(last - first)
    for k in range(1, n_betas):
        x = rbm.hidden_input(v).astype(np.float64)
        log_weights += (_softplus(betas[k] * x) - _softplus(betas[k - 1] * x)).sum(axis=0)
        log_weights += (betas[k] - betas[k - 1]) * _base_term(rbm, base, v)
        if k < n_betas - 1:
            counter = k * n_chains + first  # a draw of its own for every chain at every temperature
            h = np.empty(x.shape, v.dtype)
            p = expit(betas[k] * x).astype(v.dtype)
            draws.sample_bernoulli(p, _stream(rbm, seed, _HIDDEN), rbm.hidden_ids, counter, h)
            x = betas[k] * rbm.visible_input(h) + (1 - betas[k]) * base[:, None]
            v = _draw_visible(rbm, x.astype(v.dtype), _stream(rbm, seed, _VISIBLE), counter)
    parts = rbm.replica_comm.allgather(_sum_over_shards(rbm, log_weights))
    return _estimate(np.concatenate(parts), _log_partition_of_base(rbm, base))


def _owned(rbm: ShardedRBM, v: Activations) -> Array:
    """Values (n_visible_owned, batch) of the type of the weights.  Collective over the shards.  Raises DataError."""
    with together(rbm.shard_comm):
        return _values(rbm, v)


def _values(rbm: ShardedRBM, v: Activations) -> Array:
    """The same on this rank alone."""
    v = owned_block(v, len(rbm.visible_ids), rbm.W.dtype, "visible activations")
    return unpack(v, rbm.W.dtype) if isinstance(v, Packed) else v


@contextmanager
def _together(rbm: ShardedRBM) -> Iterator[None]:
    """Failures of the block are raised on every rank of the grid.  Collective."""
    with together(rbm.replica_comm), together(rbm.shard_comm):
        yield


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
    )


def _log_partition_of_base(rbm: ShardedRBM, base: Array) -> float:
    """The log partition function of an RBM without weights and hidden biases.

    Its partition function is 2^n_hidden times the product of the visible units' own sums.
    """
    mine = len(rbm.hidden_ids) * math.log(2)
    if rbm.gaussian:
        mine += 0.5 * len(base) * math.log(2 * math.pi)
    else:
        mine += float(_softplus(base).sum())
    return float(_sum_over_shards(rbm, np.array([mine]))[0])


def _base_term(rbm: ShardedRBM, base: Array, v: Array) -> Doubles:
    """The visible biases' contribution to log p* from the base-rate RBM to this one, (samples,), of the owned units."""
    wide, own, old = v.astype(np.float64), rbm.b.astype(np.float64)[:, None], base.astype(np.float64)[:, None]
    if rbm.gaussian:
        return np.asarray(0.5 * ((wide - old) ** 2 - (wide - own) ** 2).sum(axis=0))
    return np.asarray(((own - old) * wide).sum(axis=0))


def _visible_term(rbm: ShardedRBM, v: Array) -> Doubles:
    """The visible biases' contribution to log p*, (samples,), of the owned units."""
    wide, b = v.astype(np.float64), rbm.b.astype(np.float64)
    return np.asarray(-0.5 * ((wide - b[:, None]) ** 2).sum(axis=0) if rbm.gaussian else b @ wide)


def _draw_visible(rbm: ShardedRBM, x: Array, stream: Stream, first: int) -> Array:
    """States of the owned visible units from their summed inputs."""
    v = np.empty_like(x)
    if rbm.gaussian:
        draws.sample_gaussian(x, stream, rbm.visible_ids, first, v)
    else:
        draws.sample_bernoulli(expit(x), stream, rbm.visible_ids, first, v)
    return v


def _whole_grid(rbm: ShardedRBM) -> tuple[MPI.Comm, MPI.Comm]:
    return rbm.shard_comm, rbm.replica_comm


def _stream(rbm: ShardedRBM, seed: int | None, repeat: int) -> Stream:
    return Stream(rbm.seed if seed is None else seed, rbm.index, Purpose.SCORE, repeat)


def _softplus(x: Array) -> Doubles:
    """log(1 + exp(x)) without overflow."""
    x = np.asarray(x, np.float64)
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def _sum_over_shards(rbm: ShardedRBM, mine: Doubles) -> Doubles:
    """The sum in rank order, so that every rank has the same bits.  Collective over the shards."""
    return np.asarray(np.sum(rbm.shard_comm.allgather(mine), axis=0), dtype=np.float64)


def _mean_over_replicas(rbm: ShardedRBM, values: Doubles) -> float:
    """Mean over the samples of all replicas; NaN without any.  Collective over the replicas."""
    totals = rbm.replica_comm.allgather((float(values.sum()), len(values)))
    n_samples = sum(n for _, n in totals)
    return sum(total for total, _ in totals) / n_samples if n_samples else math.nan
