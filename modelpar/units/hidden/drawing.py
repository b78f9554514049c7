"""What an RBM asks of hidden units with real values: draws, means, gradients and cumulants, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar import draws
from modelpar.kernels import threads
from modelpar.streams import Stream
from modelpar.units.hidden.protocol import HiddenUnits

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PIECE = 1 << 13  # values at a time: what is computed of them stays in the caches
GRAIN = 1 << 10  # values that are worth another thread
SECOND = 1 << 31  # ids of units are below: with it they key the lower bits of a draw


@dataclass(frozen=True)
class Drawn:
    """What was asked for of hidden units given their inputs: arrays (units, batch) of the type of these; else None.

    gradient   (shape parameters, units), summed over the samples, float64
    """

    means: Array | None = None
    values: Array | None = None
    gradient: Doubles | None = None


def drawn(
    units: HiddenUnits, x: Array, potential: Array, stream: Stream | None = None, unit_ids: IntArray | None = None,
    samples: int | IntArray = 0, *, means: bool = False, gradient: bool = False,
) -> Drawn:  # fmt: skip
    """Draws, means and gradients of units with the summed inputs ``x`` (units, batch), in new arrays.

    stream, unit_ids, samples   key the draws, as in :func:`modelpar.draws.uniform`; without a stream there are none
    """
    n_units, batch = x.shape
    values = None if stream is None else np.empty_like(x)
    u = None if stream is None or unit_ids is None else _uniforms(stream, unit_ids, samples, batch)
    mean = np.empty_like(x) if means else None
    sums = np.zeros((len(units.learned), n_units)) if gradient else None

    def work(start: int, stop: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # health checks find a training that breaks down
            fill(start, stop)

    def fill(start: int, stop: int) -> None:
        at_once = threads.rows_of(PIECE, batch)
        for first in range(start, stop, at_once):
            rows = slice(first, min(first + at_once, stop))
            given = units.given(x[rows], potential[:, rows])
            if mean is not None:
                mean[rows] = given.mean()
            if sums is not None and len(sums):
                sums[:, rows] = given.gradient().sum(axis=2)
            if values is not None and u is not None:
                values[rows] = given.draw(_joined(u[0][rows], u[1][rows]))

    threads.split(n_units, threads.rows_of(GRAIN, batch), work)
    return Drawn(mean, values, sums)


def cumulant_sums(units: HiddenUnits, x: Array, potential: Array) -> Doubles:
    """(batch,) sums over the units of their cumulants at ``x`` (units, batch)."""
    total, at_once = np.zeros(x.shape[1]), threads.rows_of(PIECE, x.shape[1])
    for first in range(0, len(x), at_once):
        rows = slice(first, first + at_once)
        total += units.given(x[rows], potential[:, rows]).cumulant().sum(axis=0)
    return total


def _uniforms(stream: Stream, unit_ids: IntArray, samples: int | IntArray, batch: int) -> tuple[Array, Array]:
    """Upper and lower 24 bits of the draws of units and samples, each (units, batch) in [0, 1)."""
    upper, lower = (np.empty((len(unit_ids), batch), np.float32) for _ in range(2))
    draws.uniform(stream, unit_ids, samples, upper)
    draws.uniform(stream, unit_ids + SECOND, samples, lower)
    return upper, lower


def _joined(upper: Array, lower: Array) -> Doubles:
    """Draws of 48 bits in (0, 1)."""
    return np.asarray(upper.astype(np.float64) + (lower.astype(np.float64) + 2.0**-25) * 2.0**-24)
