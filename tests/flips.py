"""Flip single bits of one replica's weights, biases and velocities while it trains, and see whether they are found.

    mpiexec -n 3 python -m tests.flips --times 100              named, repaired, and the end is that without a flip
    mpiexec -n 2 python -m tests.flips --times 100              named; two replicas have no majority, so training stops
    mpiexec -n 4 python -m tests.flips --times 100 --shards 2   replicas of two shards
    mpiexec -n 2 python -m tests.flips --times 100 --memory     found by the shard itself, that of one replica too
    mpiexec -n 3 python -m tests.flips --times 100 --every 10   found late: the samples of some steps were drawn wrongly

A bit flips between two updates: in a random tensor, element and bit of a random replica and shard, after a random step.
``vanished`` counts flips that rounding had taken away again when the replicas were compared.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, NetworkSpec
from modelpar.comm.grid import Grid
from modelpar.data import Dataset
from modelpar.errors import CorruptionError, ModelparWarning
from modelpar.spec import FineTuneSpec, SyncSpec, TrainingSpec
from modelpar.training.replicas import parameters_of, tensors_of
from modelpar.training.trainer import fine_tune, pretrain
from tests import small

SPEC = NetworkSpec((13, 9, 6), classes=3, seed=5)
TRAINING, TUNING = TrainingSpec(epochs=2, batch_size=10), FineTuneSpec(epochs=2, batch_size=10)
N_STEPS = 3 * 2 * small.N_TRAIN // 10  # of two RBMs and fine-tuning


class Flip(NamedTuple):
    """One bit, by random numbers that are divided by what there is."""

    step: int  # of all stages, after which it flips
    replica: int
    shard: int
    tensor: int
    element: int
    bit: int


class Outcome(NamedTuple):
    """What became of it: what was said, and whether the end is that of a run without it."""

    tensor: str
    said: str
    same_end: bool


def random_flip(rng: np.random.Generator, grid: Grid) -> Flip:
    one = rng.integers(0, 1 << 30, 6).tolist()
    return Flip(1 + one[0] % (N_STEPS - 1), one[1] % grid.n_replicas, one[2] % grid.n_shards, *one[3:])


def flip_bit(network: DeepBeliefNetwork, flip: Flip) -> str:
    """The name of the tensor; on all ranks of the grid."""
    named = {name: x for name, x in tensors_of(parameters_of(network)).items() if x.size}
    name = sorted(named)[flip.tensor % len(named)]
    if (network.grid.replica, network.grid.shard) != (flip.replica, flip.shard):
        return name
    octets = named[name].reshape(-1).view(np.uint8)
    byte, bit = divmod(flip.bit % (8 * named[name].itemsize), 8)
    octets[flip.element % named[name].size * named[name].itemsize + byte] ^= np.uint8(1 << bit)
    return name


def trained(grid: Grid, data: Dataset, how: SyncSpec, flip: Flip | None = None) -> tuple[str, str, list[bytes]]:
    """(the tensor that was hit, what was said, this rank's parameters at the end); all stages.  Collective."""
    network, done, tensor = DeepBeliefNetwork(SPEC, grid), 0, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelparWarning)
        try:
            for stage in (pretrain(network, data, TRAINING, how), fine_tune(network, data, TUNING, how)):
                for record in stage:
                    done += record.kind == "step"
                    if flip is not None and not tensor and done == flip.step:
                        tensor = flip_bit(network, flip)
            said = "".join(str(one.message) for one in caught if "repaired" in str(one.message))
        except CorruptionError as error:
            said = f"stopped: {error}"
    tensor, said = grid.comm.bcast((tensor, said))
    return tensor, said, [part.parameters.flat.tobytes() for part in network.parts()]


def outcome(grid: Grid, data: Dataset, how: SyncSpec, flip: Flip, undisturbed: list[bytes]) -> Outcome:
    """Collective over the grid."""
    tensor, said, end = trained(grid, data, how, flip)
    tensors = grid.comm.allgather(tensor)
    hit = tensors[flip.replica * grid.n_shards + flip.shard]
    return Outcome(hit, said, grid.comm.allreduce(end == undisturbed, MPI.LAND))


def names(one: Outcome, flip: Flip, grid: Grid) -> bool:
    """Whether the message names the tensor, the shard, and as far as that can be known the replica."""
    who = f"replica {flip.replica}"
    if "changed in the memory" in one.said:
        return f"{one.tensor} of {who}, shard {flip.shard} " in one.said
    pair = "replicas 0 and 1 differ in" if grid.n_replicas == 2 else f"{who} differs from the other"
    return pair in one.said and f"{one.tensor} of shard {flip.shard}" in one.said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--shards", type=int, default=1, help="of each replica")
    parser.add_argument("--every", type=int, default=1, help="as --check-replicas")
    parser.add_argument("--memory", action="store_true", help="as --check-memory, without comparing replicas")
    parser.add_argument("--seed", type=int, default=1)
    options, comm = parser.parse_args(), MPI.COMM_WORLD
    grid, rng, counts = Grid(comm, model_shards=options.shards), np.random.default_rng(options.seed), Counter[str]()
    how = SyncSpec(check_replicas=0 if options.memory else options.every, repair=True, check_memory=options.memory)
    data = small.dataset(13)
    _, said, undisturbed = trained(grid, data, how)
    assert not said, f"without a flip: {said}"
    for _ in range(options.times):
        flip = random_flip(rng, grid)
        one = outcome(grid, data, how, flip, undisturbed)
        found = names(one, flip, grid)
        counts["named" if found else "vanished" if not one.said else "named late or wrongly"] += 1
        counts["stopped"] += one.said.startswith("stopped")
        counts["ended as without it"] += one.same_end
        if not found and comm.rank == 0:
            print(f"{flip} in {one.tensor}: {one.said or 'nothing was said'}; same end: {one.same_end}")
    if comm.rank == 0:
        print(f"{options.times} flips: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return int(counts["named"] != options.times)


if __name__ == "__main__":
    raise SystemExit(main())
