"""RBMs with real hidden units over shards and replicas against NumPy and quadrature, with every kind of visible units.

Modules: modelpar/model/sparsity
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.chains.gibbs import start
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose
from modelpar.errors import SpecError
from modelpar.kernels.states import pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.model.real_hidden import variance_alone
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.sync import AllreduceSync
from modelpar.training.optimizer import Optimizer
from modelpar.training.preconditions import check_hidden
from modelpar.training.schedule import StepSize
from modelpar.weights.penalties import Penalties
from tests import networks
from tests.reference_real import N_POTENTIAL, RealRBM, some_potential

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
KINDS = tuple(N_POTENTIAL)
BATCH, RATE, MOMENTUM = 12, 0.05, 0.5
LAYOUTS = ("column", "row", "dual", "random:3")
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
each_kind = pytest.mark.parametrize("kind", KINDS)


def machine(
    comm, shape, kind, *, layout="column", visible="bernoulli", dtype="float64", sizes=(9, 6), owners="random",
    variances="learned",
):  # fmt: skip
    """A sharded network, and the same RBM in NumPy."""
    how = {"connections": layout} if ":" in layout else {"layout": layout}
    spec = NetworkSpec(sizes, hidden=kind, visible=visible, variances=variances, dtype=dtype, seed=17, **how)
    plan = networks.layout_of(spec, shape[0], owners)
    whole_sites = plan.layers[0].with_whole(spec.visible_kind.unit_of_layout)
    plan = replace(plan, layers=(whole_sites, *plan.layers[1:]))
    network = DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), plan)
    rbm, rng = network.rbms[0], np.random.default_rng(7)
    mask = networks.mask_of(network, 0)
    W = rng.normal(0, 0.25, sizes) * mask
    b, c = rng.normal(0, 0.5, sizes[0]), rng.normal(0, 0.5, sizes[1])
    how = {"gaussian": visible == "gaussian", "categories": spec.visible_kind.categories, "mask": mask}
    U = some_potential(kind, sizes[1], rng)
    if rbm.visible.learned:
        how["precision"] = np.exp(rng.normal(0.3, 0.5, sizes[0]))
        rbm.parameters.precision[0] = how["precision"][rbm.visible_ids]
    twin = RealRBM(W, b, c, kind, U, seed=17, **how)
    rbm.W[:], rbm.b[:], rbm.c[:] = networks.held(rbm, W), b[rbm.visible_ids], c[rbm.hidden_ids]
    rbm.parameters.potential[:] = twin.potential[:, rbm.hidden_ids]
    rbm.refresh()
    return network, twin


def close(rbm: RBM, twin: RealRBM, tolerance: float) -> bool:
    own = np.allclose(rbm.parameters.potential, twin.potential[:, rbm.hidden_ids], rtol=0, atol=tolerance)
    return bool(own and networks.close_block(rbm, twin, tolerance))


@pytest.mark.parametrize(
    ("changes", "layout", "owners", "gaussian", "dtype"),
    [
        ({}, "column", "random", False, "float64"),
        ({"gibbs_steps": 2}, "row", "strided", True, "float64"),
        ({"gibbs_steps": 3, "centred": False}, "dual", "empty", False, "float32"),
        ({"persistent": True, "gibbs_steps": 2}, "dual", "random", False, "float64"),
        ({"chains": 20, "chain_start": "random"}, "row", "blocks", False, "float64"),
        ({"persistent": True}, "column", "strided", True, "float32"),
        ({}, "random:3", "random", False, "float32"),
        ({"persistent": True, "centred": False}, "random:3", "strided", True, "float64"),
        ({"learning_rate": RATE}, "row", "random", False, "float64"),
        ({"standardised": True, "chains": 9}, "row", "blocks", False, "float64"),
        ({"standardised": True}, "random:3", "random", True, "float64"),
        ({"l1": 0.3, "learning_rate": RATE}, "row", "random", False, "float64"),
        ({"l1": 0.1, "l1b": 0.05, "hidden_scale": "unit", "chains": 9}, "dual", "strided", False, "float64"),
        ({"l1": 0.3, "hidden_scale": "unit", "learning_rate": RATE}, "row", "blocks", True, "float64"),
        ({"l1": 0.3, "hidden_scale": "unit", "standardised": True}, "random:3", "random", False, "float64"),
        ({"l1": 0.1, "l1b": 0.05}, "row", "random", False, "float64"),
        ({"group_lasso": 0.3}, "column", "random", False, "float64"),
        ({"visible_bias_rate": 5.0, "chains": 9}, "dual", "random", False, "float64"),
        ({"visible_bias_rate": 5.0, "standardised": True}, "random:3", "random", True, "float64"),
        ({"visible_bias_rate": 0.5, "centred": False}, "row", "strided", False, "float64"),
    ],
    ids=str,
)
@each_kind
@shapes
def test_steps_equal_the_reference(comm, agree, shape, kind, changes, layout, owners, gaussian, dtype):
    visible = "gaussian" if gaussian else "bernoulli"
    network, twin = machine(comm, shape, kind, layout=layout, owners=owners, visible=visible, dtype=dtype)
    spec = TrainingSpec(batch_size=BATCH, weight_decay=0.01, **changes)
    rbm, grid = network.rbms[0], network.grid
    optimizer, update = Optimizer(AllreduceSync(grid.replica_comm, network.traffic)), rbm.parameters.like()
    penalties = Penalties.of(spec, rbm.name, rbm.weights, keeps_means=True)
    mine, n_chains = Minibatches.slice_of(BATCH, grid.replica, grid.n_replicas), spec.n_chains
    chains = start(rbm, spec.chain_start, grid.replica, grid.n_replicas, n_chains) if n_chains else None
    if n_chains:
        twin.start_chains(n_chains, spec.chain_start)
    rng = np.random.default_rng(11)
    for step in range(2):
        v0 = rng.normal(size=(9, BATCH)) if gaussian else (rng.random((9, BATCH)) < 0.4).astype(float)
        own = np.ascontiguousarray(v0[rbm.visible_ids][:, mine], dtype)
        result = rbm.contrastive_divergence(
            own if gaussian else pack(own), step * BATCH + mine.start, spec, chains, n_all_samples=BATCH,
            chain_draw=step * n_chains + chains.first if chains else None,
        )  # fmt: skip
        size = StepSize(RATE, MOMENTUM, spec.weight_decay)
        penalties.follow(rbm.name, optimizer.learn(
            rbm.parameters, update, result.statistics, size, mine.stop - mine.start, centred=spec.centred,
            standardised=spec.standardised, gaussian=rbm.gaussian, real_hidden=variance_alone(rbm, spec),
            keeps_means=True, visible_bias_rate=spec.visible_bias_rate,
        ))  # fmt: skip
        if penalties:
            penalties.take(rbm.name, rbm.parameters, RATE)
        expected = twin.update(v0, step * BATCH, spec, RATE, MOMENTUM)
        error = grid.comm.allreduce(result.error) / v0.size
        agree(np.isclose(error, expected, atol=1e-4, equal_nan=True), f"error of step {step}")
    agree(close(rbm, twin, 2e-4))


@each_kind
@shapes
def test_means_and_free_draws(comm, agree, shape, kind):
    network, twin = machine(comm, shape, kind, layout="dual")
    rbm = network.rbms[0]
    v = (np.random.default_rng(3).random((9, 50)) < 0.5).astype(float)
    own = np.ascontiguousarray(v[rbm.visible_ids])
    agree(np.allclose(network.propagate_up(pack(own)), twin.hidden(v)[rbm.hidden_ids], atol=1e-9))
    expected = twin.draw(twin.inputs(v), Purpose.HIDDEN, 0, 4)
    h = rbm.sample_hidden(own, Purpose.HIDDEN, 0, 4)
    agree(np.allclose(h, expected[rbm.hidden_ids], atol=1e-4))
    agree(np.allclose(rbm.visible_given_hidden(h), twin.visible(expected)[rbm.visible_ids], atol=1e-4))
    means = network.fantasies(10, 3)
    agree(np.isfinite(means).all() and means.shape == (len(rbm.visible_ids), 10))


def some_visible(visible, n_visible, n, rng):
    """(n_visible, n) samples of any distribution"""
    if visible == "gaussian":
        return rng.normal(size=(n_visible, n))
    if visible == "bernoulli":
        return (rng.random((n_visible, n)) < rng.random((n_visible, 1))).astype(float)
    q = int(visible.split(":")[1])
    return np.eye(q)[rng.integers(0, q, (n, n_visible // q))].reshape(n, -1).T.copy()


@pytest.mark.parametrize(("visible", "sizes"), [("bernoulli", (4, 2)), ("gaussian", (4, 2)), ("categorical:3", (6, 2))])
@each_kind
def test_statistics_are_the_gradient_of_the_likelihood(comm, agree, kind, visible, sizes):
    """Of many samples and of chains that have come to the model's distribution, within 5 standard errors; the exact
    gradient by central differences of log p of the samples, with log Z by enumeration or quadrature."""
    n = 4000
    network, twin = machine(comm, SHAPES[0], kind, visible=visible, sizes=sizes, owners="blocks")
    rbm, grid = network.rbms[0], network.grid
    v = some_visible(visible, sizes[0], n, np.random.default_rng(2))
    spec = TrainingSpec(batch_size=n, chains=n, chain_steps=25, centred=False)
    mine = Minibatches.slice_of(n, grid.replica, grid.n_replicas)
    chains = start(rbm, "biases", grid.replica, grid.n_replicas, n)
    own = np.ascontiguousarray(v[rbm.visible_ids][:, mine])
    result = rbm.contrastive_divergence(own, mine.start, spec, chains, n_all_samples=n, chain_draw=chains.first)
    gradient = rbm.parameters.like()
    result.statistics.add_to(gradient, 0.0, 1 / n, 1 / n)
    flat = grid.replica_comm.allreduce(gradient.flat)
    own = [twin.W, twin.b, twin.c, twin.potential, *([twin.precision] if twin.learns_precision else [])]

    distinct, times = np.unique(v, axis=1, return_counts=True)
    expected = np.zeros(sum(values.size for values in own))
    places = [(values, index) for values in own for index in np.ndindex(values.shape)]
    for i in range(comm.rank, len(places), comm.size):  # each rank some: the integrals take long
        values, index = places[i]
        kept, slopes = values[index], []
        for sign in (1, -1):
            values[index] = kept + sign * 1e-4
            slopes.append(sign * (twin.log_unnormalised(distinct) @ times / n - twin.log_partition()))
        values[index] = kept
        expected[i] = sum(slopes) / 2e-4
    expected = comm.allreduce(expected)
    # products of a visible and a hidden unit, and squares of hidden ones, deviate by at most 3 or so
    agree(np.abs(flat - expected).max() < 5 * 3.0 / np.sqrt(n))


def test_what_real_hidden_units_do_not_go_with() -> None:
    for options, said in (
        ({"classes": 3}, "--classes 0"), ({"exact": True}, "--exact"),
        ({"hidden": "tanh"}, "must be one of"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=said):
            NetworkSpec(**{"layers": (4, 3), "hidden": "relu", **options})
    spec = NetworkSpec((4, 3), hidden="drelu")
    for options, said in (
        ({"sparsity_cost": 0.1}, "--sparsity-cost"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=said):
            check_hidden(spec, TrainingSpec(**options))
        check_hidden(NetworkSpec((4, 3)), TrainingSpec(**options))
    assert TrainingSpec().rate(real_hidden=True) == pytest.approx(0.025)
    assert TrainingSpec(standardised=False).rate(real_hidden=True) == pytest.approx(0.01)
    assert not TrainingSpec(learning_rate=0.3).divides_real_hidden(gaussian=False)
    assert TrainingSpec(learning_rate=0.3).rate(real_hidden=True) == 0.3
