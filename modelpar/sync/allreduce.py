"""Replicas that take every step together: the update is summed over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.exchange import Traffic
from modelpar.kernels.learning import Counts, update_from
from modelpar.kernels.update import apply_update
from modelpar.learning import ExactGradient, Statistics
from modelpar.optimizer import StepSize
from modelpar.parameters import Parameters

Array = npt.NDArray[Any]

BUCKET = 1 << 22  # elements of one all-reduce: bounds what MPI allocates inside, and the sum is applied while in cache


class AllreduceSync:
    """Every replica adds its samples' share; the sum is the step of one replica with all the samples.

    Statistics in whole numbers are summed as such, in the smallest type that holds every possible sum, and each
    replica then makes the same step of them.  Of real values the sum is the velocity itself: the old one is the same on
    all replicas, so only the first one puts it in, and no division, which would round, is needed to undo copies.
    """

    def __init__(self, replica_comm: MPI.Comm, traffic: Traffic) -> None:
        self.comm, self.traffic = replica_comm, traffic
        self.momentum_share = 1.0 if replica_comm.rank == 0 else 0.0
        self._counts: Array = np.empty(0, np.int32)

    def divisor(self, n_samples: int, n_all_samples: int) -> int:
        return n_all_samples

    def begin(self, parameters: Parameters) -> None:
        """Give all replicas the first one's parameters: processors of other kinds may differ in a last bit."""
        self.comm.Bcast(parameters.flat)
        if parameters.rows is not None:
            self.comm.Bcast(parameters.rows)

    def learn(
        self,
        parameters: Parameters,
        velocity: Parameters,
        statistics: Statistics | ExactGradient,
        size: StepSize,
        n_samples: int,
    ) -> None:
        gain, shrink = size.rate / self.divisor(n_samples, statistics.n_samples), size.rate * size.decay
        if not statistics.whole:
            assert isinstance(statistics, Statistics)
            if statistics.mixed and self.comm.size == 1:  # no other replica waits for a velocity of real values
                counts = statistics.add_data_to(velocity, size.momentum, gain)
                for count, W, V in zip(counts, parameters.blocks, velocity.blocks, strict=True):
                    count.learn(W, V, 1.0, gain * count.unit, shrink)
                parameters.b += velocity.b
                parameters.c += velocity.c
                return
            statistics.add_to(velocity, size.momentum * self.momentum_share, gain)
            self.step(parameters, velocity, shrink)
            return
        blocks = statistics.blocks()
        for block, W, V in zip(blocks, parameters.blocks, velocity.blocks, strict=False):  # gradients are of one block
            if self.comm.size == 1:
                block.learn(W, V, size.momentum, gain * block.unit, shrink)  # counted and learned in one pass
            else:
                update_from(self._summed(block, statistics), W, V, size.momentum, gain * block.unit, shrink)
        units = 1.0, blocks[0].unit
        for bias, old, sums, unit in zip(
            (parameters.b, parameters.c), (velocity.b, velocity.c), statistics.sums(), units, strict=True
        ):
            self._allreduce(sums)
            old *= old.dtype.type(size.momentum)
            old += old.dtype.type(gain * unit) * sums.astype(old.dtype)
            bias += old

    def _summed(self, block: Any, statistics: Statistics | ExactGradient) -> Array:
        """Counts of a block of weights (rows, columns), over all replicas."""
        dtype: np.dtype[Any] = np.dtype(np.int32)
        if isinstance(block, Counts):
            largest = block.largest(statistics.planes, statistics.n_samples)
            dtype = next(np.dtype(t) for t in (np.int8, np.int16, np.int32) if largest <= np.iinfo(t).max)
        elif isinstance(block, ExactGradient):
            dtype = block.W.dtype
        n = block.shape[0] * block.shape[1]
        if self._counts.size < n or self._counts.dtype != dtype:
            self._counts = np.empty(n, dtype)
        flat = self._counts[:n]
        block.fill(flat.reshape(block.shape))
        for start in range(0, n, BUCKET):
            self._allreduce(flat[start : start + BUCKET])
        return flat.reshape(block.shape)

    def _allreduce(self, values: Array) -> None:
        with self.traffic.status.waiting("allreduce"):
            self.comm.Allreduce(MPI.IN_PLACE, values)
        self.traffic.add("replica", "allreduce", values, 2 * (self.comm.size - 1) * values.nbytes // self.comm.size)

    def step(self, parameters: Parameters, update: Parameters, shrink: float) -> None:
        flat, weights = parameters.flat, parameters.n_weights
        for start in range(0, flat.size, BUCKET):
            stop = min(start + BUCKET, flat.size)
            self._allreduce(update.flat[start:stop])
            biases = min(max(start, weights), stop)  # only weights decay
            apply_update(flat[start:biases], update.flat[start:biases], shrink)
            apply_update(flat[biases:stop], update.flat[biases:stop], 0.0)
        if parameters.rows is not None and update.rows is not None:  # the second block of a dual layout
            self._allreduce(update.rows)
            apply_update(parameters.rows.reshape(-1), update.rows.reshape(-1), shrink)

    def settle(self, parameters: Parameters) -> None:
        """Nothing to do: the replicas have never parted."""
