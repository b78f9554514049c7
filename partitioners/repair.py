"""Moves that bring every layer under its limit, each as cheap as can be had."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from partitioners.annealing import Owner, _gain, _move
from partitioners.graph import IntArray
from partitioners.nets import Nets


def repaired(nets: Nets, owner: Owner, n_parts: int, allowed: IntArray) -> Owner:
    """Owners in which no part of a layer weighs more than is allowed, as far as single moves and swaps get there.

    From the most overloaded part of a layer the unit whose move costs least goes to a part that has room for it; where
    none has, two units of different weight change places.
    """
    found = owner.copy()
    _repair(nets.starts, nets.nets, nets.costs, nets.layer, nets.weights, allowed, found, n_parts)
    return found


@njit(cache=True)
def _repair(starts, nets, costs, layer, weights, allowed, owner, n_parts):  # type: ignore[no-untyped-def]
    n_units, n_layers = len(layer), len(allowed)
    counts = np.zeros((len(costs), n_parts), np.int32)
    loads = np.zeros((n_layers, n_parts), np.int64)
    for unit in range(n_units):
        loads[layer[unit], owner[unit]] += weights[unit]
        for i in range(starts[unit], starts[unit + 1]):
            counts[nets[i], owner[unit]] += 1
    for here in range(n_layers):
        for _ in range(4 * n_units):
            source = np.argmax(loads[here])
            if loads[here, source] <= allowed[here]:
                break
            best: Any = np.int64(-(1 << 60))
            chosen: Any = np.int64(-1)
            where: Any = np.int64(-1)
            for unit in range(n_units):
                if layer[unit] != here or owner[unit] != source or weights[unit] == 0:
                    continue
                for target in range(n_parts):
                    if target == source or loads[here, target] + weights[unit] > allowed[here]:
                        continue
                    gain = _gain(unit, source, target, starts, nets, costs, counts)
                    if gain > best:
                        best, chosen, where = gain, unit, target
            if chosen < 0:
                lightest = np.argmin(loads[here])  # nothing fits: a heavier unit for a lighter one
                closest: Any = np.int64(1 << 60)
                other: Any = np.int64(-1)
                for unit in range(n_units):
                    if layer[unit] != here or owner[unit] != source:
                        continue
                    for candidate in range(n_units):
                        if layer[candidate] != here or owner[candidate] != lightest:
                            continue
                        surplus = weights[unit] - weights[candidate]
                        if surplus > 0 and loads[here, lightest] + surplus <= allowed[here]:
                            left = abs(loads[here, source] - surplus - allowed[here])
                            if left < closest:
                                closest, chosen, other = left, unit, candidate
                if chosen < 0:
                    break
                _move(other, lightest, source, starts, nets, counts)
                owner[other] = source
                loads[here, lightest] -= weights[other]
                loads[here, source] += weights[other]
                where = lightest
            _move(chosen, source, where, starts, nets, counts)
            owner[chosen] = where
            loads[here, source] -= weights[chosen]
            loads[here, where] += weights[chosen]
