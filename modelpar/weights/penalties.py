"""Penalties on weights, by proximal steps, which leave exact zeros; the same zeros at every grid.

After an update of rate r each weight w moves towards 0, and stops there, by

    r l1 + r l1b S / (1 + r l1b n)      S = sum of |w| over the n incoming weights of its hidden unit, as the step finds
                                        them

and then each group of weights becomes shorter by r group_lasso, as a vector, and 0 where it is no longer than that
(Parikh and Boyd 2014, section 6.5; of L1 and group lasso together this is the exact step: Friedman et al. 2010).  The
second term is the step of l1b / 2 sum_j S_j^2: with r l1b S alone a large rate would take all weights of a unit at
once, and what it is divided by takes into account that S falls meanwhile, as the exact step does; both are the same as
long as no weight arrives at 0, and so the largest weight of a unit never does.

Where there are :class:`UnitMeans`, the step is taken in the variables of the centred gradient, whose biases are
b + W lambda and c + W^T mu: these stay, and so b and c change with W.  Else the fixed point of centred updates and
proximal steps is not the optimum of the penalised likelihood but a model whose means are not those of the data.
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
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import StepWeights, Weights

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class UnitMeans:
    """What the last update of an RBM has counted its units from, over data and model.

    visible, hidden   means of the owned units: mu and lambda
    gradient          that of b + W lambda: the difference of the visible means of data and model, over the variances
                      where visible units are standardised
    deviations        standard deviations of the hidden units of ``Weights.incoming_sums`` where the gradient is divided
                      by their squares, else None
    """

    visible: Doubles
    hidden: Doubles
    gradient: Doubles
    deviations: Doubles | None = None

    def inputs(self, weights: StepWeights, parameters: Parameters) -> tuple[Array, Array]:
        """(W lambda, W^T mu) of the owned units.  Collective over the shards."""
        mu, la = (np.ascontiguousarray(x[:, None], parameters.W.dtype) for x in (self.visible, self.hidden))
        below = weights.down(parameters, weights.spread_hidden(la))[:, 0].copy()
        above = weights.up(parameters, weights.spread_visible(mu))[:, 0].copy()
        return below, above


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
    unit_scale    l1 and l1b count |w| times the deviation of the hidden unit: weights of values of variance 1
    keeps_means   whether steps follow the means of units (:meth:`follow`)
    """

    l1: float = 0.0
    l1b: float = 0.0
    group_lasso: float = 0.0
    n_states: int = 1
    weights: Mapping[str, Weights] = field(default_factory=dict)
    unit_scale: bool = False
    keeps_means: bool = False
    _means: dict[str, UnitMeans] = field(init=False, default_factory=dict, repr=False)
    # what the last step has found for hidden units, by the names of the parts and of what was found
    _last: dict[tuple[str, str], Doubles] = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, training: TrainingSpec, name: str, weights: Weights, categories: int = 0, *, keeps_means: bool = False
    ) -> Penalties:
        """Those of one RBM.   categories   of its visible units, 0 where there are no sites"""
        return cls(
            training.l1, training.l1b, training.group_lasso, categories or 1, {name: weights},
            unit_scale=training.hidden_scale == "unit", keeps_means=keeps_means,
        )  # fmt: skip

    def __bool__(self) -> bool:
        return self.l1 > 0 or self.knows_units or self.group_lasso > 0

    @property
    def knows_units(self) -> bool:
        """Whether a step asks for more than single weights, and so is collective over the shards."""
        return self.l1b > 0 or (self.group_lasso > 0 and self.n_states == 1) or self.unit_scale or self.keeps_means

    def follow(self, name: str, means: UnitMeans | None) -> None:
        """Let the next steps of a part keep the means that its last update counted from, where they are to."""
        if means is not None and self.keeps_means:
            self._means[name] = means

    def take(self, name: str, parameters: Parameters, rate: float) -> None:
        """The proximal step of a part, and the change of its biases that keeps the means of units.

        Collective over the shards where ``knows_units``.
        """
        means = self._means.get(name)
        if means is None:
            self.step(name, parameters.blocks, rate)
            return
        before = means.inputs(self.weights[name], parameters)
        self.step(name, parameters.blocks, rate)
        after = means.inputs(self.weights[name], parameters)
        for bias, x, y in zip((parameters.b, parameters.c), before, after, strict=True):
            bias += x - y

    def step(self, name: str, blocks: list[Array], rate: float, *, alone: bool = False) -> None:
        """The proximal step of a part for updates of this rate altogether, in place.

        blocks   of its weights: as ``Parameters.blocks`` has them, or W alone
        alone    by what the last step has found for hidden units, where other shards cannot take part

        Collective over the shards where ``knows_units`` and not ``alone``.
        """
        by_units = bool(self.l1b or (self.l1 and self.unit_scale))
        if not by_units:
            for W in blocks if self.l1 else ():
                shrink(W, rate * self.l1)
        if not by_units and not self.group_lasso:
            return
        weights, limit = self.weights[name], rate * self.group_lasso
        limits = self._found((name, "limits"), lambda: self._limits(name, blocks[0], rate), by_units, alone)
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

    def _limits(self, name: str, W: Array, rate: float) -> Doubles:
        """What the incoming weights of each hidden unit move by.

        Of weights w s of values of variance 1 the step is r l1 + r l1b S s / (1 + r l1b n), and that of w is 1 / s of
        it: what divides the gradient of w by s^2 takes a step of w s by its own gradient.
        """
        weights, amount = self.weights[name], rate * self.l1b
        means, counts = self._means.get(name), weights.incoming_counts
        single = np.full(len(counts), rate * self.l1)
        if self.unit_scale and means is not None and means.deviations is not None:
            single /= means.deviations
        if not amount:
            return single
        sums = weights.incoming_sums(W, squared=False)
        return np.asarray(single + amount * sums / (1.0 + amount * counts))

    def _found(self, key: tuple[str, str], find: Callable[[], Doubles], wanted: bool, alone: bool) -> Doubles | None:
        """What is found now, or was found last; None where nothing was, or is wanted."""
        if wanted and not alone:
            self._last[key] = find()
        return self._last.get(key) if wanted else None


def _factors(weights: Weights, W: Array, limit: float) -> Doubles:
    """What the incoming weights of each hidden unit are multiplied by, to be shorter by ``limit`` together."""
    norms = np.sqrt(weights.incoming_sums(W, squared=True))
    return np.array([factor_of(norm, limit) for norm in norms.tolist()])
