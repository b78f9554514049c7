"""One optimizer against NumPy: what it sums, in which type, and what it makes of gradients, norms and velocities.

Modules: modelpar/weights/statistics
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.kernels.states import pack
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts
from modelpar.model.network import Part
from modelpar.sync import AllreduceSync, Reduction
from modelpar.sync.reduction import BUCKET
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize
from modelpar.weights.parameters import Parameters
from modelpar.weights.statistics import ExactGradient, Phase, Statistics

DTYPES = [np.float32, np.float64]
SIZE = StepSize(rate=0.5, momentum=0.75, decay=0.125)  # dyadic, and so are the values: all sums are exact


class Alike:
    """A communicator of replicas that all hold the same: a sum over them wraps in its type, as MPI's does."""

    def __init__(self, size):
        self.rank, self.size, self.types = 0, size, []

    def Allreduce(self, _in_place, values):
        self.types.append(values.dtype)
        with np.errstate(over="ignore"):
            values[:] = (values.astype(np.int64) * self.size).astype(values.dtype)


class OneBlock:
    counts, probability_counts = Counts, ProbabilityCounts

    def sides(self, visible, hidden):
        return [(visible[1], hidden[1])]


def statistics_of(v0, s0, v1, s1, n_samples, n_chains=None):
    """n_chains   of a model's phase of its own, None for as many as samples"""
    phases = [Phase(v, v, s, s) for v, s in ((v0, s0), (v1, s1))]
    n_all = n_samples, n_chains or n_samples
    return Statistics(OneBlock(), *phases, *n_all, MPI.COMM_SELF, integer=True, apart=n_chains is not None)


@pytest.mark.parametrize(
    ("planes", "n_samples", "kind"),
    [
        (1, 2, np.int8), (1, 127, np.int8), (1, 128, np.int16), (1, 32767, np.int16), (1, 32768, np.int32),
        (2, 42, np.int8), (2, 43, np.int16), (2, 10922, np.int16), (2, 10923, np.int32),
        (3, 18, np.int8), (3, 19, np.int16), (3, 4681, np.int16), (3, 4682, np.int32),
        (6, 2, np.int8), (6, 3, np.int16), (7, 2, np.int16), (8, 2, np.int16), (8, 128, np.int16), (8, 129, np.int32),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sign", [1, -1])
def test_counts_of_replicas_are_summed_in_the_smallest_type_that_holds_them(planes, n_samples, kind, sign):
    """As many replicas as samples, whose one sample is counted as much as it can be."""
    level = (1 << planes) - 1
    on, off, full = pack(np.ones((3, 1))), pack(np.zeros((3, 1))), pack(np.full((2, 1), level), planes)
    statistics = statistics_of(*((on, full, off, full) if sign > 0 else (off, full, on, full)), n_samples)
    assert Counts.largest(planes, n_samples) == n_samples * level
    comm = Alike(n_samples)
    parameters, velocity = Parameters((3, 2), 3, 2, np.float64), Parameters((3, 2), 3, 2, np.float64)
    Optimizer(AllreduceSync(comm, Traffic())).learn(parameters, velocity, statistics, StepSize(1.0, 0.0, 0.0), 1)
    assert comm.types[0] == kind
    np.testing.assert_allclose(parameters.W, sign, rtol=1e-12)
    np.testing.assert_allclose(parameters.b, sign, rtol=1e-12)
    assert not parameters.c.any()


@pytest.mark.parametrize(
    ("n_samples", "n_chains", "kinds"),
    [(8, 9, (np.int8, np.int16)), (9, 8, (np.int16, np.int8)), (9, 2185, (np.int16, np.int32))],
)
def test_counts_of_both_phases_are_kept_apart(n_samples, n_chains, kinds):
    """15 is the most that a sample of 4 bits adds: 8 x 15 fits 8 bits, 9 x 15 does not, 2185 x 15 not even 16."""
    on, off = pack(np.ones((3, 1))), pack(np.zeros((3, 1)))
    full = pack(np.full((2, 1), 15), 4)
    comm = Alike(n_samples)  # as many replicas as samples, and for the model's phase as if each had its part of chains
    parameters, velocity = Parameters((3, 2), 3, 2, np.float64), Parameters((3, 2), 3, 2, np.float64)
    statistics = statistics_of(on, full, off, full, n_samples, n_chains)
    Optimizer(AllreduceSync(comm, Traffic())).learn(parameters, velocity, statistics, StepSize(1.0, 0.0, 0.0), 1)
    assert tuple(comm.types[:2]) == kinds
    np.testing.assert_allclose(parameters.W, 1, rtol=1e-12)
    np.testing.assert_allclose(parameters.b, 1, rtol=1e-12)
    np.testing.assert_allclose(parameters.c, 1 - n_samples / n_chains, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_replicas_that_share_a_minibatch_learn_what_one_learns_from_it(dtype, kind):
    """Three replicas with the same 20 samples, and one with all 60: the same bits."""
    rng = np.random.default_rng(0)
    v0, v1 = (rng.random((9, 20)) < 0.4 for _ in range(2))
    s0, s1 = rng.integers(0, 8, (2, 7, 20)) if kind == "hard" else rng.random((2, 7, 20)).astype(np.float32)
    made = []
    for replicas, copies in ((3, 1), (1, 3)):
        parts = [np.tile(x, copies) for x in (v0, s0, v1, s1)]
        packed = [pack(x, 1 if i % 2 == 0 else 3) if i % 2 == 0 or kind == "hard" else x for i, x in enumerate(parts)]
        parameters, velocity = Parameters((9, 7), 9, 7, dtype), Parameters((9, 7), 9, 7, dtype)
        parameters.flat[:] = np.random.default_rng(1).normal(size=parameters.flat.size)
        velocity.flat[:] = np.random.default_rng(2).normal(size=parameters.flat.size)
        optimizer, size = Optimizer(AllreduceSync(Alike(replicas), Traffic())), StepSize(0.05, 0.9, 0.01)
        optimizer.learn(parameters, velocity, statistics_of(*packed, 60), size, 20 * copies)
        made.append((parameters.flat, velocity.flat))
    assert np.array_equal(made[0][0], made[1][0])
    assert np.array_equal(made[0][1], made[1][1])


# -- gradients ---------------------------------------------------------------------------------------------------------


@dataclass
class Own:
    """A strategy with this reduction."""

    reduction: Reduction


@dataclass
class Given:
    """A gradient as back-propagation hands it over, of ``n_samples`` of the whole minibatch."""

    W: np.ndarray
    c: np.ndarray
    n_samples: int

    def add_to(self, velocity, carry, gain):
        velocity.W[:] = carry * velocity.W - gain * self.W
        velocity.c[:] = carry * velocity.c - gain * self.c


def part_of(n_visible, n_hidden, seed, dtype=np.float64, weights=None):
    """A part, and its velocity, of multiples of 1/64 that tell where they stand."""
    parameters = Parameters((n_visible, n_hidden), 2, n_hidden, dtype)
    velocity = parameters.like()
    rng = np.random.default_rng(seed)
    for values in (parameters, velocity):
        values.flat[:] = rng.integers(-64, 65, values.flat.size) / 64
    velocity.b[:] = 0
    return Part(f"rbm.{seed}", parameters, weights, np.arange(2), np.arange(n_hidden)), velocity


def descended(part, velocity, gradient, *, mean, momentum=SIZE.momentum, decay=SIZE.decay):
    """(parameters, velocity) after one step, by the formula: only weights decay."""
    V, c = (momentum * old - SIZE.rate / mean * g for old, g in ((velocity.W, gradient.W), (velocity.c, gradient.c)))
    V = V - SIZE.rate * decay * part.parameters.W
    return np.r_[(part.parameters.W + V).ravel(), part.parameters.b, part.parameters.c + c], np.r_[V.ravel(), 0, 0, c]


def gradient_like(part, n_samples):
    rng = np.random.default_rng(99)
    return Given(*(rng.integers(-8, 9, x.shape) / 8 for x in (part.parameters.W, part.parameters.c)), n_samples)


@pytest.mark.parametrize("exactly", [False, True], ids=["real", "exact"])
@pytest.mark.parametrize(
    ("how", "mean", "changes"),
    [
        ({}, 4, {}),
        ({"own_mean": True}, 2, {}),
        ({"n_shares": 4}, 4, {"decay": SIZE.decay / 4}),
        ({"n_shares": 2, "momentum": False}, 4, {"decay": SIZE.decay / 2, "momentum": 0.0}),
    ],
    ids=["all samples", "own samples", "a share of the decay", "without momentum"],
)
def test_a_step_is_the_formula(how, mean, changes, exactly):
    """Two of a minibatch's four samples: what the sum is divided by, and which fraction of decay is applied."""
    made = [part_of(5, 3, seed) for seed in (0, 1)]
    gradients = [gradient_like(part, 4) for part, _ in made]
    expected = [descended(*pair, g, mean=mean, **changes) for pair, g in zip(made, gradients, strict=True)]
    handed = [ExactGradient(g.W, 2, g.c, 4) if exactly else g for g in gradients]
    named = [(part.name, g) for (part, _), g in zip(made, handed, strict=True)]
    optimizer = Optimizer(Own(Reduction(MPI.COMM_SELF, Traffic(), **how)))
    optimizer.descend(reversed(named), [part for part, _ in made], {p.name: v for p, v in made}, SIZE, 2)
    for (part, velocity), (parameters, velocities) in zip(made, expected, strict=True):
        assert np.array_equal(part.parameters.flat, parameters)
        assert np.array_equal(velocity.flat, velocities)


def test_no_parameter_changes_before_the_last_gradient_is_there():
    """What is taken back through the layers goes through the old weights."""
    made = [part_of(4, 3, seed) for seed in (0, 1, 2)]
    before = [part.parameters.flat.copy() for part, _ in made]

    def gradients():
        for part, _ in reversed(made):
            assert all(np.array_equal(old, p.parameters.flat) for old, (p, _) in zip(before, made, strict=True))
            yield part.name, gradient_like(part, 1)

    optimizer = Optimizer(AllreduceSync(MPI.COMM_SELF, Traffic()))
    optimizer.descend(gradients(), [part for part, _ in made], {p.name: v for p, v in made}, SIZE, 1)
    assert not any(np.array_equal(old, p.parameters.flat) for old, (p, _) in zip(before, made, strict=True))


class Later(Alike):
    """Replicas whose sums travel: each is there when it is waited for."""

    def __init__(self, size, rank=0):
        super().__init__(size)
        self.rank, self.log = rank, []

    def Iallreduce(self, _in_place, values):
        self.log.append("begin")
        comm = self

        class Request:
            def Wait(self):
                comm.log.append("wait")
                values[:] *= comm.size

        return Request()


def test_sums_travel_while_the_next_gradient_is_made():
    comm, made = Later(2), [part_of(4, 3, seed) for seed in (0, 1)]

    def gradients():
        for part, _ in reversed(made):
            comm.log.append(part.name)
            yield part.name, gradient_like(part, 2)

    optimizer = Optimizer(Own(Reduction(comm, Traffic(), overlap=True)))
    optimizer.descend(gradients(), [part for part, _ in made], {p.name: v for p, v in made}, SIZE, 1)
    assert comm.log == ["rbm.1", "begin", "rbm.0", "begin", "wait", "wait"]


def test_the_old_velocity_enters_a_sum_once():
    """The first replica puts it in, the others nothing of it."""
    first, other = ([part_of(4, 3, 0), Later(2, rank)] for rank in (0, 1))
    for (part, velocity), comm in (first, other):
        gradient = replace(gradient_like(part, 2), W=np.zeros((4, 3)), c=np.zeros(3))
        optimizer = Optimizer(Own(Reduction(comm, Traffic(), overlap=True)))
        optimizer.descend([(part.name, gradient)], [part], {part.name: velocity}, replace(SIZE, decay=0.0), 1)
    start = part_of(4, 3, 0)[1]
    assert np.array_equal(first[0][1].W, 2 * SIZE.momentum * start.W)
    assert not other[0][1].W.any()


def test_pieces_of_a_large_part():
    """A part of several buckets decays up to its last weight, wherever the pieces end."""
    part, velocity = part_of(BUCKET // 1000 + 7, 1000, 0, np.float32)
    velocity.flat[:] = 0
    part.parameters.flat[:] = 1
    nothing = Given(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), 1)
    optimizer = Optimizer(AllreduceSync(MPI.COMM_SELF, Traffic()))
    optimizer.descend([(part.name, nothing)], [part], {part.name: velocity}, SIZE, 1)
    assert (1 - SIZE.rate * SIZE.decay == part.parameters.W).all()
    assert (part.parameters.b == 1).all()
    assert (part.parameters.c == 1).all()


@pytest.mark.parametrize("limit", [0.0, 2.5])
def test_norms_are_limited_after_the_step(limit):
    seen = []

    class Limited:
        def limit_norms(self, parameters, to, share):
            seen.append((to, parameters.W.copy()))

    part, velocity = part_of(4, 3, 0, weights=Limited())
    gradient = gradient_like(part, 1)
    expected = descended(part, velocity, gradient, mean=1)[0][:12].reshape(4, 3)
    Optimizer(AllreduceSync(MPI.COMM_SELF, Traffic())).descend(
        [(part.name, gradient)], [part], {part.name: velocity}, SIZE, 1, limit
    )
    assert len(seen) == bool(limit)
    assert all(to == limit and np.array_equal(W, expected) for to, W in seen)
