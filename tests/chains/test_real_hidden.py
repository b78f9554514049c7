"""Tempered chains of RBMs with real hidden units against quadrature and enumeration, at every grid of the ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from modelpar import checkpoint, pretrain
from modelpar.chains import tempered_chains
from modelpar.chains.ladder import Level, Walkers, swap_ratios, sweep
from modelpar.chains.tempering import ladder_of_models, ladder_of_temperatures, tempered_fantasies
from modelpar.checkpoint import files
from modelpar.draws import Purpose
from modelpar.kernels.sampling.softplus import FIXED_STEPS
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.model.real_hidden import nothing_on
from modelpar.spec import NetworkSpec, TrainingSpec
from tests import networks, small
from tests.model.test_real_hidden import KINDS, SHAPES, machine, some_visible
from tests.reference_real import RealRBM, some_potential

pytestmark = pytest.mark.ranks

each_kind = pytest.mark.parametrize("kind", KINDS)
each_visible = pytest.mark.parametrize("visible", ["bernoulli", "categorical:3", "gaussian"])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
SIZES = (6, 2)
SURE = 0.999  # quantile of chi-square below which a count passes


class Twin:
    """A level in plain NumPy: p(v) of an RBM whose inputs of hidden units are beta times W^T v + c."""

    def __init__(self, twin, beta):
        how = {"gaussian": twin.gaussian, "categories": twin.categories, "precision": twin.precision, "seed": 0}
        self.rbm = RealRBM(beta * twin.W, twin.b, beta * twin.c, twin.kind, twin.potential, **how)

    def log_f(self, v):
        return self.rbm.log_unnormalised(v)


def ladder(comm, shape, kind, visible):
    """(network, levels, their twins): temperatures of an RBM below another with its own weights and potentials."""
    network, upper = machine(comm, shape, kind, visible=visible, sizes=SIZES)
    rbm, rng = network.rbms[0], np.random.default_rng(4)
    if visible != "gaussian":  # strong enough that levels differ
        upper.W *= 2.5
        rbm.W[:] *= 2.5
        rbm.refresh()
    # precisions of Gaussian visible units are levels' own too
    precision = 1.5 * upper.precision if visible == "gaussian" else upper.precision
    how = {"gaussian": upper.gaussian, "categories": upper.categories, "precision": precision, "seed": 0}
    lower = RealRBM(0.6 * upper.W, -upper.b, -upper.c, kind, some_potential(kind, SIZES[1], rng), **how)
    parameters = rbm.parameters.like()
    parameters.precision[:] = lower.precision[rbm.visible_ids]
    parameters.W[:], parameters.b[:] = networks.held(rbm, lower.W), lower.b[rbm.visible_ids]
    parameters.c[:], parameters.potential[:] = lower.c[rbm.hidden_ids], lower.potential[:, rbm.hidden_ids]
    kept = rbm.with_parameters(parameters)
    levels = [Level(kept, 0.0), Level(kept, 0.5), Level(kept), Level(rbm)]
    return network, levels, [Twin(lower, 0.0), Twin(lower, 0.5), Twin(lower, 1.0), Twin(upper, 1.0)]


@each_visible
@each_kind
@shapes
def test_swaps_are_decided_by_integrals_over_hidden_units(comm, agree, shape, kind, visible):
    """Both kinds of neighbours: of one RBM, whose biases cancel, and of two with potentials of their own."""
    network, levels, twins = ladder(comm, shape, kind, visible)
    own, rng = network.rbms[0].visible_ids, np.random.default_rng(6)
    v = [some_visible(visible, SIZES[0], 40, rng) for _ in range(2)]
    mine = [np.ascontiguousarray(values[own]) for values in v]
    a, b = mine if visible == "gaussian" else map(pack, mine)
    for low in range(3):
        _, _, ratio = swap_ratios(levels[low], levels[low + 1], a, b)
        f, g = (twin.log_f for twin in twins[low : low + 2])
        expected = f(v[1]) + g(v[0]) - f(v[0]) - g(v[1])
        # rounded once a shard and level, and visible units each by itself
        worst, spread = np.abs(ratio / FIXED_STEPS - expected).max(), np.ptp(expected)
        agree(worst < 2e-6 and spread > 0.05, f"levels {low}, {low + 1}: {worst} of {spread}")


def states_after(network, levels, n, n_sweeps):
    """(levels, n_visible, n) visible states or values of all chains, on every rank; they start without any unit on."""
    grid, rbm = network.grid, network.rbms[0]
    first, stop = n * grid.replica // grid.n_replicas, n * (grid.replica + 1) // grid.n_replicas
    walkers = Walkers.at([nothing_on(rbm, stop - first)] * len(levels), first, n)
    for number in range(n_sweeps):
        walkers, v = sweep(levels, walkers, number, Purpose.FANTASY)
    result = np.zeros((len(levels), network.spec.layers[0], n))
    for t, values in enumerate(v):
        dense = unpack(values, np.float64) if isinstance(values, Packed) else values
        result[t, rbm.visible_ids, first:stop] = dense
    return grid.comm.allreduce(result), walkers.swaps.total(grid.replica_comm)


def quantile(counts, p):
    """Of Pearson's statistic; cells that expect less than 5 are one."""
    expected = counts.sum() * p
    rare = expected < 5
    if rare.any():
        counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    return stats.chi2.cdf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1)


@pytest.mark.parametrize("visible", ["bernoulli", "categorical:3"])
@each_kind
@shapes
def test_every_level_has_its_distribution(comm, agree, shape, kind, visible):
    """4000 chains against the masses of all visible states, by enumeration and quadrature; none fits
    the other model."""
    network, levels, twins = ladder(comm, shape, kind, visible)
    v, swaps = states_after(network, levels, 4000, 20)
    states = twins[0].rbm.all_states()
    place_value = 1 << np.arange(SIZES[0])
    masses = []
    for twin in twins:
        log_f = twin.log_f(states)
        masses.append(np.exp(log_f - np.logaddexp.reduce(log_f)))
    for t in range(4):
        counts = np.bincount((place_value @ v[t]).astype(int), minlength=64)[(place_value @ states).astype(int)]
        agree(counts.sum() == 4000 and quantile(counts, masses[t]) < SURE, f"level {t}: {counts} {4000 * masses[t]}")
        agree(quantile(counts, masses[3 if t < 3 else 2]) > 1 - 1e-6, f"level {t} is told from another model's")
    agree(0 < swaps.acceptance.min() < swaps.acceptance.max() < 1 and swaps.round_trips > 0, f"{swaps}")


@pytest.mark.slow
@each_kind
@shapes
def test_levels_of_gaussian_visible_units(comm, agree, shape, kind):
    """Means and second moments of 4000 chains against the integral over the hidden units, within 5 of their errors."""
    network, levels, twins = ladder(comm, shape, kind, "gaussian")
    v, swaps = states_after(network, levels, 4000, 30)
    for t, twin in enumerate(twins):
        mean, second = twin.rbm.visible_moments()
        for values, expected in ((v[t], mean), (v[t] ** 2, second)):
            error = values.std(axis=1) / np.sqrt(4000)
            agree((np.abs(values.mean(axis=1) - expected) < 5 * error).all(), f"level {t}")
    agree(swaps.acceptance.min() > 0 and swaps.round_trips > 0, f"{swaps}")


@shapes
def test_fantasies_of_ladders_that_choose_their_levels(comm, agree, shape):
    """By temperatures and through models kept: means over chains against those of enumeration."""
    network, levels, twins = ladder(comm, shape, "drelu", "bernoulli")
    states, rbm = twins[3].rbm.all_states(), network.rbms[0]
    log_f = twins[3].log_f(states)
    expected = states @ np.exp(log_f - np.logaddexp.reduce(log_f))
    for chosen in (ladder_of_temperatures(rbm, 5), ladder_of_models(rbm, [levels[2].rbm])):
        agree(chosen[0].beta == 0 and chosen[-1].rbm is rbm)
        means, _ = tempered_fantasies(network, chosen, 1000, 15)
        agree(np.abs(means.mean(axis=1) - expected[rbm.visible_ids]).max(initial=0) < 5 * 0.5 / np.sqrt(1000))


SPEC = NetworkSpec((13, 7), hidden="drelu", dtype="float64", seed=3)
TRAINING = TrainingSpec(epochs=2, batch_size=8, chains=12, learning_rate=0.1, chain_temperatures=4)


@pytest.mark.parametrize("method", ["pt", "ptt"])
@shapes
def test_training_has_one_result_and_goes_on_from_a_file(comm, agree, shape, method, tmp_path, monkeypatch):
    """Chains and kept models, potentials included, at another grid from the middle of an epoch."""
    monkeypatch.setattr(tempered_chains, "LOOK_EVERY", 2)
    monkeypatch.setattr(tempered_chains, "GROW_BELOW", 1.0)
    path = comm.bcast(str(tmp_path / "tempered.safetensors"))
    training = replace(TRAINING, chain_method=method)
    first = networks.sharded(comm, replace(SPEC, layout="row"), SHAPES[0], "strided")
    for i, _ in enumerate(pretrain(first, small.dataset(13), training)):
        if i == 6:
            checkpoint.save(first, path)
    stored = files.read_header(path, comm).tensors.keys()
    agree("chains.below" in stored and ("ladder.1.rbm.0.threshold" in stored) == (method == "ptt"), f"{stored}")
    again = checkpoint.load(path, networks.grid_of(comm.size, shape), networks.layout_of(SPEC, shape[0], "random"))
    if method == "ptt":
        kept = checkpoint.read_ladder(path, again)
        agree(len(kept) > 1 and np.array_equal(kept[1].potential, again.run.chains.kept[1].potential))
        assert comm.allreduce(float(np.abs(kept[1].potential).sum())) > 0
    for _ in pretrain(again, small.dataset(13), training):
        pass
    whole = [np.zeros(2 * 7), np.zeros(2 * 7)]
    for network, values in zip((first, again), whole, strict=True):
        rbm = network.rbms[0]
        values.reshape(2, 7)[:, rbm.hidden_ids] = rbm.parameters.potential
        values[:] = network.grid.shard_comm.allreduce(values)
    agree(np.allclose(*whole, rtol=0, atol=1e-6) and np.abs(whole[0]).max() > 0.01, f"{whole}")
    agree(again.run.chains.n_levels == first.run.chains.n_levels == 4 and again.run.chains.h.dtype == np.float64)
