"""No rank ever holds a whole matrix: what is allocated is traced through all that a network goes through.

Modules: modelpar/plan/memory
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from modelpar.checkpoint import load, save
from modelpar.comm.grid import Grid
from modelpar.model.network import DeepBeliefNetwork
from modelpar.plan.memory import memory_bytes
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.trainer import pretrain
from tests import small

pytestmark = pytest.mark.ranks

LAYERS = (4096, 8192)
WHOLE = 2 * 4 * LAYERS[0] * LAYERS[1]  # bytes of weights and momentum in float32


@pytest.mark.slow
@pytest.mark.parametrize("held", ["column", "row"])
def test_a_shard_takes_its_share(comm, agree, tmp_path, held):
    """The buffers for 40 samples of both layers come on top of the share, and the checkpoint's 32 MiB at most."""
    path = Path(comm.bcast(str(tmp_path / "wide.safetensors")))
    data = small.dataset(LAYERS[0])
    spec, training = NetworkSpec(LAYERS, layout=held), TrainingSpec(epochs=1, batch_size=20, learning_rate=0.001)
    with Grid(comm) as grid:
        tracemalloc.start()
        network = DeepBeliefNetwork(spec, grid)
        for record in pretrain(network, data, training):
            if record.kind == "epoch":
                break  # while there is a velocity
        trained = tracemalloc.get_traced_memory()[1]
        save(network, path)
        del network
        load(path, grid)
        saved = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        agree(trained < 1.1 * WHOLE / comm.size + 40 * 2**20, f"{trained / WHOLE:.2f} of weights and momentum to train")
        agree(saved < 1.1 * WHOLE / comm.size + 80 * 2**20, f"{saved / WHOLE:.2f} of weights and momentum to save")
        estimate = memory_bytes(spec, grid.n_shards, training.batch_size)
        agree(0.8 * trained < estimate < trained + 160 * 2**20, f"{estimate / trained:.2f} of what it took")
