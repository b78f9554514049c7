"""Replicas that take every step together: the update is summed over them."""

from __future__ import annotations

from mpi4py import MPI

from modelpar.exchange import Traffic
from modelpar.kernels.update import apply_update
from modelpar.parameters import Parameters

BUCKET = 1 << 22  # elements of one all-reduce: bounds what MPI allocates inside, and the sum is applied while in cache


class AllreduceSync:
    """Every replica adds its samples' share; the sum is the step of one replica with all the samples.

    The old velocity is the same on all replicas, so only the first one puts it into the sum: no division, which would
    round, is needed to undo the copies.
    """

    def __init__(self, replica_comm: MPI.Comm, traffic: Traffic) -> None:
        self.comm, self.traffic = replica_comm, traffic
        self.momentum_share = 1.0 if replica_comm.rank == 0 else 0.0

    def divisor(self, n_samples: int, n_all_samples: int) -> int:
        return n_all_samples

    def step(self, parameters: Parameters, update: Parameters, shrink: float) -> None:
        for start, stop, decays in _buckets(parameters):
            bucket = update.flat[start:stop]
            self.comm.Allreduce(MPI.IN_PLACE, bucket)
            apply_update(parameters.flat[start:stop], bucket, shrink if decays else 0.0)
        size = self.comm.size
        self.traffic.add("replica", "allreduce", 2 * (size - 1) * update.flat.nbytes // size)

    def settle(self, parameters: Parameters) -> None:
        """Nothing to do: the replicas have never parted."""


def _buckets(parameters: Parameters) -> list[tuple[int, int, bool]]:
    """(start, stop, whether these are weights, which decay, or biases, which do not)"""
    end, weights = parameters.flat.size, parameters.n_weights
    pieces = [(start, min(start + BUCKET, weights), True) for start in range(0, weights, BUCKET)]
    return [*pieces, (weights, end, False)] if end > weights else pieces
