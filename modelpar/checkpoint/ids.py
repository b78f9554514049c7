"""Ids along one dimension of a tensor and their positions in memory, as runs: a rank may hold millions of ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelpar.ownership.connections import runs

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ids:
    """Runs of consecutive ids, ascending; the ids of a run are consecutive in memory too.

    starts, lengths   (n_runs,) the first id of each run, and its number of ids
    positions         (n_runs,) the position of its first id in memory
    """

    starts: IntArray
    lengths: IntArray
    positions: IntArray

    @classmethod
    def of(cls, ids: npt.NDArray[np.integer]) -> Ids:
        """From ids in the order of memory."""
        order = np.argsort(ids, kind="stable").astype(np.int64)
        ascending = np.asarray(ids, np.int64)[order]
        first = np.flatnonzero((np.diff(ascending) != 1) | (np.diff(order) != 1)) + 1
        first = np.concatenate([[0], first]).astype(np.int64)[: len(ids)]
        return cls(ascending[first], np.diff(first, append=len(ids)), order[first])

    @classmethod
    def of_runs(cls, starts: IntArray, lengths: IntArray) -> Ids:
        """From runs in the order of memory, one after the other."""
        ends = np.cumsum(lengths)
        order = np.argsort(starts, kind="stable")
        order = order[lengths[order] > 0]
        return cls(starts[order], lengths[order], (ends - lengths)[order])

    @classmethod
    def all(cls, n: int) -> Ids:
        """0 .. n - 1"""
        return cls.of_runs(np.zeros(1, np.int64), np.full(1, n, np.int64))

    def __len__(self) -> int:
        return int(self.lengths.sum())

    @property
    def stops(self) -> IntArray:
        return self.starts + self.lengths

    @property
    def in_memory(self) -> IntArray:
        """(n,) the ids in the order of memory, one by one"""
        order = np.argsort(self.positions)
        return runs(self.starts[order], self.lengths[order])

    def mistake(self, n: int) -> bool:
        """Whether they are not unique, or not all from 0 to n - 1."""
        if not len(self.starts):
            return False
        return bool(self.starts[0] < 0 or self.stops[-1] > n or (self.starts[1:] < self.stops[:-1]).any())

    def meets(self, other: Ids) -> bool:
        """Whether they have an id in common; both are unique."""
        if not len(self.starts) or not len(other.starts):
            return False
        next_run = np.searchsorted(self.stops, other.starts, side="right")  # the first run that ends after their start
        inside = next_run < len(self.starts)
        return bool((self.starts[next_run[inside]] < other.stops[inside]).any())

    def between(self, start: int, stop: int) -> tuple[IntArray, IntArray]:
        """Ids in ``start .. stop - 1``, ascending, and their positions."""
        low, high = np.searchsorted(self.stops, start, side="right"), np.searchsorted(self.starts, stop)
        starts, stops = np.maximum(self.starts[low:high], start), np.minimum(self.stops[low:high], stop)
        ids = runs(starts, stops - starts)
        return ids, ids + np.repeat(self.positions[low:high] - self.starts[low:high], stops - starts)

    def stretches(self, longest: int, max_gap: int) -> Iterator[tuple[int, int]]:
        """``start, stop`` of stretches, ``longest`` at most, that hold all ids, over gaps of at most ``max_gap``."""
        breaks = np.flatnonzero(self.starts[1:] - self.stops[:-1] > max_gap) + 1
        for group in np.split(np.arange(len(self.starts)), breaks) if len(self.starts) else ():
            end = int(self.stops[group[-1]])
            for start in range(int(self.starts[group[0]]), end, longest):
                yield start, min(end, start + longest)
