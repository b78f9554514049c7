"""Rounds of annealing searches from many starts, of which the best ways go on with ever longer searches.

The first round searches from every start at every temperature; of these ways the better half goes on with searches
twice as long (successive halving: Jamieson and Talwalkar 2016) until few are left, and then the rounds grow.  Groups of
twins are moved first, then single units.  A round is a function of the seed and of the rounds before it alone: clocks
and callers only say after how many rounds a search ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from partitioners.annealing import Halt, improved
from partitioners.graph import IntArray
from partitioners.nets import Nets, Owner, cost
from partitioners.refinement import mean_unit_cost

HEATS = (0.01, 0.04, 0.1, 0.2, 0.4)  # temperatures at the start, in the states that the nets of a unit carry on average
HOT = (0.1, 0.2)  # of these, for searches that have become long
UNIT_HEATS = (0.04, 0.1, 0.2)  # of these, for searches on single units beside those on groups
LAST, LAST_SHARE = 0.01, 4  # temperature for single units after groups, with so much fewer look-ups
FEW = 4  # ways, down to which they are halved; then the best goes on beside another one
FRACTION = 8  # of the look-ups of a whole search: those of a round, as long as ways are halved
GROWTH = 1.5  # of one round to the next, after that
KNOWN = 64  # of the last ways, the best of each round first: among these is that from another start
CACHED = 1_000_000  # entries of nets, beyond which look-ups take longer
EACH = 10  # look-ups for every entry of the nets, at least, in one search
WORKERS = 2  # searches at the same time; their results do not depend on it


class Way(NamedTuple):
    """How to search: from which owners, at which temperature, and whether groups move or single units."""

    start: Owner
    heat: float
    grouped: bool


class Outcome(NamedTuple):
    """The owners of single units that a search has found, (n_units,), and their cost."""

    cost: int
    way: Way
    owner: Owner


class Halted(Exception):
    """The time is over in the middle of a round."""


@dataclass(frozen=True)
class Rounds:
    """All rounds of one search.

    nets, small  of single units, and of groups: the same object where every unit is a group of its own
    group        (n_units,) the group of each unit
    allowed      (n_layers,) the largest weight of a part
    lookups      of the rounds together, where no clock ends them
    deadline     by ``time.monotonic``
    """

    nets: Nets
    small: Nets
    group: IntArray
    n_parts: int
    allowed: IntArray
    lookups: int
    seed: int
    pool: ThreadPoolExecutor
    deadline: float | None = None
    _halt: Halt = field(default_factory=lambda: np.zeros(1, np.uint8))

    def outcomes(self, starts: Sequence[Owner]) -> Iterator[tuple[int, list[Outcome]]]:
        """(look-ups of the next round, outcomes of this one, the best first), without an end.

        starts  feasible owners of groups

        Once few ways are left, the best goes on beside, in turn, two hotter ones, which long searches need and short
        ones do not show, one from another start, and one that starts from the best that has been found.

        Raises Halted where the deadline passes within a round.
        """
        of_all = self.lookups // FRACTION
        large = EACH * len(self.small.nets) * len(starts) * len(HEATS) > self.lookups
        ways = [Way(start, heat, True) for start in starts for heat in (HEATS[1:2] if large else HEATS)]
        best, polish, number, known = None, None, 0, list[Way]()
        while True:
            found = self._round(ways, of_all // len(ways), self.seed + 7919 * number)
            best = found[0] if best is None or found[0].cost < best.cost else best
            fresh = [one.way for one in found if one.way is not polish]
            known = [*fresh, *known][:KNOWN]
            if len(ways) > FEW:
                ways = fresh[: max(FEW, len(ways) // 2)]
                if number == 0 and self.grouped and len(self.nets.nets) <= CACHED:  # groups may be too coarse
                    best_starts = {id(way.start): way for way in reversed(fresh)}
                    first = [way.start[self.group] for way in list(best_starts.values())[::-1][:2]]
                    ways += [Way(start, heat, False) for start in first for heat in UNIT_HEATS]
            else:
                of_all = int(GROWTH * of_all)
                polish = Way(best.owner, fresh[0].heat / 2, not self.grouped)
                warm, hot = (fresh[0]._replace(heat=heat) for heat in HOT)
                other = next((way for way in known if way.start is not fresh[0].start), hot)
                ways = [fresh[0], (warm, other, hot, polish)[number % 4]]
            number += 1
            yield self._size(ways, of_all // len(ways)), found

    @property
    def grouped(self) -> bool:
        return self.small is not self.nets

    def _size(self, ways: Sequence[Way], lookups: int) -> int:
        return sum(lookups + EACH * len((self.small if way.grouped else self.nets).nets) for way in ways)

    def _round(self, ways: Sequence[Way], lookups: int, seed: int) -> list[Outcome]:
        """The outcomes of searches with so many look-ups and a few for every entry, best first."""
        found = sorted(self._all([self._submit(way, lookups, seed + i) for i, way in enumerate(ways)]), key=cost_of)
        if not self.grouped:
            return found
        coarse = [one for one in found if one.way.grouped][:WORKERS]
        units = [Way(one.owner, LAST, False) for one in coarse]
        finer = self._all([self._submit(way, lookups // LAST_SHARE, seed + i) for i, way in enumerate(units)])
        of_coarse = {id(one): then for one, then in zip(coarse, finer, strict=True)}
        return sorted(
            (of_coarse[id(one)]._replace(way=one.way) if id(one) in of_coarse else one for one in found), key=cost_of
        )

    def _submit(self, way: Way, lookups: int, seed: int) -> Future[Outcome]:
        return self.pool.submit(self._search, way, lookups, seed)

    def _search(self, way: Way, lookups: int, seed: int) -> Outcome:
        coarse = way.grouped and self.grouped
        nets = self.small if coarse else self.nets
        owner = improved(
            nets, way.start, self.n_parts, self.allowed, lookups=lookups + EACH * len(nets.nets),
            hot=way.heat * mean_unit_cost(nets), seed=seed, halt=self._halt,
        )  # fmt: skip
        return Outcome(cost(nets, owner, self.n_parts), way, owner[self.group] if coarse else owner)

    def _all(self, searches: Sequence[Future[Outcome]]) -> list[Outcome]:
        """Their results.  Raises Halted at the deadline, after the searches have been told to end."""
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        if wait(searches, left).not_done:
            self._halt[0] = 1
            for one in searches:
                one.cancel()
            wait(searches)
            raise Halted
        return [one.result() for one in searches]


def cost_of(outcome: Outcome) -> int:
    return outcome.cost
