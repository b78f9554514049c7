"""Ladders of distributions whose chains swap states: the common core of parallel tempering, and of its kin.

A ladder has the same chains on every level.  In a sweep each level moves its own chains by Gibbs sampling, then chain c
of level t and chain c of level t + 1 swap their visible states with the probability (Swendsen and Wang 1986)

    min(1, f_t(v_t+1) f_t+1(v_t) / (f_t(v_t) f_t+1(v_t+1)))

where f_t(v) is the probability of v on level t up to a constant, summed over the hidden states, which are then drawn
anew.  Even and odd pairs take turns.  Of hidden units with real values f_t(v) is the integral over these.

All levels of a chain are on the same replica.  Shards sum log f in fixed point, each unit's contribution rounded by
itself, and share the draw that decides: they come to the same decision at every grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import draws
from modelpar.draws import Purpose, Stream
from modelpar.kernels.products.product import Activations, Sampler
from modelpar.kernels.sampling.softplus import FIXED_STEPS, fixed_softplus_sums, lies_below
from modelpar.kernels.states import Packed, over_units, pack
from modelpar.model import gaussian_visible
from modelpar.model.rbm import RBM
from modelpar.units.hidden import cumulant_sums, drawn

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

# repeats of the stream of Purpose.SWAP: decisions, and chains that only measure
DECISION, PILOT_VISIBLE, PILOT_HIDDEN = range(3)
LARGEST = float(1 << 60)  # of log f in fixed point, by cumulants of a model that is breaking down
UP, DOWN = 1, 2  # where a state is on its way to: it was last at the bottom, or at the top after the bottom


@dataclass(frozen=True)
class Level:
    """The distribution log f(v) = b.v + sum_j log(1 + exp(beta x_j)), x = W^T v + c, of an RBM.

    With ``beta`` 0 the units are independent, and every sweep is a new sample.  That is the path of annealed importance
    sampling (Salakhutdinov and Murray 2008, equation 16) from a base-rate RBM of the same visible biases.  Of Gaussian
    visible units -t |v - b / t|^2 / 2, t their precisions, stands for b.v.  Hidden units with real values keep their
    potentials U, so that with v and h the distribution is exp(b.v + beta h.x - sum_j U_j(h_j)), and their cumulants
    Gamma(beta x_j) stand for log(1 + exp(beta x_j)).  Methods are collective over the shards.
    """

    rbm: RBM
    beta: float = 1.0

    def visible(self, h: Activations, purpose: Purpose, repeat: int, first: int) -> Activations:
        """Visible states, or values, drawn given h (n_hidden_owned, chains).   first: counter of the first chain"""
        rbm = self.rbm
        if self.beta == 1:
            return rbm.sample_visible(h, purpose, repeat, first)
        x: Array
        if self.beta == 0:
            x = np.repeat(rbm.b[:, None], h.shape[1], axis=1)
        else:
            x = rbm.visible_input(h)
            x *= x.dtype.type(self.beta)
            x += x.dtype.type(1 - self.beta) * rbm.b[:, None]
        stream = Stream(rbm.seed, rbm.index, purpose, repeat)
        if rbm.gaussian:
            mean = gaussian_visible.to_means(x, rbm.precision)
            return gaussian_visible.drawn(mean, rbm.precision, stream, rbm.visible_ids, first)
        return _drawn(x, rbm.visible_ids, stream, first, rbm.visible.categories)

    def hidden(self, x: Array, purpose: Purpose, repeat: int, first: int) -> Activations:
        """Hidden states, or values, drawn given x = W^T v + c (n_hidden_owned, chains), which is overwritten."""
        x *= x.dtype.type(self.beta)
        rbm = self.rbm
        stream, units = Stream(rbm.seed, rbm.index, purpose, repeat), rbm.hidden_units
        if units is None:
            return _drawn(x, rbm.hidden_ids, stream, first)
        values = drawn(units, x, rbm.parameters.potential, stream, rbm.hidden_ids, first).values
        assert values is not None  # they were asked for
        return values

    def inputs(self, v: Activations) -> Array:
        """x = W^T v + c, a new array (n_hidden_owned, chains)."""
        return self.rbm.hidden_input(v).copy()

    def log_weight(self, v: Activations, x: Array, *, with_biases: bool = True) -> IntArray:
        """The owned units' contribution to log f(v), (chains,), in fixed point, up to a constant.

        x            ``inputs(v)``
        with_biases  whether b.v is included, which levels of one RBM have alike
        """
        result = self._of_hidden(x) if self.beta else np.zeros(x.shape[1], np.int64)
        if not with_biases:
            return result
        b = self.rbm.b.astype(np.float64)
        if isinstance(v, Packed):
            visible = over_units(v, np.rint(b * FIXED_STEPS))  # integers below 2^53, exact in any order
        else:
            own = b[:, None] * v
            if (precision := self.rbm.precision) is not None:  # levels of other precisions weigh squares otherwise
                own -= 0.5 * precision.astype(np.float64)[:, None] * np.square(v, dtype=np.float64)
            visible = np.rint(own * FIXED_STEPS).sum(axis=0)
        return result + visible.astype(np.int64)

    def _of_hidden(self, x: Array) -> IntArray:
        """Sums over the owned hidden units of log(1 + exp(beta x)), or of the cumulants at beta x, in fixed point.

        Cumulants are rounded as a sum: real values differ in last bits between grids anyway.
        """
        units = self.rbm.hidden_units
        if units is None:
            return fixed_softplus_sums(x, self.beta)
        total = cumulant_sums(units, x * x.dtype.type(self.beta), self.rbm.parameters.potential)
        steps = np.nan_to_num(np.rint(total * FIXED_STEPS)).clip(-LARGEST, LARGEST)
        return np.asarray(steps, np.int64)


def _drawn(x: Array, ids: IntArray, stream: Stream, first: int, categories: int = 0) -> Packed:
    """States of units (units, chains) with the summed inputs x, which are overwritten."""
    drawn = Sampler(np.zeros(len(ids), x.dtype), ids, stream, first, categories=categories).of_sums(x, 1)
    assert drawn.states is not None  # they were asked for
    return drawn.states


@dataclass(frozen=True)
class Swaps:
    """How often neighbouring levels have swapped.  Sums over this replica's chains, or over all after ``total``."""

    tried: IntArray  # (levels - 1,) of the levels t and t + 1
    accepted: IntArray  # (levels - 1,)
    round_trips: int = 0  # states that went from the lowest level to the highest and back

    @classmethod
    def none(cls, n_levels: int) -> Swaps:
        return cls(np.zeros(n_levels - 1, np.int64), np.zeros(n_levels - 1, np.int64))

    @property
    def acceptance(self) -> npt.NDArray[np.float64]:
        """(levels - 1,) part of the swaps that were made; NaN where none was tried."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.accepted / self.tried)

    def total(self, replica_comm: MPI.Comm) -> Swaps:
        """The sum over the replicas.  Collective."""
        mine = np.concatenate([self.tried, self.accepted, [self.round_trips]]).astype(np.int64)
        replica_comm.Allreduce(MPI.IN_PLACE, mine)
        n = len(self.tried)
        return Swaps(mine[:n], mine[n : 2 * n], int(mine[-1]))


@dataclass(frozen=True)
class Walkers:
    """This replica's chains on all levels, from the lowest up."""

    h: tuple[Activations, ...]  # (n_hidden_owned, chains) of each level; of one with beta 0 never used
    direction: npt.NDArray[np.int32]  # (levels, chains) 0, UP or DOWN; it goes with the states
    first: int  # id of the first chain
    n_all: int  # chains over all replicas
    swaps: Swaps

    @classmethod
    def at(cls, h: Sequence[Activations], first: int, n_all: int) -> Walkers:
        """Chains that start at these hidden states, or values."""
        return cls(tuple(h), np.zeros((len(h), h[0].shape[1]), np.int32), first, n_all, Swaps.none(len(h)))


def sweep(
    levels: Sequence[Level], walkers: Walkers, number: int, purpose: Purpose, *, start: int = 0,
    turn: int | None = None, all_hidden: bool = True,
) -> tuple[Walkers, list[Activations]]:  # fmt: skip
    """(the chains after a sweep of every level and one round of swaps, visible states of the levels).

    number      of the sweep: with the chains' ids and ``start`` it keys the draws, whose repeats of ``purpose`` are
                2 t + 1 and 2 t + 2 on level t
    turn        even and odd ones try other pairs; None: the number
    all_hidden  False leaves the highest level's hidden states as they were: the caller draws them

    Collective over the shards.
    """
    counter, top = start + number * walkers.n_all + walkers.first, len(levels) - 1
    v = [level.visible(walkers.h[t], purpose, 2 * t + 1, counter) for t, level in enumerate(levels)]
    h, direction = list(walkers.h), walkers.direction.copy()
    tried, accepted = walkers.swaps.tried.copy(), walkers.swaps.accepted.copy()
    wanted = [level.beta > 0 and (t < top or all_hidden) for t, level in enumerate(levels)]
    alone = set(range(len(levels)))
    for low in range((number if turn is None else turn) % 2, top, 2):
        alone -= {low, low + 1}
        pair = levels[low], levels[low + 1]
        made, inputs = _swap(pair, (v[low], v[low + 1]), low, counter)
        v[low], v[low + 1] = exchanged(v[low], v[low + 1], made)
        direction[low : low + 2] = np.where(made, direction[low : low + 2][::-1], direction[low : low + 2])
        tried[low] += len(made)
        accepted[low] += int(made.sum())
        for t, level, x in zip((low, low + 1), pair, inputs, strict=True):
            if wanted[t]:
                h[t] = level.hidden(x, purpose, 2 * t + 2, counter)
    for t in alone:
        if wanted[t]:
            h[t] = levels[t].hidden(levels[t].inputs(v[t]), purpose, 2 * t + 2, counter)
    round_trips = walkers.swaps.round_trips
    if top > 0:
        round_trips += int((direction[0] == DOWN).sum())
        direction[0] = UP
        direction[top][direction[top] == UP] = DOWN
    swaps = Swaps(tried, accepted, round_trips)
    return replace(walkers, h=tuple(h), direction=direction, swaps=swaps), v


def _swap(
    pair: tuple[Level, Level], v: tuple[Activations, Activations], low: int, counter: int
) -> tuple[npt.NDArray[np.bool_], tuple[Array, Array]]:
    """(which chains swap, inputs of both levels of the states that they then have).  Collective over the shards."""
    a, b = pair
    own, other, log_ratio = swap_ratios(a, b, *v)
    rbm = b.rbm
    u = np.empty((1, len(log_ratio)))
    draws.uniform(Stream(rbm.seed, rbm.index, Purpose.SWAP, DECISION), np.array([low]), counter, u)
    made = np.empty(len(log_ratio), np.bool_)
    lies_below(u[0], log_ratio, made)
    return made, (np.where(made, other[0], own[0]), np.where(made, other[1], own[1]))


def swap_ratios(
    a: Level, b: Level, v_a: Activations, v_b: Activations
) -> tuple[tuple[Array, Array], tuple[Array, Array], IntArray]:
    """(inputs of both levels of their own states, of the other's, log of the ratio that swaps are accepted by).

    The ratio is (chains,) int64 in fixed point, the same on all shards.  Collective over the shards.
    """
    own = a.inputs(v_a), b.inputs(v_b)
    same = a.rbm is b.rbm
    other = (own[1], own[0]) if same else (a.inputs(v_b), b.inputs(v_a))
    log_ratio = np.zeros(own[0].shape[1], np.int64)
    for sign, level, v, x in ((1, a, v_b, other[0]), (1, b, v_a, other[1]), (-1, a, v_a, own[0]), (-1, b, v_b, own[1])):
        log_ratio += sign * level.log_weight(v, x, with_biases=not same)
    rbm = b.rbm
    with rbm.traffic.status.waiting("allreduce"):
        rbm.shard_comm.Allreduce(MPI.IN_PLACE, log_ratio)
    rbm.traffic.add_allreduce("shard", log_ratio, rbm.shard_comm.size)
    return own, other, log_ratio


def exchanged(a: Activations, b: Activations, made: npt.NDArray[np.bool_]) -> tuple[Activations, Activations]:
    """Activations (units, chains) of two levels after the chains ``made`` (chains,) have swapped."""
    if isinstance(a, Packed) and isinstance(b, Packed):
        mask = pack(made[None, :].astype(np.uint8)).words
        moved = (a.words ^ b.words) & mask
        return Packed(a.words ^ moved, a.batch), Packed(b.words ^ moved, b.batch)
    assert not isinstance(a, Packed)  # levels have the same kind of units
    assert not isinstance(b, Packed)
    return np.where(made, b, a), np.where(made, a, b)
