"""What real ranks do: iterations to the goal, seconds to the goal, accuracy over samples, and the time of a step.

Started by ``study.py`` under mpiexec; prints one line of JSON on rank 0.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from mpi4py import MPI

from modelpar import (
    DataSpec,
    DeepBeliefNetwork,
    FineTuneSpec,
    Grid,
    NetworkSpec,
    SyncSpec,
    TrainingSpec,
    fine_tune,
    open_dataset,
    pretrain,
)
from modelpar.records import Record


def tuning_of(options: argparse.Namespace, n_replicas: int) -> FineTuneSpec:
    """Plain gradient descent at a constant rate, as the replicas in turn take it."""
    return FineTuneSpec(
        epochs=options.epochs, batch_size=options.batch * n_replicas, learning_rate=options.rate, schedule="constant",
        momentum=0.0, initial_momentum=0.0, dropout=0.0, until_accuracy=options.until, evaluate_every=options.every,
    )  # fmt: skip


def network_of(options: argparse.Namespace, grid: Grid, n_visible: int, n_classes: int) -> DeepBeliefNetwork:
    spec = NetworkSpec(layers=(n_visible, *options.hidden), classes=n_classes, seed=options.seed, weight_scale=0.01)
    return DeepBeliefNetwork(spec, grid)


def to_goal(options: argparse.Namespace, grid: Grid) -> dict[str, object]:
    """Iterations and seconds until the test accuracy is above the goal; the accuracy over the samples."""
    dataset = open_dataset(DataSpec(data=options.data), grid.comm)
    network = network_of(options, grid, dataset.n_visible, dataset.n_classes)
    plain = TrainingSpec(epochs=options.pretrain, centred=False, initial_momentum=0.5)  # as it was measured
    for _ in pretrain(network, dataset, plain):
        pass
    sync = SyncSpec(sync=options.sync)
    curve, seconds, last = [], 0.0, None
    for record in fine_tune(network, dataset, tuning_of(options, grid.n_replicas), sync):
        if "test_accuracy" in record.measures:
            curve.append((record.step * options.batch * grid.n_replicas, record.measures["test_accuracy"]))
        seconds, last = record.seconds, record
    assert isinstance(last, Record)
    return {"iterations": last.step, "seconds": seconds, "curve": curve, "staleness": dict(network.run.staleness)}


def step_times(options: argparse.Namespace, grid: Grid) -> dict[str, object]:
    """Median seconds of an iteration of fine-tuning on random data, over stretches of 20."""
    rng = np.random.default_rng(0)
    n = options.batch * grid.n_replicas * 20
    folder = grid.comm.bcast(options.data)
    path = f"{folder}/times-{grid.comm.rank}.npz"  # ranks on other hosts see other disks
    np.savez(path, images=rng.random((n, options.visible)).astype(np.float32), labels=rng.integers(0, 10, n))
    dataset = open_dataset(DataSpec(data=path, test_fraction=0.0), grid.comm)
    network = network_of(options, grid, options.visible, 10)
    stretches, before = [], 0.0
    tuning = tuning_of(options, grid.n_replicas)
    for record in fine_tune(network, dataset, tuning, SyncSpec(sync=options.sync)):
        if record.kind == "epoch":
            stretches.append((record.seconds - before) / 20)
            before = record.seconds
    return {"seconds": float(np.median(stretches[1:]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["goal", "times"])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--sync", default="allreduce")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--hidden", type=lambda text: tuple(map(int, text.split("-"))), default=(500,))
    parser.add_argument("--visible", type=int, default=784)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pretrain", type=int, default=1)
    parser.add_argument("--until", type=float)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with Grid(MPI.COMM_WORLD, model_shards=options.shards) as grid:
        began = time.perf_counter()
        found = (to_goal if options.what == "goal" else step_times)(options, grid)
        if grid.comm.rank == 0:
            asked = {name: value for name, value in vars(options).items() if name != "data"}
            print(
                "RESULT " + json.dumps({**asked, "ranks": grid.comm.size, "wall": time.perf_counter() - began, **found})
            )


if __name__ == "__main__":
    main()
