"""Moves that bring every layer under its limit, the cheapest first."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from partitioners.annealing import _gain, _move, count
from partitioners.compilation import njit
from partitioners.graph import IntArray
from partitioners.nets import Nets, Owner, for_each, loads, owned_by

Counts = npt.NDArray[np.int32]  # (n_nets, n_parts) units of each net that a part owns


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
    _repair(nets, owner, n_parts, most)
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


def _repair(nets: Nets, owner: Owner, n_parts: int, most: IntArray) -> None:
    """Move and swap units of every layer; what compiles takes single steps, as compiled sorting would take seconds."""
    counts = np.zeros((len(nets.costs), n_parts), np.int32)
    count(nets.starts, nets.nets, owner, counts)
    of_layer = loads(nets, owner, n_parts, len(most))
    for here in range(len(most)):
        units, load = np.flatnonzero(nets.layer == here), of_layer[here]
        for _ in range(8 * n_parts):  # swaps of another part can overload one again
            source = int(np.argmax(load - most[here]))
            if load[source] <= most[here, source]:
                break
            moved = _empty(nets, units[owner[units] == source], source, load, most[here], counts, owner)
            while load[source] > most[here, source]:
                if not _exchange(nets, units, source, load, most[here], counts, owner):
                    break
                moved = True
            if not moved:
                break


def _empty(
    nets: Nets, members: IntArray, source: int, load: IntArray, most: IntArray, counts: Counts, owner: Owner
) -> bool:
    """Move units of an overloaded part to where they cost least, until it is within its limit or nothing fits."""
    gains = np.empty(len(members), np.int64)
    _best_gains(members, source, load, most, nets.starts, nets.nets, nets.costs, counts, nets.weights, gains)
    ordered = members[np.argsort(-gains, kind="stable")]
    args = nets.starts, nets.nets, nets.costs, counts, nets.weights
    return bool(_move_in_order(ordered, source, load, most, *args, owner))


def _exchange(
    nets: Nets, units: IntArray, source: int, load: IntArray, most: IntArray, counts: Counts, owner: Owner
) -> bool:
    """Swap a heavier unit of an overloaded part for a lighter one of the lightest part: the pair that fits best."""
    lightest = int(np.argmax(most - load))
    heavy, light = units[owner[units] == source], units[owner[units] == lightest]
    light = light[np.argsort(nets.weights[light], kind="stable")]
    capacity, wanted = most[lightest] - load[lightest], load[source] - most[source]
    chosen, other = _pair(heavy, light, nets.weights, capacity, wanted)
    if chosen < 0:
        return False
    surplus = nets.weights[chosen] - nets.weights[other]
    _move(chosen, source, lightest, nets.starts, nets.nets, counts)
    _move(other, lightest, source, nets.starts, nets.nets, counts)
    owner[chosen], owner[other] = lightest, source
    load[source] -= surplus
    load[lightest] += surplus
    return True


@njit(nogil=True)
def _best_gains(members, source, loads, most, starts, nets, costs, counts, weights, gains):  # type: ignore[no-untyped-def]
    """gains (members,) = what the best move of each saves"""
    for i in range(len(members)):
        gains[i], _ = _best(members[i], source, loads, most, starts, nets, costs, counts, weights)


@njit(nogil=True)
def _move_in_order(members, source, loads, most, starts, nets, costs, counts, weights, owner):  # type: ignore[no-untyped-def]
    """Move these units in turn, each to where it costs least now; returns whether any has moved."""
    moved = False
    for unit in members:
        if loads[source] <= most[source]:
            break
        if weights[unit] == 0:
            continue
        _, target = _best(unit, source, loads, most, starts, nets, costs, counts, weights)
        if target < 0:
            continue
        _move(unit, source, target, starts, nets, counts)
        owner[unit] = target
        loads[source] -= weights[unit]
        loads[target] += weights[unit]
        moved = True
    return moved


@njit(nogil=True)
def _best(unit, source, loads, most, starts, nets, costs, counts, weights):  # type: ignore[no-untyped-def]
    """(states saved, part) of the best move to a part with enough capacity; part -1 where there is none."""
    best, best_part = np.int64(-(1 << 60)), -1
    for target in range(len(loads)):
        if target != source and loads[target] + weights[unit] <= most[target]:
            gain = _gain(unit, source, target, starts, nets, costs, counts)
            if gain > best:
                best, best_part = gain, target
    return best, best_part


@njit(nogil=True)
def _pair(heavy, light, weights, capacity, wanted):  # type: ignore[no-untyped-def]
    """The units (of heavy, of light) whose swap fits best; -1 where none does.

    light     ascending in weight
    capacity  the most that the lightest part can take
    wanted    what brings the overloaded part to its limit; a swap may fall just short of it or just go past it
    """
    closest, chosen, other = np.int64(1 << 60), np.int64(-1), np.int64(-1)
    if len(light) == 0:
        return chosen, other
    for unit in heavy:
        for attempt in range(3):
            position = _position(light, weights, weights[unit] - (capacity if attempt == 0 else wanted))
            if attempt == 2:
                position -= 1
            if position < 0 or position >= len(light):
                continue
            surplus = weights[unit] - weights[light[position]]
            if surplus <= 0 or surplus > capacity:
                continue
            rest = abs(wanted - surplus)
            if rest < closest:
                closest, chosen, other = rest, unit, light[position]
    return chosen, other


@njit(nogil=True)
def _position(units, weights, value):  # type: ignore[no-untyped-def]
    """The number of units, ascending in weight, that weigh less than ``value``."""
    low, high = 0, len(units)
    while low < high:
        middle = (low + high) // 2
        if weights[units[middle]] < value:
            low = middle + 1
        else:
            high = middle
    return low
