"""Bounds of summed inputs, and the scale that holds them: the same at every grid, layout and kind of connections."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.kernels.products.bounds import STEPS
from modelpar.kernels.states import pack
from modelpar.spec import NetworkSpec
from tests import networks

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)
HELD = ["column", "row", "dual", "local:3", "random:4", "erdos-renyi:0.15"]


@pytest.mark.parametrize("owners", ["strided", "empty"])
@pytest.mark.parametrize("held", HELD)
@shapes
def test_bounds_are_those_of_the_whole_matrix(comm, agree, shape, held, owners):
    how = {"layout": held} if held in HELD[:3] else {"connections": held}
    network = networks.sharded(comm, NetworkSpec((25, 18), **how), shape, owners)
    [twin], [rbm] = networks.twin(network), network.rbms
    there = networks.mask_of(network, 0) != 0
    steps = np.where(there, np.abs(twin.W) * STEPS + 1, 0).astype(np.int64)
    signs = [np.where(twin.W > 0, steps, 0), np.where(twin.W > 0, 0, steps)]
    expected = steps.max(), max(x.sum(axis=0).max() for x in signs), max(x.sum(axis=1).max() for x in signs)
    agree(tuple(rbm.bounds()) == expected, f"{rbm.bounds()}, not {expected}")
    agree(rbm.weights.rooms == rbm.weights.least_rooms, "the scale became coarser without need")


@pytest.mark.parametrize("held", HELD)
@shapes
def test_large_sums_are_right(comm, agree, shape, held):
    """Weights of 900: sums of few of them are beyond what the usual scale holds."""
    how = {"layout": held} if held in HELD[:3] else {"connections": held}
    network = networks.sharded(comm, NetworkSpec((25, 18), **how), shape, "strided")
    rbm, mask = network.rbms[0], networks.mask_of(network, 0)
    W = np.where(mask != 0, np.random.default_rng(3).choice([-900, 900], mask.shape), 0).astype(np.float32)
    rbm.W[:] = networks.held(rbm, W)
    rbm.b[:] = rbm.c[:] = 0
    rbm.refresh()
    rng = np.random.default_rng(4)
    v, h = rng.integers(0, 2, (25, 70)), rng.integers(0, 2, (18, 70))
    up = rbm.hidden_input(pack(v[rbm.visible_ids]))
    agree(np.array_equal(up, (W.T @ v)[rbm.hidden_ids]), "up")
    down = rbm.visible_input(pack(h[rbm.hidden_ids]))
    agree(np.array_equal(down, (W @ h)[rbm.visible_ids]), "down")
