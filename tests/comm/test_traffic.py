"""Bytes that training moves, by axis, verb and kind: what is counted equals what layouts and sizes say beforehand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.exchange import Exchange, Traffic
from modelpar.comm.halo import Halo
from modelpar.data import Dataset, Split
from modelpar.data.dataset import MappedTable
from modelpar.kernels.states import pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import MATRIX_LAYOUTS, UnitLayout
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.trainer import pretrain
from tests import networks

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)

N_SAMPLES = 160
STATES = TrainingSpec(
    epochs=2, batch_size=70, statistics="3", reconstruction="states", pass_up="states", cache="keep", centred=False
)
MEANS = {"reconstruction": "probabilities"}
TRAININGS = {
    "CD-1, 1 bit": {"statistics": "1"},
    "CD-1, 3 bits": {},
    "CD-1, 8 bits": {"statistics": "8"},
    "CD-1, 8 bits, large minibatches": {"statistics": "8", "batch_size": 150},
    "CD-1, 1 bit, large minibatches": {"statistics": "1", "batch_size": 150},
    "CD-1, probabilities": {"statistics": "float"},
    "CD-2, 3 bits": {"gibbs_steps": 2},
    "CD-3, probabilities": {"gibbs_steps": 3, "statistics": "float"},
    "PCD, 1 bit": {"persistent": True, "statistics": "1"},
    "PCD-2, 3 bits": {"persistent": True, "gibbs_steps": 2},
    "PCD, probabilities": {"persistent": True, "statistics": "float"},
    "CD-1, 3 bits, mean reconstruction": MEANS,
    "CD-2, probabilities, mean reconstruction": {"gibbs_steps": 2, "statistics": "float", **MEANS},
}


def dataset(n_visible: int) -> Dataset:
    values = (np.random.default_rng(n_visible).random((N_SAMPLES, n_visible)) < 0.4).astype(np.uint8)
    table = MappedTable("states", values)
    return Dataset("states", n_visible, 0, None, Split(table, np.arange(N_SAMPLES)), None, None, 1.0)


# -- the formula -----------------------------------------------------------------------------------------------------


def of_shards(held: str, n_v: int, n_h: int, spec: TrainingSpec, batch: int, n_chains: int, *, read: bool) -> Counter:
    """Bytes of one step and replica, with ``batch`` samples, for each shard but the one: all shards together receive
    what each unit's owner has (gather), or a sum for each unit (reduce), once for every other shard.

    read   the states v0 of all units are read from the data, not gathered
    """
    k, gibbs, pcd = spec.planes, spec.gibbs_steps, spec.persistent
    means = spec.reconstruction == "probabilities" and not pcd
    n_chains = n_chains if pcd else batch
    # bytes of a unit in each phase: packed states, and 32-bit sums or real values
    (bits, numbers), (model_bits, model_numbers) = ((8 * -(-n // 64), 4 * n) for n in (batch, n_chains))
    moved: Counter = Counter()
    if held in ("column", "dual"):
        moved["gather", "bits"] += bits * n_v * (not read)  # v0
        moved["gather", "floats" if means else "bits"] += (model_numbers if means else model_bits) * n_v * gibbs  # v1
    if held in ("row", "dual"):
        moved["gather", "bits"] += model_bits * n_h * gibbs  # the states that the chain goes on from
        moved["gather", "bits"] += bits * n_h * (pcd and k == 1)  # the data's, where they are the statistic
        # the hidden side of both statistics: that of the data is its states already if it has one bit
        if k:
            moved["gather", "bits"] += n_h * (bits * (k if k > 1 else 0) + model_bits * k)
        else:
            moved["gather", "floats"] += (numbers + model_numbers) * n_h
    if held == "column":
        moved["reduce", "integers"] += model_numbers * n_v * gibbs  # votes
    if held == "row":
        moved["reduce", "integers"] += numbers * n_h  # what v0 adds to the hidden units
        moved["reduce", "floats" if means else "integers"] += model_numbers * n_h * gibbs
    return moved


def of_replicas(network: DeepBeliefNetwork, held: str, n_v: int, n_h: int, spec: TrainingSpec, batch: int) -> Counter:
    """Bytes of one step of ``batch`` samples over all replicas, all ranks together: 2 (R - 1) / R of an array each."""
    layers, n = network.layout.layers[:2], network.grid.n_replicas
    k, means = spec.planes, spec.reconstruction == "probabilities" and not spec.persistent
    moved: Counter = Counter()
    for own_v, own_h in zip(*(layer.counts for layer in layers), strict=True):
        blocks = {"column": [n_v * own_h], "row": [own_v * n_h], "dual": [n_v * own_h, own_v * n_h]}[held]
        if means:  # the velocity itself: W, b and c in one array, the second block of a dual layout in another
            blocks[0] += own_v + own_h
            arrays, kind = [4 * block for block in blocks], "floats"
        else:
            # phases of as many samples are one sum
            phases = [batch, spec.batch_size] if spec.persistent and batch != spec.batch_size else [batch]
            largest = [n * ((1 << k) - 1) if k else 1 << 31 for n in phases]
            widths = [1 if most < 128 else 2 if most < 32768 else 4 for most in largest]
            arrays = [width * block for width in widths for block in blocks]
            arrays, kind = [*arrays, 8 * len(phases) * own_v, 8 * len(phases) * own_h], "integers"
        moved["allreduce", kind] += n * sum(2 * (n - 1) * int(array) // n for array in arrays)
    return moved


def expected(network: DeepBeliefNetwork, held: str, spec: TrainingSpec, batches: list[int], *, read: bool) -> dict:
    n_v, n_h = network.spec.layers[:2]
    grid, result = network.grid, {"shard": Counter(), "replica": Counter()}
    for batch in batches:
        # a minibatch that is short is cut where a whole one is
        cuts = np.arange(grid.n_replicas + 1) * spec.batch_size // grid.n_replicas
        for part, n_chains in zip(np.diff(np.minimum(cuts, batch)).tolist(), np.diff(cuts).tolist(), strict=True):
            for key, n_bytes in of_shards(held, n_v, n_h, spec, part, n_chains, read=read).items():
                result["shard"][key] += n_bytes * (grid.n_shards - 1)
        result["replica"].update(of_replicas(network, held, n_v, n_h, spec, batch))
    return {axis: {key: n for key, n in counts.items() if n} for axis, counts in result.items()}


def flat(counts: dict) -> dict:
    """``{axis: {(verb, kind): bytes}}``"""
    return {
        axis: {(verb, kind): n for verb, kinds in verbs.items() for kind, n in kinds.items()}
        for axis, verbs in counts.items()
    }


# -- what is counted -------------------------------------------------------------------------------------------------


def steps_of(spec: TrainingSpec) -> list[int]:
    epoch = [spec.batch_size] * (N_SAMPLES // spec.batch_size)
    left = N_SAMPLES % spec.batch_size
    return (epoch + [left] * bool(left)) * spec.epochs


# Every owner kind meets every training at one layout, and every layout at each of these kinds.
@pytest.mark.parametrize(
    ("name", "held", "owners"),
    [
        (name, held, networks.OWNERS[(i + j) % len(networks.OWNERS)])
        for i, name in enumerate(TRAININGS)
        for j, held in enumerate(MATRIX_LAYOUTS)
    ],
)
@shapes
def test_bytes_of_the_first_rbm(comm, agree, shape, name, held, owners):
    spec = replace(STATES, **TRAININGS[name])
    network = networks.sharded(comm, NetworkSpec((13, 7), layout=held), shape, owners)
    records = list(pretrain(network, dataset(13), spec))
    agree(records[-1].step == len(steps_of(spec)))
    result = flat(network.traffic.total(comm))
    # columns are made of the data, which a shard reads for all visible units at once
    wanted = expected(network, held, spec, steps_of(spec), read=held != "row")
    agree(result == wanted, f"{result} instead of {wanted}")


@pytest.mark.parametrize("held", MATRIX_LAYOUTS)
@shapes
def test_bytes_of_an_upper_rbm(comm, agree, shape, held):
    """Its data are owned activations, so all of it moves; what hands them up is counted before."""
    network = networks.sharded(comm, NetworkSpec((9, 13, 7), layout=f"column,{held}"), shape, "random")
    before: dict = {}
    for record in pretrain(network, dataset(9), STATES):
        if (record.layer, record.kind, record.step) == (1, "step", 1):
            before = flat(network.traffic.total(comm))
    after = flat(network.traffic.total(comm))
    result = {
        axis: {key: n - before[axis].get(key, 0) for key, n in counts.items() if n != before[axis].get(key, 0)}
        for axis, counts in after.items()
    }
    top = networks.sharded(comm, NetworkSpec((13, 7), layout=held), shape, "random")  # for its sizes
    top.layout = replace(
        network.layout, layers=network.layout.layers[1:], matrix_layouts=network.layout.matrix_layouts[1:]
    )
    wanted = expected(top, held, STATES, steps_of(STATES)[1:], read=False)
    agree(result == wanted, f"{result} instead of {wanted}")


@pytest.mark.parametrize("changes", [{}, {"gibbs_steps": 2, "statistics": "1"}, {"persistent": True}], ids=str)
@shapes
def test_a_dual_layout_moves_bits_only(comm, agree, shape, changes):
    """In every layer, and between the layers."""
    network = networks.sharded(comm, NetworkSpec((13, 7, 9), layout="dual"), shape, "strided")
    list(pretrain(network, dataset(13), replace(STATES, **changes)))
    result = network.traffic.total(comm)["shard"]
    agree(set(result) == ({"gather"} if shape[0] > 1 else set()), str(result))
    agree(all(set(kinds) == {"bits"} for kinds in result.values()), str(result))


@shapes
def test_an_epoch_more_moves_as_much_again(comm, agree, shape):
    """Scores, saves and the like are no part of it."""
    totals = []
    for epochs in (1, 3):
        network = networks.sharded(comm, NetworkSpec((13, 7), layout="column"), shape, "blocks")
        list(pretrain(network, dataset(13), replace(STATES, epochs=epochs)))
        totals.append(flat(network.traffic.total(comm)))
    once, thrice = totals
    agree({axis: {key: 3 * n for key, n in counts.items()} for axis, counts in once.items()} == thrice, str(totals))


def test_the_formula_in_plain_numbers():
    """784-1000 with minibatches of 128: the bytes of the design's table, for two shards."""
    spec = replace(STATES, batch_size=128)
    bits, sums = 784 * 16, 784 * 128 * 4
    assert of_shards("column", 784, 1000, spec, 128, 128, read=True) == {
        ("gather", "bits"): bits,
        ("reduce", "integers"): sums,
    }
    dual = of_shards("dual", 784, 1000, spec, 128, 128, read=True)
    assert +dual == {("gather", "bits"): bits + 1000 * 16 * (1 + 3 + 3)}


# -- between nodes ---------------------------------------------------------------------------------------------------


def test_bytes_from_other_nodes() -> None:
    """Two nodes that are said to be there, the first half of the ranks and the second: what each sends is known."""
    comm = MPI.COMM_WORLD
    node = np.arange(comm.size) >= -(-comm.size // 2)
    traffic = Traffic(distant={"shard": node != node[comm.rank]})
    layout = UnitLayout.from_owners(np.arange(19) ** 2 % comm.size, comm.size)
    exchange = Exchange(comm, layout, traffic)
    exchange.gather(np.ones((exchange.n_owned, 3), np.float32))
    exchange.reduce(np.ones((19, 3), np.int32))
    needed = np.arange(comm.rank, 19, 2)
    Halo(comm, layout, needed, traffic).begin(pack(np.ones((exchange.n_owned, 3)))).wait()
    elsewhere = node[layout.owner] != node[comm.rank]  # of each unit
    expected = {
        ("shard", "gather", "floats"): 12 * elsewhere.sum(),
        ("shard", "reduce", "integers"): 12 * exchange.n_owned * (node != node[comm.rank]).sum(),
        ("shard", "halo", "bits"): 8 * elsewhere[needed].sum(),
    }
    assert +traffic.far == Counter({key: n for key, n in expected.items() if n})
    with traffic.measuring():
        exchange.gather(np.ones((exchange.n_owned, 3), np.float32))
    assert +traffic.far == Counter({key: n for key, n in expected.items() if n})
