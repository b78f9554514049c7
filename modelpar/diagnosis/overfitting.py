"""Overfitting: the log-likelihood of samples of the training set against that of others.

log Z is the same for both and cancels, so differences of free energies are enough (Hinton 2010, section 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FreeEnergyGap:
    """Mean free energy of held-out samples minus that of training samples, in nats: by how much the log-likelihood of
    the training set is larger.  ``error``: its standard error over the samples."""

    gap: float
    error: float


def free_energy_gap(
    training: Doubles, held_out: Doubles, weights: Doubles | None = None, held_out_weights: Doubles | None = None
) -> FreeEnergyGap:
    """From the free energies (samples,) of both sets; NaN where there are too few samples.  Not collective.

    weights, held_out_weights   (samples,) by which means are made; None: all samples of the set count alike
    """
    if not len(training) or not len(held_out):
        return FreeEnergyGap(math.nan, math.nan)
    (mean, variance), (other, of_other) = _mean(training, weights), _mean(held_out, held_out_weights)
    return FreeEnergyGap(other - mean, math.sqrt(variance + of_other))


def _mean(values: Doubles, weights: Doubles | None) -> tuple[float, float]:
    """(Mean, its variance)"""
    n = len(values)
    if n < 2:
        return float(values.mean()), math.nan
    if weights is None:
        return float(values.mean()), float(values.var(ddof=1)) / n
    p = weights / weights.sum()
    mean = float(p @ values)
    return mean, float(p**2 @ (values - mean) ** 2) * n / (n - 1)
