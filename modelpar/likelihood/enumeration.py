"""log Z by enumeration: the states of the smaller side of an RBM, all of them."""

from __future__ import annotations

from functools import partial
from itertools import chain

import numpy as np
from scipy.special import logsumexp

from modelpar.collective.agreement import agree
from modelpar.errors import SpecError
from modelpar.kernels.states import pack
from modelpar.likelihood.energy import (
    Doubles,
    IntArray,
    ShardedRBM,
    hidden_sums,
    rounded,
    sum_over_shards,
    visible_log_partition,
    whole_grid,
)

ENUMERABLE = 25  # units of the smaller side up to which all states are visited
LOW_UNITS = 12  # units whose states, all of them, are visited at a time


def log_partition_exact(rbm: ShardedRBM) -> float:
    """log Z by visiting all states of the smaller side: the hidden one where the visible units are no Bernoulli ones,
    the visible one where the hidden units have real values.

    The summed input of a state is that of its first 12 units, which is made once, plus that of the others.
    Raises SpecError where that side has more than 25 units, or neither side has states.  Collective over the whole
    grid: every replica visits its part of the states.
    """
    agree(whole_grid(rbm), "log_partition_exact")
    n_visible, n_hidden, over_hidden = enumerated_side(rbm)
    if not has_states(rbm):
        raise SpecError(
            "log Z by enumeration needs states on one side, but visible and hidden units have real values; estimate it "
            "(--method ais)"
        )
    n_units = n_hidden if over_hidden else n_visible
    if n_units > ENUMERABLE:
        side = "hidden" if over_hidden else "visible"
        raise SpecError(
            f"log Z by enumeration needs at most {ENUMERABLE} {side} units, but there are {n_units}; estimate it "
            "(--method ais)"
        )
    n_low = min(LOW_UNITS, n_units)
    low, low_bias = _inputs(rbm, np.arange(2**n_low), over_hidden=over_hidden)
    rest = np.zeros((len(low), 1))
    rest[:, 0] = (rbm.b if over_hidden else rbm.c).astype(np.float64)  # is in the summed input of each half
    t = 1.0 if rbm.precision is None else rbm.precision.astype(np.float64)[:, None]
    sums = partial(visible_log_partition if over_hidden else hidden_sums, rbm)
    replica, n_replicas, n_rest = rbm.replica_comm.rank, rbm.replica_comm.size, 2 ** (n_units - n_low)
    parts = []
    for code in range(n_rest * replica // n_replicas, n_rest * (replica + 1) // n_replicas):
        high, high_bias = _inputs(rbm, np.array([code << n_low]), over_hidden=over_hidden)
        x = low + (high - rest)
        # Gaussian: the integral over v of exp(-t |v - b / t|^2 / 2 + v.(x - b)), t the precisions
        other_side = sums(x) - 0.5 * (rest**2 / t).sum(axis=0) if rbm.gaussian else sums(x)
        parts.append(logsumexp(sum_over_shards(rbm, low_bias + high_bias + other_side)))
    return float(logsumexp(list(chain.from_iterable(rbm.replica_comm.allgather(parts)))))


def enumerated_side(rbm: ShardedRBM) -> tuple[int, int, bool]:
    """(visible units, hidden units, whether the states of the hidden ones are visited).  Collective over the shards."""
    n_visible = rbm.shard_comm.allreduce(len(rbm.visible_ids))
    n_hidden = rbm.shard_comm.allreduce(len(rbm.hidden_ids))
    of_bits = not rbm.gaussian and not rbm.visible.categories
    over_hidden = rbm.hidden_units is None and (not of_bits or n_hidden <= n_visible)
    return n_visible, n_hidden, over_hidden


def has_states(rbm: ShardedRBM) -> bool:
    """Whether either side has states that can be visited, unit by unit."""
    return rbm.hidden_units is None or not (rbm.gaussian or rbm.visible.categories)


def _inputs(rbm: ShardedRBM, codes: IntArray, *, over_hidden: bool) -> tuple[Doubles, Doubles]:
    """(summed inputs of the owned units on the other side, contribution of the owned units' own biases) of states.

    codes   (states,): bit ``id`` of a code is the state of unit ``id``
    """
    ids, bias = (rbm.hidden_ids, rbm.c) if over_hidden else (rbm.visible_ids, rbm.b)
    states = np.ascontiguousarray((codes[None, :] >> ids[:, None] & 1).astype(rbm.W.dtype))
    given = pack(states) if rbm.exact else states
    x = rbm.visible_input(given) if over_hidden else rbm.hidden_input(given)
    return x.astype(np.float64), rounded(rbm, bias) @ states.astype(np.float64)
