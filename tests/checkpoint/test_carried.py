"""What the end of pre-training keeps of the RBM trained last: its chains, their ladder, its last parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from safetensors.numpy import load_file

from modelpar import checkpoint, fine_tune, pretrain
from modelpar.chains import tempered_chains
from modelpar.errors import CheckpointError
from modelpar.kernels.states import unpack
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.state import Position
from tests import networks, reference, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
STACK = NetworkSpec((13, 9, 5), classes=3, dtype="float64", seed=5)
AVERAGED = TrainingSpec(
    epochs=2, batch_size=16, learning_rate=0.25, weight_decay=0.0, chains=11, chain_steps=2, average=3, l1=0.5,
    statistics="float", momentum=0.5, initial_momentum=0.5, centred=False,
)  # fmt: skip


@pytest.fixture
def folder(comm, tmp_path):
    return Path(comm.bcast(tmp_path))


def near(values, expected) -> bool:
    return np.allclose(values, expected, rtol=0, atol=1e-11)


def close(rbm, parameters, W, b, c) -> bool:
    """Whether what this shard holds of parameters is that of whole ones."""
    whole = networks.held(rbm, W), b[rbm.visible_ids], c[rbm.hidden_ids]
    return all(map(near, (parameters.W, parameters.b, parameters.c), whole))


@shapes
@pytest.mark.parametrize("layout", ["column,row,column", "dual,dual,column"])
def test_the_end_keeps_chains_and_last_parameters_of_the_top(comm, agree, folder, shape, layout):
    """Against NumPy, and at another grid; weights that L1 has made 0 in the end are 0 in the average too."""
    layers = [networks.owners("random", n, shape[0], i) for i, n in enumerate(STACK.layers)]
    layers.append(networks.owners("blocks", STACK.classes, shape[0]))
    layout_of = networks.NetworkLayout.from_owners(layers, shape[0], layout)
    network = networks.DeepBeliefNetwork(replace(STACK, layout=layout), networks.grid_of(comm.size, shape), layout_of)
    data, twins = small.dataset(13), networks.twin(network)
    reference.pretrain(twins, small.columns(data), small.order(STACK.seed, len(data.train)), AVERAGED)
    for record in pretrain(network, data, AVERAGED):
        if (record.layer, record.step) == (1, 1):  # what is of no use any more takes no memory
            agree(not network.run.last and network.run.chains.h.shape[0] == len(network.rbms[1].hidden_ids))
    agree(small.close_network(network, twins, 1e-11))
    checkpoint.save(network, folder / "end")
    comm.barrier()
    arrays, top = load_file(folder / "end"), twins[1]
    agree(np.array_equal(arrays["chains"], top.chains) and "last.rbm.0.W" not in arrays)
    for name, last, mean in zip("Wbc", top.last, top.average, strict=True):
        agree(near(arrays[f"last.rbm.1.{name}"], last) and not near(last, mean))
    zero = arrays["last.rbm.1.W"] == 0
    agree(0 < zero.sum() < zero.size and (top.average[0][zero] != 0).any())
    agree(np.array_equal(arrays["rbm.1.W"] == 0, zero))

    grid = networks.grid_of(comm.size, SHAPES[0])
    other = checkpoint.load(folder / "end", grid)
    checkpoint.save(other, folder / "again")
    agree((folder / "end").read_bytes() == (folder / "again").read_bytes())
    rbm = other.rbms[1]
    agree(np.array_equal(checkpoint.read_states(folder / "end", other), top.chains[rbm.hidden_ids]))
    carried = checkpoint.read_chains(folder / "end", other)
    mine = slice(carried.first, carried.first + carried.h.shape[1])
    agree(np.array_equal(unpack(carried.h), top.chains[rbm.hidden_ids, mine]) and carried.n_all == 11)
    agree(
        checkpoint.read_states(folder / "end", other, 0) is None and not checkpoint.read_ladder(folder / "end", other)
    )
    used, last, trained = (
        checkpoint.load(folder / "end", grid, **how)
        for how in ({"to_train": False}, {"to_train": False, "last": True}, {"last": True})
    )
    agree(close(rbm, used.rbms[1].parameters, top.W, top.b, top.c))
    for one in (last, trained):
        agree(close(rbm, one.rbms[1].parameters, *top.last) and networks.close_block(one.rbms[0], twins[0], 1e-11))
    agree(not used.run.average and not last.run.average and not last.run.last)
    agree(close(rbm, trained.run.average["rbm.1"], top.W, top.b, top.c))
    checkpoint.save(used, folder / "plain")
    with pytest.raises(CheckpointError, match="has no average of parameters"):
        checkpoint.load(folder / "plain", grid, last=True)

    next(fine_tune(network, data, FineTuneSpec(epochs=1)))
    agree(network.run.chains is None and not network.run.last)


@shapes
@pytest.mark.parametrize("method", ["gibbs", "pt", "ptt"])
def test_a_finished_training_goes_on_as_if_it_had_not_ended(comm, agree, folder, shape, method, monkeypatch):
    """At another grid, to the last byte of what a longer one leaves: chains, ladder, average and last parameters."""
    monkeypatch.setattr(tempered_chains, "LOOK_EVERY", 2)
    monkeypatch.setattr(tempered_chains, "GROW_BELOW", 0.97)
    spec, data = NetworkSpec((13, 7), exact=True, seed=3), small.dataset(13)
    training = TrainingSpec(
        epochs=4, batch_size=16, learning_rate=0.5, chains=11, chain_steps=2, chain_method=method, chain_temperatures=4,
        average=5,
    )  # fmt: skip
    first = networks.sharded(comm, spec, SHAPES[0], "blocks")
    for epochs in (2, 4):
        network = networks.sharded(comm, spec, SHAPES[0], "blocks") if epochs == 4 else first
        small.train(network, data, replace(training, epochs=epochs))
        checkpoint.save(network, folder / f"{epochs}")
    grid = networks.grid_of(comm.size, shape)
    second = checkpoint.load(folder / "2", grid, networks.layout_of(spec, grid.n_shards, "random"))
    kept = checkpoint.read_ladder(folder / "2", second)
    agree(len(kept) == (first.run.chains.n_levels - 1 if method == "ptt" else 0))
    agree(len(kept) > 1 or method != "ptt")
    comm.barrier()
    arrays = load_file(folder / "2")
    for level, parameters in enumerate(kept):
        W, b, c = (arrays[f"ladder.{level}.rbm.0.{name}"] for name in "Wbc")
        agree(close(second.rbms[0], parameters, W, b, c))
    second.run.stand_at(Position("pretrain", epoch=2))
    small.train(second, data, training)
    checkpoint.save(second, folder / "more")
    agree((folder / "more").read_bytes() == (folder / "4").read_bytes())
