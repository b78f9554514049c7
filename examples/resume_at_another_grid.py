"""Stop training on one grid and go on with another: a checkpoint does not know how many ranks wrote it.

    python examples/resume_at_another_grid.py
    mpirun -n 4 python examples/resume_at_another_grid.py

Trains 40 steps with all ranks as model shards, saves, opens the file with all ranks as replicas and trains 40 steps on;
then trains the same 80 steps without stopping.  Prints the largest difference of a weight.  It is 0: in exact mode
states and their sums are whole numbers, and those are the same in any order.
"""

import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from mpi4py import MPI

from modelpar import DataSpec, DeepBeliefNetwork, Grid, NetworkSpec, TrainingSpec, load, open_dataset, pretrain, save

comm = MPI.COMM_WORLD
digits = open_dataset(DataSpec("digits", binarise="stochastic"), comm)
spec, training = NetworkSpec((digits.n_visible, 128), exact=True), TrainingSpec(epochs=10)


def train(network: DeepBeliefNetwork, steps: int) -> None:
    """Take ``steps`` updates from wherever the network stands."""
    updates = (record for record in pretrain(network, digits, training) if record.kind == "step")
    for _ in islice(updates, steps):
        pass


with tempfile.TemporaryDirectory() as own_folder:
    path = Path(comm.bcast(own_folder)) / "digits.safetensors"
    with Grid(comm, model_shards=comm.size) as wide:
        network = DeepBeliefNetwork(spec, wide)
        train(network, 40)
        save(network, path)
        network = DeepBeliefNetwork(spec, wide)
        train(network, 80)
        uninterrupted = network.filters(range(128))
    with Grid(comm, replicas=comm.size) as deep:
        network = load(path, deep)
        train(network, 40)
        resumed = network.filters(range(128))
        if comm.rank == 0:
            difference = np.abs(resumed - uninterrupted).max()
            print(f"saved by {wide}, resumed by {deep}: largest difference of a weight {difference:.2g}")
    comm.barrier()  # before the folder goes
