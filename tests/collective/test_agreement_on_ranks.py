"""Every collective call of the API, with something that differs on the last rank: a ValueError on all, and no hang."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modelpar import (
    DeepBeliefNetwork,
    FineTuneSpec,
    Grid,
    NetworkLayout,
    NetworkSpec,
    SyncSpec,
    TrainingSpec,
    evaluate,
    fine_tune,
    load,
    open_dataset,
    place,
    pretrain,
    save,
)
from modelpar.cli import run
from modelpar.errors import DisagreementError, SpecError
from modelpar.likelihood.annealing import log_partition_ais
from modelpar.likelihood.energy import log_likelihood
from modelpar.likelihood.pseudo_likelihood import pseudo_log_likelihood
from modelpar.model.pruning import pruned
from modelpar.ownership.connections import Listed
from tests import networks, small

pytestmark = pytest.mark.ranks

SPEC = NetworkSpec(layers=(12, 9, 6), classes=3, seed=4)


@pytest.fixture(scope="module")
def data():
    return small.dataset(12, held_out=True)


@pytest.fixture
def network(comm):
    return DeepBeliefNetwork(SPEC, networks.grid_of(comm.size, networks.grids(comm)[-1]))


def changed(dataset, row=0):
    """The same data set but for one value."""
    table = type(dataset.train.table)(dataset.train.table.name, dataset.train.table.array.copy())
    table.array[row] = 1 - table.array[row]
    return replace(dataset, train=replace(dataset.train, table=table))


def with_another_label(split):
    labels = split.labels.copy()
    labels[-1] = (labels[-1] + 1) % 3
    return replace(split, labels=labels)


def mask(seed):
    return Listed.from_mask(np.random.default_rng(seed).random((12, 9)) < 0.5)


def block(rbm, n):
    return np.zeros((len(rbm.visible_ids), n), np.float32)


def cases(net, data, comm, odd):
    """name -> (call, what its message names); ``odd`` is whether this rank brings something else"""
    grid, rbm, tuning = net.grid, net.rbms[0], FineTuneSpec()
    owners = [np.arange(n) * odd % grid.n_shards for n in SPEC.layers]
    relabelled = replace(data, train=with_another_label(data.train)) if odd else data
    ids = np.array([0, 1 + odd])
    return {
        "shards": (lambda: Grid(comm, model_shards=1 if odd else comm.size), "model_shards is"),
        "one size": (lambda: Grid(comm, replicas=1 if odd else None), "replicas is None"),
        "spec": (lambda: DeepBeliefNetwork(replace(SPEC, seed=8 + odd), grid), "spec.seed is 8"),
        "layers": (
            lambda: DeepBeliefNetwork(replace(SPEC, layers=(12, 6 - odd)), grid),
            "spec.layers is (12, 6)",
        ),
        "owners": (
            lambda: DeepBeliefNetwork(SPEC, grid, NetworkLayout.from_owners(owners, grid.n_shards)),
            "layout.layers[0].ordering",
        ),
        "partitioner": (
            lambda: place(SPEC, comm.size, comm, partitioner="strided" if odd else "block"),
            "partitioner is 'block'",
        ),
        "masks": (lambda: place(SPEC, comm.size, comm, connections=(mask(odd), None)), "connections[0].offsets"),
        "data": (lambda: open_dataset("bars:4" if odd else "bars:3", comm), "spec.data is 'bars:3'"),
        "seed of splits": (lambda: open_dataset("digits", comm, seed=2 + odd), "seed is 2"),
        "epochs": (lambda: list(pretrain(net, data, TrainingSpec(epochs=1 + odd))), "training.epochs is 1"),
        "batch": (lambda: list(pretrain(net, data, TrainingSpec(batch_size=5 + odd))), "training.batch_size is 5"),
        "strategy": (
            lambda: list(pretrain(net, data, TrainingSpec(), SyncSpec(sync="local") if odd else None)),
            "sync is None",
        ),
        "values": (
            lambda: list(pretrain(net, changed(data, 30) if odd else data, TrainingSpec())),
            "the values of dataset.train.data",
        ),
        "labels": (lambda: list(fine_tune(net, relabelled, tuning)), "the values of dataset.train.labels"),
        "rate": (
            lambda: list(fine_tune(net, data, replace(tuning, learning_rate=0.1 + odd))),
            "tuning.learning_rate is 0.1",
        ),
        "split": (lambda: evaluate(net, data, data.validation if odd else data.test), "the values of split.rows"),
        "path": (lambda: save(net, f"/nowhere/{odd}"), "path is '/nowhere/False'"),
        "checkpoint": (lambda: load(f"/nowhere/{odd}", grid), "path is '/nowhere/False'"),
        "part kept": (lambda: pruned(net, 0.5 + 0.1 * odd), "keep is 0.5"),
        "fantasies": (lambda: net.fantasies(3, steps=1 + odd), "steps is 1"),
        "units": (lambda: net.filters([0, 1 + odd]), "units is (0, 1)"),
        "samples": (lambda: net.reconstruct(block(rbm, 3 + odd)), "samples is 3"),
        "chains": (lambda: log_partition_ais(rbm, 10 + odd, 5), "n_chains is 10"),
        "log Z": (lambda: log_likelihood(rbm, block(rbm, 2), 1.0 + odd), "log_partition is '1'"),
        "ids": (lambda: pseudo_log_likelihood(rbm, block(rbm, 2), ids), "samples is (0, 1)"),
        "another call": (lambda: evaluate(net, data, data.test) if odd else save(net, "/nowhere/x"), "save"),
    }


NAMES = """shards|one size|spec|layers|owners|partitioner|masks|data|seed of splits|epochs|batch|strategy|values|labels
rate|split|path|checkpoint|part kept|fantasies|units|samples|chains|log Z|ids|another call"""


@pytest.mark.parametrize("name", NAMES.replace("\n", "|").split("|"))
def test_what_differs_is_refused_on_all_ranks(comm, agree, network, data, name):
    if comm.size == 1:
        return
    call, expected = cases(network, data, comm, comm.rank == comm.size - 1)[name]
    with pytest.raises(DisagreementError) as refused:
        call()
    message = str(refused.value)
    agree(isinstance(refused.value, ValueError))
    agree(expected in message, message)
    agree("rank 0" in message or "ranks 0" in message, message)
    agree(f"{comm.size - 1}" in message, message)
    agree(comm.bcast(message) == message)


def test_what_is_alike_passes(comm, network, data):
    """The same values in other forms, types and places in memory."""
    layers = np.array((12, 9, 6)) if comm.rank % 2 else (12, 9, 6)
    DeepBeliefNetwork(NetworkSpec(layers=layers, classes=np.uint8(3), seed=4), network.grid)
    epochs = np.int64(0) if comm.rank % 2 else 0
    assert [record.kind for record in pretrain(network, changed(changed(data)), TrainingSpec(epochs=epochs))] == []


def test_a_kernel_that_one_rank_does_not_have(comm, network, monkeypatch):
    if comm.rank == comm.size - 1:
        monkeypatch.setenv("MODELPAR_KERNELS", "abacus")
    with pytest.raises(SpecError, match="abacus"):
        DeepBeliefNetwork(SPEC, network.grid)


def test_command_lines_that_differ(comm, agree, capfd):
    if comm.size == 1:
        return
    status = run(comm, ["info", "--json", f"/nowhere/{comm.rank == comm.size - 1}"])
    printed = capfd.readouterr().err
    agree(status == 2)
    agree(("arguments[2] is '/nowhere/False'" in printed) == (comm.rank == 0), printed)
