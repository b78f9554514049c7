"""Connections that are not complete, over shards and replicas, against the reference: dense weights times the mask.

Modules: modelpar/kernels/listed/blocks, modelpar/kernels/listed/products, modelpar/kernels/listed/sampling,
modelpar/kernels/llvm/listed, modelpar/weights/protocol, modelpar/weights/shard_lists
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI
from scipy import sparse

from modelpar import checkpoint
from modelpar.comm.grid import Grid
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.trainer import fine_tune, pretrain
from modelpar.weights.sparse import SparseWeights
from tests import networks, reference, small
from tests.model.test_rbm import EXACT, train

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)

# visible units, hidden units, connections: maps share fields, masks have units without any connection
PATTERNS = {
    "local": ((25, 18), "local:3"),
    "local, stride 2": ((25, 12), "local:3/2"),
    "one field": ((9, 5), "local:3"),
    "random": ((13, 9), "random:4"),
    "thin": ((13, 9), "erdos-renyi:0.15"),
    "none at all": ((7, 6), "erdos-renyi:0"),
    "small world": ((12, 8), "small-world:4/0.3"),
    "scale free": ((20, 11), "scale-free:3"),
    "RadiX-Net": ((16, 16), "radix-net:2x2/4"),
}  # fmt: skip
patterns = pytest.mark.parametrize("pattern", PATTERNS)


def network_of(comm, pattern: str, shape: tuple[int, int], owners: str = "random", **more) -> DeepBeliefNetwork:
    layers, connections = PATTERNS[pattern]
    return networks.sharded(comm, NetworkSpec(layers, connections=connections, **more), shape, owners)


@patterns
@pytest.mark.parametrize(
    ("owners", "halo"), [*((owners, "receive") for owners in networks.OWNERS), ("random", "recompute")]
)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "numbers"])
@shapes
def test_steps_equal_the_reference_bit_for_bit(comm, agree, shape, halo, packed, owners, pattern):
    network = network_of(comm, pattern, shape, owners, halo=halo)
    [twin] = networks.twin(network)
    train(network, twin, EXACT, n_steps=3, packed=packed)
    agree(networks.same_block(network.rbms[0], twin))
    agree(np.array_equal(twin.W != 0, (twin.W != 0) & (twin.mask != 0)))


@patterns
@pytest.mark.parametrize(
    "changes", [{"gibbs_steps": 3}, {"persistent": True}, {"persistent": True, "gibbs_steps": 2}], ids=str
)
@pytest.mark.parametrize("halo", ["receive", "recompute"])
@shapes
def test_longer_chains_equal_the_reference_bit_for_bit(comm, agree, shape, halo, changes, pattern):
    network = network_of(comm, pattern, shape, halo=halo)
    [twin] = networks.twin(network)
    train(network, twin, replace(EXACT, **changes), n_steps=3)
    agree(networks.same_block(network.rbms[0], twin))


@pytest.mark.parametrize("pattern", ["local", "thin"])
@pytest.mark.parametrize(
    "changes", [{}, {"weight_decay": 0.01}, {"sparsity_cost": 0.5}, {"persistent": True}], ids=str
)  # fmt: skip
@pytest.mark.parametrize(("visible", "packed"), [("bernoulli", True), ("bernoulli", False), ("gaussian", False)])
@shapes
def test_real_statistics_equal_the_reference_to_rounding(comm, agree, shape, packed, visible, changes, pattern):
    network = network_of(comm, pattern, shape, "strided", visible=visible, dtype="float64")
    [twin] = networks.twin(network)
    rate = 0.02 if visible == "gaussian" else 0.2
    training = TrainingSpec(learning_rate=rate, **{"statistics": "float", "reconstruction": "probabilities"} | changes)
    train(network, twin, training, n_steps=4, packed=packed)
    agree(networks.close_block(network.rbms[0], twin, 1e-12))


@pytest.mark.parametrize("pattern", ["local", "local, stride 2", "random", "RadiX-Net"])
@pytest.mark.parametrize("statistics", ["2", "3", "4", "8", "float"])
@pytest.mark.parametrize("halo", ["receive", "recompute"])
@shapes
def test_single_precision_stays_near_the_reference(comm, agree, shape, halo, statistics, pattern):
    network = network_of(comm, pattern, shape, "strided", halo=halo)
    [twin] = networks.twin(network)
    train(network, twin, TrainingSpec(statistics=statistics, reconstruction="states", learning_rate=0.2), 3, batch=70)
    agree(networks.close_block(network.rbms[0], twin, 2e-5))


@patterns
@pytest.mark.parametrize("owners", networks.OWNERS)
@shapes
def test_initial_weights_are_those_of_the_dense_matrix(comm, agree, shape, owners, pattern):
    network = network_of(comm, pattern, shape, owners, seed=5)
    [rbm] = network.rbms
    n_visible, n_hidden = network.spec.layers
    n = np.count_nonzero(networks.mask_of(network, 0))
    scale = (2 / (n / n_visible + n / n_hidden)) ** 0.5 if n else 1.0
    whole = networks.reference.initial_weights(5, 0, n_visible, n_hidden, scale)
    agree(np.allclose(rbm.W, networks.held(rbm, whole), rtol=1e-6, atol=1e-9))


@patterns
@pytest.mark.parametrize("owners", networks.OWNERS)
@shapes
def test_each_connection_is_held_where_one_of_its_ends_is(comm, agree, shape, owners, pattern):
    network = network_of(comm, pattern, shape, owners)
    [rbm], mask = network.rbms, networks.mask_of(network, 0)
    visible, hidden = rbm.weights.ends
    mine = np.zeros_like(mask)
    mine[visible, hidden] += 1
    wanted = mask.copy()
    others_v, others_h = np.ones(len(mask), bool), np.ones(mask.shape[1], bool)
    others_v[rbm.visible_ids], others_h[rbm.hidden_ids] = False, False
    wanted[np.ix_(others_v, others_h)] = 0
    agree(np.array_equal(mine, wanted))
    agree(len(visible) == wanted.sum())


# -- whole trainings ---------------------------------------------------------------------------------------------------

STACKS = {
    "two local layers": ((25, 18, 8), "local:3,local:2"),
    "local below dense": ((25, 18, 7), "local:3,dense"),
    "dense below a mask": ((13, 12, 9), "dense,random:3"),
}
stacks = pytest.mark.parametrize("stack", STACKS)
REAL = TrainingSpec(
    statistics="float", reconstruction="probabilities", learning_rate=0.2, weight_decay=0.01, momentum_epochs=1,
    epochs=1, batch_size=16, schedule="linear", centred=False,
)  # fmt: skip
TUNING = FineTuneSpec(epochs=2, batch_size=16, learning_rate=0.3)


def classifier(comm, stack: str, shape, owners: str, **more) -> DeepBeliefNetwork:
    layers, connections = STACKS[stack]
    spec = NetworkSpec(layers, **{"connections": connections, "classes": 3, "seed": 5} | more)
    its_owners = [networks.owners(owners, n, shape[0], i) for i, n in enumerate(layers)]
    its_owners.append(networks.owners("blocks", 3, shape[0]))
    return DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), NetworkLayout.from_owners(its_owners, shape[0]))


@stacks
@pytest.mark.parametrize("halo", ["receive", "recompute"])
@pytest.mark.parametrize(
    "changes", [{"dropout": 0.3, "max_norm": 0.8}, {"input_dropout": 0.2, "weight_decay": 0.01}], ids=str
)
@pytest.mark.parametrize("owners", ["random", "empty"])
@shapes
def test_pretraining_and_fine_tuning_equal_the_reference_to_rounding(comm, agree, shape, owners, changes, halo, stack):
    network = classifier(comm, stack, shape, owners, dtype="float64", halo=halo)
    data = small.dataset(network.spec.layers[0], kind="levels")
    twins, tuning = networks.twin(network), replace(TUNING, **changes)
    reference.pretrain(twins, small.columns(data), small.order(5, len(data.train)), REAL)
    small.train(network, data, REAL, tuning)
    weights, biases = small.softmax_layer(twins, 3)
    reference.fine_tune(
        weights, biases, small.columns(data), data.train.labels, small.order(5, len(data.train)), tuning, seed=5,
        masks=[*(twin.mask for twin in twins), 1],
    )  # fmt: skip
    agree(small.close_network(network, twins, 1e-11))
    agree(small.close_output(network, weights[-1], biases[-1], 1e-11))


@pytest.mark.parametrize("sync", [SyncSpec("local", period=3), SyncSpec("server", push_every=2, meet_every=3)], ids=str)
@pytest.mark.parametrize("stack", ["two local layers", "dense below a mask"])
@shapes
def test_copies_of_a_weight_stay_alike_under_every_strategy(comm, agree, shape, stack, sync):
    """Where a connection joins two shards, both hold its weight; and replicas end with the same."""
    network = classifier(comm, stack, shape, "random")
    data = small.dataset(network.spec.layers[0], kind="bits")
    for _ in pretrain(network, data, replace(REAL, statistics="3", reconstruction="states", epochs=2), sync):
        pass
    for _ in fine_tune(network, data, TUNING, sync):
        pass
    for rbm in network.rbms:
        if isinstance(rbm.weights, SparseWeights):
            whole = np.full(network.spec.layers[rbm.index : rbm.index + 2], np.nan)
            whole[rbm.weights.ends] = rbm.W
            least, most = (np.empty_like(whole) for _ in range(2))
            comm.Allreduce(np.nan_to_num(whole, nan=np.inf), least, MPI.MIN)
            comm.Allreduce(np.nan_to_num(whole, nan=-np.inf), most, MPI.MAX)
            there = networks.mask_of(network, rbm.index) != 0
            agree(np.array_equal(least[there], most[there]) and bool(np.isfinite(most[there]).all()))
            agree(len(np.unique(most[there])) > 1)


# -- files -------------------------------------------------------------------------------------------------------------


@stacks
@shapes
def test_a_checkpoint_opens_at_another_partition(comm, agree, shape, stack, tmp_path):
    path = comm.bcast(tmp_path) / "network.safetensors"
    network = classifier(comm, stack, shape, "random")
    data = small.dataset(network.spec.layers[0], kind="bits")
    small.train(network, data, replace(REAL, statistics="3", reconstruction="states"), TUNING)
    checkpoint.save(network, path)
    layers = (*network.spec.layers, 3)
    for n_shards, replicas in SHAPES:
        grid = networks.grid_of(comm.size, (n_shards, replicas))
        its_owners = [networks.owners("strided", n, n_shards, i) for i, n in enumerate(layers[:-1])]
        its_owners.append(networks.owners("blocks", 3, n_shards))
        opened = checkpoint.load(path, grid, NetworkLayout.from_owners(its_owners, n_shards))
        again = path.with_name(f"{n_shards}.safetensors")
        checkpoint.save(opened, again)
        agree(again.read_bytes() == path.read_bytes())
    opened = checkpoint.load(path, Grid(MPI.COMM_SELF))
    agree(opened.n_parameters == network.n_parameters)


@stacks
@pytest.mark.parametrize("changes", [{}, {"persistent": True}], ids=str)
@pytest.mark.parametrize("halo", ["receive", "recompute"])
@shapes
def test_a_run_goes_on_from_mid_epoch_as_if_nothing_had_been(comm, agree, shape, halo, changes, stack, tmp_path):
    """Copies of velocities are made again as copies of weights are."""
    path = comm.bcast(tmp_path) / "network.safetensors"
    training = replace(REAL, statistics="3", reconstruction="states", pass_up="states", epochs=2, **changes)
    network = classifier(comm, stack, shape, "random", halo=halo)
    data = small.dataset(network.spec.layers[0], kind="bits")
    for record in pretrain(network, data, training):
        if (record.layer, record.kind, record.epoch, record.step) == (1, "step", 1, 2):
            checkpoint.save(network, path)
    again = checkpoint.load(path, network.grid, network.layout, halo=halo)
    agree(again.rbms[1].weights.visible_spread.shape == network.rbms[1].weights.visible_spread.shape)
    for _ in pretrain(again, data, training):
        pass
    for rbm, other in zip(network.rbms, again.rbms, strict=True):
        agree(np.array_equal(rbm.parameters.flat, other.parameters.flat))


@pytest.mark.parametrize("pattern", ["local, stride 2", "random", "thin"])
@pytest.mark.parametrize("changes", [
    {"chains": 37, "centred": True, "clip": 0.02}, {"standardised": True},
    {"centred": True, "statistics": "float"},
    {"visible": "gaussian", "reconstruction": "probabilities", "standardised": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("halo", ["receive", "recompute"])
@shapes
def test_centred_and_standardised_gradients_equal_the_masked_reference(comm, agree, shape, halo, changes, pattern):
    """To rounding; and what is on two shards stays the same on both, bit for bit, where statistics are integers."""
    visible = changes.get("visible", "bernoulli")
    training = TrainingSpec(**{"learning_rate": 0.1, **{k: x for k, x in changes.items() if k != "visible"}})
    network = network_of(comm, pattern, shape, halo=halo, visible=visible, dtype="float64")
    [twin], rbm = networks.twin(network), network.rbms[0]
    train(network, twin, training, n_steps=3, packed=visible == "bernoulli")
    agree(networks.close_block(rbm, twin, 1e-10))
    if visible == "bernoulli" and training.planes:
        held = rbm.W.copy()
        rbm.refresh()
        agree(np.array_equal(rbm.W, held))


@pytest.mark.parametrize("periods", [{}, {"fetch_every": 4, "push_every": 4}], ids=str)
@shapes
def test_a_server_holds_what_the_replicas_have(comm, agree, shape, periods):
    """To make copies of weights agree is no change of a replica's: it is not pushed."""
    network = classifier(comm, "two local layers", shape, "random")
    data = small.dataset(network.spec.layers[0], kind="bits")
    training = replace(REAL, statistics="3", reconstruction="states", epochs=12)
    for record in pretrain(network, data, training, SyncSpec("server", **periods)):
        if record.kind == "epoch":
            parameters = network.rbms[record.layer].parameters.flat
            agree(np.allclose(network.run.sync._base, parameters, rtol=0, atol=1e-3))


@shapes
def test_a_mask_of_a_file_is_kept_in_the_checkpoint(comm, agree, shape, tmp_path):
    folder = comm.bcast(tmp_path)
    mask = np.random.default_rng(3).random((13, 9)) < 0.3
    if comm.rank == 0:
        sparse.save_npz(folder / "mask.npz", sparse.csc_array(mask))
    comm.barrier()
    spec = NetworkSpec((13, 9), connections=f"mask:{folder / 'mask.npz'}")
    network = networks.sharded(comm, spec, shape, "random")
    agree(np.array_equal(networks.mask_of(network, 0), mask))
    [twin] = networks.twin(network)
    train(network, twin, EXACT, n_steps=2)
    agree(networks.same_block(network.rbms[0], twin))
    checkpoint.save(network, folder / "network.safetensors")
    comm.barrier()
    if comm.rank == 0:
        (folder / "mask.npz").unlink()
    comm.barrier()
    opened = checkpoint.load(folder / "network.safetensors", networks.grid_of(comm.size, shape))
    agree(networks.same_block(opened.rbms[0], twin))
