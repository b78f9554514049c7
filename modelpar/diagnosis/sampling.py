"""Chains of the top RBM of a network that are watched while they move, and what they look like in the visible layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.chains.gibbs import random_visible
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.streams import SweepStreams

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

AT_ONCE = 1 << 14  # sweeps of one move: a key has 2^16 repeats, and a sweep takes two
START = 0  # repeat of the draws that begin chains, and of those that generate down


class Walk:
    """Chains of Gibbs sampling in the top RBM, of which this replica has those of consecutive ids.

    v        (n_visible_owned of the top RBM, chains of this replica), where they are
    sweeps   that they have made

    Moving them is collective over the shards.  Draws are keyed by ids, so every grid has the same chains.
    """

    def __init__(self, network: DeepBeliefNetwork, v: Activations, n_all: int, first_draw: int) -> None:
        """v   where they start; first_draw   of the draws of chain 0, which no other walk should have"""
        self.network, self.rbm, self.v, self.n_all, self.sweeps = network, network.rbms[-1], v, n_all, 0
        self._draw = first_draw + Minibatches.slice_of(n_all, network.grid.replica, network.grid.n_replicas).start
        self._h: Activations | None = None

    @classmethod
    def random(cls, network: DeepBeliefNetwork, n_all: int, first_draw: int) -> Walk:
        """Chains that start at random visible states of the top RBM."""
        mine = Minibatches.slice_of(n_all, network.grid.replica, network.grid.n_replicas)
        first = first_draw + mine.start
        v = random_visible(network.rbms[-1], mine.stop - mine.start, first, Purpose.DIAGNOSIS)
        return cls(network, v, n_all, first_draw)

    def move(self, sweeps: int) -> None:
        """Move on by ``sweeps`` sweeps."""
        while sweeps:
            now = min(sweeps, AT_ONCE)
            self._draw += self.n_all
            if self._h is None:
                self._h = self.rbm.sample_hidden(self.v, Purpose.DIAGNOSIS, START, self._draw)
            streams = SweepStreams.of_purpose(self.rbm.seed, self.rbm.index, Purpose.DIAGNOSIS)
            self.v = self.rbm.visible_after(self._h, now, streams, self._draw)
            self._h = self.rbm.sample_hidden(self.v, Purpose.DIAGNOSIS, 2 * now, self._draw)
            self.sweeps, sweeps = self.sweeps + now, sweeps - now

    @classmethod
    def of_hidden(cls, network: DeepBeliefNetwork, h: Activations, n_all: int, first_draw: int) -> Walk:
        """Chains that go on from hidden states (n_hidden_owned, chains of this replica).  Collective."""
        walk = cls(network, pack(np.zeros((len(network.rbms[-1].visible_ids), 0))), n_all, first_draw)
        walk._h = h
        walk.v = walk.rbm.sample_visible(h, Purpose.DIAGNOSIS, START, walk._draw)
        return walk

    def some(self, chains: IntArray, first_draw: int) -> Walk:
        """The chains of some ids, to go on from here with other draws.  Collective."""
        assert self._h is not None  # they have moved
        return Walk.of_hidden(self.network, resample(self.network, self._h, chains), len(chains), first_draw)

    def means(self, count: int) -> Array:
        """Visible means (n_visible, count) of the first chains, on every rank; states before they move.  Collective."""
        network = self.network
        mine = Minibatches.slice_of(self.n_all, network.grid.replica, network.grid.n_replicas)
        if self._h is None:
            v = self.generated()
            means: Array = unpack(v, network.dtype) if isinstance(v, Packed) else v
        else:
            h: Activations = self._h
            for rbm in reversed(network.rbms[1:]):
                h = rbm.sample_visible(h, Purpose.DIAGNOSIS, START, self._draw)
            means = network.rbms[0].visible_given_hidden(h)
        means = np.ascontiguousarray(means[:, : max(0, count - mine.start)])
        return whole(network, means, np.arange(network.spec.layers[0]))

    def generated(self) -> Activations:
        """Samples of the visible layer that the chains stand for: the lower RBMs draw states down.  Collective."""
        v = self.v
        for rbm in reversed(self.network.rbms[:-1]):
            v = rbm.sample_visible(v, Purpose.DIAGNOSIS, START, self._draw)
        return v


def in_proportion(weights: Doubles, n: int) -> IntArray:
    """``n`` positions in proportion to weights, ascending: by a comb over these side by side, as minibatches are."""
    ends = np.cumsum(weights)
    teeth = (np.arange(n) + 0.5) * (ends[-1] / n)
    return np.minimum(np.searchsorted(ends, teeth, side="right"), len(weights) - 1)


def spread_evenly(n: int, at_most: int) -> IntArray:
    """At most so many of 0 .. n - 1, ascending."""
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(np.int64))


def values_of(v: Activations, ids: IntArray, units: IntArray) -> tuple[IntArray, Array]:
    """(positions in ``units``, their values (positions, samples)) of those units that are among the owned ``ids``.

    States become bytes.
    """
    positions = np.flatnonzero(np.isin(units, ids))
    rows = np.searchsorted(ids, units[positions])
    if isinstance(v, Packed):
        return positions, unpack(Packed(np.ascontiguousarray(v.words[rows]), v.batch), np.uint8)
    return positions, np.asarray(v[rows])


def whole(network: DeepBeliefNetwork, v: Activations, units: IntArray) -> Array:
    """(units, samples of all replicas) of some visible units, on every rank, from owned activations.  Collective."""
    of_shards = network.grid.shard_comm.allgather(values_of(v, network.visible_ids, units))
    mine = np.empty((len(units), v.shape[1]), of_shards[0][1].dtype)
    for positions, values in of_shards:
        mine[positions] = values
    return np.concatenate(network.grid.replica_comm.allgather(mine), axis=1)


def resample(network: DeepBeliefNetwork, v: Activations, wanted: IntArray) -> Activations:
    """This replica's share of ``wanted`` samples: positions, in any order, among those of all replicas.

    v (n_owned, samples of this replica) -> (n_owned, share).  Collective over the replicas.
    """
    grid = network.grid
    first = sum(grid.replica_comm.allgather(v.shape[1])[: grid.replica])
    different, which = np.unique(wanted, return_inverse=True)
    here = different[(different >= first) & (different < first + v.shape[1])] - first
    values = unpack(v, np.uint8) if isinstance(v, Packed) else v
    everything = np.concatenate(grid.replica_comm.allgather(np.ascontiguousarray(values[:, here])), axis=1)
    mine = which[Minibatches.slice_of(len(wanted), grid.replica, grid.n_replicas)]
    chosen = np.ascontiguousarray(everything[:, mine])
    return pack(chosen) if isinstance(v, Packed) else chosen
