"""The centred gradient's correction, and averages of parameters, in plain NumPy.

Modules: modelpar/training/averaging
"""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import NetworkSpec, TrainingSpec, pretrain
from modelpar.kernels.statistics.update import shrink
from tests import networks, small

pytestmark = pytest.mark.ranks

shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids=str)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_proximal_step_leaves_exact_zeros(dtype):
    W = np.random.default_rng(2).normal(0, 1, (7, 11)).astype(dtype)
    W[0, :3] = [0.25, -0.25, 0.0]
    expected = np.sign(W) * np.maximum(np.abs(W) - np.dtype(dtype).type(0.25), 0)
    shrink(W, 0.25)
    assert np.array_equal(W, expected)
    assert (W == 0).sum() >= 3


@shapes
@pytest.mark.parametrize("layout", ["column", "row", "dual"])
def test_the_average_becomes_the_rbm(comm, agree, shape, layout):
    """Of the last three updates, so near them, and never one of them; but where the last weights are 0 it is 0 too."""
    network = networks.sharded(comm, NetworkSpec((13, 7), layout=layout, dtype="float64"), shape, "random")
    rbm, seen = network.rbms[0], []
    training = TrainingSpec(epochs=2, batch_size=10, learning_rate=0.5, average=3, l1=0.1, centred=True)
    for record in pretrain(network, small.dataset(13), training):
        if record.kind == "step":
            seen.append(rbm.parameters.flat.copy())
    average = seen[0]
    for update, values in enumerate(seen[1:], start=2):
        average = average + (values - average) / min(update, 3)
    zero = seen[-1] == 0
    zero[rbm.parameters.n_weights :] = False
    agree(comm.allreduce(int((zero & (average != 0)).sum())) > 0 and not np.allclose(average, seen[-1]))
    agree(
        np.allclose(rbm.parameters.flat, np.where(zero, 0, average), atol=1e-12) and not rbm.parameters.flat[zero].any()
    )
    agree(not network.run.average and np.array_equal(network.run.last["rbm.0"].flat, seen[-1]))
