"""RBMs with Gaussian visible units and real hidden ones, kept to weights with which they have a distribution.

With precisions t of the visible units and least curvatures g of the hidden units' potentials, exp(-E) has an integral
where the largest singular value s of A = t^(-1/2) W g^(-1/2) is below 1: no weights are, in any direction, stronger
than what holds the units.  Neither contrastive divergence, whose chains end before they have left the data, nor any
check of single weights tells when it is not.

After each step W is scaled back to s^2 <= 1 - 1 / n, n the visible units: with Gaussian hidden units no direction then
has a variance above n, which is all that n standardised values have together.  The set of such W and t is convex
(W^T t^-1 W is, jointly), so averages over replicas or updates stay in it.

s comes of one step of subspace iteration an update, which follows the weights as these change little.  One of its
directions is drawn anew each time: what has begun to grow elsewhere is found soon, and not only by rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from modelpar.draws import Purpose, Stream, uniform
from modelpar.model.rbm import RBM

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

DIRECTIONS = 4
FIRST_STEPS = 20  # from random directions
NEAR, MORE_STEPS = 0.8, 3


class Normalisable:
    """Keeps the weights of one RBM within the bound.  Making one, and its methods, are collective over the shards."""

    def __init__(self, rbm: RBM) -> None:
        self._rbm, self._n_drawn = rbm, 0
        n_visible = rbm.shard_comm.allreduce(len(rbm.visible_ids))
        self.bound = 1.0 - 1.0 / max(n_visible, 2)
        self._directions = self._drawn(DIRECTIONS)  # (n_hidden_owned, DIRECTIONS)
        for _ in range(FIRST_STEPS):
            self.square_of_largest()

    @classmethod
    def of(cls, rbm: RBM) -> Normalisable | None:
        """None for an RBM that has a distribution whatever its weights are."""
        return cls(rbm) if rbm.gaussian and rbm.hidden_units is not None else None

    def keep(self) -> None:
        """Scale the weights back to the bound where they are beyond it."""
        square = self.square_of_largest()
        if square > NEAR * self.bound:  # where it matters it is found more precisely
            square = max(self.square_of_largest() for _ in range(MORE_STEPS))
        if square > self.bound:
            factor = np.sqrt(self.bound / square)
            for block in self._rbm.parameters.blocks:
                block *= block.dtype.type(factor)

    def square_of_largest(self) -> float:
        """s^2, from below, by another step; 0 where nothing can be told, as of weights that are no finite numbers."""
        x = self._directions
        image = self._image(x)
        mine = np.stack([x.T @ image, x.T @ x])
        product, gram = np.sum(self._rbm.shard_comm.allgather(mine), axis=0)  # in rank order: alike on all shards
        if not np.isfinite(product).all() or not np.diag(gram).min() > 0:
            return 0.0
        # Rayleigh and Ritz: the largest s^2 of what these directions span, which may be fewer than there are
        size = 1 / np.sqrt(np.diag(gram))
        values, vectors = linalg.eigh(gram * size * size[:, None])
        kept = values > 1e-10 * values[-1]
        basis = size[:, None] * vectors[:, kept] / np.sqrt(values[kept])
        squares, turned = linalg.eigh(basis.T @ (0.5 * (product + product.T)) @ basis)
        if squares[-1] <= 0:  # of no weights
            return 0.0
        best = (image @ (basis @ turned[:, ::-1][:, : DIRECTIONS - 1])) / squares[-1]
        self._directions = np.hstack([best, self._drawn(DIRECTIONS - best.shape[1])])
        return float(squares[-1])

    def _image(self, x: Doubles) -> Doubles:
        """A^T A x of directions (n_hidden_owned, n)."""
        rbm, dtype = self._rbm, self._rbm.W.dtype
        weights, own, precision = rbm.weights, rbm.parameters, rbm.precision
        held = 1.0 / np.sqrt(_least_curvatures(rbm))[:, None]
        v = weights.down(own, weights.spread_hidden((held * x).astype(dtype))).copy()
        if precision is not None:
            v /= precision.astype(dtype, copy=False)[:, None]
        return np.asarray(held * weights.up(own, weights.spread_visible(v)).astype(np.float64))

    def _drawn(self, n: int) -> Doubles:
        result = np.empty((len(self._rbm.hidden_ids), n))
        stream = Stream(self._rbm.seed, self._rbm.index, Purpose.WEIGHTS, 1)
        uniform(stream, self._rbm.hidden_ids, self._n_drawn, result)
        self._n_drawn += n
        return np.asarray(result - 0.5)


def _least_curvatures(rbm: RBM) -> Doubles:
    """(n_hidden_owned,) of each unit's potential: of drelu that of the wider side, else 1."""
    assert rbm.hidden_units is not None
    if "asymmetry" not in rbm.hidden_units.learned:
        return np.ones(len(rbm.hidden_ids))
    asymmetry = rbm.parameters.potential[rbm.hidden_units.learned.index("asymmetry")]
    return np.asarray(0.5 * (1 + np.exp(-2 * np.abs(asymmetry.astype(np.float64)))))
