"""Principal components of data, and what samples look like along them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

COLUMNS = 4096  # that are floats at a time


@dataclass(frozen=True)
class Components:
    """The directions of the largest variance of some data: the basis in which data and samples are both seen.

    mean       (units,)
    directions (units, k), of length 1; the largest entry of each is positive, so that the sign is settled
    explained  (k,) parts of the variance
    """

    mean: Doubles
    directions: Doubles
    explained: Doubles

    @classmethod
    def of(cls, data: Array, k: int = 2, weights: Array | None = None) -> Components:
        """Of ``data`` (samples, units), weighted by ``weights`` (samples,).  By the smaller of the two sides' matrices,
        so one of samples x samples, or units x units, has to fit into memory.  Raises ValueError for less than 2."""
        data = np.asarray(data)
        n, n_units = data.shape
        if n < 2 or n_units < 1:
            raise ValueError(f"{n} samples of {n_units} units have no principal components; 2 samples are needed")
        w = np.full(n, 1 / n) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
        root, side = np.sqrt(w)[:, None], min(n, n_units)
        mean, k = w @ data, min(k, side)
        total, directions = 0.0, np.zeros((n_units, k))
        if n_units <= n:
            centred = (data - mean) * root
            values, vectors = _largest(centred.T @ centred, k)
            total, directions = float((centred**2).sum()), vectors
        else:
            gram = np.zeros((n, n))
            for columns in _blocks(n_units):
                centred = (data[:, columns] - mean[columns]) * root
                gram += centred @ centred.T
            total = float(np.trace(gram))
            values, vectors = _largest(gram, k)
            for columns in _blocks(n_units):
                centred = (data[:, columns] - mean[columns]) * root
                directions[columns] = centred.T @ vectors
        lengths = np.linalg.norm(directions, axis=0)
        directions = directions / np.where(lengths > 0, lengths, 1)
        signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(k)])
        explained = np.maximum(values, 0) / total if total > 0 else np.zeros(k)
        return cls(mean, directions * np.where(signs == 0, 1, signs), explained)

    def project(self, values: Array) -> Doubles:
        """(samples, k) of ``values`` (samples, units)."""
        result = np.zeros((len(values), self.directions.shape[1]))
        for columns in _blocks(len(self.mean)):
            result += (values[:, columns] - self.mean[columns]) @ self.directions[columns]
        return result


def _largest(symmetric: Doubles, k: int) -> tuple[Doubles, Doubles]:
    """The k largest eigenvalues, the largest first, and their vectors as columns."""
    n = len(symmetric)
    values, vectors = linalg.eigh(symmetric, subset_by_index=(n - k, n - 1))
    return values[::-1], vectors[:, ::-1]


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + COLUMNS) for start in range(0, n, COLUMNS)]
