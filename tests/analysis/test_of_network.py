"""Networks over several ranks: whole parameters, couplings and sequences are those of one rank."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, open_dataset
from modelpar.analysis.couplings import leading_order, two_body
from modelpar.analysis.of_network import (
    effective_couplings,
    normal_inputs,
    sampled_states,
    states_of_split,
    whole_parameters,
)
from modelpar.chains.gibbs import Chains
from modelpar.draws import Purpose
from modelpar.errors import SpecError
from modelpar.kernels.states import pack, unpack
from modelpar.training.state import TrainingRun

pytestmark = [pytest.mark.ranks(1, 2, 3)]

SPEC = NetworkSpec((6 * 5, 4), visible="categorical:5", seed=2, weight_scale=1.0, exact=True)
STATES = np.random.default_rng(1).integers(0, 5, (90, 6))


def shapes(comm) -> list[dict[str, int]]:
    return [{"model_shards": comm.size}, {"replicas": comm.size}]


def test_parameters_and_couplings(comm, agree) -> None:
    with Grid(MPI.COMM_SELF) as grid:
        rbm = DeepBeliefNetwork(SPEC, grid).rbms[0]
        W, b, c = np.array(rbm.W), np.array(rbm.b), np.array(rbm.c)
    with Grid(comm, model_shards=comm.size) as grid:
        network = DeepBeliefNetwork(SPEC, grid)
        whole = whole_parameters(network)
        agree(all(np.array_equal(x, y) for x, y in zip(whole, (W, b, c), strict=True)))
        agree(np.allclose(effective_couplings(network), two_body(W, c, 5)))
        with pytest.raises(SpecError, match="not of bernoulli ones"):
            effective_couplings(DeepBeliefNetwork(NetworkSpec((30, 4)), grid))


@pytest.mark.parametrize("hidden", ["gaussian", "drelu"])
def test_couplings_of_real_hidden_units(comm, agree, hidden: str) -> None:
    """Of Gaussian units W W^T; of others the second cumulant at every grid, here by a sum over many sequences."""
    spec = NetworkSpec((6 * 5, 4), visible="categorical:5", hidden=hidden, seed=2, weight_scale=0.3)
    with Grid(comm, model_shards=comm.size) as grid:
        network = DeepBeliefNetwork(spec, grid)
        rbm = network.rbms[0]
        rbm.c[:] = np.array([0.5, -1, 0, 2])[rbm.hidden_ids]
        for k, potential in enumerate(rbm.parameters.potential):
            potential[:] = np.array([[0.8, -0.5, 0.2, 0.0], [0.3, 0.0, -0.6, 0.1]])[k, rbm.hidden_ids]
        W, _, c = whole_parameters(network)
        result = effective_couplings(network)
        x = c + sum(W[5 * site + STATES[:, site]] for site in range(6))
        own = x[:, rbm.hidden_ids].T
        assert rbm.hidden_units is not None
        variance = np.zeros(4)
        variance[rbm.hidden_ids] = rbm.hidden_units.given(own, rbm.parameters.potential).variance().mean(axis=1)
        variance = grid.shard_comm.allreduce(variance)
    exact = hidden == "gaussian"
    agree(np.allclose(result, leading_order(W, 5, variance), rtol=1e-5 if exact else 0.1, atol=1e-6 if exact else 0.02))
    agree(not exact or np.allclose(variance, 1))


def test_chains_that_are_not_there(comm, agree) -> None:
    with Grid(comm) as grid:
        network = DeepBeliefNetwork(SPEC, grid)
        for start, message in (("chains", "no chains of training"), ("data", "must be random or chains")):
            with pytest.raises(SpecError, match=message):
                sampled_states(network, 5, 1, start=start)
        agree(True)


@pytest.mark.parametrize("start", ["random", "chains"])
def test_sequences_of_data_and_of_the_model(comm, agree, start) -> None:
    h0 = np.zeros((4, 40)) if start == "random" else np.random.default_rng(1).integers(0, 2, (4, 40))
    with Grid(MPI.COMM_SELF) as grid:
        alone = DeepBeliefNetwork(SPEC, grid)
        rbm = alone.rbms[0]
        v, seen = rbm.sample_visible(pack(h0), Purpose.FANTASY, 0, 3), {}
        for k in range(1, 8):
            h = rbm.sample_hidden(v, Purpose.FANTASY, 2 * k - 1, 3)
            v = rbm.sample_visible(h, Purpose.FANTASY, 2 * k, 3)
            seen[k] = unpack(v, np.float32).T.reshape(40, 6, 5).argmax(axis=2)
        expected = np.concatenate([seen[5], seen[7][:30]])
    for shape in shapes(comm):
        with Grid(comm, **shape) as grid:
            network = DeepBeliefNetwork(SPEC, grid)
            data = open_dataset(STATES, comm=comm, visible="categorical:5", test_fraction=0.0)
            agree(np.array_equal(states_of_split(network, data, data.train), STATES))
            if start == "chains":
                own = h0[network.rbms[0].hidden_ids]
                TrainingRun.of(network).chains = Chains.of_replica(own, grid.replica, grid.n_replicas)
            sampled = sampled_states(network, 70, 5, chains=40, apart=2, first_draw=3, start=start)
            agree(np.array_equal(sampled, expected))


def test_inputs_of_independent_sites() -> None:
    rng = np.random.default_rng(2)
    W, c, f = rng.normal(size=(30, 4)), rng.normal(size=4), rng.dirichlet(np.ones(5), 6)
    states = np.stack([rng.choice(5, 20000, p=f[site]) for site in range(6)], axis=1)
    x = c + sum(W[5 * site + states[:, site]] for site in range(6))
    result = normal_inputs(W, c, f, 1000)
    assert np.allclose(result.mean(axis=1), x.mean(axis=0), atol=0.1)
    assert np.allclose(result.std(axis=1), x.std(axis=0), rtol=0.05)
