"""Whole trainings of RBMs with real hidden units: strategies, files, going on at other grids, averages, estimators."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.comm.grid import Grid
from modelpar.data import open_dataset
from modelpar.kernels.states import Packed
from modelpar.model.pruning import pruned
from modelpar.spec import DataSpec, NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.replicas import differing_replicas
from modelpar.training.scoring import score_split
from modelpar.training.trainer import pretrain
from tests import networks, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
SPEC = NetworkSpec((13, 7), hidden="drelu", dtype="float64", seed=3)
TRAINING = TrainingSpec(epochs=2, batch_size=8, chains=12, average=10, learning_rate=0.02, digests=True)


@pytest.fixture
def folder(comm, tmp_path):
    return comm.bcast(tmp_path)


def whole(network):
    """All tensors, complete, on every rank."""
    arrays = {}
    for block in checkpoint.tensors(network):
        array = np.zeros(block.shape, block.block.dtype)
        array[block.index] = block.block
        network.grid.shard_comm.Allreduce(MPI.IN_PLACE, array)
        arrays[block.name] = array
    return arrays


def alike(ours, theirs, tolerance=1e-6):
    return ours.keys() == theirs.keys() and all(np.allclose(ours[x], theirs[x], rtol=0, atol=tolerance) for x in ours)


@shapes
def test_every_grid_learns_the_same(comm, agree, shape):
    one = networks.sharded(comm, replace(SPEC, layout="column"), SHAPES[0], "blocks")
    other = networks.sharded(comm, replace(SPEC, layout="dual"), shape, "random")
    for network in (one, other):
        records = list(pretrain(network, small.dataset(13), TRAINING))
    agree(alike(whole(one), whole(other)))
    agree({"W", "b", "c", "threshold", "asymmetry"} <= records[0].digests.keys())
    agree(np.isfinite(records[-1].measures["probe_error"]) and records[-1].measures["dead_units"] == 0)
    agree(np.abs(other.rbms[0].parameters.potential).max(initial=0) < 1 and not differing_replicas(other))
    learned = comm.allreduce(float(np.abs(other.rbms[0].parameters.potential).sum()))
    assert learned > 0


@pytest.mark.parametrize(
    "how",
    [{"sync": "local", "period": 3, "outer_momentum": 0.5}, {"sync": "server", "adagrad": True}, {"sync": "server"}],
    ids=["local", "adagrad", "server"],
)
@shapes
def test_every_strategy_carries_the_potentials(comm, agree, shape, how):
    network = networks.sharded(comm, SPEC, shape, "strided")
    records = list(pretrain(network, small.dataset(13), replace(TRAINING, digests=False), SyncSpec(**how)))
    agree(records[-1].measures["probe_error"] < 0.25)
    agree(not differing_replicas(network))
    assert comm.allreduce(float(np.abs(network.rbms[0].parameters.potential).sum())) > 0


@shapes
def test_a_file_goes_on_at_any_grid(comm, agree, shape, folder):
    """From the middle, chains and velocities included: as the run that was not interrupted."""
    path = str(folder / "real.safetensors")
    network, data = networks.sharded(comm, SPEC, SHAPES[0], "strided"), small.dataset(13)
    for i, _ in enumerate(pretrain(network, data, TRAINING)):
        if i == 3:
            checkpoint.save(network, path)
    header = files.read_header(path, comm)
    agree({"rbm.0.threshold", "velocity.rbm.0.asymmetry", "average.rbm.0.threshold"} <= header.tensors.keys())
    again = checkpoint.load(path, networks.grid_of(comm.size, shape))
    for _ in pretrain(again, data, TRAINING):
        pass
    agree(alike(whole(network), whole(again)))
    chains = checkpoint.read_chains(path, again)
    agree(chains is not None and chains.h.dtype == np.float64 and np.abs(chains.h).max() > 0)
    v = again.fantasies(12, 1, start=checkpoint.read_states(path, again))
    agree(np.isfinite(v).all())


@pytest.mark.parametrize("method", ["gibbs", "pt"])
@shapes
def test_a_stack_whose_last_layer_is_real(comm, agree, shape, folder, method):
    """States below, real values above: one result, from the middle of either RBM's training, at any grid."""
    path, data = str(folder / f"stack-{method}.safetensors"), small.dataset(13)
    spec = replace(SPEC, layers=(13, 7, 5), layout="row")
    training = replace(TRAINING, chain_method=method, chain_temperatures=3)
    for wanted in (0, 1):
        network, seen = networks.sharded(comm, spec, SHAPES[0], "strided"), 0
        for record in pretrain(network, data, training):
            seen += record.kind == "step"
            if seen == 3 + 10 * wanted and record.kind == "step":
                agree(network.run.position.layer == wanted)
                checkpoint.save(network, path)
        stored = files.read_header(path, comm).tensors.keys()
        agree("rbm.1.threshold" in stored and "rbm.0.threshold" not in stored)
        again = checkpoint.load(path, networks.grid_of(comm.size, shape))
        agree(isinstance(again.run.chains.h, Packed) == (wanted == 0))
        for _ in pretrain(again, data, training):
            pass
        agree(alike(whole(network), whole(again)), f"from RBM {wanted}")
        agree([len(rbm.parameters.potential) for rbm in again.rbms] == [0, 2])
        agree(again.n_parameters == 13 + 7 + 7 + 5 + 13 * 7 + 7 * 5 + 2 * 5)
    assert comm.allreduce(float(np.abs(again.rbms[1].parameters.potential).sum())) > 0


def test_bernoulli_files_do_not_name_the_kind(comm, agree, folder):
    path = str(folder / "plain.safetensors")
    checkpoint.save(networks.sharded(comm, NetworkSpec((13, 7)), SHAPES[0], "blocks"), path)
    agree("hidden" not in json.loads(files.read_header(path, comm).metadata["network"]))


@shapes
def test_pruned_potentials_stay(comm, agree, shape):
    network = networks.sharded(comm, SPEC, shape, "random")
    network.rbms[0].parameters.potential[:] = network.rbms[0].hidden_ids * [[1.0], [-0.1]]
    smaller = pruned(network, 0.5)
    agree(np.array_equal(smaller.rbms[0].parameters.potential, smaller.rbms[0].hidden_ids * [[1.0], [-0.1]]))


@pytest.mark.parametrize(
    ("kind", "chains"),
    [("gaussian", 0), ("relu", 0), ("drelu", 0), pytest.param("drelu", 100, marks=pytest.mark.slow)],
)
def test_defaults_learn(comm, agree, kind, chains):
    """Bars: with the default rates better than independent units, and no worse than 1.5 nats off the best model."""
    if chains and comm.size > 1:
        pytest.skip("one rank does it alone")
    data = open_dataset(DataSpec(data="bars:3", test_fraction=0), comm)
    network = networks.sharded(comm, NetworkSpec((9, 8), hidden=kind), SHAPES[0], "blocks")
    for _ in pretrain(network, data, TrainingSpec(epochs=50 if chains else 15, chains=chains)):
        pass
    found = score_split(network, data, data.train)
    agree(found.log_likelihood > -np.log(14) - 1.5, f"{found.log_likelihood}")


@pytest.mark.parametrize("kind", ["relu", "drelu"])
def test_the_transformer_has_them(comm, agree, kind):
    pytest.importorskip("sklearn")
    from modelpar.sklearn import RBMTransformer

    X = np.asarray(small.columns(small.dataset(13)).T, np.float32)
    estimator = RBMTransformer(6, hidden=kind, n_iter=2, persistent=True, random_state=1, comm=comm)
    features = estimator.fit(X).transform(X)
    agree(features.shape == (len(X), 6) and np.isfinite(features).all())
    agree(estimator.potential_.shape == ({"relu": 0, "drelu": 2}[kind], 6))
    agree(np.isfinite(estimator.gibbs(X)).all() and np.isfinite(estimator.score_samples(X)).all())
    estimator.partial_fit(X)
    with Grid(comm, model_shards=1, replicas=comm.size) as grid:
        network = estimator.network(grid)
        agree(np.allclose(network.rbms[0].parameters.potential, estimator.potential_))
    with pytest.raises(ValueError, match="hidden is 'tanh'"):
        RBMTransformer(6, hidden="tanh", comm=comm).fit(X)
