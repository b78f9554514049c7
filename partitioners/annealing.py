"""Moves and swaps of single units that lower the communication volume, under each layer's limit, by annealing.

A unit is proposed to move to a part of one of its neighbours, which is where a move can gain.  Where the limit of its
layer forbids that, it is proposed to swap with a unit of the same layer there.  Worse proposals are taken with a
probability that falls with the temperature (Kirkpatrick, Gelatt and Vecchi 1983); at temperature 0 none is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from partitioners.graph import IntArray
from partitioners.nets import Nets

Owner = npt.NDArray[np.int32]


def improved(
    nets: Nets, owner: Owner, n_parts: int, allowed: IntArray, *, proposals: int, hot: float, seed: int
) -> Owner:
    """The best owners found from ``owner`` (n_units,) in so many proposals.

    hot   temperature at the start, in states; it falls to 0
    """
    best = owner.copy()
    _anneal(
        nets.starts, nets.nets, nets.costs, nets.layer, nets.weights, allowed, owner.copy(), n_parts, proposals, hot,
        seed, best,
    )  # fmt: skip
    return best


@njit(cache=True)
def _random(state):  # type: ignore[no-untyped-def]
    """xorshift64* (Vigna 2016): deterministic for a seed, on every machine."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return x * np.uint64(0x2545F4914F6CDD1D)


@njit(cache=True)
def _gain(unit, source, target, starts, nets, costs, counts):  # type: ignore[no-untyped-def]
    """States that travel less when ``unit`` moves from ``source`` to ``target``."""
    gain = 0
    for i in range(starts[unit], starts[unit + 1]):
        net = nets[i]
        if counts[net, source] == 1:
            gain += costs[net]
        if counts[net, target] == 0:
            gain -= costs[net]
    return gain


@njit(cache=True)
def _move(unit, source, target, starts, nets, counts):  # type: ignore[no-untyped-def]
    for i in range(starts[unit], starts[unit + 1]):
        counts[nets[i], source] -= 1
        counts[nets[i], target] += 1


@njit(cache=True)
def _anneal(  # type: ignore[no-untyped-def]
    starts, nets, costs, layer, weights, allowed, owner, n_parts, proposals, hot, seed, best
):
    n_units, n_layers = len(layer), len(allowed)
    counts = np.zeros((len(costs), n_parts), np.int32)
    loads = np.zeros((n_layers, n_parts), np.int64)
    first = np.zeros(n_layers + 1, np.int64)
    for each in range(n_units):
        loads[layer[each], owner[each]] += weights[each]
        first[layer[each] + 1] += 1
        for i in range(starts[each], starts[each + 1]):
            counts[nets[i], owner[each]] += 1
    for i in range(n_layers):
        first[i + 1] += first[i]
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed * 2654435761 + 88172645463325252)
    cost, lowest = 0, 0  # against the start
    improved_since = False
    for step in range(proposals):
        temperature = hot * (1.0 - step / proposals)
        unit: Any = np.int64(_random(state) % np.uint64(n_units))
        n_own = starts[unit + 1] - starts[unit]
        if n_own == 0:
            continue
        source = owner[unit]
        net = nets[starts[unit] + np.int64(_random(state) % np.uint64(n_own))]
        # a part that this net reaches already, the first from a random one on
        target = np.int64(_random(state) % np.uint64(n_parts))
        for _ in range(n_parts):
            if target != source and counts[net, target] > 0:
                break
            target = (target + 1) % n_parts
        if target == source or counts[net, target] == 0:
            continue
        gain = _gain(unit, source, target, starts, nets, costs, counts)
        mine = layer[unit]
        other: Any = np.int64(-1)
        if loads[mine, target] + weights[unit] > allowed[mine]:
            # swap: some unit of the same layer that is there
            size = first[mine + 1] - first[mine]
            place = np.int64(_random(state) % np.uint64(size))
            for _ in range(64):
                candidate = first[mine] + place
                if owner[candidate] == target and (
                    loads[mine, target] + weights[unit] - weights[candidate] <= allowed[mine]
                    and loads[mine, source] + weights[candidate] - weights[unit] <= allowed[mine]
                ):
                    other = candidate
                    break
                place = np.int64(_random(state) % np.uint64(size))
            if other < 0:
                continue
            _move(unit, source, target, starts, nets, counts)
            gain += _gain(other, target, source, starts, nets, costs, counts)
            _move(unit, target, source, starts, nets, counts)
        if gain < 0:
            if temperature <= 0.0:
                continue
            u = np.float64(_random(state) >> np.uint64(11)) * 2.0**-53
            if u >= np.exp(gain / temperature):
                continue
        _move(unit, source, target, starts, nets, counts)
        owner[unit] = target
        loads[mine, source] -= weights[unit]
        loads[mine, target] += weights[unit]
        if other >= 0:
            _move(other, target, source, starts, nets, counts)
            owner[other] = source
            loads[mine, target] -= weights[other]
            loads[mine, source] += weights[other]
        cost -= gain
        if cost < lowest:
            lowest, improved_since = cost, True
        # the best is copied when the search is about to leave it; late, when leaving is rare, at every improvement
        if improved_since and cost == lowest and temperature < 0.1 * hot:
            best[:] = owner
            improved_since = False
    if cost <= lowest:
        best[:] = owner
    return cost
