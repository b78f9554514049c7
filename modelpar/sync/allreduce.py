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

    def begin(self, parameters: Parameters) -> None:
        """Give all replicas the first one's parameters: processors of other kinds may differ in a last bit."""
        self.comm.Bcast(parameters.flat)

    def step(self, parameters: Parameters, update: Parameters, shrink: float) -> None:
        flat, weights = parameters.flat, parameters.n_weights
        for start in range(0, flat.size, BUCKET):
            stop = min(start + BUCKET, flat.size)
            self.comm.Allreduce(MPI.IN_PLACE, update.flat[start:stop])
            biases = min(max(start, weights), stop)  # only weights decay
            apply_update(flat[start:biases], update.flat[start:biases], shrink)
            apply_update(flat[biases:stop], update.flat[biases:stop], 0.0)
        size = self.comm.size
        self.traffic.add("replica", "allreduce", 2 * (size - 1) * update.flat.nbytes // size)

    def settle(self, parameters: Parameters) -> None:
        """Nothing to do: the replicas have never parted."""
