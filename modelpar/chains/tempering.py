"""Parallel tempering, over inverse temperatures or along the models that training has gone through.

Parallel tempering (Swendsen and Wang 1986; of RBMs Desjardins et al. 2010): the levels of the ladder are one RBM at
inverse temperatures from 0 to 1.  Parallel trajectory tempering (Bereux, Decelle, Furtlehner, Rosset and Seoane 2024):
they are models that were kept during training, from one whose weights are small to the last.  Both have a level without
weights at the bottom, where every sweep is a new sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.chains.ladder import PILOT_HIDDEN, PILOT_VISIBLE, Level, Swaps, Walkers, swap_ratios, sweep
from modelpar.collective.agreement import agree
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose
from modelpar.errors import SpecError
from modelpar.kernels.products.product import Activations
from modelpar.kernels.sampling.softplus import FIXED_STEPS
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.model.real_hidden import nothing_on
from modelpar.values import plain
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

PILOT = 50  # temperatures by which others are placed
PILOT_CHAINS = 100
EVEN = 0.25  # part of the temperatures that are placed at equal distances, whatever the pilot has seen
PLACES = 1 << 16  # temperatures are multiples of its inverse: no last bit of an interpolation is in them
ACCEPTANCE = 0.3  # of swaps between neighbours, below which a model of the trajectory is put in between
PILOT_SWEEPS = 10  # of the chains at each model of the trajectory


def temperatures(rbm: RBM, n_levels: int) -> tuple[float, ...]:
    """``n_levels`` inverse temperatures from 0 to 1 between which swaps are accepted about equally often.

    As in :func:`modelpar.likelihood.annealing.temperatures`, in proportion to the spread over chains of d log f / d
    beta (the thermodynamic length; Gelman and Meng 1998, section 3.2), here by sums in fixed point: the same at every
    grid.
    Every replica moves all chains of the pilot.  Collective over the shards.
    """
    even, spreads = np.linspace(0.0, 1.0, PILOT), []
    h = nothing_on(rbm, PILOT_CHAINS)
    for k in range(PILOT - 1):
        here, there = Level(rbm, float(even[k])), Level(rbm, float(even[k + 1]))
        counter = k * PILOT_CHAINS
        v = here.visible(h, Purpose.SWAP, PILOT_VISIBLE, counter)
        x = here.inputs(v)
        spreads.append(spread_of(gains(here, there, v, x)))
        h = there.hidden(x, Purpose.SWAP, PILOT_HIDDEN, counter)
    return rounded(placed(np.array(spreads), even, n_levels))


def rounded(betas: Doubles) -> tuple[float, ...]:
    """Temperatures as ladders have them."""
    return tuple((np.rint(betas * PLACES) / PLACES).tolist())


def gains(low: Level, high: Level, v: Activations, x: Array) -> list[int]:
    """log f_high(v) - log f_low(v) of each chain in fixed point; both are of one RBM, x = W^T v + c.

    Collective over the shards.
    """
    result = high.log_weight(v, x, with_biases=False) - low.log_weight(v, x, with_biases=False)
    low.rbm.shard_comm.Allreduce(MPI.IN_PLACE, result)
    return [int(gain) for gain in result]


def placed(spread: Doubles, betas: Doubles, n: int) -> Doubles:
    """``n`` temperatures from 0 to 1, between which the spread is nearly the same.

    spread   (len(betas) - 1,) of the change of log f between the temperatures ``betas``
    """
    length = lengths(spread, betas)
    result = np.interp(np.linspace(0, length[-1], n), length, betas)
    result[0], result[-1] = 0.0, 1.0
    return np.asarray(result)


def lengths(spread: Doubles, betas: Doubles) -> Doubles:
    """(len(betas),) of the way from the first temperature to each: the spread, and a part that grows evenly."""
    evenly = EVEN * spread.sum() * np.diff(betas) / (betas[-1] - betas[0])
    return np.concatenate([[0.0], np.cumsum(spread + evenly + 1e-12)])


def spread_of(values: Sequence[int]) -> float:
    """The standard deviation, from sums without rounding; 0 without values."""
    n, total = len(values), sum(values)
    if not n:
        return 0.0
    return math.sqrt(n * sum(value * value for value in values) - total * total) / n


def ladder_of_temperatures(rbm: RBM, n_levels: int) -> list[Level]:
    """The levels of parallel tempering.  Collective over the whole grid.  Raises SpecError for fewer than 2."""
    agree((rbm.shard_comm, rbm.replica_comm), "ladder_of_temperatures", n_levels=n_levels)
    n_levels = plain.integer_number("temperatures", n_levels, at_least=2)
    return [Level(rbm, beta) for beta in temperatures(rbm, n_levels)]


def ladder_of_models(rbm: RBM, models: Iterable[RBM]) -> list[Level]:
    """The levels of parallel trajectory tempering: as few models as swaps between neighbours allow, and ``rbm`` on top.

    rbm      to be sampled from
    models   those that training went through, in their order; of the same units, connections and owners as ``rbm``

    Chains of a pilot go along the models from the first one without its weights.  A model becomes a level where swaps
    between the last level and the model after it would be accepted less often than ``ACCEPTANCE``.  No more than three
    models besides the levels are held at a time.  Collective over the whole grid.
    """
    levels: list[Level] = []
    before: tuple[Level, Activations] | None = None
    last: Activations
    h = nothing_on(rbm, PILOT_CHAINS)
    counter = 0

    def moved(level: Level, h: Activations) -> tuple[Activations, Activations]:
        nonlocal counter
        for _ in range(PILOT_SWEEPS):
            v = level.visible(h, Purpose.SWAP, PILOT_VISIBLE, counter)
            h = level.hidden(level.inputs(v), Purpose.SWAP, PILOT_HIDDEN, counter)
            counter += PILOT_CHAINS
        return v, h

    for model in chain(models, [rbm]):
        if not levels:
            levels.append(Level(model, 0.0))
            last = levels[0].visible(h, Purpose.SWAP, PILOT_VISIBLE, 0)
            h = levels[0].hidden(levels[0].inputs(last), Purpose.SWAP, PILOT_HIDDEN, 0)
            counter = PILOT_CHAINS
        level = Level(model)
        v, h = moved(level, h)
        if before is not None and _acceptance(levels[-1], level, last, v) < ACCEPTANCE:
            levels.append(before[0])
            last = before[1]
        before = level, v
    return [*levels, Level(rbm)]


def ladder_of_kept(rbm: RBM, kept: Sequence[Parameters]) -> list[Level]:
    """The levels of a training by ``--chain-method ptt``: the parameters that it has kept, the first of them without
    their weights, and ``rbm`` on top."""
    return [*(Level(rbm.with_parameters(p), float(t > 0)) for t, p in enumerate(kept)), Level(rbm)]


def _acceptance(a: Level, b: Level, v_a: Activations, v_b: Activations) -> float:
    """The mean probability of a swap, the same on every rank.  Collective over the whole grid."""
    log_ratio = swap_ratios(a, b, v_a, v_b)[2] / FIXED_STEPS
    mean = float(np.exp(np.minimum(log_ratio, 0.0)).mean())
    return float(b.rbm.shard_comm.bcast(b.rbm.replica_comm.bcast(mean)))


def tempered_fantasies(
    network: DeepBeliefNetwork, levels: Sequence[Level], count: int, steps: int, *, first_draw: int = 0
) -> tuple[Array, Swaps]:
    """(visible means (n_visible_owned, count) on every rank, swaps over all chains) after ``steps`` sweeps of a ladder.

    The highest level is the network's top RBM, whose hidden states the RBMs generate down from, as
    ``DeepBeliefNetwork.fantasies`` does.  Replicas share the chains, each with all their levels.

    levels       of :func:`ladder_of_temperatures` or :func:`ladder_of_models`
    first_draw   chooses other fantasies; ``steps * count`` draws of each unit and level follow it

    Collective over the whole grid.  Raises SpecError where there cannot be so many.
    """
    grid, top = network.grid, network.rbms[-1]
    agree(grid.comm, "tempered_fantasies", count=count, steps=steps, first_draw=first_draw, n_levels=len(levels))
    count = plain.integer_number("count", count, at_least=0)
    steps = plain.integer_number("steps", steps, at_least=1)
    first_draw = plain.integer_number("first_draw", first_draw, at_least=0)
    if len(levels) < 2 or levels[-1].beta != 1 or levels[-1].rbm is not top:
        raise SpecError("a ladder needs at least 2 levels, the last of which is the network's top RBM")
    mine = Minibatches.slice_of(count, grid.replica, grid.n_replicas)
    h = nothing_on(top, mine.stop - mine.start)
    walkers = Walkers.at([h] * len(levels), mine.start, count)
    for number in range(steps):
        walkers, _ = sweep(levels, walkers, number, Purpose.FANTASY, start=first_draw)
    means = network.generate_down(walkers.h[-1]).copy()
    whole = np.concatenate(grid.replica_comm.allgather(means), axis=1)
    return whole, walkers.swaps.total(grid.replica_comm)
