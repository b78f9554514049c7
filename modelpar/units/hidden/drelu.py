"""Double rectified hidden units (Tubiana, Cocco and Monasson 2019), whose two sides of 0 have curvatures of their own.

Theirs is U(h) = g+ h+^2 / 2 + g- h-^2 / 2 + t+ h+ + t- h-, with h+ = max(h, 0) and h- = min(h, 0).  Of its four
parameters and the bias c, two directions change nothing: a common part of t+ and t- is a bias, and the scale of h is
that of the weights.  Left free they drift, and the curvatures may come to 0 or explode.  What is learned here is

    t+ = threshold - c,    t- = -threshold - c,    g+ = 1 / (1 + eta),    g- = 1 / (1 - eta),    eta = tanh(asymmetry)

so that 1/g+ + 1/g- = 2 always: curvatures are at least 1/2 and positive whatever a step does, and all dReLU potentials
are there, each once up to the scale of h.  At 0 and 0 the unit is a Gaussian one; a positive threshold favours values
near 0, a negative one two modes, and with a growing asymmetry one side closes, up to a rectified unit.
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


STEEPEST = 15.0  # asymmetry from which on a side is closed for good: at half of it one value in a million is there


def curvatures(asymmetry: Array) -> tuple[Doubles, Doubles]:
    """(g+, g-), without the rounding of 1 - tanh."""
    a = np.asarray(asymmetry, np.float64)
    return 0.5 * (1 + np.exp(-2 * a)), 0.5 * (1 + np.exp(2 * a))


@dataclass(frozen=True)
class DReLU:
    """See :class:`modelpar.units.hidden.protocol.HiddenUnits`."""

    name: str = "drelu"
    learned: tuple[str, ...] = ("threshold", "asymmetry")

    def given(self, x: Array, potential: Array) -> GivenDReLU:
        threshold, asymmetry = potential.astype(np.float64)[:, :, None]
        asymmetry = np.clip(asymmetry, -STEEPEST, STEEPEST)
        wide, (steep_up, steep_down) = x.astype(np.float64), curvatures(asymmetry)
        return GivenDReLU(Side(wide - threshold, steep_up), Side(-wide - threshold, steep_down), asymmetry)

    def sides(self, potential: Array) -> Doubles:
        threshold, asymmetry = potential.astype(np.float64)
        up, down = (1 / np.sqrt(g) for g in curvatures(np.clip(asymmetry, -STEEPEST, STEEPEST)))
        return np.ascontiguousarray(np.stack([up, -threshold * up, down, -threshold * down], axis=1))

    def gradient(self, potential: Array, sums: Doubles) -> Doubles:
        """-dU/dthreshold = -|h|;  -dU/dasymmetry = (exp(-2 a) h+^2 - exp(2 a) h-^2) / 2"""
        steep = np.exp(2 * np.clip(potential[1].astype(np.float64), -STEEPEST, STEEPEST))
        return np.stack([-sums[0], 0.5 * (sums[1] / steep - sums[2] * steep)])


@dataclass(frozen=True)
class Side:
    """One side of 0: s = |h| >= 0 with the weight exp(x s - g s^2 / 2)."""

    x: Doubles  # (units, batch)
    curvature: Doubles  # (units, 1)

    @cached_property
    def z(self) -> Doubles:
        return self.x / np.sqrt(self.curvature)

    @cached_property
    def _mass(self) -> Doubles:
        return truncated.log_mass(self.z)

    @property
    def log_mass(self) -> Doubles:
        return self._mass - 0.5 * np.log(self.curvature)

    @cached_property
    def moments(self) -> tuple[Doubles, Doubles]:
        """(E[s], E[s^2]) on this side."""
        first, second = truncated.moments(self.z, self._mass)
        return first / np.sqrt(self.curvature), second / self.curvature


@dataclass(frozen=True)
class GivenDReLU:
    """See :class:`modelpar.units.hidden.protocol.Given`."""

    plus: Side
    minus: Side
    asymmetry: Doubles  # (units, 1)

    def cumulant(self) -> Doubles:
        return np.logaddexp(self.plus.log_mass, self.minus.log_mass)

    @cached_property
    def _parts(self) -> tuple[Doubles, Doubles]:
        """Probabilities of the two sides, (plus, minus)."""
        odds = self.minus.log_mass - self.plus.log_mass
        small = np.exp(-np.abs(odds))
        likely, rare = 1 / (1 + small), small / (1 + small)
        return np.where(odds > 0, rare, likely), np.where(odds > 0, likely, rare)

    def mean(self) -> Doubles:
        p, q = self._parts
        return p * self.plus.moments[0] - q * self.minus.moments[0]

    def variance(self) -> Doubles:
        (p, q), mean = self._parts, self.mean()
        return p * self.plus.moments[1] + q * self.minus.moments[1] - mean * mean

    def gradient(self) -> Doubles:
        """-dU/dthreshold = -|h|;  -dU/dasymmetry = (exp(-2 a) h+^2 - exp(2 a) h-^2) / 2"""
        p, q = self._parts
        above, below = p * self.plus.moments[1], q * self.minus.moments[1]
        steep = np.exp(2 * self.asymmetry)
        return np.stack([-p * self.plus.moments[0] - q * self.minus.moments[0], 0.5 * (above / steep - below * steep)])
