"""Make grids, networks and estimators by the thousand in one process, free none of them, and count what is left.

    mpiexec -n 2 python -m tests.lifetimes --times 2000

Each is dropped without ``free``.  Printed are the communicators and windows that were made, those that MPI has freed,
and the memory and descriptors of rank 0 after a tenth of the rounds and at the end.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings

import numpy as np
import psutil
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, NetworkSpec
from modelpar.comm import lifetimes
from modelpar.comm.grid import Grid
from modelpar.sklearn import RBMTransformer
from modelpar.spec import SyncSpec, TrainingSpec
from modelpar.training.trainer import pretrain
from tests import small


def one(comm: MPI.Comm, number: int) -> None:
    """A grid and a network on it; of every tenth the training, and an estimator; of every hundredth with windows."""
    network = DeepBeliefNetwork(NetworkSpec((13, 5)), Grid(comm, model_shards=1 + number % comm.size))
    if number % 10 == 0:
        sync = SyncSpec("server" if number % 100 == 0 else "allreduce")
        for _ in pretrain(network, small.dataset(13), TrainingSpec(epochs=1, batch_size=20), sync):
            pass
        RBMTransformer(4, n_iter=1, random_state=1, comm=comm).fit(np.eye(8))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2000)
    times, comm, process = parser.parse_args().times, MPI.COMM_WORLD, psutil.Process()
    warnings.simplefilter("ignore")
    started, seen = time.monotonic(), []
    for number in range(times):
        one(comm, number)
        if number + 1 in (max(1, times // 10), times):
            seen.append(f"{process.memory_info().rss / 2**20:.0f} MiB and {process.num_fds()} descriptors")
    gc.collect()
    lifetimes.free_dropped(comm)
    if comm.rank == 0:
        for kind, n in lifetimes.made.items():
            print(f"{n} {kind}s made, {lifetimes.freed[kind]} freed")
        print(f"after {times // 10}: {seen[0]}; after {times}: {seen[-1]}; {time.monotonic() - started:.0f} s")
    return int(comm.allreduce(bool(lifetimes.in_use()), MPI.LOR))


if __name__ == "__main__":
    raise SystemExit(main())
