"""A stack whose last layer has real values against quadrature and enumeration: bounds, samples down, completions."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.chains.clamped import complete
from modelpar.chains.tempering import ladder_of_temperatures, tempered_fantasies
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.likelihood.score import log_unnormalised, score
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec
from tests import networks
from tests.likelihood.cases import all_states
from tests.reference import sigmoid
from tests.reference_real import RealRBM, potential, some_potential

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_kind = pytest.mark.parametrize("kind", ["relu", "drelu"])
SIZES = (6, 4, 2)


def stack(comm, shape, kind, visible="bernoulli"):
    """(a network, W b c of its first RBM, the top RBM in NumPy)"""
    spec = NetworkSpec(SIZES, hidden=kind, visible=visible, dtype="float64", seed=5)
    plan = networks.layout_of(spec, shape[0], "blocks" if visible == "categorical:3" else "random")
    if visible == "categorical:3":
        plan = type(plan)((plan.layers[0].with_whole(3), *plan.layers[1:]), plan.matrix_layouts)
    network, rng = DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), plan), np.random.default_rng(3)
    parameters = [(rng.normal(0, s, (n, m)), rng.normal(0, 0.5, n), rng.normal(0, 0.5, m))
                  for s, n, m in zip((1.0, 0.8), SIZES, SIZES[1:], strict=False)]  # fmt: skip
    top = RealRBM(*parameters[1], kind, some_potential(kind, 2, rng), seed=5)
    for rbm, (W, b, c) in zip(network.rbms, parameters, strict=True):
        rbm.W[:], rbm.b[:], rbm.c[:] = networks.held(rbm, W), b[rbm.visible_ids], c[rbm.hidden_ids]
    network.rbms[1].parameters.potential[:] = top.potential[:, network.rbms[1].hidden_ids]
    network.refresh()
    return network, parameters[0], top


@pytest.mark.parametrize("visible", ["bernoulli", "categorical:3"])
@each_kind
@shapes
def test_the_bound_of_the_likelihood(comm, agree, shape, kind, visible):
    """Sample by sample from the states that were drawn, and its mean below the likelihood by enumeration, of which its
    exponential is an unbiased estimate."""
    network, (W, b, c), top = stack(comm, shape, kind, visible)
    grid, n, rng = network.grid, 400, np.random.default_rng(8)
    if visible == "bernoulli":
        v = (rng.random((6, n)) < 0.5).astype(float)
    else:
        v = np.eye(3)[rng.integers(0, 3, (n, 2))].reshape(n, 6).T.copy()
    mine = np.array_split(np.arange(n), grid.n_replicas)[grid.replica]
    own = np.ascontiguousarray(v[:, mine][network.visible_ids])
    bounds, h = log_unnormalised(network, pack(own), mine, seed=1)
    agree(isinstance(h, Packed))
    states = np.zeros((4, len(mine)))
    states[network.rbms[0].hidden_ids] = unpack(h, np.float64)
    states = grid.shard_comm.allreduce(states)

    def log_given(v, h):
        x = W @ h + b[:, None]
        if visible == "bernoulli":
            return (v * x).sum(axis=0) - np.logaddexp(0, x).sum(axis=0)
        return (v * x).sum(axis=0) - np.logaddexp.reduce(x.reshape(2, 3, -1), axis=1).sum(axis=0)

    x = W.T @ v[:, mine] + c[:, None]
    log_q = (states * x).sum(axis=0) - np.logaddexp(0, x).sum(axis=0)
    agree(np.allclose(bounds, log_given(v[:, mine], states) - log_q + top.log_unnormalised(states), atol=1e-8))
    found, log_z = score(network, pack(own), mine, "exact", seed=1), top.log_partition()
    between = all_states(4)
    prior = top.log_unnormalised(between) - log_z
    exact = np.logaddexp.reduce([prior[k] + log_given(v, between[:, [k]]) for k in range(16)])
    agree(np.isclose(found.log_partition, log_z, atol=1e-8) and found.log_likelihood < exact.mean())
    # exp(bound) is p(v) on average over the states that are drawn: here, over 400 draws of each of a few samples
    few = np.repeat(v[:, :3], n, axis=1)[network.visible_ids]
    many, _ = log_unnormalised(network, pack(few), np.arange(3 * n), seed=2)
    ratio = np.exp(many - log_z - np.repeat(exact[:3], n)).reshape(3, n)
    agree((np.abs(ratio.mean(axis=1) - 1) < 5 * ratio.std(axis=1) / np.sqrt(n)).all(), f"{ratio.mean(axis=1)}")


@each_kind
@shapes
def test_samples_are_generated_down(comm, agree, shape, kind):
    """By Gibbs sampling and by tempering of the top RBM: means against the integral over its hidden units."""
    network, (W, b, _), top = stack(comm, shape, kind)
    line = (np.arange(400) + 0.5) * 0.06 - 12  # cells that end at 0, where potentials have kinks
    h = np.array(np.meshgrid(line, line)).reshape(2, -1)
    between = top.W @ h + top.b[:, None]
    log_p = top.c @ h + np.logaddexp(0, between).sum(axis=0)
    log_p -= sum(potential(kind, h[j], *top.potential[:, j]) for j in range(2))
    p = np.exp(log_p - log_p.max())
    expected = sigmoid(W @ sigmoid(between) + b[:, None]) @ (p / p.sum())
    own, count = network.visible_ids, 1000
    means = network.fantasies(count, 15)
    agree(np.abs(means.mean(axis=1) - expected[own]).max(initial=0) < 5 * 0.5 / np.sqrt(count))
    means, _ = tempered_fantasies(network, ladder_of_temperatures(network.rbms[1], 4), count, 15)
    agree(np.abs(means.mean(axis=1) - expected[own]).max(initial=0) < 5 * 0.5 / np.sqrt(count))


@shapes
def test_completions_go_through_the_stack(comm, agree, shape):
    network, _, _ = stack(comm, shape, "drelu")
    own, known = network.visible_ids, np.array([1, 0, 1, 0, 0, 1])
    given = np.array([[1.0], [0.0], [0.0], [0.0], [0.0], [1.0]])
    found = complete(network, given[own], known[own], count=50, steps=5)
    agree(np.array_equal(found[known[own] == 1], np.repeat(given[own][known[own] == 1], 50, axis=1)))
    others = found[known[own] == 0]
    agree((others > 0).all() and (others < 1).all() and (others.std(axis=1) > 0).all())
