"""Moves that bring every layer under its limit, the cheapest first."""

from __future__ import annotations

import heapq

import numpy as np

from partitioners.annealing import _gain, _move, count
from partitioners.compilation import njit
from partitioners.graph import IntArray
from partitioners.nets import Nets, Owner, for_each, loads, owned_by


def repaired(nets: Nets, owner: Owner, n_parts: int, allowed: IntArray) -> Owner:
    """Owners in which no part of a layer weighs more than is allowed.

    From the most overloaded part of a layer the units whose move costs least go to parts with enough free capacity;
    where there is none, two units of different weight are swapped.  A layer that is still over its limit after that is
    assigned anew, the heaviest unit first to the lightest part (LPT, Graham 1969), which ``nets.limits`` always allow.
    Raises GraphError where an owner is not a part.
    """
    owner, most = owned_by(nets, owner, n_parts), for_each(allowed, n_parts)
    if np.all(loads(nets, owner, n_parts, len(most)) <= most):
        return owner
    _repair(nets.starts, nets.nets, nets.costs, nets.layer, nets.weights, most, owner, n_parts)
    for layer in np.flatnonzero((loads(nets, owner, n_parts, len(most)) > most).any(axis=1)):
        units = np.flatnonzero(nets.layer == layer)
        _lightest_first(units[np.argsort(-nets.weights[units], kind="stable")], nets.weights, most[layer], owner)
    return owner


def _lightest_first(units: IntArray, weights: IntArray, most: IntArray, owner: Owner) -> None:
    """Give each unit in turn to the part with the most free capacity so far."""
    parts = [(-int(limit), part) for part, limit in enumerate(most)]
    heapq.heapify(parts)
    for unit in units.tolist():
        load, part = parts[0]  # negative: what is free
        owner[unit] = part
        heapq.heapreplace(parts, (load + int(weights[unit]), part))


@njit(nogil=True)
def _repair(starts, nets, costs, layer, weights, allowed, owner, n_parts):  # type: ignore[no-untyped-def]
    counts = np.zeros((len(costs), n_parts), np.int32)
    count(starts, nets, owner, counts)
    for here in range(len(allowed)):
        units = np.flatnonzero(layer == here)
        loads = np.zeros(n_parts, np.int64)
        for unit in units:
            loads[owner[unit]] += weights[unit]
        for _ in range(8 * n_parts):  # swaps of another part can overload one again
            source = np.argmax(loads - allowed[here])
            if loads[source] <= allowed[here, source]:
                break
            members = units[owner[units] == source]
            moved = _empty(members, source, loads, allowed[here], starts, nets, costs, counts, weights, owner, n_parts)
            while loads[source] > allowed[here, source]:
                if not _exchange(units, source, loads, allowed[here], starts, nets, counts, weights, owner):
                    break
                moved = True
            if not moved:
                break


@njit(nogil=True)
def _empty(members, source, loads, most, starts, nets, costs, counts, weights, owner, n_parts):  # type: ignore[no-untyped-def]
    """Move units of an overloaded part to where they cost least, until it is within its limit or nothing fits."""
    gains = np.empty(len(members), np.int64)
    for i in range(len(members)):
        gains[i], _ = _best(members[i], source, loads, most, starts, nets, costs, counts, weights, n_parts)
    moved = False
    for i in np.argsort(-gains, kind="mergesort"):
        if loads[source] <= most[source]:
            break
        unit = members[i]
        if weights[unit] == 0:
            continue
        _, target = _best(unit, source, loads, most, starts, nets, costs, counts, weights, n_parts)
        if target < 0:
            continue
        _move(unit, source, target, starts, nets, counts)
        owner[unit] = target
        loads[source] -= weights[unit]
        loads[target] += weights[unit]
        moved = True
    return moved


@njit(nogil=True)
def _best(unit, source, loads, most, starts, nets, costs, counts, weights, n_parts):  # type: ignore[no-untyped-def]
    """(states saved, part) of the best move to a part with enough capacity; part -1 where there is none."""
    best, best_part = np.int64(-(1 << 60)), -1
    for target in range(n_parts):
        if target != source and loads[target] + weights[unit] <= most[target]:
            gain = _gain(unit, source, target, starts, nets, costs, counts)
            if gain > best:
                best, best_part = gain, target
    return best, best_part


@njit(nogil=True)
def _exchange(units, source, loads, most, starts, nets, counts, weights, owner):  # type: ignore[no-untyped-def]
    """Swap a heavier unit of an overloaded part for a lighter one of the lightest part: the pair that fits best."""
    lightest = np.argmax(most - loads)
    heavy, light = units[owner[units] == source], units[owner[units] == lightest]
    light = light[np.argsort(weights[light], kind="mergesort")]
    capacity = most[lightest] - loads[lightest]
    closest, chosen, other = np.int64(1 << 60), np.int64(-1), np.int64(-1)
    if len(light) == 0:
        return False
    ascending = weights[light]
    for unit in heavy:
        # the most that the lightest part can take, and what brings the source just under or just over its limit
        wanted = loads[source] - most[source]
        for position in (
            np.searchsorted(ascending, weights[unit] - capacity),
            np.searchsorted(ascending, weights[unit] - wanted),
            np.searchsorted(ascending, weights[unit] - wanted) - 1,
        ):
            if position < 0 or position >= len(light):
                continue
            surplus = weights[unit] - ascending[position]
            if surplus <= 0 or surplus > capacity:
                continue
            rest = abs(wanted - surplus)
            if rest < closest:
                closest, chosen, other = rest, unit, light[position]
    if chosen < 0:
        return False
    surplus = weights[chosen] - weights[other]
    _move(chosen, source, lightest, starts, nets, counts)
    _move(other, lightest, source, starts, nets, counts)
    owner[chosen], owner[other] = lightest, source
    loads[source] -= surplus
    loads[lightest] += surplus
    return True
