"""The limit on an update: of the whole matrix's norm, at every grid alike, in every layout."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import NetworkSpec
from modelpar.training.clipping import clip
from tests import networks

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("layout", "connections", "halo"),
    [("row", "dense", "auto"), ("dual", "dense", "auto"), ("column", "random:4", "receive"),
     ("column", "random:4", "recompute")],
)  # fmt: skip
def test_an_update_is_scaled_back_to_the_limit(comm, agree, shape, dtype, layout, connections, halo):
    spec = NetworkSpec((23, 11), layout=layout, connections=connections, halo=halo, dtype=dtype)
    network = networks.sharded(comm, spec, shape, "random")
    [twin], rbm = networks.twin(network), network.rbms[0]
    update = np.random.default_rng(3).normal(size=twin.W.shape).astype(dtype) * twin.mask
    norm = float(np.sqrt((update.astype(float) ** 2).sum()))
    for limit in (2 * norm, norm / 3):
        velocity = rbm.parameters.like()
        velocity.W[...] = networks.held(rbm, update)
        rbm.weights.refresh(velocity)
        before = [W.copy() for W in rbm.parameters.blocks]
        for W, V in zip(rbm.parameters.blocks, velocity.blocks, strict=True):
            W += V
        clip(rbm.parameters, velocity, rbm.weights, limit, rbm.shard_comm, network.traffic)
        wanted = update * min(1.0, limit / norm)
        tolerance = 1e-6 if dtype == "float32" else 1e-8
        agree(np.allclose(velocity.W, networks.held(rbm, wanted), atol=tolerance), f"{limit}")
        for W, old, V in zip(rbm.parameters.blocks, before, velocity.blocks, strict=True):
            agree(np.allclose(W, old + V, atol=1e-6))
