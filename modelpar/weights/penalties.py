"""Penalties on weights, by proximal steps, which leave exact zeros; the same zeros at every grid.

After an update of rate r each weight w moves towards 0, and stops there, by

    r l1 + r l1b S / (1 + r l1b n)      S = sum of |w| over the n incoming weights of its hidden unit, as the step finds
                                        them

and then each group of weights becomes shorter by r group_lasso, as a vector, and 0 where it is no longer than that
(Parikh and Boyd 2014, section 6.5; of L1 and group lasso together this is the exact step: Friedman et al. 2010).  The
second term is the step of l1b / 2 sum_j S_j^2: with r l1b S alone a large rate would take all weights of a unit at
once, and what it is divided by takes into account that S falls meanwhile, as the exact step does; both are the same as
long as no weight arrives at 0, and so the largest weight of a unit never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels.statistics.shrinkage import factor_of
from modelpar.kernels.statistics.update import shrink
from modelpar.spec import TrainingSpec
from modelpar.weights.protocol import Weights

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Penalties:
    """The penalties of one stage of training.

    l1            times the sum of |w|
    l1b           times half the sum of S_j^2 over the hidden units j, S_j the sum of |w| over their incoming weights
                  (Tubiana, Cocco and Monasson 2019, whose lambda_1^2 is l1b times the number of visible units)
    group_lasso   times the sum of the Euclidean norms of groups: the weights of a hidden unit with all states of a
                  categorical site, or where there are no sites all of its incoming weights (Yuan and Lin 2006)
    n_states      states of a categorical site; 1 where there are no sites
    weights       the layouts of the parts, by their names; only l1 alone needs none
    """

    l1: float = 0.0
    l1b: float = 0.0
    group_lasso: float = 0.0
    n_states: int = 1
    weights: Mapping[str, Weights] = field(default_factory=dict)
    # what the last step has found for hidden units, by the names of the parts and of what was found
    _last: dict[tuple[str, str], Doubles] = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def of(cls, training: TrainingSpec, name: str, weights: Weights, visible: str) -> Penalties:
        """Those of one RBM.   visible   the kind of its visible units, as ``NetworkSpec.visible``"""
        n_states = int(visible.partition(":")[2] or 1)  # categorical:Q
        return cls(training.l1, training.l1b, training.group_lasso, n_states, {name: weights})

    def __bool__(self) -> bool:
        return self.l1 > 0 or self.knows_units or self.group_lasso > 0

    @property
    def knows_units(self) -> bool:
        """Whether a step takes sums over hidden units' incoming weights, and so is collective over the shards."""
        return self.l1b > 0 or (self.group_lasso > 0 and self.n_states == 1)

    def step(self, name: str, blocks: list[Array], rate: float, *, alone: bool = False) -> None:
        """The proximal step of a part for updates of this rate altogether, in place.

        blocks   of its weights: as ``Parameters.blocks`` has them, or W alone
        alone    by what the last step has found for hidden units, where other shards cannot take part

        Collective over the shards where ``knows_units`` and not ``alone``.
        """
        if not self.l1b:
            for W in blocks if self.l1 else ():
                shrink(W, rate * self.l1)
        if not self.l1b and not self.group_lasso:
            return
        weights, limit = self.weights[name], rate * self.group_lasso
        limits = self._found((name, "limits"), lambda: self._limits(weights, blocks[0], rate), bool(self.l1b), alone)
        if limits is not None:
            weights.shrink_incoming(blocks, limits)
        if self.group_lasso and self.n_states > 1:
            weights.shrink_sites(blocks, self.n_states, limit)
            return
        factors = self._found(
            (name, "factors"), lambda: _factors(weights, blocks[0], limit), bool(self.group_lasso), alone
        )
        if factors is not None:
            weights.scale_incoming(blocks, factors)

    def _limits(self, weights: Weights, W: Array, rate: float) -> Doubles:
        """What the incoming weights of each hidden unit move by."""
        sums, amount = weights.incoming_sums(W, squared=False), rate * self.l1b
        return np.asarray(rate * self.l1 + amount * sums / (1.0 + amount * weights.incoming_counts))

    def _found(self, key: tuple[str, str], find: Callable[[], Doubles], wanted: bool, alone: bool) -> Doubles | None:
        """What is found now, or was found last; None where nothing was, or is wanted."""
        if wanted and not alone:
            self._last[key] = find()
        return self._last.get(key) if wanted else None


def _factors(weights: Weights, W: Array, limit: float) -> Doubles:
    """What the incoming weights of each hidden unit are multiplied by, to be shorter by ``limit`` together."""
    norms = np.sqrt(weights.incoming_sums(W, squared=True))
    return np.array([factor_of(norm, limit) for norm in norms.tolist()])
