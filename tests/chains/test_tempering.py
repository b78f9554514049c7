"""Tempered chains against enumeration, and ladders that choose their own levels.

Modules: modelpar/chains/tempered_chains
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI
from scipy import stats

from modelpar import checkpoint, pretrain
from modelpar.chains import tempered_chains
from modelpar.chains.ladder import Level, Walkers, sweep
from modelpar.chains.tempering import (
    ladder_of_models,
    ladder_of_temperatures,
    placed,
    spread_of,
    temperatures,
    tempered_fantasies,
)
from modelpar.draws import Purpose
from modelpar.errors import SpecError
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.spec import NetworkSpec, TrainingSpec
from tests import networks, small

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids=str)
SURE = 0.999  # quantile of chi-square below which a count passes


def put(network, W, b, c):
    rbm = network.rbms[0]
    rbm.W[:] = networks.held(rbm, W)
    rbm.b[:], rbm.c[:] = b[rbm.visible_ids], c[rbm.hidden_ids]
    rbm.refresh()
    return rbm


def masses(W, b, c):
    """(2^n_visible,) probabilities of all visible states, bit i of a code being unit i, and the states."""
    codes = np.arange(2 ** len(b))
    v = codes[None, :] >> np.arange(len(b))[:, None] & 1
    log_f = b @ v + np.logaddexp(0, W.T @ v + c[:, None]).sum(axis=0)
    p = np.exp(log_f - log_f.max())
    return p / p.sum(), v


def codes_after(network, levels, h, n, n_sweeps):
    """Codes (n,) of the highest level's visible states, of all chains, on every rank."""
    grid, rbm = network.grid, network.rbms[0]
    first, stop = n * grid.replica // grid.n_replicas, n * (grid.replica + 1) // grid.n_replicas
    walkers = Walkers.at([pack(np.repeat(h[rbm.hidden_ids, None], stop - first, axis=1))] * len(levels), first, n)
    for number in range(n_sweeps):
        walkers, v = sweep(levels, walkers, number, Purpose.FANTASY)
    mine = np.zeros((network.spec.layers[0], n), np.int64)
    assert isinstance(v[-1], Packed)
    mine[rbm.visible_ids, first:stop] = unpack(v[-1], np.int64)
    return (1 << np.arange(len(mine))) @ grid.comm.allreduce(mine), walkers.swaps.total(grid.replica_comm)


def chi_square(counts, p):
    """Pearson's statistic as a quantile of its distribution, of cells that expect 5 or more, the others together."""
    expected = counts.sum() * p
    rare = expected < 5
    if rare.any():
        counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    return stats.chi2.cdf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1)


@shapes
def test_two_modes_get_their_masses(comm, agree, shape):
    """Chains that start in one mode: swaps bring them to the other, Gibbs sampling alone does not.

    2000 chains find shares that are wrong by 0.05 with a probability above 0.95: the statistic then has a mean of 2
    and a non-centrality of 2000 * 0.05^2 / (0.65 * 0.35) = 22 and more, and 13.8 is its quantile of 0.999.
    """
    W = np.zeros((12, 3), np.float32)
    W[:6, 0], W[6:, 0], W[:6, 1], W[6:, 1], W[:, 2] = 2.5, -2.5, -2.5, 2.5, 0.3
    b, c = np.zeros(12, np.float32), np.array([-3.0, -3.6, -0.5], np.float32)
    p, v = masses(W.astype(float), b, c)
    side = np.sign(v[:6].sum(axis=0) - v[6:].sum(axis=0)).astype(int) + 1
    shares = np.bincount(side, p, 3)
    network = networks.sharded(comm, NetworkSpec((12, 3), exact=True, seed=2), shape, "random")
    rbm, start = put(network, W, b, c), np.array([1, 0, 0])
    tempered, swaps = codes_after(network, [Level(rbm, beta) for beta in np.linspace(0, 1, 8)], start, 2000, 60)
    plain, _ = codes_after(network, [Level(rbm)], start, 2000, 60)
    quantiles = [chi_square(np.bincount(side[codes], minlength=3), shares) for codes in (tempered, plain)]
    agree(0.3 < shares[0] < 0.4 < 0.6 < shares[2], f"{shares}")
    agree(quantiles[0] < SURE, f"{quantiles} {np.bincount(side[tempered]) / 2000} {shares}")
    agree(quantiles[1] > 1 - 1e-12 and (side[plain] == 0).mean() < shares[0] / 2, f"{(side[plain] == 0).mean()}")
    agree(swaps.round_trips > 2000 and swaps.acceptance.min() > 0.3, f"{swaps}")


@shapes
@pytest.mark.parametrize("kind", ["temperatures", "models"])
def test_samples_agree_with_enumeration(comm, agree, shape, kind):
    """4000 chains, 32 visible states, a start far from equilibrium; a model of half the weights is far away too."""
    rng = np.random.default_rng(8)
    W, b, c = (rng.normal(0, s, n).astype(np.float32) for s, n in ((2.0, (5, 4)), (0.5, 5), (0.5, 4)))
    p, _ = masses(*(x.astype(float) for x in (W, b, c)))
    network = networks.sharded(comm, NetworkSpec((5, 4), exact=True, seed=4), shape, "strided")
    rbm = put(network, W, b, c)
    if kind == "temperatures":
        levels = ladder_of_temperatures(rbm, 5)
    else:
        half = rbm.parameters.like()
        half.flat[:] = rbm.parameters.flat / 2
        levels = ladder_of_models(rbm, [rbm.with_parameters(half)])
    codes, _ = codes_after(network, levels, np.ones(4, int), 4000, 25)
    counts = np.bincount(codes, minlength=32)
    agree(chi_square(counts, p) < SURE, f"{counts} {4000 * p}")
    # what the test is worth: the model at half its weights is told from this one
    q, _ = masses(*(x.astype(float) / 2 for x in (W, b, c)))
    agree(chi_square(counts, q) > 1 - 1e-12)


@shapes
def test_ladders_choose_levels_alike_at_every_grid(comm, agree, shape):
    """Temperatures lie where the model changes; models are left out where their neighbours swap without them."""
    rng = np.random.default_rng(5)
    W, b, c = (rng.normal(0, s, n).astype(np.float32) for s, n in ((1.0, (40, 20)), (0.3, 40), (0.3, 20)))
    spec = NetworkSpec((40, 20), exact=True, seed=6)
    chosen = []
    for ranks, of in ((comm, shape), (MPI.COMM_SELF, (1, 1))):
        network = networks.sharded(comm, spec, of, "random") if ranks is comm else alone(spec)
        rbm = put(network, W, b, c)
        models = []
        for part in np.linspace(0.04, 1, 25):
            parameters = rbm.parameters.like()
            parameters.flat[:] = np.float32(part) * rbm.parameters.flat
            models.append(rbm.with_parameters(parameters))
        ladder = ladder_of_models(rbm, models)
        of_levels = [round(float(level.rbm.W[0, 0] / rbm.W[0, 0]), 4) if rbm.W.size else 0.0 for level in ladder]
        of_levels = network.grid.comm.bcast(of_levels)
        _, swaps = codes_after(network, ladder, np.zeros(20, int), 200, 30)
        chosen.append((temperatures(rbm, 7), len(ladder), of_levels, swaps.acceptance.tolist()))
    agree(chosen[0] == chosen[1], f"{chosen}")
    betas, n_levels, _, acceptance = chosen[0]
    agree(betas[0] == 0 and betas[-1] == 1 and min(np.diff(betas)) > 0 and np.ptp(np.diff(betas)) > 0.02, f"{betas}")
    agree(4 <= n_levels < 20 and min(acceptance) > 0.15, f"{n_levels} {acceptance}")


def alone(spec):
    from modelpar import DeepBeliefNetwork, Grid

    if not hasattr(alone, "grid"):
        alone.grid = Grid(MPI.COMM_SELF)  # type: ignore[attr-defined]
    return DeepBeliefNetwork(spec, alone.grid)  # type: ignore[attr-defined]


def test_equal_spreads_are_equal_distances():
    assert np.allclose(placed(np.full(4, 2.0), np.linspace(0, 1, 5), 3), [0, 0.5, 1])
    # all of the change in the first tenth, but for the part that is at equal distances: 0.2 of the length beyond it
    assert np.allclose(placed(np.array([1.0, 0.0]), np.array([0, 0.1, 1.0]), 3)[1], 0.1 * 0.625 / 1.025)
    assert spread_of([3, 3, 7, 7]) == 2.0
    assert spread_of([]) == 0.0


TRAINING = TrainingSpec(epochs=4, batch_size=16, learning_rate=0.5, chains=11, chain_steps=2)


def trained(network, training):
    records = list(pretrain(network, small.dataset(13), training))
    return [record.measures for record in records if record.kind == "epoch"]


@shapes
def test_chains_along_the_trajectory_of_a_training(comm, agree, shape, tmp_path, monkeypatch):
    """Exact: the same parameters and ladder from a checkpoint in mid-epoch, at another grid; the bounds are kept."""
    monkeypatch.setattr(tempered_chains, "LOOK_EVERY", 2)
    monkeypatch.setattr(tempered_chains, "GROW_BELOW", 0.97)
    folder = comm.bcast(tmp_path)
    training = replace(TRAINING, chain_method="ptt", chain_temperatures=4)
    spec = NetworkSpec((13, 7), exact=True, seed=3)
    first, seen = networks.sharded(comm, spec, networks.grids(MPI.COMM_WORLD)[0], "blocks"), []
    for record in pretrain(first, small.dataset(13), training):
        if record.kind == "step":
            seen.append(first.run.chains.n_levels)
        if (record.kind, record.step) == ("step", 8):
            checkpoint.save(first, folder / "middle.safetensors")
    checkpoint.save(first, folder / "first.safetensors")
    agree(seen[0] == 2 and max(seen) == 4 and seen[7] > 2, f"{seen}")
    grid = networks.grid_of(comm.size, shape)
    second = checkpoint.load(folder / "middle.safetensors", grid, networks.layout_of(spec, grid.n_shards, "random"))
    agree(second.run.chains.n_levels == seen[7] and second.run.chains.n_all == 11)
    checkpoint.save(second, folder / "again.safetensors")
    measures = trained(second, training)
    checkpoint.save(second, folder / "second.safetensors")
    for one, other in (("first", "second"), ("middle", "again")):
        same = (folder / f"{one}.safetensors").read_bytes() == (folder / f"{other}.safetensors").read_bytes()
        agree(same, f"{one} {other}")
    agree({"swap_acceptance", "round_trips", "chain_levels"} <= measures[-1].keys())


def test_measures_of_an_epoch_are_those_of_all_chains(comm, agree):
    network = networks.sharded(comm, NetworkSpec((13, 7)), (1, comm.size), "blocks")
    training = replace(TRAINING, chain_method="pt", chain_temperatures=3, chain_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # these swap often enough
        measures = trained(network, training)
    agree(len(measures) == 4 and all(0.5 < one["swap_acceptance"] <= 1 for one in measures), f"{measures}")
    agree(comm.bcast(measures) == measures and measures[-1]["round_trips"] > 0, f"{measures}")


@pytest.mark.parametrize(
    ("method", "advice"), [("pt", "more --chain-temperatures"), ("ptt", "smaller --learning-rate")]
)
def test_rare_swaps_are_said_once_by_the_first_rank(comm, agree, monkeypatch, method, advice):
    """Large weights and three temperatures, or two models, one of them without weights."""
    monkeypatch.setattr(tempered_chains, "GROW_BELOW", 0.0)
    network = networks.sharded(comm, NetworkSpec((13, 7), weight_scale=20.0), (comm.size, 1), "blocks")
    training = replace(TRAINING, chain_method=method, chain_temperatures=3, learning_rate=1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        measures = trained(network, training)
    said = [str(one.message) for one in caught if "of their swaps over an epoch" in str(one.message)]
    agree(sum(one["swap_acceptance"] < 0.05 for one in measures) > 1, f"{measures}")
    agree(len(said) == (comm.rank == 0) and all("RBM 0: " in one and advice in one for one in said), f"{said}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chains": 0}, "needs chains of their own that go on, but there are none"),
        ({"chain_restart": True}, "but --chain-restart starts them anew"),
    ],
)
def test_tempered_chains_go_on(changes, message):
    with pytest.raises(SpecError, match=message):
        replace(TRAINING, chain_method="pt", **changes)


def test_a_ladder_ends_at_the_network_that_it_samples(comm, agree):
    network = networks.sharded(comm, NetworkSpec((13, 7)), (comm.size, 1), "blocks")
    levels = ladder_of_temperatures(network.rbms[0], 3)
    for wrong in (levels[:2], levels[2:]):
        with pytest.raises(SpecError, match="the last of which is the network's top RBM"):
            tempered_fantasies(network, wrong, 5, 2)
    means, swaps = tempered_fantasies(network, levels, 5, 2)
    agree(means.shape == (len(network.visible_ids), 5) and swaps.tried.tolist() == [5, 5])
