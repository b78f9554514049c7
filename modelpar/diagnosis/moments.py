"""Moments of two sets of samples: means, covariances of pairs, connected correlations of triples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels.products.dense import matmul

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

EXACT_SUMS = 1 << 24  # counts that float32 holds
PIECE = 1 << 23  # values of triples at a time


@dataclass(frozen=True)
class Moments:
    """Moments over ``n`` samples: means (units,), covariances (units, units) divided by n.

    Of weighted samples n is their effective number, (sum w)^2 / sum w^2 (Kish 1965).
    """

    n: float
    means: Doubles
    covariances: Doubles

    @property
    def pairs(self) -> Doubles:
        """Covariances of all pairs i < j."""
        return self.covariances[np.triu_indices(len(self.means), 1)]


@dataclass(frozen=True)
class Agreement:
    """How moments of samples agree with those of data.

    rms     root of the mean squared difference
    slope   of the least-squares line of the samples' moments over the data's: below 1 they are too weak; NaN where the
            data's are all the same
    r       Pearson's correlation; NaN where either are all the same
    """

    rms: float
    slope: float
    r: float


def moments(values: Array, weights: Doubles | None = None) -> Moments:
    """Moments of ``values`` (units, samples), by ``weights`` (samples,) where there are any.

    Those of states without weights are exact before the division.  Not collective.
    """
    n_units, n = values.shape
    if weights is not None:
        p = weights / weights.sum()
        means = values @ p
        centred = values - means[:, None]
        return Moments(float(1 / (p @ p)), means, (centred * p) @ centred.T)
    means = values.mean(axis=1, dtype=np.float64)
    states = values.dtype.kind in "bu" and n < EXACT_SUMS
    centred = values.astype(np.float32) if states else values - means[:, None]
    products = np.empty((n_units, n_units), centred.dtype)
    matmul(centred, centred.T, products)
    covariances = products.astype(np.float64) / n
    if states:
        covariances -= np.outer(means, means)
    return Moments(n, means, covariances)


def rms(a: Array, b: Array) -> float:
    """Root of the mean squared difference; NaN without any values."""
    return math.sqrt(float(((a - b) ** 2).mean())) if len(a) else math.nan


def compare(data: Array, samples: Array) -> Agreement:
    """Agreement of moments (n,) of samples with those (n,) of data.  Not collective."""
    x, y = (z - z.mean() if len(z) else z for z in (data, samples))
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    return Agreement(
        rms(data, samples), xy / xx if xx > 0 else math.nan, xy / math.sqrt(xx * yy) if xx * yy > 0 else math.nan
    )


def random_triples(n_units: int, count: int, seed: int) -> IntArray:
    """(triples, 3) positions of different units, the same wherever the seed is; fewer than 3 units have none."""
    if n_units < 3:
        return np.zeros((0, 3), np.int64)
    rng = np.random.default_rng(seed)
    if math.comb(n_units, 3) <= count:
        i, j, k = np.ogrid[:n_units, :n_units, :n_units]
        return np.argwhere((i < j) & (j < k))
    drawn = rng.integers(0, n_units, (3 * count + 64, 3))
    a, b, c = drawn.T
    return drawn[(a != b) & (b != c) & (a != c)][:count]


def three_body(values: Array, triples: IntArray, weights: Doubles | None = None) -> Doubles:
    """Connected correlations <(a - <a>)(b - <b>)(c - <c>)> of ``triples`` (n, 3), over ``values`` (units, samples).

    weights   (samples,) by which means are made; None: all samples count alike
    """
    if weights is not None:
        p = weights / weights.sum()
        centred = values - (values @ p)[:, None]
        scaled = centred * p
        return np.array([float(scaled[a] @ (centred[b] * centred[c])) for a, b, c in triples])
    centred = values - values.mean(axis=1, dtype=np.float64, keepdims=True)
    result, at_once = np.empty(len(triples)), max(1, PIECE // max(values.shape[1], 1))
    for start in range(0, len(triples), at_once):
        a, b, c = triples[start : start + at_once].T
        result[start : start + at_once] = np.einsum("ts,ts,ts->t", centred[a], centred[b], centred[c])
    return result / max(values.shape[1], 1)
