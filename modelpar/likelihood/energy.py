"""Free energies of visible states, and log-likelihoods where log Z is known.

Functions of this package are collective over the ranks of ``shard_comm``, and those that end in a mean or an estimate
over ``replica_comm`` too, between whose replicas the samples and the chains are shared.  Visible activations are owned
blocks, (n_visible_owned, samples of this replica).  Sums are made in float64.  The result is the same on all ranks.
All raise DisagreementError where ranks bring different arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective.agreement import agree
from modelpar.draws import Purpose, Stream
from modelpar.errors import together
from modelpar.kernels.products.product import Activations
from modelpar.kernels.sampling.softmax import log_sums_of_sites
from modelpar.kernels.sampling.softplus import in_steps, softplus_sums
from modelpar.kernels.states import Packed, unpack
from modelpar.model import gaussian_visible
from modelpar.model.activations import owned_block
from modelpar.units import Visible
from modelpar.units.hidden import HiddenUnits, cumulant_sums
from modelpar.values import plain
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class ShardedRBM(Protocol):
    """The interface of an RBM for its likelihoods; the inputs include the biases, W^T v + c and W h + b."""

    index: int
    seed: int
    hidden_units: HiddenUnits | None  # with real values; None: states
    parameters: Parameters
    exact: bool  # sums are the same bits at every grid
    visible_ids: IntArray
    hidden_ids: IntArray
    shard_comm: MPI.Comm
    replica_comm: MPI.Comm

    @property
    def visible(self) -> Visible: ...
    @property
    def gaussian(self) -> bool: ...
    @property
    def precision(self) -> Array | None: ...  # of Gaussian visible units; None: 1
    @property
    def W(self) -> Array: ...
    @property
    def b(self) -> Array: ...
    @property
    def c(self) -> Array: ...
    def hidden_input(self, v: Activations) -> Array: ...
    def visible_input(self, h: Activations) -> Array: ...


def free_energy(rbm: ShardedRBM, v: Activations) -> Doubles:
    """F(v) = -log sum_h exp(-E(v, h)) of every sample, (samples,).

    Bernoulli, categorical: -b.v - sum_j log(1 + exp(x_j)); Gaussian: t |v - b / t|^2 / 2 in place of -b.v, t the
    precisions; x = W^T v + c (Hinton 2010, section 16.1 and 13.2).  Of hidden units with real values
    -sum_j Gamma(x_j), their cumulants, which are logarithms of integrals.  Collective over the shards.

    Raises DataError on every shard where any brings values of other units than its own.
    """
    with together(rbm.shard_comm):
        values = visible_values(rbm, v)
    agree(rbm.shard_comm, "free_energy", samples=values.shape[1])
    x = rbm.hidden_input(v if isinstance(v, Packed) else values)
    if rbm.hidden_units is not None:
        hidden = cumulant_sums(rbm.hidden_units, x, rbm.parameters.potential)
    else:
        hidden = softplus_sums(x, exact=True) if rbm.exact else softplus(x).sum(axis=0)
    mine = -hidden - _visible_term(rbm, values)
    return sum_over_shards(rbm, mine)


def log_likelihood(rbm: ShardedRBM, v: Activations, log_partition: float) -> float:
    """Mean over all replicas' samples of log p(v) = -F(v) - log Z, in nats; a log-density for Gaussian units.

    NaN without any samples.  Collective.  Raises DataError where units do not fit, SpecError for no finite log Z.
    """
    with on_whole_grid(rbm):
        values = visible_values(rbm, v)
        log_partition = plain.real_number("log_partition", log_partition)
    # to six digits: it may have been computed here, and processors of other kinds differ in a last bit
    of_replica = {"samples": values.shape[1]}
    agree(whole_grid(rbm), "log_likelihood", log_partition=f"{log_partition:.6g}", in_replica=of_replica)
    return mean_over_replicas(rbm, -free_energy(rbm, v) - log_partition)


def _visible_term(rbm: ShardedRBM, v: Array) -> Doubles:
    """The visible biases' contribution to log p*, (samples,), of the owned units."""
    wide, b = v.astype(np.float64), rounded(rbm, rbm.b)
    return gaussian_visible.log_weights(wide, b, rbm.precision) if rbm.gaussian else np.asarray(b @ wide)


def visible_log_partition(rbm: ShardedRBM, x: Array) -> Doubles:
    """log of the sum, or integral, over the owned visible units' values v of exp(x.v), (samples,).

    Bernoulli: sum_i log(1 + exp(x_i)); categorical: over the sites log sum_q exp(x_q); Gaussian: with the density
    exp(-t |v|^2 / 2) of v too, t the precisions.   x   (n_visible_owned, samples) summed inputs, biases included
    """
    if rbm.gaussian:
        return gaussian_visible.log_integrals(x, rbm.precision)
    if rbm.visible.categories:
        terms = log_sums_of_sites(x, rbm.visible.categories)
        return np.asarray((in_steps(terms) if rbm.exact else terms).sum(axis=0))
    return softplus_sums(x, exact=rbm.exact)


# -- what the modules of this package share ----------------------------------------------------------------------------


def visible_values(rbm: ShardedRBM, v: Activations) -> Array:
    """Real values (n_visible_owned, samples) of the type of the weights.  Raises DataError on this rank."""
    v = owned_block(v, len(rbm.visible_ids), rbm.W.dtype, "visible activations")
    return unpack(v, rbm.W.dtype) if isinstance(v, Packed) else v


def hidden_sums(rbm: ShardedRBM, x: Array) -> Doubles:
    """What the owned hidden units with the summed inputs ``x`` (units, samples) add to log p*, (samples,)."""
    if rbm.hidden_units is not None:
        return cumulant_sums(rbm.hidden_units, x, rbm.parameters.potential)
    return softplus_sums(x, exact=rbm.exact)


@contextmanager
def on_whole_grid(rbm: ShardedRBM) -> Iterator[None]:
    """Failures of the block are raised on every rank of the grid.  Collective."""
    with together(rbm.replica_comm), together(rbm.shard_comm):
        yield


def whole_grid(rbm: ShardedRBM) -> tuple[MPI.Comm, MPI.Comm]:
    """The communicators over which results are the same."""
    return rbm.shard_comm, rbm.replica_comm


def stream_of(rbm: ShardedRBM, seed: int | None, repeat: int) -> Stream:
    """The draws of one kind for a score; those of an RBM without a seed of the caller's are keyed by its own."""
    return Stream(rbm.seed if seed is None else seed, rbm.index, Purpose.SCORE, repeat)


def rounded(rbm: ShardedRBM, values: Array) -> Doubles:
    """Terms of sums over units, in exact mode such that these are the same in any order."""
    return in_steps(values) if rbm.exact else values.astype(np.float64)


def softplus(x: Array) -> Doubles:
    """log(1 + exp(x)) without overflow."""
    x = np.asarray(x, np.float64)
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def sum_over_shards(rbm: ShardedRBM, mine: Doubles) -> Doubles:
    """The sum in rank order, so that every rank has the same bits.  Collective over the shards."""
    return np.asarray(np.sum(rbm.shard_comm.allgather(mine), axis=0), dtype=np.float64)


def mean_over_replicas(rbm: ShardedRBM, values: Doubles, weights: Doubles | None = None) -> float:
    """Mean over the samples of all replicas, by their weights (samples,) where there are some; NaN without any.

    Collective over the replicas.
    """
    mine = (values, float(len(values))) if weights is None else (values * weights, float(weights.sum()))
    totals = rbm.replica_comm.allgather((float(mine[0].sum()), mine[1]))
    weight = sum(n for _, n in totals)
    return sum(total for total, _ in totals) / weight if weight else math.nan
