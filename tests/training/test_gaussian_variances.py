"""Trainings with learned variances of Gaussian visible units: strategies, files, bounds, and what has no distribution.

Modules: modelpar/model/normalisable
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.data import open_dataset
from modelpar.errors import TrainingError
from modelpar.model.gaussian_visible import LEAST, MOST, keep_within_bounds
from modelpar.model.normalisable import Normalisable
from modelpar.model.pruning import pruned
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.replicas import differing_replicas
from modelpar.training.scoring import score_split
from modelpar.training.trainer import pretrain
from tests import networks
from tests.extent import quick
from tests.training.test_real_hidden import alike, whole

pytestmark = pytest.mark.ranks

COMM = MPI.COMM_WORLD
SHAPES = networks.grids(COMM)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
SPEC = NetworkSpec((9, 4), visible="gaussian", dtype="float64", seed=3)
TRAINING = TrainingSpec(epochs=3, batch_size=20, average=10, gaussian_learning_rate=0.02)
NOISE = np.array([0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.2, 0.1, 0.4])  # standard deviations given the hidden units


def data(comm, n=300, **options):
    """Samples of an RBM of four hidden units, whose visible units have unequal noise."""
    rng = np.random.default_rng(1)
    means = (rng.random((n, 4)) < 0.5) @ rng.normal(0, 1.5, (4, 9))
    return open_dataset(means + NOISE * rng.normal(size=(n, 9)), comm, **{"test_fraction": 0.0, **options})


def trained(comm, shape, spec=SPEC, training=TRAINING, sync=None, owners="random"):
    network = networks.sharded(comm, spec, shape, owners)
    records = list(pretrain(network, data(comm), training, sync))
    return network, records


@pytest.fixture
def folder(comm, tmp_path):
    return comm.bcast(tmp_path)


@pytest.mark.parametrize(
    "how",
    quick([None, {"sync": "local", "period": 3, "outer_momentum": 0.5}, {"sync": "server", "adagrad": True},
           {"sync": "server"}], 1),
    ids=str,
)  # fmt: skip
@shapes
def test_every_strategy_carries_the_precisions(comm, agree, shape, how):
    network, records = trained(comm, shape, sync=None if how is None else SyncSpec(**how))
    precision = network.rbms[0].precision
    agree(not differing_replicas(network) and np.isfinite(records[-1].measures["probe_error"]))
    agree(((precision >= LEAST) & (precision <= MOST)).all())
    assert comm.allreduce(float(np.abs(precision - 1).sum())) > 0.01
    if how is None:
        one, _ = trained(comm, SHAPES[0], replace(SPEC, layout="column"), owners="blocks")
        agree(alike(whole(one), whole(network)))


@shapes
def test_files(comm, agree, shape, folder):
    """From the middle of a training, at another grid; one of an earlier version, which does not name the variances, is
    of units of variance 1."""
    path, old = str(folder / "new.safetensors"), str(folder / "old.safetensors")
    network = networks.sharded(comm, SPEC, SHAPES[0], "strided")
    samples = data(comm)
    for i, _ in enumerate(pretrain(network, samples, TRAINING)):
        if i == 20:
            checkpoint.save(network, path)
    tensors = files.read_header(path, comm).tensors
    agree({"rbm.0.precision", "velocity.rbm.0.precision", "average.rbm.0.precision"} <= tensors.keys())
    again = checkpoint.load(path, networks.grid_of(comm.size, shape))
    for _ in pretrain(again, samples, TRAINING):
        pass
    agree(alike(whole(network), whole(again)))
    smaller = pruned(again, 0.5)
    agree(np.array_equal(smaller.rbms[0].parameters.precision, again.rbms[0].parameters.precision))

    checkpoint.save(networks.sharded(comm, replace(SPEC, variances="unit"), SHAPES[0], "blocks"), old)
    metadata = dict(files.read_header(old, comm).metadata)
    definition = json.loads(metadata["network"])
    agree(definition.pop("variances") == "unit")
    unit = checkpoint.load(old, networks.grid_of(comm.size, shape))
    metadata["network"] = json.dumps(definition, sort_keys=True)
    files.write(old, unit.grid, checkpoint.tensors(unit), metadata, unit.traffic.status)
    opened = checkpoint.load(old, networks.grid_of(comm.size, shape))
    agree(opened.spec.variances == "unit" and opened.rbms[0].precision is None)
    agree("variances" not in json.loads(_saved(comm, folder, NetworkSpec((9, 4))).metadata["network"]))


def _saved(comm, folder, spec):
    path = str(folder / "states.safetensors")
    checkpoint.save(networks.sharded(comm, spec, SHAPES[0], "blocks"), path)
    return files.read_header(path, comm)


@pytest.mark.skipif(COMM.size > 1, reason="one rank does it alone")
def test_learned_variances_fit_better(comm, agree):
    """Unequal noise: exact likelihoods after as many updates."""
    found, samples = {}, data(comm, 500)
    for variances in ("unit", "learned"):
        network = networks.sharded(comm, replace(SPEC, variances=variances), SHAPES[0], "blocks")
        for _ in pretrain(network, samples, TrainingSpec(updates=1000, chains=100, gaussian_learning_rate=0.05)):
            pass
        found[variances] = score_split(network, samples, samples.train).log_likelihood
    agree(found["learned"] > found["unit"] + 0.5, f"{found}")


def test_precisions_are_kept_within_bounds(comm, agree):
    """Of a unit that never changes, and of values from elsewhere."""
    network = networks.sharded(comm, SPEC, SHAPES[0], "blocks")
    own = network.rbms[0].parameters
    own.precision[:] = np.where(network.visible_ids % 2, 1e9, -3)
    agree(np.array_equal(network.rbms[0].precision, np.where(network.visible_ids % 2, MOST, LEAST)))
    keep_within_bounds(own)
    agree(set(np.unique(own.precision)) <= {LEAST, MOST})
    values = np.random.default_rng(1).normal(size=(200, 9))
    values[:, 3] = 5
    network = networks.sharded(comm, SPEC, SHAPES[0], "blocks")
    for _ in pretrain(network, open_dataset(values, comm, test_fraction=0.0), TrainingSpec(epochs=20)):
        pass
    agree(np.isfinite(network.rbms[0].W).all() and (network.rbms[0].precision <= MOST).all())


def test_an_explosion_ends_in_one_line(comm):
    network = networks.sharded(comm, SPEC, SHAPES[0], "blocks")
    training = TrainingSpec(epochs=20, gaussian_learning_rate=1000.0)
    with pytest.raises(TrainingError, match=r"^RBM 0[^\n]* use a smaller --gaussian-learning-rate$"):
        list(pretrain(network, data(comm), training))


@pytest.mark.parametrize("hidden", quick(["drelu", "gaussian", "relu"]))
@shapes
def test_weights_have_a_distribution(comm, agree, shape, hidden):
    """The largest singular value as NumPy finds it, scaled back to the bound; defaults end with a likelihood."""
    network = networks.sharded(comm, replace(SPEC, layers=(9, 5), hidden=hidden, layout="dual"), shape, "random")
    rbm, rng = network.rbms[0], np.random.default_rng(2)
    W, t, U = rng.normal(size=(9, 5)), rng.uniform(0.5, 3, 9), rng.normal(size=(len(rbm.parameters.potential), 5))
    rbm.W[:], rbm.parameters.precision[0] = networks.held(rbm, W), t[rbm.visible_ids]
    rbm.parameters.potential[:] = U[:, rbm.hidden_ids]
    rbm.refresh()
    g = 0.5 * (1 + np.exp(-2 * np.abs(U[1]))) if len(U) else np.ones(5)
    truth = np.linalg.norm(W / np.sqrt(np.outer(t, g)), 2) ** 2
    bound = Normalisable(rbm)
    agree(np.isclose(bound.square_of_largest(), truth, rtol=1e-6))
    bound.keep()
    expected = W * np.sqrt((1 - 1 / 9) / truth)
    agree(np.allclose(rbm.W, networks.held(rbm, expected), rtol=1e-5))
    agree(np.allclose(rbm.parameters.rows, networks.rows_of(rbm, expected), rtol=1e-5))
    network, _ = trained(comm, shape, replace(SPEC, hidden=hidden), TrainingSpec(epochs=3, chains=50))
    samples = data(comm)
    found = score_split(network, samples, samples.train, "ais", n_betas=200)
    agree(-20 < found.log_likelihood < 0, f"{found}")
