"""Missing values drawn from the model: against enumeration, likelihoods of held-out data, and at every grid."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.grid import Grid
from modelpar.data import Dataset, column_moments, open_dataset
from modelpar.data.missing import MissingValues
from modelpar.errors import ModelparWarning
from modelpar.kernels.digest import digest
from modelpar.kernels.states import unpack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.completion import CompletedFeed, missing_values
from modelpar.training.feeds import learn_scaling, real_values
from modelpar.training.scoring import score_split
from modelpar.training.trainer import pretrain
from tests import networks

pytestmark = pytest.mark.ranks

PATTERNS = np.array([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0, 1, 1]])
shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids="{0[0]} shards x {0[1]} replicas".format)


def samples(n: int, seed: int) -> np.ndarray:
    """Noisy copies of three patterns."""
    rng = np.random.default_rng(seed)
    chosen = PATTERNS[rng.choice(3, n, p=[0.5, 0.3, 0.2])]
    return (chosen ^ (rng.random((n, 8)) < 0.08)).astype(np.float32)


def spoiled(values: np.ndarray, missing: float, share: float = 0.3) -> np.ndarray:
    """``missing`` in the place of some values, chosen at random."""
    return np.where(np.random.default_rng(7).random(values.shape) < share, missing, values).astype(values.dtype)


def opened(*what, **options) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelparWarning)
        return open_dataset(*what, test_fraction=None if "test" in options else 0.0, **options)


def trained(grid: Grid, spec: NetworkSpec, data: Dataset, training: TrainingSpec) -> DeepBeliefNetwork:
    network = DeepBeliefNetwork(spec, grid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelparWarning)
        for _ in pretrain(network, data, training):
            pass
    return network


def test_the_likelihood_of_complete_data_is_recovered(comm, agree) -> None:
    """With 30 % of the values removed at random; enumerated.  Each of three ranks trains one of the models."""
    if comm.size != 3:
        pytest.skip("three ranks")
    few, test = samples(4000, 1), samples(2000, 2)
    ways = {"complete": (few, "auto"), "most-frequent": (spoiled(few, np.nan), "most-frequent"),
            "sample": (spoiled(few, np.nan), "sample")}  # fmt: skip
    training = TrainingSpec(epochs=1000, updates=700, batch_size=100, chains=100, chain_steps=2, learning_rate=0.3)
    mine = {}
    for i, (name, (values, missing)) in enumerate(ways.items()):
        if i == comm.rank:
            data = opened(values, test=test, visible="bernoulli", missing=missing)
            with Grid(MPI.COMM_SELF) as grid:
                network = trained(grid, NetworkSpec((8, 5), seed=3), data, training)
                mine[name] = score_split(network, data, data.test, "exact").log_likelihood
    found = {name: value for part in comm.allgather(mine) for name, value in part.items()}
    agree(found["sample"] > found["most-frequent"] + 0.25, f"{found}")
    agree(found["sample"] > found["complete"] - 0.15, f"{found}")


def values_of_kind(visible: str) -> tuple[np.ndarray, float]:
    """(Samples of 6 units or sites, what stands for a missing one)"""
    rng = np.random.default_rng(5)
    if visible.startswith("categorical"):
        return rng.integers(0, 3, (70, 6)), -1
    if visible == "gaussian":
        return rng.normal(3, 2, (70, 6)), np.nan
    bits = (rng.random((70, 6)) < 0.4).astype(np.float32)
    return (2 * bits - 1 if visible == "spin" else bits), np.nan


def conditional(network: DeepBeliefNetwork, v: np.ndarray, unknown: np.ndarray, q: int) -> np.ndarray:
    """p(unit is on | the known values) of a network on one rank, over all states of the unknown sites, in float64."""
    rbm = network.rbms[0]
    W, b, c = (np.asarray(part, np.float64) for part in (rbm.W, rbm.b, rbm.c))
    free = np.unique(np.flatnonzero(unknown) // q)
    states, weights = [], []
    for choice in itertools.product(range(q) if q > 1 else (0, 1), repeat=len(free)):
        state = v.astype(float).reshape(-1, q).copy()
        for site, chosen in zip(free, choice, strict=True):
            state[site] = np.eye(q)[chosen] if q > 1 else chosen
        states.append(state.reshape(-1))
        weights.append(states[-1] @ b + np.logaddexp(0, states[-1] @ W + c).sum())
    p = np.exp(np.array(weights) - max(weights))
    return np.array(states).T @ p / p.sum()


@pytest.mark.parametrize("visible", ["bernoulli", "spin", "categorical:3"])
def test_draws_are_those_of_the_model_given_what_is_known(comm, agree, visible) -> None:
    values, missing = values_of_kind(visible)
    data, q = opened(spoiled(values, missing), visible=visible, missing="sample"), 3 if ":" in visible else 1
    n_draws = 4000
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec((6 * q, 4), visible=visible, seed=2, weight_scale=0.8), grid)
        learn_scaling(network, data)
        mask = missing_values(network, data.train)
        expected = np.repeat(spoiled(values, missing) == missing if q > 1 else np.isnan(spoiled(values, missing)), q, 1)
        agree(np.array_equal(unpack(mask.of(np.arange(70)[::-1]), bool).T[::-1], expected))
        feed = CompletedFeed(network.rbms[0], real_values(network, data, data.train), mask, 12)
        one = int(np.argmax(expected.sum(axis=1) * (expected.sum(axis=1) < 4 * q)))
        drawn = unpack(feed.states(np.full(n_draws, one), 0), float)
        plain = unpack(feed.feed.states(np.array([one]), 0), float)[:, 0]
        agree(np.array_equal(drawn[~expected[one]], np.repeat(plain[~expected[one], None], n_draws, 1)))
        p = conditional(network, plain, expected[one], q)
        agree(np.abs(drawn.mean(axis=1) - p).max() < 4.5 * 0.5 / np.sqrt(n_draws), f"{drawn.mean(axis=1)} {p}")


def test_moments_of_real_values_are_of_those_known(comm, agree) -> None:
    values, _ = values_of_kind("gaussian")
    data = opened(spoiled(values, np.nan), visible="gaussian", missing="sample")
    mean, std = column_moments(data.train, np.arange(6))
    agree(np.allclose(mean, np.nanmean(spoiled(values, np.nan), axis=0), rtol=1e-13))
    agree(np.allclose(std, np.nanstd(spoiled(values, np.nan), axis=0), rtol=1e-12))
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec((6, 4), visible="gaussian", seed=2), grid)
        learn_scaling(network, data)
        mask = MissingValues(data.train, np.arange(6))
        feed = CompletedFeed(network.rbms[0], real_values(network, data, data.train), mask, 3)
        out = np.empty((6, 70), np.float32)
        feed.fill(np.arange(70), 0, out)
        hidden = np.isnan(spoiled(values, np.nan)).T
        agree(np.allclose(out[~hidden], ((values.T - mean[:, None]) / std[:, None])[~hidden], atol=1e-6))
        agree(0.6 < out[hidden].std() < 1.6 and len(np.unique(out[hidden])) == hidden.sum(), f"{out[hidden].std()}")


TRAINING = TrainingSpec(epochs=2, batch_size=30, statistics="3", reconstruction="states", pass_up="states")
CASES = {
    "bernoulli": ((6, 5, 4), TRAINING),
    "spin": ((6, 5), replace(TRAINING, chains=9, chain_start="data", chain_restart=True)),
    "categorical:3": ((18, 5), replace(TRAINING, chains=7, missing_steps=2)),
}


def exact_digests(grid: Grid, visible: str) -> list[int]:
    """Of the parameters after a training of every kind, by unit ids; each rank's part, which add up."""
    layers, training = CASES[visible]
    values, missing = values_of_kind(visible)
    data = opened(spoiled(values, missing), visible=visible, missing="sample")
    layout = "column" if grid.n_shards == 1 else "row" if grid.n_shards == 2 else "dual"
    spec = NetworkSpec(layers, visible=visible, seed=4, exact=True, weight_scale=0.4, layout=layout)
    network = trained(grid, spec, data, training)
    return [
        part.weights.digest(part.parameters.W) + digest(part.parameters.b, part.visible_ids, None)
        for part in network.rbms
    ]


@cache
def alone(visible: str) -> list[int]:
    with Grid(MPI.COMM_SELF) as grid:
        return exact_digests(grid, visible)


@shapes
@pytest.mark.parametrize("visible", CASES)
def test_exact_training_is_the_same_at_every_grid(comm, agree, shape, visible) -> None:
    grid = networks.grid_of(comm.size, shape)
    mine = exact_digests(grid, visible)
    together = [sum(parts) % 2**64 for parts in zip(*grid.shard_comm.allgather(mine), strict=True)]
    agree(together == [one % 2**64 for one in alone(visible)], f"{together} {alone(visible)}")
