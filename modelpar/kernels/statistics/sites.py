"""Weights of categorical sites: the zero-sum gauge."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]

GRAIN = 1 << 17  # weights that are worth another thread
SPAN = 1024  # columns at a time, whose sums stay in the first-level cache


@njit(cache=True, nogil=True, error_model="numpy")
def subtract_means(W, categories, start, stop):  # type: ignore[no-untyped-def]
    """Of the sites ``start .. stop - 1``: W[i] -= mean over the ``categories`` rows of the site, in their order."""
    sums = np.empty(SPAN, W.dtype)
    share = np.ones(1, W.dtype)[0] / W.dtype.type(categories)
    for site in range(start, stop):
        first = site * categories
        for column in range(0, W.shape[1], SPAN):
            n = min(SPAN, W.shape[1] - column)
            for j in range(n):
                sums[j] = 0
            for q in range(categories):
                row = W[first + q, column : column + n]
                for j in range(n):
                    sums[j] += row[j]
            for j in range(n):
                sums[j] *= share
            for q in range(categories):
                row = W[first + q, column : column + n]
                for j in range(n):
                    row[j] -= sums[j]


def centre_sites(W: Array, categories: int) -> None:
    """Subtract from every row the mean of its site's rows, in place: W (sites x categories, columns)."""

    def work(start: int, stop: int) -> None:
        subtract_means(W, categories, start, stop)

    threads.split(len(W) // categories, threads.rows_of(GRAIN, W.shape[1] * categories), work)
