"""How long a rank computes: measured seconds of each kind of work, interpolated between the sizes that were measured.

A table holds the seconds of one call for every weight (connection, unit), on a grid of sizes and of samples.  Between
sizes it is interpolated linearly in their logarithm, because rates change where operands leave a cache, and between
samples linearly, because a kernel has a part for each weight and one for each weight and sample.  Beyond the smallest
and the largest size the rate is that of the nearest; more samples than were measured go on along the last line.

The works, by what a table counts:

    product.up, product.down   sums of states over a block of weights, into integers           weights
    real.product               the same of real values                                         weights
    draw.0 ... draw.8          bias, sigmoid, draw and packing, with so many bits of a         units
                               statistic (0: states alone; float: probabilities too;
                               visible: states beside those of the data)
    learn.1 ... learn.float    statistics of both phases and the update, in one pass            weights
    count.1 ... count.float    statistics of both phases alone                                  weights
    update                     the update from sums of statistics                               weights
    centre                     the centred gradient's part of a velocity                        weights
    centre.units.1 ...         sums over samples and over units for the biases, of one phase    units
    average                    a pass over parameters of a strategy's own                       weights
    listed.up, listed.down     sums of states over receptive fields of many maps                connections
    listed.learn.1 ...         statistics and the update of these connections                   connections
    listed.centre              the centred gradient's part, and sums over each unit's weights   connections
    listed.real                products of real values                                          connections
    single.up ...              the same of fields of a single map                                connections
    scattered.up ...           the same of connections without such an order                    connections

A work that was not measured takes the time of the one that is nearest to it (``_STAND_INS``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

# what stands in for a work without a table of its own, and how many times as long it takes
_STAND_INS = {
    "product.down": ("product.up", 1.0), "real.product": ("product.up", 3.0), "listed.down": ("listed.up", 1.0),
    "listed.real": ("listed.up", 3.0), "listed.centre": ("centre", 6.0), "scattered.real": ("scattered.up", 3.0),
    "single.real": ("single.up", 3.0), "average": ("update", 0.5), "centre": ("update", 0.5),
}  # fmt: skip

WAKING = 6e-5  # seconds of work that are worth another thread (``kernels.threads``)
_LISTS = ("single.", "scattered.")
_ON_LISTS = ("listed.", *_LISTS)


@dataclass(frozen=True)
class Table:
    """Seconds for each weight of one kind of work.

    sizes     (n,) weights of the measured calls, ascending
    samples   (m,) of the measured calls, ascending
    seconds   n rows of m, of one call for each of its weights
    """

    sizes: tuple[float, ...]
    samples: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...]

    def at(self, size: float, samples: float) -> float:
        """Seconds for each weight of a call of this size, never below 0."""
        if size <= 0:
            return 0.0
        columns = np.array(self.seconds).T
        row = [float(np.interp(math.log(size), np.log(self.sizes), column)) for column in columns]
        if len(row) == 1 or self.samples[0] <= samples <= self.samples[-1]:
            return max(0.0, float(np.interp(samples, self.samples, row)))
        i = 0 if samples < self.samples[0] else len(row) - 2  # on along the first or the last line
        slope = (row[i + 1] - row[i]) / (self.samples[i + 1] - self.samples[i])
        return max(0.0, row[i] + slope * (samples - self.samples[i]))

    def scaled(self, factor: float) -> Table:
        return replace(self, seconds=tuple(tuple(factor * x for x in row) for row in self.seconds))


@dataclass(frozen=True)
class Rates:
    """The tables of one machine, by work, for numbers of threads of a rank.

    tables   by (threads of a rank, ranks of the node that compute at once), by work
    calls    seconds of a step that no size changes: Python, and the calls of kernels; by the same keys
    source   where they come from, in words
    """

    tables: Mapping[tuple[int, int], Mapping[str, Table]]
    calls: Mapping[tuple[int, int], float] = field(default_factory=dict)
    source: str = ""

    @property
    def has_lists(self) -> bool:
        """Whether works on listed connections were measured."""
        return all(any(work.startswith(_ON_LISTS) for work in tables) for tables in self.tables.values())

    def of(self, threads: int, at_once: int = 1) -> CoreRates:
        """The rates of a rank with so many threads, beside so many ranks of its node, itself included.

        Those that were measured with the nearest number of busy cores, and of these of threads; with more threads than
        were measured, as much faster as there are more of them.
        """

        def distance(key: tuple[int, int]) -> tuple[float, float, float]:
            busy = abs(math.log(key[0] * key[1] / (threads * at_once)))
            return abs(math.log(key[0] / threads)), busy, key[1]

        key = min(self.tables, key=distance)
        return CoreRates(self.tables[key], self.calls.get(key, 0.0), threads / key[0])


@dataclass(frozen=True)
class CoreRates:
    """The rates of one rank as it computes in a job.

    more   times as many threads as were measured: each takes a panel of a kernel's work, where that is worth waking it
    """

    tables: Mapping[str, Table]
    call: float = 0.0
    more: float = 1.0

    def seconds(self, work: str, size: float, samples: float = 1.0, among: float = 1.0) -> float:
        """Of a call of ``work`` with so many weights (units, connections), and samples.

        among   times as many weights are worked on in turn, and push each other out of the caches
        """
        name, factor = work, 1.0
        while name not in self.tables:
            if name in _STAND_INS:
                name, times = _STAND_INS[name]
                factor *= times
            elif name.startswith(_LISTS) and not any(known.startswith(name.split(".")[0]) for known in self.tables):
                name = f"listed.{name.partition('.')[2]}"
            else:
                name = _nearest(name, self.tables)
        whole = size * factor * self.tables[name].at(size * among, samples)
        if self.more <= 1:
            return whole / self.more
        return whole / min(self.more, max(1.0, whole / WAKING))


def _nearest(work: str, known: Mapping[str, Any]) -> str:
    """A work whose name ends in a number of bits that was not measured, by the next one up: ``learn.3`` by 4."""
    stem, _, bits = work.rpartition(".")
    others = [name for name in known if name.rpartition(".")[0] == stem]
    if not stem or not others:
        raise KeyError(work)
    wanted = int(bits) if bits.isdigit() else 9

    def distance(name: str) -> tuple[bool, int]:
        other = name.rpartition(".")[2]
        there = int(other) if other.isdigit() else 9
        return there < wanted, abs(there - wanted)

    return min(others, key=distance)


def _line(weight: float, sample: float) -> Table:
    """weight + sample x samples, in nanoseconds, at any size."""
    return Table((1.0,), (0.0, 1000.0), ((1e-9 * weight, 1e-9 * (weight + 1000 * sample)),))


def built_in(speed: float = 1.0) -> Rates:
    """The rates of one core of 2024 with AVX-512, ``speed`` times as fast, for machines that were not measured.

    They scale with the threads; what was measured on such a core by ``modelpar plan --recalibrate``, rounded.
    """
    nanoseconds = {
        "product.up": (0.44, 0.003), "product.down": (0.27, 0.0028), "real.product": (0.17, 0.0079),
        "draw.visible": (0.0, 1.07), "draw.0": (0.0, 1.0), "draw.1": (0.0, 0.92), "draw.4": (0.0, 1.35),
        "draw.float": (0.0, 1.6), "learn.1": (0.37, 0.001), "learn.4": (0.49, 0.0035), "learn.float": (0.84, 0.0063),
        "count.1": (0.11, 0.0009), "count.4": (0.24, 0.0033), "count.float": (1.0, 0.006), "update": (0.25, 0.0),
        "centre": (0.12, 0.0), "centre.units.1": (15.0, 0.15), "centre.units.4": (17.0, 0.54),
        "centre.units.float": (30.0, 1.8), "average": (0.2, 0.0),
        "listed.up": (1.0, 0.0046), "listed.down": (3.1, 0.015), "listed.centre": (6.6, 0.0),
        "listed.learn.1": (1.4, 0.0048), "listed.learn.4": (1.4, 0.007), "listed.learn.float": (2.6, 0.56),
        "scattered.up": (2.8, 0.012), "scattered.down": (3.6, 0.011), "scattered.centre": (7.0, 0.0),
        "scattered.learn.1": (4.2, 0.0083), "scattered.learn.4": (4.2, 0.0105), "scattered.learn.float": (3.0, 0.585),
        "listed.real": (0.5, 0.3), "scattered.real": (0.5, 0.3),
    }  # fmt: skip
    tables = {work: _line(*ns).scaled(1 / speed) for work, ns in nanoseconds.items()}
    return Rates({(1, 1): tables}, {(1, 1): 3e-4}, "of a core of 2024")
