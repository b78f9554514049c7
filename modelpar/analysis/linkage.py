"""Linkage of haplotypes: how the correlation of two sites decays with their distance (Hill and Robertson 1968)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.analysis.bits import Words, packed_rows
from modelpar.kernels.states import count_ones

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

AT_ONCE = 1 << 22  # words of pairs
TRIES = 20  # draws for one pair that is wanted


@dataclass(frozen=True)
class Decay:
    """Mean r^2 over pairs of sites whose distances are between ``edges`` (bins + 1,).

    distances  (bins,) mean distances of the pairs, NaN without any
    r_squared  (bins,)
    pairs      (bins,) how many of each
    """

    edges: Doubles
    distances: Doubles
    r_squared: Doubles
    pairs: IntArray


def r_squared(sites: Words, n_samples: int, i: Array, j: Array) -> Doubles:
    """r^2 of the pairs (i, j) of ``sites`` (sites, words), packed, (pairs,); NaN where one of the two never varies."""
    ones = count_ones(sites).sum(axis=1, dtype=np.int64)
    both = np.empty(len(i))
    at_once = max(1, AT_ONCE // max(sites.shape[1], 1))
    for start in range(0, len(i), at_once):
        stop = start + at_once
        both[start:stop] = count_ones(sites[i[start:stop]] & sites[j[start:stop]]).sum(axis=1, dtype=np.int64)
    p, q = ones[i] / n_samples, ones[j] / n_samples
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((both / n_samples - p * q) ** 2 / (p * (1 - p) * q * (1 - q)))


def linkage_decay(
    values: Array, positions: Array, edges: Array, *, pairs_per_bin: int = 2000, rarest: float = 0.0, seed: int = 0
) -> Decay:
    """Decay of r^2 over the distance of haplotypes ``values`` (samples, sites).

    positions      (sites,) ascending, in any unit;  edges: of the bins of distances, ascending
    pairs_per_bin  random pairs of a bin; where it has no more than those, all of them
    rarest         sites whose rarer state is less frequent than this are left out
    Raises ValueError where positions do not fit.
    """
    values, positions = np.asarray(values), np.asarray(positions, np.float64)
    if positions.shape != values.shape[1:] or (np.diff(positions) < 0).any():
        raise ValueError(f"{values.shape[1]} sites have {positions.shape} positions; ascending ones are needed")
    frequency = values.mean(axis=0)
    kept = np.flatnonzero(np.minimum(frequency, 1 - frequency) >= max(rarest, 0.5 / max(len(values), 1)))
    sites, where, edges = packed_rows(values[:, kept].T), positions[kept], np.asarray(edges, np.float64)
    rng = np.random.default_rng(seed)
    means, distances, counts = [], [], []
    for low, high in pairwise(edges):
        i, j = pairs_between(where, low, high, pairs_per_bin, rng)
        r2 = r_squared(sites, len(values), i, j)
        means.append(r2.mean() if len(r2) else np.nan)
        distances.append((where[j] - where[i]).mean() if len(r2) else np.nan)
        counts.append(len(r2))
    return Decay(edges, np.array(distances), np.array(means), np.array(counts))


def pairs_between(
    positions: Doubles, low: float, high: float, at_most: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Pairs i < j with low <= distance < high: all, or ``at_most`` different ones drawn uniformly."""
    n = len(positions)
    first = np.maximum(np.searchsorted(positions, positions + low), np.arange(1, n + 1))
    last = np.maximum(np.searchsorted(positions, positions + high), first)
    until = np.cumsum(last - first)  # pairs are numbered by i, then by j
    total = int(until[-1]) if n else 0
    if total <= at_most:
        number = np.arange(total)
    elif total <= TRIES * at_most:
        number = np.sort(rng.choice(total, at_most, replace=False))
    else:
        number = np.unique(rng.integers(0, total, 2 * at_most))
        number = np.sort(rng.choice(number, min(at_most, len(number)), replace=False))
    i = np.searchsorted(until, number, side="right")
    return i, np.asarray(first[i] + number - (until[i] - (last - first)[i]), np.int64)
