"""Gaussian hidden units of unit variance: U(h) = h^2 / 2.  Their scale is that of the weights, so it is not learned.

Without their values the visible units have couplings of pairs, W W^T: with Bernoulli ones that is the model of Hopfield
(Barra, Bernacchia, Santucci and Contucci 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

_LOG_ROOT = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """See :class:`modelpar.units.hidden.protocol.HiddenUnits`."""

    name: str = "gaussian"
    learned: tuple[str, ...] = ()

    def given(self, x: Array, potential: Array) -> GivenGaussian:
        return GivenGaussian(x.astype(np.float64))

    def sides(self, potential: Array) -> None:
        return None

    def gradient(self, potential: Array, sums: Doubles) -> Doubles:
        return np.zeros((0, potential.shape[1]))


@dataclass(frozen=True)
class GivenGaussian:
    """See :class:`modelpar.units.hidden.protocol.Given`."""

    x: Doubles

    def cumulant(self) -> Doubles:
        return 0.5 * self.x * self.x + _LOG_ROOT

    def mean(self) -> Doubles:
        return self.x

    def variance(self) -> Doubles:
        return np.ones_like(self.x)

    def gradient(self) -> Doubles:
        return np.empty((0, *self.x.shape))
