"""Which samples make up a minibatch, and which of them a replica takes: pure arithmetic, the same at every grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelpar.draws import permutation

IntArray = npt.NDArray[np.int64]


class Minibatches:
    """The minibatches of every epoch: an order of the samples by (seed, epoch), cut into pieces."""

    def __init__(self, n_samples: int, batch_size: int, seed: int) -> None:
        if n_samples < 0 or batch_size < 1:
            raise ValueError(f"{n_samples} samples in minibatches of {batch_size}: need at least 0 and 1")
        self.n_samples, self.batch_size, self.seed = n_samples, batch_size, seed
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
            self._order, self._epoch = permutation(self.seed, epoch, self.n_samples), epoch
        return self._order[step * self.batch_size : (step + 1) * self.batch_size]

    @staticmethod
    def slice_of(n: int, replica: int, n_replicas: int) -> slice:
        """The samples of ``n`` that a replica takes: uneven where need be, and none where there are too few."""
        return slice(n * replica // n_replicas, n * (replica + 1) // n_replicas)
