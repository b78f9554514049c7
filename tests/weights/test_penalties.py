"""Proximal steps of penalties: against NumPy, the same bits at every grid, in every layout and over listed connections.

Modules: modelpar/kernels/statistics/shrinkage
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import open_dataset
from modelpar.analysis.of_network import whole_parameters
from modelpar.errors import SpecError
from modelpar.kernels.statistics import shrinkage
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.trainer import pretrain
from modelpar.weights.penalties import Penalties
from tests import networks, reference, small
from tests.reference_real import RealRBM

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)
HELD = ["column", "row", "dual", "local:3", "random:4", "erdos-renyi:0.3"]
RATE, N_STATES = 0.5, 3
STEPS = 2.0**31


# -- the same in NumPy, bit for bit ------------------------------------------------------------------------------------


def column_sums(W, *, squared):
    """Of whole numbers, as the engine makes them: each weight's part of the largest one of its column, rounded."""
    size = np.abs(W.astype(np.float64))
    largest = size.max(axis=0)
    part = size * np.divide(1, largest, out=np.zeros_like(largest), where=largest > 0)
    total = np.rint((part * part if squared else part) * STEPS).astype(np.int64).sum(axis=0)
    return total / STEPS * (largest * largest if squared else largest)


def stepped(W, mask, rate, l1, l1b, group_lasso, n_states):
    """The proximal step of a whole matrix, which has zeros where ``mask`` has."""
    amount = rate * l1b
    limit = rate * l1 + amount * column_sums(W, squared=False) / (1 + amount * mask.sum(axis=0).astype(np.int64))
    size = np.abs(W) - limit.astype(W.dtype)
    W = np.where(size > 0, np.sign(W) * size, 0).astype(W.dtype)
    groups = W.reshape(-1, n_states, W.shape[1]) if n_states > 1 else W[None]
    if n_states > 1:  # in order
        squares = np.zeros((len(groups), W.shape[1]))
        for state in range(n_states):
            squares += groups[:, state].astype(np.float64) ** 2
    else:
        squares = column_sums(W, squared=True)[None]
    norms, least = np.sqrt(squares), rate * group_lasso
    factors = np.where(norms > least, 1 - least / np.maximum(norms, 1e-300), 0)[:, None]
    return (groups * (factors if group_lasso else 1).astype(W.dtype)).reshape(W.shape) if group_lasso else W


def network_of(comm, shape, held, owners="strided", layers=(36, 16), **more):
    how = {"layout": held} if held in HELD[:3] else {"connections": held}
    return networks.sharded(comm, NetworkSpec(layers, **how, **more), shape, owners)


@pytest.mark.parametrize("penalties", [
    {"l1": 0.05}, {"l1b": 0.08}, {"group_lasso": 0.3}, {"group_lasso": 0.3, "n_states": N_STATES},
    {"l1": 0.02, "l1b": 0.03, "group_lasso": 0.4}, {"l1": 0.02, "l1b": 0.03, "group_lasso": 0.3, "n_states": N_STATES},
], ids=lambda given: " ".join(given))  # fmt: skip
@pytest.mark.parametrize("held", HELD)
@shapes
def test_a_step_is_numpys_bit_for_bit(comm, agree, shape, held, penalties):
    n_states = penalties.get("n_states", 1)
    # of whole sites, 12 of them: no part of a site belongs to another shard
    owners = "blocks" if n_states > 1 else "strided"
    network = network_of(comm, shape, held, owners)
    [twin], [rbm] = networks.twin(network), network.rbms
    # of sizes that differ by orders of magnitude, one unit without weights, one of small ones
    W = twin.W * np.float32(10.0) ** np.random.default_rng(5).integers(-4, 1, twin.W.shape).astype(np.float32)
    W[:, 3] = 0
    W[:, 5] /= 64
    rbm.W[:] = networks.held(rbm, W)
    rbm.refresh()
    given = {"l1": 0.0, "l1b": 0.0, "group_lasso": 0.0, "n_states": 1, **penalties}
    mine = Penalties(**given, weights={"rbm.0": rbm.weights})
    for _ in range(3):
        mine.step("rbm.0", rbm.parameters.blocks, RATE)
        W = stepped(W, twin.mask, RATE, **given)
    twin.W[...] = W
    agree(np.array_equal(rbm.W, networks.held(rbm, W)), f"{np.abs(rbm.W - networks.held(rbm, W)).max()}")
    agree(networks.same_rows(rbm, twin))
    others = np.delete(W, 3, axis=1)[np.delete(twin.mask, 3, axis=1) != 0]
    agree(0 < (others == 0).sum() < len(others), f"{(others == 0).sum()} zeros of {len(others)}")


def test_steps_minimise_what_they_are_of():
    """Half the squared distance and the penalty: no other weights nearby have less of both."""
    rng = np.random.default_rng(1)
    W = rng.standard_normal((12, 4))
    for name, penalty in {
        # as long as no weight arrives at 0 the step of l1b is exact
        "l1b": lambda w: 0.5 * (np.abs(w).sum(axis=0) ** 2).sum(),
        "group_lasso": lambda w: np.sqrt((w**2).sum(axis=0)).sum(),
    }.items():
        start = W + np.sign(W)  # far from 0
        options = replace(TrainingSpec(), **{name: 0.01})
        after = start.copy()
        reference.shrink(after, 1.0, options)
        best = 0.5 * ((after - start) ** 2).sum() + 0.01 * penalty(after)
        for _ in range(200):
            other = after + rng.standard_normal(W.shape) * 10.0 ** rng.integers(-5, 0)
            assert 0.5 * ((other - start) ** 2).sum() + 0.01 * penalty(other) > best


@pytest.mark.parametrize("rate", [0.1, 1e3, 1e9])
def test_l1b_leaves_the_largest_weight_of_a_unit(rate):
    """However large the rate is."""
    W = np.random.default_rng(2).standard_normal((40, 5))
    largest = np.abs(W).argmax(axis=0)
    reference.shrink(W, rate, TrainingSpec(l1b=1.0))
    assert (W[largest, np.arange(5)] != 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_sums_do_not_depend_on_threads(monkeypatch, dtype, n_threads):
    monkeypatch.setattr(shrinkage, "GRAIN", 1)
    monkeypatch.setattr(shrinkage.threads, "_n_threads", n_threads)
    W = (np.random.default_rng(3).standard_normal((70, 9)) * 1e-5).astype(dtype)
    largest = shrinkage.column_largest(W)
    for squared in (False, True):
        parts = shrinkage.column_parts(W, largest, squared=squared)
        sums = shrinkage.from_parts(parts, largest, squared=squared)
        assert np.array_equal(sums, column_sums(W, squared=squared))
        assert np.allclose(sums, (np.abs(W.astype(np.float64)) ** (1 + squared)).sum(axis=0), rtol=1e-7, atol=0)
        starts = np.arange(0, 71 * 9, 70)
        assert np.array_equal(shrinkage.run_sums(np.ascontiguousarray(W.T).reshape(-1), starts, squared=squared), sums)
    assert not shrinkage.column_largest(W[:0]).any()


@pytest.mark.parametrize("held", ["column", "row", "dual", "random:4"])
@pytest.mark.parametrize("owners", ["strided", "empty"])
@shapes
def test_exact_training_is_the_same_at_every_grid(comm, agree, shape, owners, held):
    training = TrainingSpec(epochs=2, batch_size=12, learning_rate=0.25, l1=0.002, l1b=0.01, group_lasso=0.02)
    network = network_of(comm, shape, held, owners, layers=(13, 9), exact=True, seed=5)
    *_, last = (record.digests for record in pretrain(network, small.dataset(13), training) if record.kind == "step")
    # of a matrix there are these bytes whatever its layout is
    kind = "dense" if held in HELD[:3] else held
    first = OF_FIRST_GRID.setdefault(kind, last)
    agree(last is not None and last == first, f"{kind}: {last}, not {first}")


OF_FIRST_GRID: dict[str, object] = {}  # digests of the last update, by kinds of connections


@shapes
def test_adagrad_takes_no_steps_of_units(comm, shape):
    network = network_of(comm, shape, "column", layers=(13, 9))
    with pytest.raises(SpecError, match=r"l1b .* takes steps of one size"):
        next(pretrain(network, small.dataset(13), TrainingSpec(l1b=0.5), SyncSpec("server", adagrad=True)))


@pytest.mark.parametrize("penalty", [{"l1": 0.03}, pytest.param({"l1b": 0.01}, marks=pytest.mark.slow)], ids=str)
def test_a_penalised_optimum_has_the_means_of_the_data(comm, agree, penalty):
    """Proximal steps of weights alone leave centred updates at means that are off by 0.06 here."""
    rng = np.random.default_rng(3)
    X = (rng.random((200, 8)) < np.where(rng.integers(0, 2, (200, 1)), 0.95, 0.45)).astype(np.float32)
    network = networks.sharded(
        comm, NetworkSpec((8, 3), hidden="gaussian", layout="row", seed=3), SHAPES[-1], "strided"
    )
    data = open_dataset(X)
    training = TrainingSpec(updates=400, batch_size=200, chains=2000, learning_rate=0.1, schedule="exponential",
                            weight_decay=0, hidden_scale="unit", **penalty)  # fmt: skip
    for _ in pretrain(network, data, training):
        pass
    found = whole_parameters(network)
    twin = RealRBM(found.W, found.b, found.c, "gaussian", np.zeros((0, 3)))
    v = twin.all_states()
    f = twin.log_unnormalised(v)
    p = np.exp(f - f.max())
    error = np.abs(v @ p / p.sum() - X[data.train.rows].mean(axis=0)).max()
    agree(error < 0.025, f"{error:.3f}")


@pytest.mark.parametrize(("spec", "training", "sync", "says"), [
    ({"hidden": "bernoulli"}, {}, {}, "--hidden is bernoulli"),
    ({"hidden": "relu"}, {"centred": False}, {}, "--no-centred"),
    ({"hidden": "relu"}, {"standardised": False}, {}, "--no-standardised"),
    ({"hidden": "relu"}, {"group_lasso": 0.1}, {}, "--group-lasso is 0.1"),
    ({"hidden": "relu"}, {}, {"sync": "local"}, "--sync is local"),
], ids=str)  # fmt: skip
def test_a_scale_of_hidden_values_that_cannot_be(comm, spec, training, sync, says):
    network = network_of(comm, SHAPES[0], "column", layers=(13, 9), **spec)
    with pytest.raises(SpecError, match=says):
        next(pretrain(network, small.dataset(13), TrainingSpec(hidden_scale="unit", **training), SyncSpec(**sync)))
