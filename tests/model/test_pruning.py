"""Magnitude pruning over shards against NumPy: which weights are kept, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.errors import SpecError
from modelpar.model.pruning import pruned
from modelpar.spec import NetworkSpec
from tests import networks

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)


def random_weights(network) -> list[np.ndarray]:
    """Different weights for every connection, the same whole matrices on every rank."""
    rng, result = np.random.default_rng(3), []
    for rbm in network.rbms:
        whole = rng.normal(size=network.spec.layers[rbm.index : rbm.index + 2]).astype(network.dtype)
        whole *= networks.mask_of(network, rbm.index)
        rbm.W[:] = networks.held(rbm, whole)
        rbm.b[:], rbm.c[:] = (
            rng.normal(size=whole.shape[0])[rbm.visible_ids],
            rng.normal(size=whole.shape[1])[rbm.hidden_ids],
        )
        rbm.refresh()
        result.append(whole)
    return result


@pytest.mark.parametrize("connections", ["dense", "random:6", "dense,random:4"])
@pytest.mark.parametrize("keep", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("owners", ["blocks", "random", "empty"])
@shapes
def test_the_largest_weights_are_kept(comm, agree, shape, owners, dtype, keep, connections):
    spec = NetworkSpec((14, 11, 9), connections=connections, classes=3, dtype=dtype)
    network = networks.sharded(comm, spec, shape, owners)
    whole = random_weights(network)
    smaller = pruned(network, keep)
    v = np.random.default_rng(1).random((14, 5)).astype(dtype)
    for rbm, old, W in zip(smaller.rbms, network.rbms, whole, strict=True):
        n = max(1, round(keep * np.count_nonzero(networks.mask_of(network, rbm.index))))
        threshold = np.sort(np.abs(W).reshape(-1))[-n]
        wanted = np.where(np.abs(W) >= threshold, W, 0)
        agree(np.array_equal(networks.mask_of(smaller, rbm.index) != 0, wanted != 0))
        agree(np.array_equal(rbm.W, networks.held(rbm, wanted)))
        agree(np.array_equal(rbm.b, old.b) and np.array_equal(rbm.c, old.c))
    agree(
        np.allclose(
            smaller.rbms[0].hidden_given_visible(v[smaller.visible_ids]), _up(network, whole[0], v, keep), atol=1e-5
        )
    )
    agree(smaller.n_weights == [int(networks.mask_of(smaller, i).sum()) for i in range(2)])


def _up(network, W, v, keep):
    """P(h = 1 | v) of the owned hidden units by the whole pruned matrix."""
    mask = networks.mask_of(network, 0)
    n = max(1, round(keep * np.count_nonzero(mask)))
    kept = np.where(np.abs(W) >= np.sort(np.abs(W).reshape(-1))[-n], W, 0)
    rbm = network.rbms[0]
    return 1 / (1 + np.exp(-(kept.T @ v)[rbm.hidden_ids] - rbm.c[:, None]))


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5])
def test_a_part_that_cannot_be_kept(comm, keep):
    network = networks.sharded(comm, NetworkSpec((6, 5)), SHAPES[0], "blocks")
    with pytest.raises(SpecError, match="must be above 0 and at most 1"):
        pruned(network, keep)
