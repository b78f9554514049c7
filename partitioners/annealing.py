"""Moves and swaps of single units that lower the communication volume, under each layer's limit, by annealing.

A unit is proposed to move to the part of a unit with which it shares a net: only such moves can gain.  Where the limit
of its layer forbids that, it is proposed to swap with a unit of the same layer in that part: the best of a few, in turn
from a ring of all, so that a swap costs as little where parts are many and small as where they are few.  Worse
proposals are accepted with a probability that falls with the temperature (Kirkpatrick, Gelatt and Vecchi 1983), at
temperature 0 never.  The work is limited by a number of look-ups, not by time, so that results are the same on every
machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from partitioners.compilation import njit
from partitioners.graph import IntArray
from partitioners.nets import Nets, Owner, for_each, owned_by

PROPOSAL = 20  # look-ups in sequence that take as long as those of one proposal, at random addresses
CANDIDATE = 5  # the same for a unit that may be swapped, of which there are several in a row
FITTING = 4  # of the units that a part can give for another, the best of so many is taken ...
INSPECTED = 64  # ... which are looked for among so many

Halt = npt.NDArray[np.uint8]


def improved(
    nets: Nets,
    owner: Owner,
    n_parts: int,
    allowed: IntArray,
    *,
    lookups: int,
    hot: float,
    seed: int,
    halt: Halt | None = None,
) -> Owner:
    """Owners (n_units,) whose volume is at most that of ``owner``, by a search with this number of look-ups of nets.

    allowed  (n_layers,) or (n_layers, n_parts) the largest weight of a part
    hot      temperature at the start, in states; it falls to 0
    halt     (1,) another thread may set it to 1: the search ends then, without a result that anyone should use

    Raises GraphError where an owner is not a part.
    """
    best = owned_by(nets, owner, n_parts)
    if n_parts > 1 and len(nets.nets):
        dtype = np.uint8 if np.diff(nets.pins[0]).max() < 256 else np.int32  # smaller counts fit the cache better
        counts = np.zeros((len(nets.costs), n_parts), dtype)
        _anneal(
            nets.starts, nets.nets, *nets.pins, nets.costs, nets.layer, nets.weights,
            for_each(allowed, n_parts), best.copy(), counts, lookups, hot, seed % 2**63,
            np.zeros(1, np.uint8) if halt is None else halt, best,
        )  # fmt: skip
    return best


@njit(nogil=True)
def _random(state):  # type: ignore[no-untyped-def]
    """xorshift64* (Vigna 2016): deterministic for a seed, on every machine."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return x * np.uint64(0x2545F4914F6CDD1D)


@njit(nogil=True)
def _below(state, n):  # type: ignore[no-untyped-def]
    """A random integer below n, which is less than 2**32: by a product, which is faster than a remainder."""
    return np.int64(((_random(state) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@njit(nogil=True)
def _gain(unit, source, target, starts, nets, costs, counts):  # type: ignore[no-untyped-def]
    """How many fewer states travel when ``unit`` moves from ``source`` to ``target``."""
    gain = 0
    for i in range(starts[unit], starts[unit + 1]):
        net = nets[i]
        if counts[net, source] == 1:
            gain += costs[net]
        if counts[net, target] == 0:
            gain -= costs[net]
    return gain


@njit(nogil=True)
def _move(unit, source, target, starts, nets, counts):  # type: ignore[no-untyped-def]
    for i in range(starts[unit], starts[unit + 1]):
        counts[nets[i], source] -= 1
        counts[nets[i], target] += 1


@njit(nogil=True)
def count(starts, nets, owner, counts):  # type: ignore[no-untyped-def]
    """Add to ``counts``, (n_nets, n_parts), how many units of each net every part owns."""
    for unit in range(len(owner)):
        for i in range(starts[unit], starts[unit + 1]):
            counts[nets[i], owner[unit]] += 1


@njit(nogil=True)
def _gain_terms(starts, nets, costs, owner, counts):  # type: ignore[no-untyped-def]
    """The terms of the gains of all moves: a move of a unit saves ``alone`` and adds ``all_costs - present[part]``.

    alone    (n_units,) costs of the unit's nets in which its part has no other unit
    present  (n_units, n_parts) costs of the unit's nets that reach a part
    """
    n_units, n_parts = len(owner), counts.shape[1]
    alone, present = np.zeros(n_units, np.int32), np.zeros((n_units, n_parts), np.int32)
    for unit in range(n_units):
        for i in range(starts[unit], starts[unit + 1]):
            net = nets[i]
            if counts[net, owner[unit]] == 1:
                alone[unit] += costs[net]
            for part in range(n_parts):
                if counts[net, part] > 0:
                    present[unit, part] += costs[net]
    return alone, present


@njit(nogil=True)
def _move_and_update(  # type: ignore[no-untyped-def]
    unit, source, target, starts, nets, offsets, pins, costs, owner, counts, alone, present
):
    """Move a unit, update the terms of gains of all units in its nets, and return the look-ups this took."""
    used = starts[unit + 1] - starts[unit]
    own = 0
    owner[unit] = target
    for i in range(starts[unit], starts[unit + 1]):
        net = nets[i]
        cost = costs[net]
        first, last = offsets[net], offsets[net + 1]
        counts[net, source] -= 1
        n_source = counts[net, source]
        if n_source == 0:
            used += last - first
            for j in range(first, last):
                present[pins[j], source] -= cost
        elif n_source == 1:
            used += last - first
            for j in range(first, last):
                if owner[pins[j]] == source:
                    alone[pins[j]] += cost
                    break
        counts[net, target] += 1
        n_target = counts[net, target]
        if n_target == 1:
            used += last - first
            own += cost
            for j in range(first, last):
                present[pins[j], target] += cost
        elif n_target == 2:
            used += last - first
            for j in range(first, last):
                if owner[pins[j]] == target and pins[j] != unit:
                    alone[pins[j]] -= cost
                    break
    alone[unit] = own
    return used


@njit(nogil=True)
def _shared(unit, other, source, target, starts, nets, costs, counts):  # type: ignore[no-untyped-def]
    """The excess of the sum of two gains over that of a swap: from common nets, in which nothing changes.

    The nets of a unit ascend.
    """
    i, j, shared = starts[unit], starts[other], 0
    while i < starts[unit + 1] and j < starts[other + 1]:
        if nets[i] < nets[j]:
            i += 1
        elif nets[i] > nets[j]:
            j += 1
        else:
            if counts[nets[i], source] == 1:
                shared += costs[nets[i]]
            if counts[nets[i], target] == 1:
                shared += costs[nets[i]]
            i += 1
            j += 1
    return shared


@njit(nogil=True)
def _join(heads, before, after, level, part, unit):  # type: ignore[no-untyped-def]
    """Enter a unit at the end of the ring of its layer and part."""
    head = heads[level, part]
    if head < 0:
        heads[level, part] = before[unit] = after[unit] = unit
    else:
        last = before[head]
        after[last] = before[head] = unit
        before[unit], after[unit] = last, head


@njit(nogil=True)
def _leave(heads, before, after, level, part, unit):  # type: ignore[no-untyped-def]
    """Take a unit out of the ring of its layer and part."""
    left, right = before[unit], after[unit]
    if right == unit:
        heads[level, part] = -1
        return
    after[left], before[right] = right, left
    if heads[level, part] == unit:
        heads[level, part] = right


@njit(nogil=True)
def _anneal(  # type: ignore[no-untyped-def]
    starts, nets, offsets, pins, costs, layer, weights, allowed, owner, counts, lookups, hot, seed, halt, best
):
    n_units, n_layers, n_parts = len(layer), len(allowed), counts.shape[1]
    count(starts, nets, owner, counts)
    alone, present = _gain_terms(starts, nets, costs, owner, counts)
    all_costs = np.zeros(n_units, np.int64)
    loads = np.zeros((n_layers, n_parts), np.int64)
    # rings of the units that each part has in each layer
    heads = np.full((n_layers, n_parts), -1, np.int32)
    before, after = np.empty(n_units, np.int32), np.empty(n_units, np.int32)
    for each in range(n_units):
        loads[layer[each], owner[each]] += weights[each]
        _join(heads, before, after, layer[each], owner[each], each)
        for i in range(starts[each], starts[each + 1]):
            all_costs[each] += costs[nets[i]]
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed * 2654435761 + 88172645463325252)
    cost = 0  # relative to the start
    used = 0
    cooling = 0.95 * lookups  # the rest of the search accepts no worse proposals
    while used < lookups and not halt[0]:
        temperature = hot * max(0.0, 1.0 - used / cooling)
        used += PROPOSAL
        unit: Any = _below(state, n_units)
        n_own = starts[unit + 1] - starts[unit]
        if n_own == 0:
            continue
        source = owner[unit]
        net = nets[starts[unit] + _below(state, n_own)]
        near = pins[offsets[net] + _below(state, offsets[net + 1] - offsets[net])]
        target = owner[near]
        if target == source:
            continue
        used += PROPOSAL
        gain = alone[unit] + present[unit, target] - all_costs[unit]
        # proposals of a smaller gain are rejected, at this temperature and with this draw
        least = 0.0
        if temperature > 0.0:
            least = temperature * np.log((np.float64(_random(state) >> np.uint64(11)) + 1.0) * 2.0**-53)
        level = layer[unit]
        other: Any = np.int64(-1)
        if loads[level, target] + weights[unit] > allowed[level, target]:
            # swap with the best of the next few units of the same layer in that part which fit
            leaving = loads[level, target] + weights[unit] - allowed[level, target]
            entering = allowed[level, source] - loads[level, source] + weights[unit]
            candidate: Any = heads[level, target]
            if candidate < 0:
                continue
            end, fitting, best_gain = candidate, 0, np.int64(0)
            for _ in range(INSPECTED):
                used += CANDIDATE
                if leaving <= weights[candidate] <= entering:
                    its_gain = np.int64(alone[candidate] + present[candidate, source] - all_costs[candidate])
                    if fitting == 0 or its_gain > best_gain:
                        other, best_gain = candidate, its_gain
                    fitting += 1
                candidate = after[candidate]
                if candidate == end or fitting == FITTING:
                    break
            heads[level, target] = candidate
            if other < 0:
                continue
            gain += best_gain
            if gain < least:  # the sum of both gains is an upper bound for the swap
                continue
            gain -= _shared(unit, other, source, target, starts, nets, costs, counts)
            used += n_own + starts[other + 1] - starts[other]
        if gain < least:
            continue
        used += _move_and_update(
            unit, source, target, starts, nets, offsets, pins, costs, owner, counts, alone, present
        )
        loads[level, source] -= weights[unit]
        loads[level, target] += weights[unit]
        _leave(heads, before, after, level, source, unit)
        _join(heads, before, after, level, target, unit)
        if other >= 0:
            used += _move_and_update(
                other, target, source, starts, nets, offsets, pins, costs, owner, counts, alone, present
            )
            loads[level, target] -= weights[other]
            loads[level, source] += weights[other]
            _leave(heads, before, after, level, target, other)
            _join(heads, before, after, level, source, other)
        cost -= gain
    if cost <= 0:
        best[:] = owner
    return cost
