"""A layer that is too wide for one rank: 16384 x 32768, 2 GiB of weights and as much momentum, on two ranks.

    mpirun -n 2 python examples/wide_layer.py
    mpirun -n 2 python examples/wide_layer.py --visible 256 --hidden 512        (seconds instead of minutes)

Trains 20 steps on made pictures, writes a checkpoint, opens it and trains on, and prints the peak memory of each rank
after each of these.  No rank ever holds the whole matrix: the peak must stay below the rank's share of weights and
momentum, a tenth more, and half a GiB.  At full size it wants 5 GiB of memory and, in --folder, 4 GiB of disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import tempfile
from pathlib import Path

from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, TrainingSpec, load, open_dataset, pretrain, save
from modelpar.data import Dataset

BATCH = 100
GIB = 2**30


def main() -> None:
    """Build, train, save, open, train on; the peak of every rank after each."""
    options = parse()
    comm = MPI.COMM_WORLD
    state_bytes = 2 * 4 * options.visible * options.hidden  # weights and momentum in float32
    limit = 1.1 * state_bytes / comm.size + 0.5 * GIB
    with Grid(comm) as grid, tempfile.TemporaryDirectory(dir=options.folder) as own_folder:
        path = Path(comm.bcast(own_folder)) / "wide.safetensors"
        say(f"{grid}; weights and momentum {state_bytes / GIB:.3f} GiB; limit {limit / GIB:.3f} GiB a rank")
        dataset = pictures(options.visible, BATCH * options.steps)
        network = DeepBeliefNetwork(NetworkSpec((options.visible, options.hidden)), grid)
        report("network built", limit)
        train(network, dataset, options.learning_rate, until="epoch")
        report(f"{options.steps} steps trained", limit)
        save(network, path)
        report("checkpoint written", limit)
        del network  # two networks at once would be twice the memory
        network = load(path, grid)
        report("checkpoint opened", limit)
        train(network, dataset, options.learning_rate, until="step")
        report("one more step trained", limit)
        comm.barrier()  # before the folder goes


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="train one wide RBM and watch the memory of each rank")
    parser.add_argument("--visible", type=int, default=16384, help="visible units")
    parser.add_argument("--hidden", type=int, default=32768, help="hidden units")
    parser.add_argument("--steps", type=int, default=20, help="updates before the checkpoint")
    parser.add_argument("--learning-rate", type=float, default=0.001, help="small, as every hidden unit pulls")
    parser.add_argument("--folder", help="an existing folder for the checkpoint, which is removed again")
    return parser.parse_args()


def pictures(n_visible: int, n_samples: int) -> Dataset:
    """The first ``n_samples`` of the made patterns, of ``n_visible`` pixels; a rank makes only its own part."""
    rows = max(side for side in range(1, math.isqrt(n_visible) + 1) if n_visible % side == 0)
    dataset = open_dataset(f"patterns:{rows}x{n_visible // rows}")
    train = dataset.train
    assert train.labels is not None
    few = dataclasses.replace(train, rows=train.rows[:n_samples], labels=train.labels[:n_samples])
    return dataclasses.replace(dataset, train=few)


def train(network: DeepBeliefNetwork, dataset: Dataset, rate: float, until: str) -> None:
    """Train to the next end of a ``step`` or an ``epoch``; momentum is then still there, to be saved with the rest."""
    steps = 0  # of this call; so is the clock, which a checkpoint leaves out
    for record in pretrain(network, dataset, TrainingSpec(epochs=2, batch_size=BATCH, learning_rate=rate)):
        steps += record.kind == "step"
        if record.kind == until:
            measures = "".join(f", {name} {value:.4g}" for name, value in record.measures.items())
            say(f"step {record.step}: {record.seconds / steps:.2f} s a step{measures}")
            return


def report(what: str, limit: float) -> None:
    """Print every rank's peak so far.  Collective.  Raises MemoryError on all ranks where one is above the limit."""
    peaks = MPI.COMM_WORLD.allgather(peak_bytes())
    say(f"{what + ':':24} peak " + ", ".join(f"{peak / GIB:.3f}" for peak in peaks) + " GiB")
    if max(peaks) > limit:
        raise MemoryError(f"a rank has held {max(peaks) / GIB:.3f} GiB, but should stay below {limit / GIB:.3f} GiB")


def peak_bytes() -> int:
    """The most memory that this process has held at once, shared libraries and buffers of MPI included (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def say(text: str) -> None:
    """Print once."""
    if MPI.COMM_WORLD.rank == 0:
        print(text, flush=True)


if __name__ == "__main__":
    main()
