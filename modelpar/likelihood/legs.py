"""Legs of the way of annealing: the distributions between two RBMs, whose parameters are interpolated linearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from modelpar.kernels.products.product import Activations
from modelpar.likelihood.energy import Array, ShardedRBM


@dataclass(frozen=True)
class BaseRate:
    """An RBM whose weights and hidden biases are 0.

    b   (n_visible_owned,)   potential   (shape parameters, n_hidden_owned)
    precision   of Gaussian visible units (n_visible_owned,), or None
    """

    b: Array
    potential: Array
    precision: Array | None = None

    def hidden_input(self, v: Activations) -> None:
        """Nothing, which stands for 0."""

    def visible_input(self, h: Activations) -> Array:
        return self.b[:, None]


class Leg(NamedTuple):
    """The distributions from ``low`` to ``high``, 0 to 1, between two RBMs; the first may be the base-rate RBM."""

    start: BaseRate | ShardedRBM
    end: ShardedRBM
    low: float
    high: float

    def hidden_inputs(self, v: Activations) -> tuple[Array | None, Array]:
        """W^T v + c of both RBMs."""
        return _kept(self.start.hidden_input(v)), self.end.hidden_input(v)

    def visible_inputs(self, h: Activations) -> tuple[Array | None, Array]:
        """W h + b of both RBMs."""
        return _kept(self.start.visible_input(h)), self.end.visible_input(h)

    def potential(self, fraction: float) -> Array:
        """Shape parameters (parameters, n_hidden_owned) between the two."""
        first, last = (it.potential if isinstance(it, BaseRate) else it.parameters.potential for it in self[:2])
        return mixed(first, last.copy(), fraction)

    def precision(self) -> Array | None:
        """Of Gaussian visible units at ``high``."""
        start, end = self.start.precision, self.end.precision
        return None if start is None or end is None else mixed(start, end.copy(), self.high)


def _kept(x: Array | None) -> Array | None:
    """A copy, where another RBM may have the same weights' buffers (``RBM.with_parameters``)."""
    return None if x is None else x.copy()


def mixed(start: Array | None, end: Array, fraction: float) -> Array:
    """(1 - fraction) start + fraction end, in the place of ``end``."""
    end *= end.dtype.type(fraction)
    if start is not None:
        end += end.dtype.type(1 - fraction) * start
    return end
