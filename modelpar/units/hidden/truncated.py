"""Normal variables that are cut off at 0: y >= 0 with the density exp(-y^2 / 2 + z y) / M(z).

``z`` may be of any size: masses are logarithms, and far in the tail, where differences of large numbers would have no
digits left, series in 1 / z take their place.  All in float64, element by element.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Doubles = npt.NDArray[np.float64]

TAIL = -50.0  # below it the series have at least 11 digits
_ROOT_HALF = math.sqrt(0.5)
_LOG_ROOT = 0.5 * math.log(2 * math.pi)
_HALF_MASS = math.sqrt(math.pi / 2)  # M(0)


def log_mass(z: Any) -> Doubles:
    """log M(z), M(z) = sqrt(2 pi) exp(z^2 / 2) Phi(z)."""
    z = np.asarray(z, np.float64)
    below, above = np.minimum(z, 0.0), np.maximum(z, 0.0)
    upper = 0.5 * above * above + _LOG_ROOT + np.log1p(-0.5 * special.erfc(above * _ROOT_HALF))
    return np.where(z < 0, np.log(_HALF_MASS * special.erfcx(-below * _ROOT_HALF)), upper)


def moments(z: Any, mass: Doubles) -> tuple[Doubles, Doubles]:
    """(E[y], E[y^2]).   mass: ``log_mass(z)``"""
    z = np.asarray(z, np.float64)
    first = z + np.exp(-mass)
    second = 1.0 + z * first
    in_tail = z < TAIL
    if in_tail.any():
        w = -1.0 / z[in_tail]
        s = w * w
        first[in_tail] = w * (1 - s * (2 - s * (10 - s * 74)))
        second[in_tail] = s * (2 - s * (10 - s * (74 - s * 706)))
    return first, second
