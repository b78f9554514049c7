"""One process that opens, trains, saves, loads and closes again and again: what it holds must not grow."""

from __future__ import annotations

import gc
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.comm.grid import Grid
from modelpar.data import open_dataset
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.trainer import pretrain

WARM = 5  # lifetimes before the first that is measured: kernels are loaded, pools filled
MOST_GROWTH = 16 << 20  # bytes of resident memory, from the first third of the measurements to the last
SPEC = NetworkSpec((64, 48), exact=True)
TRAINING = TrainingSpec(epochs=1, reconstruction="states")


class Lifetimes:
    """Counts what this process holds after each lifetime of a data set, a grid, a network and its file.

    folder   for the file; empty after each lifetime
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.n = self.n_different = 0
        self.memory: list[int] = []
        self.descriptors: list[int] = []
        self.threads: list[int] = []
        self._first: bytes | None = None
        self._process = psutil.Process()

    def live(self, n: int = 1) -> None:
        """So many lifetimes.  Raises what they raise: a process that leaks may fail to make a grid."""
        for _ in range(n):
            self._live_once()
            self.n += 1
            if self.n > WARM:
                gc.collect()
                self.memory.append(self._process.memory_info().rss)
                self.descriptors.append(self._process.num_fds())
                self.threads.append(self._process.num_threads())

    def _live_once(self) -> None:
        path, again = self.folder / "model.safetensors", self.folder / "again.safetensors"
        dataset = open_dataset("digits", binarise="stochastic")
        with Grid(MPI.COMM_SELF) as grid:
            network = DeepBeliefNetwork(SPEC, grid)
            for _ in pretrain(network, dataset, TRAINING):
                pass
            checkpoint.save(network, path)
            checkpoint.save(checkpoint.load(path, grid), again)
        saved = path.read_bytes()
        self._first = self._first or saved
        self.n_different += saved != self._first or again.read_bytes() != saved
        path.unlink()
        again.unlink()

    @property
    def left(self) -> list[str]:
        """Files that a lifetime has left."""
        return sorted(path.name for path in self.folder.iterdir())

    def growth(self) -> dict[str, Any]:
        """Of memory in bytes, descriptors and threads, between the medians of the first and the last third."""
        return {
            "memory_growth": _growth(self.memory), "descriptor_growth": _growth(self.descriptors),
            "thread_growth": _growth(self.threads),
        }  # fmt: skip

    def problems(self) -> list[str]:
        """What has grown or differed, one line each."""
        growth, found = self.growth(), []
        if growth["memory_growth"] > MOST_GROWTH:
            found.append(f"memory has grown by {growth['memory_growth'] / 2**20:.1f} MiB in {self.n} lifetimes")
        for what in ("descriptor", "thread"):
            if growth[f"{what}_growth"] > 0:
                found.append(f"{growth[f'{what}_growth']} more {what}(s) after {self.n} lifetimes")
        if self.n_different:
            found.append(f"{self.n_different} of {self.n} lifetimes have made another file")
        found += [f"{name} was left behind" for name in self.left]
        return found


def _growth(values: list[int]) -> int:
    """From the median of the first third to that of the last; 0 where there are fewer than three."""
    third = len(values) // 3
    return int(median(values[-third:]) - median(values[:third])) if third else 0
