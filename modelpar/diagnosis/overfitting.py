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


def free_energy_gap(training: Doubles, held_out: Doubles) -> FreeEnergyGap:
    """From the free energies (samples,) of both sets; NaN where there are too few samples.  Not collective."""
    if not len(training) or not len(held_out):
        return FreeEnergyGap(math.nan, math.nan)
    variances = [values.var(ddof=1) / len(values) if len(values) > 1 else math.nan for values in (training, held_out)]
    return FreeEnergyGap(float(held_out.mean() - training.mean()), math.sqrt(float(sum(variances))))
