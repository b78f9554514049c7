"""The bytes of a step, as planned, are those that training counts: every layout, strategy and statistic.

Modules: modelpar/plan/pieces
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.data import Dataset, Split
from modelpar.data.dataset import MappedTable
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import MATRIX_LAYOUTS
from modelpar.plan.rates import built_in
from modelpar.plan.steps import received, step_of
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.trainer import pretrain
from tests import networks

pytestmark = pytest.mark.ranks

shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids="{0[0]} shards x {0[1]} replicas".format)
RATES = built_in()
N_SAMPLES = 320
STATES = TrainingSpec(epochs=1, batch_size=80, reconstruction="states", pass_up="states", cache="keep")
TRAININGS: dict[str, dict[str, Any]] = {
    "4 bits": {}, "1 bit": {"statistics": "1"}, "8 bits": {"statistics": "8"}, "float": {"statistics": "float"},
    "not centred": {"centred": False}, "standardised": {"standardised": True}, "CD-3": {"gibbs_steps": 3},
    "means": {"reconstruction": "probabilities"}, "PCD": {"persistent": True, "statistics": "1"},
    "PCD-2 of 50 chains": {"chains": 50, "gibbs_steps": 2}, "probabilities above": {"pass_up": "probabilities"},
}  # fmt: skip
SYNCS = {"local": SyncSpec("local", period=2), "server": SyncSpec("server")}
SPARSE = {"received": "receive", "recomputed": "recompute"}


def dataset(n_visible: int) -> Dataset:
    values = (np.random.default_rng(n_visible).random((N_SAMPLES, n_visible)) < 0.4).astype(np.uint8)
    split = Split(MappedTable("states", values), np.arange(N_SAMPLES))
    return Dataset("states", n_visible, 0, None, split, None, None, 1.0)


def counted(network: DeepBeliefNetwork, training: TrainingSpec, sync: SyncSpec) -> list[list[Counter[Any]]]:
    """For each RBM the bytes of each of its updates, or of its only segment, over all ranks."""
    updates: list[list[Counter[Any]]] = [[] for _ in network.rbms]
    before = Counter(network.traffic.counts)
    for record in pretrain(network, dataset(len(network.layout.layers[0].ordering)), training, sync):
        now = Counter(network.traffic.counts)
        if record.kind == "step":
            updates[record.layer].append(now - before)
        before = now
    everywhere = network.grid.comm.allgather(updates)
    return [
        [sum((rank[i][j] for rank in everywhere), Counter()) for j in range(len(updates[i]))]
        for i in range(len(updates))
    ]


def planned(network: DeepBeliefNetwork, rbm: int, training: TrainingSpec, sync: SyncSpec) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for replica in range(network.grid.n_replicas):
        step = step_of(
            network.spec, rbm, training, sync, network.layout, network.grid.n_replicas, RATES, 1, replica=replica
        )
        for axis, verbs in received(step).items():
            for verb, kinds in verbs.items():
                total.update({(axis, verb, kind): n for kind, n in kinds.items()})
    return total


@shapes
@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
def test_dense(shape: tuple[int, int], layout: str, training: dict[str, Any]) -> None:
    spec = NetworkSpec((26, 19, 12), layout=layout)
    check(spec, shape, replace(STATES, **training))


@shapes
@pytest.mark.parametrize("halo", SPARSE.values(), ids=SPARSE)
@pytest.mark.parametrize("training", [{}, {"statistics": "float"}, {"gibbs_steps": 2, "statistics": "1"}], ids=str)
def test_listed(shape: tuple[int, int], halo: str, training: dict[str, Any]) -> None:
    spec = NetworkSpec((64, 48, 20), connections="local:5,random:4", halo=halo)
    check(spec, shape, replace(STATES, **training))


def check(spec: NetworkSpec, shape: tuple[int, int], training: TrainingSpec) -> None:
    network = networks.sharded(MPI.COMM_WORLD, spec, shape, "random")
    for rbm, updates in enumerate(counted(network, training, SyncSpec())):
        expected = planned(network, rbm, training, SyncSpec())
        assert updates[1:] == [expected] * (len(updates) - 1)


@shapes
@pytest.mark.parametrize("layout", ["column", "dual"])
def test_local(shape: tuple[int, int], layout: str) -> None:
    spec, sync = NetworkSpec((26, 19), layout=layout), SYNCS["local"]
    network = networks.sharded(MPI.COMM_WORLD, spec, shape, "random")
    [updates] = counted(network, STATES, sync)
    expected = planned(network, 0, STATES, sync)
    assert updates[2] + updates[3] == Counter({key: 2 * n for key, n in expected.items()})


@shapes
def test_server(shape: tuple[int, int]) -> None:
    """Over a segment, at whose beginning the first replica gives the servers what all have."""
    spec, sync = NetworkSpec((24, 24), layout="column"), SYNCS["server"]
    network = networks.sharded(MPI.COMM_WORLD, spec, shape, "blocks")
    [[segment]] = counted(network, STATES, sync)
    n_steps, n_replicas = N_SAMPLES // STATES.batch_size, shape[1]
    expected = planned(network, 0, STATES, sync)
    assert all(segment[key] == n_steps * n for key, n in expected.items() if key[0] == "shard")
    pushed = expected["replica", "push", "floats"]
    assert segment["replica", "push", "floats"] == n_steps * pushed + pushed / n_replicas
