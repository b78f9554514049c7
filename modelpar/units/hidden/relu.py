"""Rectified hidden units (Nair and Hinton 2010, as an energy: Tubiana and Monasson 2017): U(h) = h^2 / 2, h >= 0.

The bias c is minus their threshold, and their scale is that of the weights: there is nothing else to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.units.hidden import truncated

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

CLOSED = -1000.0  # where the side below 0 would begin: as its scale is 0, it has no mass


@dataclass(frozen=True)
class ReLU:
    """See :class:`modelpar.units.hidden.protocol.HiddenUnits`."""

    name: str = "relu"
    learned: tuple[str, ...] = ()

    def given(self, x: Array, potential: Array) -> GivenReLU:
        return GivenReLU(x.astype(np.float64))

    def sides(self, potential: Array) -> Doubles:
        return np.tile([1.0, 0.0, 0.0, CLOSED], (potential.shape[1], 1))

    def gradient(self, potential: Array, sums: Doubles) -> Doubles:
        return np.zeros((0, potential.shape[1]))


@dataclass(frozen=True)
class GivenReLU:
    """See :class:`modelpar.units.hidden.protocol.Given`."""

    x: Doubles

    @cached_property
    def _log_mass(self) -> Doubles:
        return truncated.log_mass(self.x)

    @cached_property
    def _moments(self) -> tuple[Doubles, Doubles]:
        return truncated.moments(self.x, self._log_mass)

    def cumulant(self) -> Doubles:
        return self._log_mass

    def mean(self) -> Doubles:
        return self._moments[0]

    def variance(self) -> Doubles:
        first, second = self._moments
        return second - first * first

    def gradient(self) -> Doubles:
        return np.empty((0, *self.x.shape))
