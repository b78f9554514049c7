"""Frequencies of sites and correlations of pairs, of samples beside data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.diagnosis.moments import Agreement, compare

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ROWS = 1024  # samples that are floats at a time


@dataclass(frozen=True)
class PairStatistics:
    """Of a weighted sample of sites with states, or of binary units (``n_states`` = 1: the state 1 of each).

    n            samples, or what their weights sum to
    frequencies  (sites, states)
    connected    (sites * states, sites * states): f_ij(a, b) - f_i(a) f_j(b)
    """

    n: float
    frequencies: Doubles
    connected: Doubles

    @property
    def pairs(self) -> Doubles:
        """Connected correlations of all pairs of different sites i < j, with all states."""
        n_sites, n_states = self.frequencies.shape
        i, j = np.triu_indices(n_sites, 1)
        return self.connected.reshape(n_sites, n_states, n_sites, n_states)[i, :, j, :].ravel()


def one_hot(states: Array, n_states: int) -> npt.NDArray[np.float32]:
    """(samples, sites) states -> (samples, sites * n_states); with one state the values themselves."""
    states = np.asarray(states)
    n, n_sites = states.shape
    if n_states == 1:
        return states.astype(np.float32)
    hot = np.zeros((n, n_sites, n_states), np.float32)
    np.put_along_axis(hot, states.astype(np.int64)[:, :, None], 1, axis=2)
    return hot.reshape(n, n_sites * n_states)


def states_of(hot: Array, n_states: int) -> IntArray:
    """The reverse of ``one_hot``: of each site the state with the largest value, (samples, sites)."""
    hot = np.asarray(hot)
    return np.asarray(hot.reshape(len(hot), -1, n_states).argmax(axis=2))


def pair_statistics(states: Array, n_states: int, weights: Array | None = None) -> PairStatistics:
    """Statistics of ``states`` (samples, sites), weighted by ``weights`` (samples,).

    Raises ValueError where there are no samples, or all weigh nothing.
    """
    states = np.asarray(states)
    w = np.ones(len(states)) if weights is None else np.asarray(weights, np.float64)
    total = float(w.sum())
    if w.shape != states.shape[:1] or not total > 0:
        raise ValueError(f"{len(states)} samples have {w.shape} weights of sum {total}; a positive one each is needed")
    n_units = states.shape[1] * n_states
    first, second = np.zeros(n_units), np.zeros((n_units, n_units))
    for start in range(0, len(states), ROWS):
        part, of_part = one_hot(states[start : start + ROWS], n_states), w[start : start + ROWS]
        root = part * np.sqrt(of_part, dtype=np.float64).astype(np.float32)[:, None]
        second += root.T @ root  # sums of a block in float32, of the blocks in float64
        first += of_part @ part
    first, second = first / total, second / total
    return PairStatistics(total, first.reshape(-1, n_states), second - np.outer(first, first))


@dataclass(frozen=True)
class Comparison:
    """How samples agree with data in their frequencies and pairs.

    site_frequency_error  the largest difference of a frequency
    frequencies, pairs    rms difference, slope and Pearson's r of the samples' over the data's
    """

    site_frequency_error: float
    frequencies: Agreement
    pairs: Agreement


def compare_statistics(data: PairStatistics, samples: PairStatistics) -> Comparison:
    """Samples beside data of the same sites and states."""
    f, g = data.frequencies.ravel(), samples.frequencies.ravel()
    return Comparison(float(np.abs(f - g).max()), compare(f, g), compare(data.pairs, samples.pairs))


def chosen_units(n_units: int, at_most: int, seed: int = 0) -> IntArray:
    """Positions of all units, or of so many drawn at random, ascending: of 10 000 neurons not all pairs fit."""
    if n_units <= at_most:
        return np.arange(n_units)
    return np.sort(np.random.default_rng(seed).choice(n_units, at_most, replace=False))
