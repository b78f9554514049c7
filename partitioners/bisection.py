"""Recursive bisection of nets: each half is halved again, until every piece is a part."""

from __future__ import annotations

import numpy as np

from partitioners.annealing import improved
from partitioners.coarsening import companions, contracted
from partitioners.graph import IntArray
from partitioners.links import offsets_of
from partitioners.nets import Nets, Owner, cost, loads
from partitioners.refinement import mean_unit_cost
from partitioners.repair import repaired

SMALLEST = 80  # groups of a layer on which cuts are searched
TRIES = 4  # searches there, from random cuts
HEAT = 0.15  # temperature at the start of these, in the states that the nets of a group carry on average
FINER = 0.03  # the same on finer groups
FOR_UNIT = 10_000  # look-ups of nets for one search, by number of groups ...
EACH = 10  # ... and for every entry of its nets
LIMIT = 2.0**62  # largest limit of a side, so that those of both can be added


def bisected(nets: Nets, n_parts: int, allowed: IntArray, *, seed: int) -> Owner:
    """Owners, (n_units,), by cuts in two; the slack of the layers' limits is divided among the successive cuts.

    Heavy groups may leave a part over its limit: ``repaired`` mends that.
    """
    owner = np.zeros(nets.n_units, np.int32)
    _cut(nets, np.arange(nets.n_units), n_parts, 0, allowed, owner, seed)
    return owner


def _cut(nets: Nets, units: IntArray, n_parts: int, first: int, allowed: IntArray, owner: Owner, seed: int) -> None:
    """Give the parts ``first .. first + n_parts - 1`` to these units, whose nets these are."""
    if n_parts == 1:
        owner[units] = first
        return
    if not len(units):
        return
    half = n_parts // 2
    total = loads(nets, np.zeros(nets.n_units, np.int32), 1, len(allowed))[:, 0]
    slack = np.maximum(1.0, allowed * float(n_parts) / np.maximum(total, 1)) ** (1 / np.ceil(np.log2(n_parts)))
    heaviest = np.zeros(len(allowed), np.int64)
    np.maximum.at(heaviest, nets.layer, nets.weights)
    fractions = np.array([half, n_parts - half]) / n_parts
    sides = np.maximum(total[:, None] * fractions * slack[:, None], total[:, None] * fractions + heaviest[:, None] / 2)
    side = _halved(nets, np.minimum(sides, LIMIT).astype(np.int64), seed)
    for which, parts, start in ((0, half, first), (1, n_parts - half, first + half)):
        members = np.flatnonzero(side == which)
        _cut(restricted(nets, members), units[members], parts, start, allowed, owner, seed + 1)


def _halved(nets: Nets, sides: IntArray, seed: int) -> Owner:
    """The cheapest cut; ``sides`` (n_layers, 2) are the limits of both sides."""
    n_layers = len(sides)
    levels, groups = [nets], []
    while levels[-1].n_units > SMALLEST * n_layers:
        pairs = companions(levels[-1], max(1, int(sides.sum(axis=1).min()) // 20), seed=seed)
        if pairs.max() + 1 > 0.95 * levels[-1].n_units:
            break
        groups.append(pairs)
        levels.append(contracted(levels[-1], pairs))
    top = levels[-1]
    cuts = []
    for i in range(TRIES):
        start = np.random.default_rng(seed + i).integers(0, 2, top.n_units).astype(np.int32)
        cuts.append(_annealed(top, start, sides, HEAT, seed + i))
    side = min(cuts, key=lambda one: cost(top, one, 2))
    for finer, group in zip(levels[-2::-1], groups[::-1], strict=True):
        side = _annealed(finer, side[group], sides, FINER, seed)
    return side


def _annealed(nets: Nets, owner: Owner, sides: IntArray, heat: float, seed: int) -> Owner:
    owner = repaired(nets, owner, 2, sides)
    lookups = FOR_UNIT * nets.n_units + EACH * len(nets.nets)
    return improved(nets, owner, 2, sides, lookups=lookups, hot=heat * mean_unit_cost(nets), seed=seed)


def restricted(nets: Nets, units: IntArray) -> Nets:
    """The nets of these units alone, ascending; nets with fewer than two of them are left out.

    Connectivity minus one is additive over cuts: a net that is cut within a piece costs that much more.
    """
    counts = np.diff(nets.starts)[units]
    starts = offsets_of(counts)
    entries = nets.nets[np.repeat(nets.starts[units] - starts[:-1], counts) + np.arange(starts[-1])]
    sizes = np.bincount(entries, minlength=len(nets.costs))
    kept = np.flatnonzero(sizes > 1)
    renamed = np.full(len(nets.costs), -1, np.int32)
    renamed[kept] = np.arange(len(kept))
    names = renamed[entries]
    starts = offsets_of(names >= 0)[starts]
    return Nets(starts, names[names >= 0], nets.costs[kept], nets.layer[units], nets.weights[units])
