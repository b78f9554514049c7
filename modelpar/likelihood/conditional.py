"""The likelihood of some visible units given all others, by enumeration of their states."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp

from modelpar.chains.clamped import mask_of
from modelpar.collective.agreement import agree
from modelpar.errors import DataError, SpecError, together
from modelpar.kernels.products.product import Activations
from modelpar.likelihood.energy import (
    Array,
    Doubles,
    IntArray,
    ShardedRBM,
    hidden_sums,
    sum_over_shards,
    visible_values,
)

LARGEST_PART = 20  # units, whose states are all visited for every sample
LOW_UNITS = 12  # units whose states are visited at a time


def conditional_log_likelihoods(rbm: ShardedRBM, v: Activations, mask: Any) -> Doubles:
    """log p(units of the part | given units) of every sample, (samples,), in nats.

    v      (n_visible_owned, samples of this replica), states; the given units may have grey values
    mask   (n_visible_owned, samples) or (n_visible_owned,): 1 where a unit is given, 0 where it is of the part

    The free energies of all states of a part are compared, so its size counts: a sample with a part of n units costs
    as much as 2^n samples.  Collective over the shards.

    Raises SpecError for Gaussian visible units and for parts of more than 20 units; DataError where blocks are not of
    the owned units, a mask is not of 0 and 1, or a unit of the part is not 0 or 1.  All on every shard.
    """
    if rbm.gaussian or rbm.visible.categories:
        raise SpecError(
            f"the likelihood of a part is enumerated over states of Bernoulli units, but the visible ones are "
            f"{rbm.visible.name.capitalize()}"
        )
    with together(rbm.shard_comm):
        values = visible_values(rbm, v)
        of_part = ~mask_of(mask, "the mask")
        if of_part.ndim == 1 and len(of_part) == len(values):
            of_part = np.broadcast_to(of_part[:, None], values.shape)
        if of_part.shape != values.shape:
            raise DataError(
                f"the mask came as {' x '.join(map(str, of_part.shape))}, but this rank owns {len(values)} units of "
                f"{values.shape[1]} samples: units, or units x samples, are needed"
            )
        wrong = of_part & (values != 0) & (values != 1)
        if wrong.any():
            raise DataError(f"a unit of the part has the value {values[wrong][0]:g}, but states are 0 and 1")
    agree(rbm.shard_comm, "conditional_log_likelihoods", samples=values.shape[1])
    parts = _whole(rbm, of_part)
    largest = int(parts.sum(axis=0).max(initial=0))
    if largest > LARGEST_PART:
        raise SpecError(
            f"a part of {largest} units has 2^{largest} states, but at most {LARGEST_PART} units can be enumerated; "
            "give more of them"
        )
    states = _whole(rbm, of_part & (values == 1))
    # the summed input of the given units; that of a part's states is added to it
    base = rbm.hidden_input(np.where(of_part, values.dtype.type(0), values)).astype(np.float64)
    result = np.zeros(values.shape[1])
    for units, samples in _groups(parts):
        codes = (states[units][:, samples].astype(np.int64) << np.arange(len(units))[:, None]).sum(axis=0)
        result[samples] = _of_group(rbm, units, base[:, samples], codes)
    return result


def _whole(rbm: ShardedRBM, owned: Array) -> Array:
    """(n_visible, samples) by unit ids, from the owned units' rows.  Collective over the shards."""
    ids = np.concatenate(rbm.shard_comm.allgather(rbm.visible_ids))
    rows = np.concatenate(rbm.shard_comm.allgather(np.ascontiguousarray(owned)))
    whole = np.empty_like(rows)
    whole[ids] = rows
    return whole


def _groups(parts: Array) -> list[tuple[IntArray, IntArray]]:
    """(units of a part, samples that have it)"""
    if not parts.shape[1]:
        return []
    kinds, which = np.unique(np.packbits(parts, axis=0), axis=1, return_inverse=True)
    members = [np.flatnonzero(which.ravel() == kind) for kind in range(kinds.shape[1])]
    return [(np.flatnonzero(parts[:, samples[0]]), samples) for samples in members]


def _of_group(rbm: ShardedRBM, units: IntArray, base: Doubles, codes: IntArray) -> Doubles:
    """Of samples with the same part.   codes (samples,): bit i is the state of ``units[i]``"""
    n_low = min(LOW_UNITS, len(units))
    low, low_bias = _inputs(rbm, units, np.arange(2**n_low))
    own = np.zeros(len(codes))
    sums = np.full(len(codes), -np.inf)
    for high in range(2 ** (len(units) - n_low)):
        rest, rest_bias = _inputs(rbm, units, np.array([high << n_low]))
        here = low + rest
        for i, code in enumerate(codes):
            # up to what the given units add to all states alike
            log_p = sum_over_shards(rbm, low_bias + rest_bias + hidden_sums(rbm, base[:, i : i + 1] + here))
            sums[i] = np.logaddexp(sums[i], logsumexp(log_p))
            if code >> n_low == high:
                own[i] = log_p[code & (2**n_low - 1)]
    return own - sums


def _inputs(rbm: ShardedRBM, units: IntArray, codes: IntArray) -> tuple[Doubles, Doubles]:
    """(what states of a part add to the owned hidden units' inputs, contribution of the owned units' biases)"""
    bits = np.zeros((len(rbm.visible_ids), len(codes)), rbm.W.dtype)
    position = np.full(max(units.max(initial=-1), rbm.visible_ids.max(initial=-1)) + 1, -1)
    position[units] = np.arange(len(units))
    mine = position[rbm.visible_ids]
    bits[mine >= 0] = codes[None, :] >> mine[mine >= 0][:, None] & 1
    x = rbm.hidden_input(bits).astype(np.float64) - rbm.c.astype(np.float64)[:, None]
    return x, rbm.b.astype(np.float64) @ bits.astype(np.float64)
