"""Which samples make up a minibatch, and which of them a replica takes: pure arithmetic, the same at every grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelpar.draws import permutation, uniform
from modelpar.streams import Purpose, Stream

IntArray = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


def order_of(seed: int, epoch: int, n: int, weights: Doubles | None = None) -> IntArray:
    """``n`` samples in a random order, each of them once, or in proportion to ``weights`` (n,): the same on every rank.

    Weighted samples come by systematic resampling (Kitagawa 1996): a comb of n teeth at equal distances, laid over the
    weights side by side from a random place on.  So a sample whose share of the weights is x / n comes floor(x) or
    ceil(x) times, x times on average; and of samples of small weight that lie together, as relatives often do in a
    file, an epoch has as many as their weights add up to.
    """
    order = permutation(seed, epoch, n)
    if weights is None or not n:
        return order
    place = np.empty((1, 1))
    uniform(Stream(seed, 0, Purpose.RESAMPLING), np.zeros(1, np.int64), epoch, place)
    ends = np.cumsum(weights)
    teeth = (np.arange(n) + place[0, 0]) * (ends[-1] / n)
    # rounding may bring the last tooth to the very end
    chosen = np.minimum(np.searchsorted(ends, teeth, side="right"), np.flatnonzero(weights)[-1])
    return np.asarray(chosen[order], np.int64)


class Minibatches:
    """The minibatches of every epoch: an order of the samples by (seed, epoch), cut into pieces.

    An epoch has as many samples as there are; with ``weights`` (n_samples,) these are drawn in proportion.
    """

    def __init__(self, n_samples: int, batch_size: int, seed: int, weights: Doubles | None = None) -> None:
        if n_samples < 0 or batch_size < 1:
            raise ValueError(f"{n_samples} samples in minibatches of {batch_size}: need at least 0 and 1")
        self.n_samples, self.batch_size, self.seed, self.weights = n_samples, batch_size, seed, weights
        self.n_steps = -(-n_samples // batch_size)  # of an epoch
        self._epoch = -1
        self._order: IntArray = np.empty(0, np.int64)

    def indices(self, epoch: int, step: int) -> IntArray:
        """Positions in the split of one global minibatch, (batch_size,), fewer in the last step of an epoch.

        Raises ValueError where there is no such step.
        """
        if not 0 <= step < self.n_steps:
            raise ValueError(f"step {step} was asked for, but an epoch has the steps 0 to {self.n_steps - 1}")
        if epoch != self._epoch:
            self._order, self._epoch = order_of(self.seed, epoch, self.n_samples, self.weights), epoch
        return self._order[step * self.batch_size : (step + 1) * self.batch_size]

    @staticmethod
    def slice_of(n: int, replica: int, n_replicas: int) -> slice:
        """The samples of ``n`` that a replica takes: uneven where need be, and none where there are too few."""
        return slice(n * replica // n_replicas, n * (replica + 1) // n_replicas)
