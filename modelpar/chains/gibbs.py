"""Chains of Gibbs sampling for the model's statistics: PCD, and training out of equilibrium.

Every chain has an id, which keys its draws together with the number of the update, so that the chains are the same at
every grid.  A replica has those of consecutive ids.  Where replicas go at their own pace, one of them may take several
shares of an update, and the number of the share is a part of the key too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import draws
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose, Stream
from modelpar.kernels.products.product import Activations, Sampler
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.model import real_hidden
from modelpar.model.rbm import RBM, statistic_of
from modelpar.spec import TrainingSpec
from modelpar.streams import SweepStreams
from modelpar.weights.statistics import Phase

Array = npt.NDArray[Any]

# repeats of the stream of Purpose.CHAIN; the visible and the hidden side of sweep k have 2 k - 1 and 2 k
START, RANDOM = 0, 65535
SHARES = 1 << 50  # counters of draws between two shares of an update: no training has so many for one of them


def held(values: Array, *, real: bool) -> Activations:
    """Hidden activations (n_hidden_owned, chains), given as 0 and 1 or, with ``real``, as their values, as chains hold
    them."""
    own = np.ascontiguousarray(values)
    return own if real else pack(own)


def shown(h: Activations, dtype: npt.DTypeLike) -> Array:
    """The inverse of :func:`held`: states as 0 and 1 of ``dtype``, real values as they are."""
    return unpack(h, dtype) if isinstance(h, Packed) else h


@dataclass
class Chains:
    """The hidden states, or real values, of this replica's chains, and which of all chains they are."""

    h: Activations  # (n_hidden_owned, chains of this replica)
    first: int  # id of the first of them
    n_all: int  # chains over all replicas

    @classmethod
    def of_replica(cls, states: Array, replica: int, n_replicas: int, *, real: bool = False) -> Chains:
        """This replica's columns of the states (n_hidden_owned, n_all) of all chains, given as 0 and 1, or, with
        ``real``, of their values."""
        mine = Minibatches.slice_of(states.shape[1], replica, n_replicas)
        return cls(held(states[:, mine], real=real), mine.start, states.shape[1])

    def collect(self, replica_comm: MPI.Comm, dtype: npt.DTypeLike) -> dict[str, Array]:
        """``chains``: those of all replicas (n_hidden_owned, n_all) as 0 and 1 of ``dtype``, real values as they are.

        Collective.
        """
        of_all = replica_comm.allgather(self.h)
        return {"chains": np.concatenate([shown(h, dtype) for h in of_all], axis=1)}

    def advance(self, rbm: RBM, first_draw: int, spec: TrainingSpec) -> tuple[Phase, Activations]:
        """Move the chains on by ``spec.sweeps`` sweeps of Gibbs sampling: PCD-k (Tieleman 2008).

        first_draw   counter of the draws of this replica's first chain
        Returns (the model's phase of the statistics, hidden states of the chains).  Collective over the shards.
        """
        streams = SweepStreams.of_purpose(rbm.seed, rbm.index, Purpose.CHAIN)
        v = rbm.visible_after(self.h, spec.sweeps, streams, first_draw)
        v_sent = rbm.weights.spread_visible(v)
        hidden = rbm.hidden_side(v_sent, Purpose.CHAIN, 2 * spec.sweeps, first_draw, spec, states=True)
        self.h = hidden.activations
        s = statistic_of(hidden)
        return Phase(v, v_sent.wait(), s, rbm.weights.spread_hidden(s).wait(), hidden.gradient), self.h


def start(
    rbm: RBM, how: str, replica: int, n_replicas: int, n_all: int, *, update: int = 0, share: int = 0,
    data: Activations | None = None,
) -> Chains:  # fmt: skip
    """This replica's part of ``n_all`` chains, at the start of ``update`` or of a share of it.

    Collective over the shards.

    how    ``biases``: hidden states drawn from their biases; ``random``: given random visible states, or standard
           normal values of Gaussian units; ``data``: given ``data``
    data   (n_visible_owned, chains of this replica)
    """
    mine = Minibatches.slice_of(n_all, replica, n_replicas)
    first, n = share * SHARES + update * n_all + mine.start, mine.stop - mine.start
    if how == "biases":
        h = _drawn(rbm.c, rbm, n, first)
    else:
        v = random_visible(rbm, n, first) if how == "random" else data
        assert v is not None
        h = rbm.sample_hidden(v, Purpose.CHAIN, START, first)
    return Chains(h, mine.start, n_all)


def _drawn(bias: Array, rbm: RBM, n: int, first: int) -> Activations:
    stream = Stream(rbm.seed, rbm.index, Purpose.CHAIN, START)
    if rbm.hidden_units is not None:
        return real_hidden.of_biases(rbm, rbm.hidden_units, n, stream, first)
    sampler = Sampler(bias, rbm.hidden_ids, stream, first)
    drawn = sampler.of_sums(np.zeros((len(bias), n), bias.dtype), 1)
    assert drawn.states is not None  # they were asked for
    return drawn.states


def random_visible(rbm: RBM, n: int, first: int, purpose: Purpose = Purpose.CHAIN) -> Activations:
    """Visible states that are all as likely, or standard normal values, of ``n`` chains; ``first`` keys the draws."""
    stream = Stream(rbm.seed, rbm.index, purpose, RANDOM)
    x = np.zeros((len(rbm.visible_ids), n), rbm.W.dtype)
    if rbm.gaussian:
        draws.sample_gaussian(x, stream, rbm.visible_ids, first, x)
        return x
    sampler = Sampler(np.zeros_like(rbm.b), rbm.visible_ids, stream, first, categories=rbm.visible.categories)
    drawn = sampler.of_sums(x, 1)
    assert drawn.states is not None  # they were asked for
    return drawn.states
