"""What travels where connections are not complete: bytes as predicted from the partition, and exact mode's bytes.

Modules: modelpar/comm/transfer
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import partitioners
from modelpar import checkpoint
from modelpar.chains.gibbs import Chains, start
from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.comm.halo import Halo
from modelpar.comm.transfer import Transfer
from modelpar.draws import Purpose
from modelpar.kernels.listed.blocks import Blocks
from modelpar.kernels.states import Packed, pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.build_connections import connect
from modelpar.ownership.costs import halo_bytes
from modelpar.ownership.layout import UnitLayout
from modelpar.ownership.placement import WITHOUT_LINKS, graph_of, place
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.trainer import fine_tune, pretrain
from tests import networks, small
from tests.comm import test_traffic as traffic

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)

NETWORKS = {
    "local": ((36, 32, 18), "local:3,local:2"),
    "local, stride 2": ((49, 27, 8), "local:3/2,local:2"),
    "random": ((20, 15, 9), "random:4,random:3"),
    "thin": ((20, 15, 9), "erdos-renyi:0.1,erdos-renyi:0.3"),
    "small world": ((20, 15, 9), "small-world:4/0.2"),
    "scale free": ((20, 15, 9), "scale-free:3"),
    "RadiX-Net": ((16, 16, 16), "radix-net:2x2/4"),
}
METHODS = WITHOUT_LINKS  # what a search makes of them is another set of owners


def sharded(comm, name: str, shape, method: str, **more) -> DeepBeliefNetwork:
    layers, connections = NETWORKS[name]
    spec = NetworkSpec(layers, connections=connections, **more)
    layout = place(spec, shape[0], comm, partitioner=method)
    return DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), layout)


@pytest.mark.parametrize(
    ("name", "method"),
    [(n, m) for n in NETWORKS for m in METHODS if n.startswith("local") or m not in ("tiles", "strips")],
)
@pytest.mark.parametrize(
    "changes",
    [{"statistics": "1"}, {}, {"statistics": "4", "gibbs_steps": 2}, {"persistent": True, "statistics": "8"}],
    ids=str,
)
@shapes
def test_bytes_that_are_predicted_are_those_that_are_counted(comm, agree, shape, changes, method, name):
    network = sharded(comm, name, shape, method)
    spec = replace(traffic.STATES, **changes)
    graph = graph_of(network.spec, connect(network.spec, comm))
    owners = tuple(layer.owner for layer in network.layout.layers)
    volume = partitioners.measure(graph, partitioners.Partition(owners, shape[0])).volume
    counted: list[int] = []
    for record in pretrain(network, traffic.dataset(network.spec.layers[0]), spec):
        if record.kind == "step":
            counted.append(_halo(network, comm))
    wanted, steps = 0, iter(counted)
    for i in range(2):
        start = wanted if i == 0 else _before(counted, i, spec)
        total = start
        for n, batch in enumerate(traffic.steps_of(spec)):
            cuts = np.arange(shape[1] + 1) * spec.batch_size // shape[1]
            chains = np.diff(cuts).tolist()
            for part, n_chains in zip(np.diff(np.minimum(cuts, batch)).tolist(), chains, strict=True):
                total += halo_bytes(
                    int(volume.up[i]), int(volume.down[i]), part, planes=spec.planes, gibbs_steps=spec.gibbs_steps,
                    chains=n_chains if spec.persistent else None, read=i == 0,
                )  # fmt: skip
            result = next(steps)
            if i == 0 or n > 0:
                agree(result == total, f"RBM {i}, step {n}: {result} instead of {total}")
            else:  # what hands the data up has been counted by then
                total = result
    agree(shape[0] > 1 or not any(counted))


def _halo(network: DeepBeliefNetwork, comm) -> int:
    return sum(network.traffic.total(comm)["shard"].get("halo", {}).values())


def _before(counted: list[int], i: int, spec: TrainingSpec) -> int:
    return counted[i * len(traffic.steps_of(spec)) - 1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("changes", [{"statistics": "1"}, {}, {"gibbs_steps": 2}], ids=str)
@pytest.mark.parametrize("owners", ["strided", "random"])
@shapes
def test_bytes_where_hidden_states_are_drawn_again(comm, agree, shape, owners, changes, name):
    """Visible states of all that the hidden units of the halo are connected with, and their biases."""
    layers, connections = NETWORKS[name]
    spec, training = (
        NetworkSpec(layers[:2], connections=connections.split(",")[0], halo="recompute"),
        replace(traffic.STATES, **changes),
    )
    network = networks.sharded(comm, spec, shape, owners)
    mask = networks.mask_of(network, 0) != 0
    up = down = 0
    for shard in range(shape[0]):
        own_v, own_h = (layer.owner == shard for layer in network.layout.layers[:2])
        hidden = mask[own_v].any(axis=0) | own_h
        visible = mask[:, hidden].any(axis=1) | own_v
        up += int((visible & ~own_v).sum())
        down += int((hidden & ~own_h).sum())
    wanted = 0
    for batch in traffic.steps_of(training):
        cuts = np.minimum(np.arange(shape[1] + 1) * training.batch_size // shape[1], batch)
        for part in np.diff(cuts).tolist():
            wanted += halo_bytes(
                up, down, part, planes=training.planes, gibbs_steps=training.gibbs_steps, recompute=True
            )
    for _ in pretrain(network, traffic.dataset(layers[0]), training):
        pass
    result = _halo(network, comm)
    agree(result == wanted, f"{result} instead of {wanted}")


@pytest.mark.parametrize("kind", networks.OWNERS)
def test_a_halo_brings_each_unit_that_is_needed_and_no_other(comm, agree, kind):
    layout = UnitLayout.from_owners(networks.owners(kind, 23, comm.size), comm.size)
    rng = np.random.default_rng(comm.rank)
    needed = np.unique(np.concatenate([layout.owned(comm.rank), rng.choice(23, 7, replace=False)]))
    halo = Halo(comm, layout, needed, Traffic())
    agree(np.array_equal(np.sort(halo.units), needed))
    agree(np.array_equal(halo.units[: halo.n_owned], layout.owned(comm.rank)))
    whole = np.random.default_rng(5).random((23, 6))
    transfer = halo.begin(np.ascontiguousarray(whole[layout.owned(comm.rank)]))
    agree(np.array_equal(transfer.wait(), whole[halo.units]) and not transfer.pending)
    received = comm.allreduce(halo.n_halo)
    n_bytes = halo.traffic.total(comm)["shard"].get("halo", {}).get("floats", 0)
    agree(n_bytes == received * 6 * 8)


# -- what is under way ------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch) -> list[Transfer]:
    """All transfers that halos begin."""
    result: list[Transfer] = []
    begin = Halo.begin
    monkeypatch.setattr(Halo, "begin", lambda halo, owned: result.append(begin(halo, owned)) or result[-1])
    return result


def bits(n_units: int, seed: int) -> Packed:
    return pack((np.random.default_rng(seed).random((n_units, 70)) < 0.5).astype(np.float32))


@pytest.mark.parametrize("changes", [{"statistics": "1"}, {"statistics": "3", "gibbs_steps": 2}, {"persistent": True}])
@pytest.mark.parametrize("halo", ["receive", "recompute"])
@pytest.mark.parametrize("breaks", [None, "_reconstruct", "_visible_side", "advance", "sample_down"])
@shapes
def test_all_is_complete_after_a_step_that_breaks_off(comm, agree, shape, breaks, halo, changes, begun, monkeypatch):
    spec = NetworkSpec((20, 15), connections="random:4", halo=halo)
    network = networks.sharded(comm, spec, shape, "random")
    rbm, training = network.rbms[0], replace(traffic.STATES, **changes)
    v0 = bits(len(rbm.visible_ids), 3 + network.grid.shard)
    chains = start(rbm, "biases", 0, 1, 70) if training.persistent else None

    def stop(*_, **__):
        raise RuntimeError("stop")

    def step():
        return rbm.contrastive_divergence(v0, 0, training, replace(chains) if chains else None, n_all_samples=70)

    wanted = step()
    agree(bool(begun) and not any(transfer.pending for transfer in begun))
    if breaks:
        begun.clear()
        with monkeypatch.context() as patch:
            patch.setattr({"sample_down": rbm.weights, "advance": Chains}.get(breaks, rbm), breaks, stop)
            with suppress(RuntimeError):
                step()
        agree(bool(begun) and not any(transfer.pending for transfer in begun))
    again = step()  # finds no message of the one before
    agree(np.array_equal(wanted.statistics.sums()[1], again.statistics.sums()[1]))
    agree(all(np.array_equal(wanted.states[name].words, again.states[name].words) for name in wanted.states))


@shapes
def test_all_is_complete_after_a_draw_that_cannot_be(comm, agree, shape, begun):
    rbm = networks.sharded(comm, NetworkSpec((20, 15), connections="random:4"), shape, "random").rbms[0]
    v, h = bits(len(rbm.visible_ids), 1), bits(len(rbm.hidden_ids), 2)
    for sample, states in ((rbm.sample_hidden, v), (rbm.sample_visible, h)):
        begun.clear()
        with pytest.raises(ValueError, match="repeat"):
            sample(states, Purpose.HIDDEN, 1 << 16, 0)
        agree(len(begun) == 1 and not begun[0].pending)
        sample(states, Purpose.HIDDEN, 1, 0)


@shapes
def test_units_that_need_none_of_the_halo_do_not_wait_for_it(comm, agree, shape, begun, monkeypatch):
    """Some parts of a sum are made while states are on their way, and the rest when they are there."""
    rbm = networks.sharded(comm, NetworkSpec((36, 32), connections="local:3"), shape, "blocks").rbms[0]
    pending: list[bool] = []
    sum_states = Blocks.sum_states

    def watched(blocks, *arguments):
        pending.append(bool(begun[-1].pending))
        sum_states(blocks, *arguments)

    monkeypatch.setattr(Blocks, "sum_states", watched)
    rbm.hidden_input(bits(len(rbm.visible_ids), 1))
    agree(len(pending) == 2 and not pending[1])
    agree(shape[0] == 1 or comm.allreduce(int(pending[0])) > 0)


# -- exact mode --------------------------------------------------------------------------------------------------------

EXACT = TrainingSpec(
    epochs=2, batch_size=70, learning_rate=0.2, momentum_epochs=1, weight_decay=0.01, statistics="3",
    reconstruction="states", pass_up="states", centred=False,
)  # fmt: skip
TUNING = FineTuneSpec(epochs=1, batch_size=16, learning_rate=0.3, dropout=0.2, weight_decay=0.01)


def exact_network(name: str, grid: Grid, layout=None, halo: str = "auto") -> DeepBeliefNetwork:
    layers, connections = NETWORKS[name]
    spec = NetworkSpec(layers, connections=connections, halo=halo, classes=3, seed=11, exact=True, weight_scale=0.3)
    return DeepBeliefNetwork(spec, grid, layout)


def trained(network: DeepBeliefNetwork, path: Path, changes: dict) -> tuple[bytes, list]:
    """The bytes of the checkpoint at the end, and the digests of all updates."""
    data = small.dataset(network.spec.layers[0], kind="bits")
    digests = [r.digests for r in pretrain(network, data, replace(EXACT, **changes)) if r.kind == "step"]
    digests += [r.digests for r in fine_tune(network, data, TUNING) if r.kind == "step"]
    checkpoint.save(network, path)
    return network.grid.comm.bcast(path.read_bytes() if network.grid.comm.rank == 0 else None), digests


@cache
def grid_of_one() -> Grid:
    return Grid(MPI.COMM_SELF)


ALONE: dict[tuple, tuple] = {}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("changes", [{}, {"statistics": "float"}, {"persistent": True, "gibbs_steps": 2}], ids=str)
@pytest.mark.parametrize(("owners", "halo"), [("blocks", "receive"), ("random", "receive"), ("random", "recompute")])
@shapes
def test_exact_mode_leaves_the_same_bytes_at_every_grid(comm, agree, shape, halo, owners, changes, name, tmp_path):
    key = (name, str(changes))
    if key not in ALONE:
        ALONE[key] = trained(exact_network(name, grid_of_one()), tmp_path / "alone.safetensors", changes)
    layers, _ = NETWORKS[name]
    its_owners = [networks.owners(owners, n, shape[0], i) for i, n in enumerate(layers)]
    layout = networks.NetworkLayout.from_owners(its_owners, shape[0])
    network = exact_network(name, networks.grid_of(comm.size, shape), layout, halo)
    result = trained(network, comm.bcast(tmp_path) / "here.safetensors", changes)
    agree(result[1] == ALONE[key][1], "digests differ")
    agree(result[0] == ALONE[key][0], "bytes differ")
