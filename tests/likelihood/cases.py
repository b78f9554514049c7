"""Small RBMs over every grid of the ranks, beside the same ones in plain NumPy, whose sums over states are exact."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.grid import Grid
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import NetworkSpec
from tests import reference

SIZE = MPI.COMM_WORLD.size
SHARDS = [n for n in range(1, SIZE + 1) if SIZE % n == 0]
SEED = 31


def all_states(n):
    """(n, 2**n), every state of n units"""
    return np.array(list(product([0.0, 1.0], repeat=n))).T


def log_sum_over_hidden(rbm, v):
    """log sum_h exp(-E(v, h)) of every column of v, hidden state by hidden state."""
    b, t = rbm.b[:, None], rbm.precision[:, None]
    own = -0.5 * (t * (v - b / t) ** 2).sum(axis=0) if rbm.gaussian else rbm.b @ v
    h = all_states(len(rbm.c))
    return np.log(np.exp(v.T @ rbm.W @ h + own[:, None] + (rbm.c @ h)[None, :]).sum(axis=1))


def exact_log_partition(rbm):
    """Over all pairs of states; for Gaussian visible units by the moments of N((b + W h) / t, 1 / t)."""
    if not rbm.gaussian:
        return np.log(np.exp(log_sum_over_hidden(rbm, all_states(len(rbm.b)))).sum())
    h = all_states(len(rbm.c))
    shift = rbm.W @ h
    terms = np.exp(rbm.c @ h + (rbm.b / rbm.precision) @ shift + 0.5 * (shift**2 / rbm.precision[:, None]).sum(axis=0))
    return np.log(terms.sum()) + 0.5 * np.log(2 * np.pi / rbm.precision).sum()


def owners_of(n_units, n_shards, kind):
    """An owner for each unit: blocks, at random, or all units on the last shard."""
    if kind == "scattered":
        return np.random.default_rng(n_units).integers(0, n_shards, n_units)
    if kind == "lopsided":
        return np.full(n_units, n_shards - 1)
    return np.arange(n_units) * n_shards // n_units


class Case:
    """An RBM in plain NumPy, ``whole``, and the same one over a grid, ``rbm``."""

    def __init__(self, comm, n_shards, n_visible=7, n_hidden=5, *, gaussian=False, owners="scattered", hold="column"):
        rng = np.random.default_rng(n_visible)
        W = rng.normal(0, 0.3 if gaussian else 0.8, (n_visible, n_hidden))
        b, c = rng.normal(0, 0.5, n_visible), rng.normal(0, 0.5, n_hidden)
        precision = {"precision": np.exp(rng.normal(0.3, 0.5, n_visible))} if gaussian else {}
        self.whole = reference.RBM(W, b, c, seed=SEED, gaussian=gaussian, **precision)
        self.grid = Grid(comm, model_shards=n_shards, replicas=comm.size // n_shards)
        spec = NetworkSpec(
            layers=(n_visible, n_hidden), visible="gaussian" if gaussian else "bernoulli", dtype="float64", seed=SEED
        )
        layout = NetworkLayout.from_owners([owners_of(n, n_shards, owners) for n in spec.layers], n_shards, hold)
        self.rbm = DeepBeliefNetwork(spec, self.grid, layout).rbms[0]
        self.rbm.W[...] = W[np.ix_(self.rbm.weights.visible_rows, self.rbm.weights.hidden_columns)]
        self.rbm.b[...], self.rbm.c[...] = b[self.rbm.visible_ids], c[self.rbm.hidden_ids]
        if gaussian:
            self.rbm.parameters.precision[0] = self.whole.precision[self.rbm.visible_ids]

    def mine(self, v):
        """The owned block of all samples."""
        return np.ascontiguousarray(v[self.rbm.visible_ids])

    def share(self, n_samples):
        """This replica's samples; with fewer samples than replicas some have none."""
        ids = np.arange(n_samples, dtype=np.int64)
        return np.array_split(ids, self.grid.n_replicas)[self.grid.replica]


def same_everywhere(comm, value):
    return all(np.array_equal(value, other_value, equal_nan=True) for other_value in comm.allgather(value))


each_grid = pytest.mark.parametrize("n_shards", SHARDS, ids="shards={}".format)
each_kind = pytest.mark.parametrize("gaussian", [False, True], ids=["bernoulli", "gaussian"])
each_owner = pytest.mark.parametrize(
    ("owners", "hold"),
    [("blocks", "column"), ("scattered", "row"), ("lopsided", "column"), ("lopsided", "row")],
)
