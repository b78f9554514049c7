"""Moves that bring every layer under its limit, each as cheap as can be had."""

from __future__ import annotations

import heapq

import numpy as np

from partitioners.annealing import _gain, _move, count
from partitioners.compilation import njit
from partitioners.graph import IntArray
from partitioners.nets import Nets, Owner, for_each, loads, owned_by


def repaired(nets: Nets, owner: Owner, n_parts: int, allowed: IntArray) -> Owner:
    """Owners in which no part of a layer weighs more than is allowed.

    From the most overloaded part of a layer the units whose move costs least go to parts that have room for them; where
    none has, two units of different weight change places.  A layer that is still over its limit after that is placed
    anew, the heaviest unit first on the lightest part (LPT, Graham 1969): never more than ``nets.limits`` allow.
    Raises GraphError where an owner is no part.
    """
    found, most = owned_by(nets, owner, n_parts), for_each(allowed, n_parts)
    if np.all(loads(nets, found, n_parts, len(most)) <= most):
        return found
    _repair(nets.starts, nets.nets, nets.costs, nets.layer, nets.weights, most, found, n_parts)
    for here in np.flatnonzero((loads(nets, found, n_parts, len(most)) > most).any(axis=1)):
        units = np.flatnonzero(nets.layer == here)
        _lightest_first(units[np.argsort(-nets.weights[units], kind="stable")], nets.weights, most[here], found)
    return found


def _lightest_first(units: IntArray, weights: IntArray, most: IntArray, owner: Owner) -> None:
    """Give each unit in turn to the part that has the most room so far."""
    parts = [(-int(room), part) for part, room in enumerate(most)]
    heapq.heapify(parts)
    for unit in units.tolist():
        room, part = parts[0]
        owner[unit] = part
        heapq.heapreplace(parts, (room + int(weights[unit]), part))


@njit(nogil=True)
def _repair(starts, nets, costs, layer, weights, allowed, owner, n_parts):  # type: ignore[no-untyped-def]
    counts = np.zeros((len(costs), n_parts), np.int32)
    count(starts, nets, owner, counts)
    for here in range(len(allowed)):
        units = np.flatnonzero(layer == here)
        loads = np.zeros(n_parts, np.int64)
        for unit in units:
            loads[owner[unit]] += weights[unit]
        for _ in range(8 * n_parts):  # a part can be filled again by a swap of another one; then it comes again
            source = np.argmax(loads - allowed[here])
            if loads[source] <= allowed[here, source]:
                break
            mine = units[owner[units] == source]
            moved = _empty(mine, source, loads, allowed[here], starts, nets, costs, counts, weights, owner, n_parts)
            while loads[source] > allowed[here, source]:
                if not _exchange(units, source, loads, allowed[here], starts, nets, counts, weights, owner):
                    break
                moved = True
            if not moved:
                break


@njit(nogil=True)
def _empty(mine, source, loads, most, starts, nets, costs, counts, weights, owner, n_parts):  # type: ignore[no-untyped-def]
    """Move units of one overloaded part where they cost least, until it is within the limit or nothing fits."""
    gains = np.empty(len(mine), np.int64)
    for i in range(len(mine)):
        gains[i], _ = _best(mine[i], source, loads, most, starts, nets, costs, counts, weights, n_parts)
    moved = False
    for i in np.argsort(-gains, kind="mergesort"):
        if loads[source] <= most[source]:
            break
        unit = mine[i]
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
    """(states saved, part) of the best move to a part with room; part -1 where there is none."""
    best, where = np.int64(-(1 << 60)), -1
    for target in range(n_parts):
        if target != source and loads[target] + weights[unit] <= most[target]:
            gain = _gain(unit, source, target, starts, nets, costs, counts)
            if gain > best:
                best, where = gain, target
    return best, where


@njit(nogil=True)
def _exchange(units, source, loads, most, starts, nets, counts, weights, owner):  # type: ignore[no-untyped-def]
    """Swap a heavier unit of an overloaded part for a lighter one of the lightest part, by what fits best."""
    lightest = np.argmax(most - loads)
    heavy, light = units[owner[units] == source], units[owner[units] == lightest]
    light = light[np.argsort(weights[light], kind="mergesort")]
    room = most[lightest] - loads[lightest]
    closest, chosen, other = np.int64(1 << 60), np.int64(-1), np.int64(-1)
    if len(light) == 0:
        return False
    ascending = weights[light]
    for unit in heavy:
        # what the lightest part can take at most, and what brings the source just under or just over the limit
        wanted = loads[source] - most[source]
        for at in (
            np.searchsorted(ascending, weights[unit] - room),
            np.searchsorted(ascending, weights[unit] - wanted),
            np.searchsorted(ascending, weights[unit] - wanted) - 1,
        ):
            if at < 0 or at >= len(light):
                continue
            surplus = weights[unit] - ascending[at]
            if surplus <= 0 or surplus > room:
                continue
            left = abs(wanted - surplus)
            if left < closest:
                closest, chosen, other = left, unit, light[at]
    if chosen < 0:
        return False
    surplus = weights[chosen] - weights[other]
    _move(chosen, source, lightest, starts, nets, counts)
    _move(other, lightest, source, starts, nets, counts)
    owner[chosen], owner[other] = lightest, source
    loads[source] -= surplus
    loads[lightest] += surplus
    return True
