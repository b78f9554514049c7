"""What an RBM asks of hidden units with real values: draws, means, gradients and cumulants, by compiled kernels.

All is computed in float64, whatever the type of the inputs, and rounded once.  A value depends on its unit, its sample
and its summed input alone: not on the rank, the thread or the other units and samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar import draws
from modelpar.kernels.sampling import philox, rectified
from modelpar.streams import Stream
from modelpar.units.hidden.protocol import HiddenUnits

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LOG_ROOT = 0.5 * math.log(2 * math.pi)


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
    x, sides = _plain(x), units.sides(potential)
    keyed = None if stream is None or unit_ids is None else (stream, unit_ids)
    if sides is None:
        values = np.empty_like(x) if keyed else None
        if keyed and values is not None:
            draws.sample_gaussian(x, *keyed, samples, values)
        return Drawn(x.copy() if means else None, values, np.zeros((0, len(x))) if gradient else None)
    mean = sums = values = None
    with np.errstate(all="ignore"):  # where nothing is compiled; health checks find a training that breaks down
        if gradient and units.learned:
            mean, sums = rectified.moments_of(x, sides)
        elif means:
            mean = rectified.means_of(x, sides)
        if keyed:
            values = rectified.draw_values(x, sides, philox.draw_of(*keyed, samples, *x.shape))
    slopes = units.gradient(potential, np.zeros((3, len(x))) if sums is None else sums) if gradient else None
    return Drawn(mean if means else None, values, slopes)


def cumulant_sums(units: HiddenUnits, x: Array, potential: Array) -> Doubles:
    """(batch,) sums over the units of their cumulants at ``x`` (units, batch)."""
    sides = units.sides(potential)
    if sides is None:
        return np.asarray(0.5 * np.einsum("ij,ij->j", x, x, dtype=np.float64) + len(x) * _LOG_ROOT)
    with np.errstate(all="ignore"):
        return rectified.cumulant_sums(_plain(x), sides)


def _plain(x: Array) -> Array:
    """Arrays as kernels take them: for any other kind they would be compiled again."""
    return np.require(x, requirements=["C", "W"])
