"""Every kind of visible with every kind of hidden units, over every grid and with uneven shards, against NumPy.

Modules: modelpar/model/gaussian_visible
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.chains.gibbs import Chains
from modelpar.data import open_dataset
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose
from modelpar.errors import SpecError
from modelpar.kernels.states import pack, unpack
from modelpar.likelihood.annealing import log_partition_ais
from modelpar.likelihood.energy import free_energy
from modelpar.likelihood.enumeration import log_partition_exact
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import MATRIX_LAYOUTS, NetworkLayout
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.exactness import digests_of_parts
from modelpar.training.trainer import pretrain
from tests import networks
from tests.extent import quick
from tests.reference_pairs import PairRBM
from tests.reference_real import some_potential

pytestmark = pytest.mark.ranks

COMM = MPI.COMM_WORLD
SHAPES = networks.grids(COMM)
VISIBLE = ("bernoulli", "spin", "categorical:3", "gaussian, unit", "gaussian, learned")
HIDDEN = ("bernoulli", "gaussian", "relu", "drelu")
PAIRS = [(v, h) for v in VISIBLE for h in HIDDEN]
HELD = ("column", "row", "dual", "random:2")
N = 2000  # samples
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
FIRST = {
    ("spin", "bernoulli"),
    ("categorical:3", "relu"),
    ("gaussian, unit", "gaussian"),
    ("gaussian, learned", "drelu"),
}
pairs = pytest.mark.parametrize(
    "pair", [pytest.param(p, id=" x ".join(p), marks=[] if p in FIRST else pytest.mark.slow) for p in PAIRS]
)


@cache
def whole(visible: str, hidden: str, held: str) -> PairRBM:
    """An RBM of 6 visible and 2 or 3 hidden units; with connections that are listed some weights are 0."""
    real = visible.startswith("gaussian")
    n, m = 6, 2 if real and hidden != "bernoulli" else 3
    rng = np.random.default_rng(PAIRS.index((visible, hidden)))
    W, b, c = rng.normal(0, 0.6, (n, m)), rng.normal(0, 0.5, n), rng.normal(0, 0.5, m)
    if real:
        W *= 0.5 / np.linalg.norm(W, 2)  # it has a distribution, whatever the potentials and the precisions are
    mask = networks.mask_of(network_of(visible, hidden, SHAPES[0], held), 0)
    own = some_potential(hidden, m, rng) if hidden != "bernoulli" else np.zeros((0, m))
    more = {"precision": np.exp(rng.normal(0.4, 0.6, n))} if visible.endswith("learned") else {}
    categories = 3 if visible.startswith("categorical") else 0
    return PairRBM(W * mask, b, c, hidden, own, gaussian=real, categories=categories, mask=mask, **more)


def network_of(visible: str, hidden: str, shape: tuple[int, int], held: str) -> DeepBeliefNetwork:
    kind, _, variances = visible.partition(", ")
    how = {"connections": held} if ":" in held else {"layout": held}
    m = 2 if kind == "gaussian" and hidden != "bernoulli" else 3
    spec = NetworkSpec(
        (6, m), visible=kind, variances=variances or "learned", hidden=hidden, dtype="float64", seed=4, **how
    )
    plan = networks.layout_of(spec, shape[0], "random")
    whole_sites = plan.layers[0].with_whole(spec.visible_kind.unit_of_layout)
    return DeepBeliefNetwork(
        spec, networks.grid_of(COMM.size, shape), replace(plan, layers=(whole_sites, *plan.layers[1:]))
    )


class Case:
    """A pair over the grid, and the same RBM in NumPy."""

    def __init__(self, pair: tuple[str, str], shape: tuple[int, int]) -> None:
        held = HELD[(PAIRS.index(pair) + PAIRS.index(pair) // len(HELD)) % len(HELD)]
        self.network = network_of(*pair, shape, held)
        self.twin, self.rbm, self.grid = whole(*pair, held), self.network.rbms[0], self.network.grid
        rbm, twin = self.rbm, self.twin
        rbm.W[:], rbm.b[:], rbm.c[:] = networks.held(rbm, twin.W), twin.b[rbm.visible_ids], twin.c[rbm.hidden_ids]
        rbm.parameters.potential[:] = twin.potential[:, rbm.hidden_ids]
        rbm.parameters.precision[:] = twin.precision[rbm.visible_ids]
        rbm.refresh()
        self.real_hidden = pair[1] != "bernoulli"

    def visible(self, v: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(v[self.rbm.visible_ids])

    def hidden(self, h: np.ndarray):
        own = np.ascontiguousarray(h[self.rbm.hidden_ids])
        return own if self.real_hidden else pack(own)


@pairs
@shapes
def test_each_side_given_the_other(comm, agree, shape, pair):
    """Means, and that draws have them: within 5 standard errors of each unit."""
    it = Case(pair, shape)
    rbm, twin = it.rbm, it.twin
    v, h = twin.samples(40, np.random.default_rng(1))
    agree(np.allclose(rbm.hidden_given_visible(it.visible(v)), twin.hidden(v)[rbm.hidden_ids], rtol=0, atol=1e-7))
    agree(np.allclose(rbm.visible_given_hidden(it.hidden(h)), twin.visible(h)[rbm.visible_ids], rtol=0, atol=1e-9))
    many = np.repeat(h[:, :1], N, axis=1)
    drawn = rbm.sample_visible(it.hidden(many), Purpose.VISIBLE, 0, 0)
    drawn = drawn if twin.gaussian else unpack(drawn, np.float64)
    mean = twin.visible(h[:, :1])
    variance = 1 / twin.precision[:, None] if twin.gaussian else mean * (1 - mean)
    errors = np.abs(drawn.mean(axis=1, keepdims=True) - mean[rbm.visible_ids])
    agree((errors < 5 * np.sqrt(variance[rbm.visible_ids] / N)).all())
    if twin.gaussian:
        agree((np.abs(drawn.var(axis=1) * twin.precision[rbm.visible_ids] - 1) < 5 * np.sqrt(2 / N)).all())


@pairs
@shapes
def test_free_energies_and_log_partition(comm, agree, shape, pair):
    """By sums and quadrature; exactly where either side has states, else in one line that says what to do instead."""
    it = Case(pair, shape)
    rbm, twin = it.rbm, it.twin
    v, _ = twin.samples(30, np.random.default_rng(2))
    agree(np.allclose(free_energy(rbm, it.visible(v)), -twin.log_unnormalised(v), rtol=0, atol=1e-7))
    truth = twin.log_partition()
    if not it.real_hidden or (not twin.gaussian and not twin.categories):
        agree(np.isclose(log_partition_exact(rbm), truth, rtol=0, atol=1e-7))
    else:
        with pytest.raises(SpecError, match=r"^log Z by enumeration needs states .*\(--method ais\)$"):
            log_partition_exact(rbm)
    found = log_partition_ais(rbm, 150, 100)
    agree(abs(found.value - truth) < 5 * found.error + 1e-6 and found.error < 0.15, f"{found} is not {truth}")


@cache
def samples(twin: PairRBM) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(visible samples of another distribution, visible and hidden ones of the model), N of each"""
    rng = np.random.default_rng(3)
    v0 = np.roll(twin.samples(N, rng)[0], 3 if twin.categories else 1, axis=0)
    return v0, *twin.samples(N, rng)


@cache
def gradient(twin: PairRBM) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(of W, b, c, potentials and precisions; standard deviations of what the model's phase is a mean of)"""
    v0, v, _ = samples(twin)
    x0, x = twin.inputs(v0), twin.inputs(v)
    s0, s = twin.mean(x0), twin.mean(x)
    of_data = [v0 @ s0.T / N, v0.mean(axis=1), s0.mean(axis=1), twin.slopes(x0).mean(axis=2), -(v0**2).mean(axis=1) / 2]
    spread = [
        np.sqrt((v**2 @ (s**2).T) / N - (v @ s.T / N) ** 2), v.std(axis=1), s.std(axis=1), twin.slopes(x).std(axis=2),
        (v**2 / 2).std(axis=1),
    ]  # fmt: skip
    expected = [a - b for a, b in zip(of_data, twin.moments(), strict=True)]
    return expected, spread


@pairs
@shapes
def test_statistics_are_the_gradient_of_the_likelihood(comm, agree, shape, pair):
    """Chains that start at exact samples of the model have its distribution after a sweep: the model's phase has its
    moments, within 5 standard errors; the data's phase is exact."""
    it = Case(pair, shape)
    rbm, twin, grid = it.rbm, it.twin, it.grid
    v0, _, h = samples(twin)
    mine = Minibatches.slice_of(N, grid.replica, grid.n_replicas)
    own = it.visible(v0[:, mine])
    chains = Chains(it.hidden(h[:, mine]), mine.start, N)
    spec = TrainingSpec(batch_size=N, chains=N, centred=False, statistics="float")
    step = rbm.contrastive_divergence(
        own if twin.gaussian else pack(own), mine.start, spec, chains, n_all_samples=N, chain_draw=mine.start
    )
    result = rbm.parameters.like()
    step.statistics.add_to(result, 0.0, 1 / N, 1 / N)
    grid.replica_comm.Allreduce(MPI.IN_PLACE, result.flat)
    expected, spread = gradient(twin)
    found = [result.W, result.b, result.c, result.potential, result.precision]
    for k, take in enumerate((
        lambda W: networks.held(rbm, W), lambda b: b[rbm.visible_ids], lambda c: c[rbm.hidden_ids],
        lambda U: U[:, rbm.hidden_ids], lambda t: t[rbm.visible_ids][None][: len(result.precision)],
    )):  # fmt: skip
        limit = 6 * 1.1 * take(spread[k]) / np.sqrt(N) + 1e-6
        agree((np.abs(found[k] - take(expected[k])) < limit).all(), f"part {k}: {found[k]} {take(expected[k])}")


def states(visible: str) -> np.ndarray:
    """(60, 6) samples of states whose units go together"""
    rng = np.random.default_rng(5)
    if visible.startswith("categorical"):
        site = rng.integers(0, 3, 60)
        return np.eye(3, dtype=bool)[np.stack([site, (site + (rng.random(60) < 0.2)) % 3], axis=1)].reshape(60, 6)
    bits = (rng.random((60, 1)) < 0.5) ^ (rng.random((60, 6)) < 0.2)
    return (2 * bits.astype(np.float32) - 1) if visible == "spin" else bits


@pytest.mark.parametrize("visible", quick(["spin", "bernoulli", "categorical:3"]))
def test_exact_mode_has_one_result_for_states(comm, agree, visible):
    """The same parameters to the last bit at every grid, uneven ones included, and in every layout."""
    results = []
    for i, shape in enumerate(SHAPES):
        for layout in (MATRIX_LAYOUTS[i % 3], MATRIX_LAYOUTS[-1 - i % 3])[: 2 - i % 2]:
            spec = NetworkSpec((6, 5), visible=visible, exact=True, seed=2, layout=layout)
            q = spec.visible_kind.unit_of_layout
            owners = np.repeat(networks.owners("random", 6 // q, shape[0]), q), networks.owners("empty", 5, shape[0])
            plan = NetworkLayout.from_owners(owners, shape[0], layout)
            network = DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), plan)
            data = open_dataset(states(visible), comm, visible=visible, test_fraction=0.0)
            for _ in pretrain(network, data, TrainingSpec(epochs=1, batch_size=16, chains=20)):
                pass
            results.append(list(digests_of_parts(network).values()))
    agree(all(one == results[0] for one in comm.allgather(results[-1])) and all(one == results[0] for one in results))


@pytest.mark.parametrize(
    "pair", [p for p in PAIRS if p[0].startswith("gaussian") or p[1] != "bernoulli"], ids=" x ".join
)
def test_exact_mode_is_refused_for_real_values(comm, pair):
    kind, _, variances = pair[0].partition(", ")
    data = open_dataset(np.random.default_rng(1).normal(size=(20, 6)), comm, visible=kind)

    def train() -> None:
        spec = NetworkSpec((6, 3), visible=kind, variances=variances or "learned", hidden=pair[1], exact=True)
        list(pretrain(DeepBeliefNetwork(spec, networks.grid_of(comm.size, SHAPES[0])), data, TrainingSpec(epochs=1)))

    with pytest.raises(
        SpecError, match=r"^--exact cannot be kept with --(hidden|visible) [^\n]*real values do not add up"
    ):
        train()
