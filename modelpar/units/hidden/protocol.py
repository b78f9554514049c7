"""The protocol of hidden units with real values.

A unit h with the potential U and the summed input x = W^T v + c has, given the visible units, the density
exp(x h - U(h)) / exp(Gamma(x)): it adds the cumulant Gamma(x) to the log of the visible states' probability.  What a
kind learns besides the biases c are its *shape parameters*, each an array (units,).  All is computed in float64.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


class Given(Protocol):
    """Hidden units given their summed inputs x (units, batch); all that is returned has the shape of x."""

    def cumulant(self) -> Doubles:
        """Gamma(x), the logarithm of the integral of exp(x h - U(h)) over h."""

    def mean(self) -> Doubles: ...
    def variance(self) -> Doubles: ...

    def gradient(self) -> Doubles:
        """(shape parameters, units, batch): the mean of -dU/dp of each shape parameter p."""


class HiddenUnits(Protocol):
    """One kind.

    name     as in ``NetworkSpec.hidden``
    learned  names of its shape parameters, in their order; all are 0 at first
    """

    @property
    def name(self) -> str: ...
    @property
    def learned(self) -> tuple[str, ...]: ...

    def given(self, x: Array, potential: Array) -> Given:
        """x (units, batch), potential (shape parameters, units), both of any float type."""

    def sides(self, potential: Array) -> Doubles | None:
        """(units, 4) as of :mod:`modelpar.kernels.sampling.rectified`; None for normal variables of variance 1."""

    def gradient(self, potential: Array, sums: Doubles) -> Doubles:
        """(shape parameters, units): -dU/dp by the sums (3, units) of |h|, of h^2 above 0 and of h^2 below 0."""
