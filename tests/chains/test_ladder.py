"""Sweeps and swaps of a ladder, draw by draw beside plain NumPy, at every grid of the ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.chains.ladder import DOWN, UP, Level, Swaps, Walkers, exchanged, sweep
from modelpar.draws import Purpose
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.spec import NetworkSpec
from tests import networks, reference

pytestmark = pytest.mark.ranks

N = 75  # chains: more than a word, and not the same on all replicas
shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids=str)


class Twin:
    """A ladder in plain NumPy.   levels: (W, b, c, beta, precision)"""

    def __init__(self, levels, gaussian, seed):
        self.levels, self.gaussian, self.seed = levels, gaussian, seed
        self.h = [np.zeros((len(c), N)) for _, _, c, *_ in levels]
        self.direction = np.zeros((len(levels), N), int)
        self.tried, self.accepted = np.zeros(len(levels) - 1, int), np.zeros(len(levels) - 1, int)
        self.round_trips, self.margin = 0, np.inf

    def log_f(self, level, v):
        W, b, c, beta, t = level
        own = b @ v - 0.5 * (t @ v**2) if self.gaussian else b @ v
        return own + np.logaddexp(0, beta * (W.T @ v + c[:, None])).sum(axis=0)

    def sweep(self, number):
        first, v = number * N, []
        for t, ((W, b, _, beta, precision), h) in enumerate(zip(self.levels, self.h, strict=True)):
            x, stream = beta * (W @ h) + b[:, None], (self.seed, 0, reference.FANTASY, 2 * t + 1)
            if self.gaussian:
                noise = reference.sample_gaussian(np.zeros_like(x), stream, first)
                v.append(x / precision[:, None] + noise / np.sqrt(precision)[:, None])
            else:
                v.append(reference.sample_bernoulli(reference.sigmoid(x), stream, first))
        for low in range(number % 2, len(v) - 1, 2):
            a, b = self.levels[low : low + 2]
            ratio = (
                self.log_f(a, v[low + 1]) + self.log_f(b, v[low]) - self.log_f(a, v[low]) - self.log_f(b, v[low + 1])
            )
            u = reference.uniform((self.seed, 0, reference.SWAP, 0), [low], first + np.arange(N))[0]
            made = u < np.minimum(1, np.exp(ratio))
            self.margin = min(self.margin, np.abs(np.log(u) - ratio).min())
            self.tried[low] += N
            self.accepted[low] += made.sum()
            v[low], v[low + 1] = np.where(made, v[low + 1], v[low]), np.where(made, v[low], v[low + 1])
            pair = self.direction[low : low + 2]
            self.direction[low : low + 2] = np.where(made, pair[::-1], pair)
        self.round_trips += (self.direction[0] == DOWN).sum()
        self.direction[0] = UP
        self.direction[-1] = np.where(self.direction[-1] == UP, DOWN, self.direction[-1])
        for t, (W, _, c, beta, _) in enumerate(self.levels):
            if beta:
                p = reference.sigmoid(beta * (W.T @ v[t] + c[:, None]))
                self.h[t] = reference.sample_bernoulli(p, (self.seed, 0, reference.FANTASY, 2 * t + 2), first)
        return v


def everywhere(grid, ids, mine, n_units):
    """(n_units, all chains) on every rank, from each rank's units and chains."""
    values = unpack(mine, np.float64) if isinstance(mine, Packed) else mine
    parts = grid.comm.allgather((grid.shard, grid.replica, ids, values))
    result = np.zeros((n_units, N))
    starts = np.cumsum([0, *(next(p[3].shape[1] for p in parts if p[1] == r) for r in range(grid.n_replicas))])
    for _, replica, units, block in parts:
        result[units, starts[replica] : starts[replica + 1]] = block
    return result


@shapes
@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("layout", ["column", "row"])
def test_sweeps_draw_by_draw(comm, agree, shape, visible, layout):
    """Temperatures of one model below another model: both kinds of neighbours, and a level of independent units."""
    spec = NetworkSpec((13, 7), dtype="float64", visible=visible, layout=layout, seed=5)
    network = networks.sharded(comm, spec, shape, "random")
    [twin], rbm, grid = networks.twin(network), network.rbms[0], network.grid
    part = rbm.parameters.like()
    part.flat[:] = 0.75 * rbm.parameters.flat
    lower = rbm.with_parameters(part)
    levels = [Level(lower, 0.0), Level(lower, 0.6), Level(lower), Level(rbm)]
    smaller = (0.75 * twin.W, 0.75 * twin.b, 0.75 * twin.c)
    levels_of_it = [(*smaller, beta, 0.75 * twin.precision) for beta in (0.0, 0.6, 1.0)]
    levels_of_it.append((twin.W, twin.b, twin.c, 1.0, twin.precision))
    expected = Twin(levels_of_it, visible == "gaussian", 5)
    first, stop = N * grid.replica // grid.n_replicas, N * (grid.replica + 1) // grid.n_replicas
    walkers = Walkers.at([pack(np.zeros((len(rbm.hidden_ids), stop - first)))] * 4, first, N)
    for number in range(24):
        walkers, v = sweep(levels, walkers, number, Purpose.FANTASY)
        theirs = expected.sweep(number)
        for t in range(4):
            ours = everywhere(grid, rbm.visible_ids, v[t], 13)
            agree(np.allclose(ours, theirs[t], atol=1e-9), f"v of level {t}, sweep {number}")
            ours = everywhere(grid, rbm.hidden_ids, walkers.h[t], 7)
            agree(t == 0 or np.array_equal(ours, expected.h[t]), f"h of level {t}, sweep {number}")
        agree(np.array_equal(walkers.direction, expected.direction[:, first:stop]))
    agree(expected.margin > 1e-5)  # so that roundings to 2^-24 decide nothing here
    swaps = walkers.swaps.total(grid.replica_comm)
    agree(np.array_equal(swaps.tried, expected.tried) and np.array_equal(swaps.accepted, expected.accepted))
    agree(
        swaps.round_trips == expected.round_trips > 0 and 0 < swaps.acceptance.min() < swaps.acceptance.max() < 1,
        f"{swaps} {expected.round_trips}",
    )


def test_swapped_states_are_those_of_the_chains_that_swap():
    rng = np.random.default_rng(3)
    a, b, made = rng.integers(0, 2, (5, 70)), rng.integers(0, 2, (5, 70)), rng.random(70) < 0.4
    for kind in (pack, np.asarray):
        ours = exchanged(kind(a), kind(b), made)
        x, y = (unpack(one, np.int64) if isinstance(one, Packed) else one for one in ours)
        assert np.array_equal(x, np.where(made, b, a))
        assert np.array_equal(y, np.where(made, a, b))


def test_rates_of_pairs_that_were_never_tried():
    assert np.isnan(Swaps.none(3).acceptance).all()
