"""Clamped Gibbs sampling against the conditional probabilities of enumerated RBMs, and the same bytes at every grid."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from scipy.stats import chi2

from modelpar.chains.clamped import complete, mask_of
from modelpar.comm.grid import Grid
from modelpar.errors import DataError, SpecError
from modelpar.kernels.states import pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.placement import place
from modelpar.spec import NetworkSpec
from tests import networks, reference
from tests.likelihood.cases import all_states

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids="{0[0]} shards x {0[1]} replicas".format)
held = pytest.mark.parametrize("held", ["column", "row", "dual", "listed"])

N_VISIBLE, N_HIDDEN, COUNT, STEPS = 7, 5, 1500, 30
# two samples, each with units of its own that are given; what the others hold is nothing that sampling may see
MASK = np.array([[1, 0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 1, 1, 0]]).T
GIVEN = np.array([[1, 1, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1, 0]]).T


def sharded(comm, shape, held, *, gaussian=False):
    """A network over the grid, and its only RBM in plain NumPy."""
    spec = NetworkSpec(
        (N_VISIBLE, N_HIDDEN), visible="gaussian" if gaussian else "bernoulli", dtype="float64", seed=11,
        layout="auto" if held == "listed" else held, connections="random:3" if held == "listed" else "dense",
    )  # fmt: skip
    if held == "listed":
        network = DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), place(spec, shape[0], comm))
    else:
        network = networks.sharded(comm, spec, shape, "random")
    [twin] = networks.twin(network)
    factor = 0.5 if gaussian else 2.0  # strong enough that the given units tell of the others
    network.rbms[0].W[:] *= factor
    network.refresh()
    twin.W *= factor
    return network, twin


def conditional(twin: reference.RBM, given: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(all states that agree with the given units (n_visible, states), their probabilities given these)"""
    v = all_states(N_VISIBLE)
    v = v[:, (v == given[:, None])[mask == 1].all(axis=0)]
    log_p = twin.b @ v + np.logaddexp(0, twin.W.T @ v + twin.c[:, None]).sum(axis=0)
    p = np.exp(log_p - log_p.max())
    return v, p / p.sum()


def fits(observed: np.ndarray, p: np.ndarray) -> bool:
    """Pearson's chi-square at 0.999; states expected less than 5 times are taken together."""
    expected = p * observed.sum()
    rare = expected < 5
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (observed, expected))
    observed, expected = observed[expected > 0], expected[expected > 0]
    return bool(((observed - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(expected) - 1))


@held
@shapes
def test_completions_have_their_conditional_probabilities(comm, agree, shape, held):
    """16 states of four units, given three others.  The power: independent units with the right means fail, and so do
    the probabilities given the values that stand in the file where nothing is given."""
    network, twin = sharded(comm, shape, held)
    own = network.visible_ids
    v = complete(network, GIVEN[own], MASK[own], count=COUNT, steps=STEPS, states=True)
    whole = network.whole_visible(v).astype(int)
    agree(whole.shape == (N_VISIBLE, 2 * COUNT))
    place_value = 1 << np.arange(N_VISIBLE)
    powerful = 0
    for i in range(2):
        chains = whole[:, i::2]
        agree((chains == GIVEN[:, [i]])[MASK[:, i] == 1].all())
        states, p = conditional(twin, GIVEN[:, i], MASK[:, i])
        counts = np.bincount(place_value @ chains, minlength=1 << N_VISIBLE)[place_value @ states.astype(int)]
        agree(counts.sum() == COUNT and fits(counts, p), f"sample {i}: {counts} {np.round(p * COUNT)}")
        means = (states * p).sum(axis=1, keepdims=True)
        independent = np.where(states == 1, means, 1 - means).prod(axis=0)
        other, swapped = conditional(twin, 1 - GIVEN[:, i], MASK[:, i])
        agree(np.array_equal(other[MASK[:, i] == 0], states[MASK[:, i] == 0]))
        powerful += not fits(counts, independent) and not fits(counts, swapped)
    agree(powerful > 0, "the test has no power")


@held
@shapes
def test_means_and_gaussian_units(comm, agree, shape, held):
    """The mean over completions is the conditional mean, to 5 standard errors; given values stay to the last bit."""
    for gaussian in (False, True):
        network, twin = sharded(comm, shape, held, gaussian=gaussian)
        own = network.visible_ids
        given = GIVEN + 0.1 if gaussian else GIVEN
        v = network.whole_visible(complete(network, given[own], MASK[own], count=COUNT, steps=STEPS))
        for i in range(2):
            here, known = v[:, i::2], MASK[:, i] == 1
            agree((here[known] == given[known, i][:, None]).all())
            if gaussian:
                h = all_states(N_HIDDEN)
                x = twin.W @ h
                log_p = twin.c @ h + given[known, i] @ x[known]
                t = twin.precision[~known, None]
                log_p += 0.5 * ((x + twin.b[:, None])[~known] ** 2 / t).sum(axis=0)
                p = np.exp(log_p - log_p.max())
                values = (x + twin.b[:, None])[~known] / t
            else:
                states, p = conditional(twin, GIVEN[:, i], MASK[:, i])
                values = states[~known]
            p /= p.sum()
            mean = values @ p
            deviation = np.sqrt((values**2) @ p - mean**2)  # of means given h at most
            agree((np.abs(here[~known].mean(axis=1) - mean) < 5 * deviation / np.sqrt(COUNT) + 1e-9).all())


@shapes
def test_means_over_sweeps(comm, agree, shape):
    """An average over 300 sweeps is nearer to the conditional mean than the last sweep is, and is one of means."""
    network, twin = sharded(comm, shape, "column")
    own = network.visible_ids
    last, average = (
        network.whole_visible(complete(network, GIVEN[own], MASK[own], count=30, steps=330, mean_over=n))
        for n in (1, 300)
    )
    for i in range(2):
        states, p = conditional(twin, GIVEN[:, i], MASK[:, i])
        others, mean = MASK[:, i] == 0, states @ p
        distances = [np.abs(v[:, i::2] - mean[:, None])[others].mean() for v in (last, average)]
        agree(0 < distances[1] < distances[0] / 4, f"{distances}")
        agree((average[~others, i::2] == GIVEN[~others, [i]][:, None]).all())
    two, one = (complete(network, GIVEN[own], MASK[own], steps=n, mean_over=n) for n in (2, 1))
    second = complete(network, GIVEN[own], MASK[own], steps=2)
    agree(np.allclose(two, (one + second) / 2, rtol=1e-14))


def test_exact_completions_are_the_same_bytes_at_every_grid(comm, agree):
    """One RBM and a stack, dense in every layout and listed, against one rank; fewer samples than words of bits."""
    rng = np.random.default_rng(5)
    given, mask = (rng.integers(0, 2, (13, 5)) for _ in range(2))
    for layers in ((13, 7), (13, 7, 5)):
        for layout, connections in (("column", "dense"), ("row", "dense"), ("dual", "dense"), ("auto", "random:4")):
            spec = NetworkSpec(layers, layout=layout, connections=connections, exact=True, seed=3, weight_scale=1.0)
            results = []
            for shape in [(1, 1), *networks.grids(comm)]:
                on = MPI.COMM_SELF if shape == (1, 1) else comm
                with Grid(on, model_shards=shape[0], replicas=shape[1]) as grid:
                    where = (
                        place(spec, shape[0], on) if layout == "auto" else networks.layout_of(spec, shape[0], "random")
                    )
                    network = DeepBeliefNetwork(spec, grid, where)
                    own = network.visible_ids
                    v = complete(network, pack(given[own]), mask[own], count=7, steps=6, mean_over=3, first_draw=9)
                    results.append(network.whole_visible(v))
            agree(np.ptp(results[0]) > 0 and 0 < results[0].mean() < 1)
            agree(all(other.tobytes() == results[0].tobytes() for other in results[1:]), f"{layers} {layout}")


@shapes
def test_with_nothing_given_it_is_a_fantasy(comm, agree, shape):
    network, _ = sharded(comm, shape, "column")
    nothing = np.zeros((len(network.visible_ids), 40))
    result = complete(network, nothing, nothing, steps=5, first_draw=3)
    agree(np.array_equal(result, network.fantasies(40, 5, first_draw=3)))
    # completions of a sample do not depend on how many are wanted
    own = network.visible_ids
    few, many = (complete(network, GIVEN[own], MASK[own, 0], count=n, steps=3) for n in (2, 5))
    agree(np.array_equal(few, many[:, :4]))


@shapes
def test_what_cannot_be_held_is_refused_on_every_rank(comm, agree, shape):
    network, _ = sharded(comm, shape, "column")
    own = network.visible_ids
    for given, mask, options, kind, message in (
        (GIVEN + 0.5, MASK, {}, DataError, "can only be held at 0 and 1"),
        (GIVEN, MASK * 2, {}, DataError, "the mask has the value 2"),
        (GIVEN, MASK[:, :1], {}, DataError, "the mask came as"),
        (GIVEN, MASK, {"count": 0}, SpecError, "count is 0"),
        (GIVEN, MASK, {"steps": -1}, SpecError, "steps is -1"),
        (GIVEN, MASK, {"steps": 3, "mean_over": 4}, SpecError, "mean_over is 4"),
        (GIVEN, MASK, {"states": True, "mean_over": 2}, SpecError, "leave out one"),
    ):
        with pytest.raises(kind, match=message):
            complete(network, given[own], mask[own], **options)
        agree(True)
    with pytest.raises(DataError, match="of 0 and 1"):
        mask_of(np.array(["1"]), "the mask")
