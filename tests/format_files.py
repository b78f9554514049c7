"""Files of every format, as a version of modelpar has written them, and what they must be read as forever after.

    python -m tests.format_files tests/fixtures/NAME [CASE ...]    writes the files that this version writes, or those
                                                                   of some cases, and what is in them

Each folder below ``tests/fixtures`` has the files of one version.  They are never changed: where a format grows,
another folder comes beside them, with what is new.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.cli import run
from modelpar.comm.grid import Grid
from modelpar.data import Dataset, open_dataset, write_packed
from modelpar.model.network import DeepBeliefNetwork
from modelpar.records import Record
from modelpar.spec import FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training import digests
from modelpar.training.state import TrainingRun
from modelpar.training.trainer import fine_tune, pretrain
from partitioners import Partition
from partitioners.placement import load_placement, save_placement

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED, PACKED, PLACEMENT, RUN = "expected.json", "states.npz", "placement.npz", "run"
SITES = "sites.npz"  # packed, of format 2: for categorical units, with letters and weights
EXPORTED = "model.h5"  # of LADDER
MODELS = ("model.safetensors", "pretrained.safetensors")  # of the run
OF_THE_MACHINE = (
    "ranks.txt",
    "summary.json",
    "report.html",
)  # in a run directory: its processes, its MPI and its times
N_SAMPLES, N_UNITS, N_CLASSES = 48, 9, 3
STATES = {"reconstruction": "states", "pass_up": "states", "batch_size": 16, "learning_rate": 0.1}


@dataclass(frozen=True)
class Case:
    """A training that is stopped after ``updates`` records of updates, and saved with all its state."""

    updates: int
    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, Any] | None = None
    sync: dict[str, Any] = field(default_factory=dict)
    packed: str = PACKED  # the file that it is trained on

    def records(self, network: DeepBeliefNetwork, data: Dataset) -> Generator[Record, None, None]:
        """The training from where the network stands; collective."""
        training, sync = TrainingSpec(**{"epochs": 3, **STATES, **self.training}), SyncSpec(**self.sync)
        yield from pretrain(network, data, training, sync)
        if self.tuning is not None:
            yield from fine_tune(network, data, FineTuneSpec(batch_size=16, **self.tuning), sync)

    @property
    def spec(self) -> NetworkSpec:
        return NetworkSpec(**{"layers": (N_UNITS, 6, 4), "exact": True, "seed": 3, **self.network})


LADDER = "a ladder and last parameters at the end"
CASES = {
    "tempered chains and averages in mid-epoch": Case(
        4, training={"chains": 6, "chain_method": "pt", "chain_temperatures": 3, "average": 4, "centred": True}
    ),
    LADDER: Case(
        9, {"layers": (N_UNITS, 6)},
        {"chains": 6, "chain_method": "ptt", "chain_temperatures": 3, "average": 4, "updates": 9},
    ),
    "chains of listed connections": Case(4, {"connections": "random:3"}, {"chains": 6, "chain_start": "random"}),
    "velocities of receptive fields": Case(
        11, {"connections": "local:2/1,dense", "layers": (N_UNITS, 8, 4)}, {"momentum": 0.5},
    ),
    "fine-tuning with the best so far": Case(
        17, {"classes": N_CLASSES}, {}, {"epochs": 4, "patience": 2, "dropout": 0.0, "learning_rate": 0.1},
    ),
    "outer momentum of Local SGD": Case(
        4, {"exact": False}, {}, None, {"sync": "local", "period": 2, "outer_momentum": 0.5},
    ),
    "squares of a parameter server": Case(
        4, {"exact": False}, {}, None, {"sync": "server", "adagrad": True, "meet_every": 1},
    ),
}  # fmt: skip
OF_SITES: dict[str, Any] = {"layers": (N_UNITS, 6), "visible": "categorical:3"}
CASES |= {
    "categorical sites and letters": Case(4, OF_SITES, {"chains": 6, "average": 3}, packed=SITES),
    "double rectified units on sites": Case(
        4, {**OF_SITES, "hidden": "drelu", "exact": False}, {"chains": 6, "momentum": 0.5}, packed=SITES,
    ),
    "rectified units": Case(4, {"layers": (N_UNITS, 5), "hidden": "relu", "exact": False}, {"momentum": 0.5}),
    "gaussian hidden units and spins": Case(
        4, {"layers": (N_UNITS, 5), "hidden": "gaussian", "visible": "spin", "exact": False}, {"chains": 5},
    ),
}  # fmt: skip
RUN_WORDS = (
    "train --exact --layers 64-5-4 --epochs 1 --finetune-epochs 1 --batch-size 400 --finetune-batch-size 400 "
    "--checkpoint-every 5 --keep 1 --no-pictures --threads 1"
)


def samples() -> tuple[np.ndarray, np.ndarray]:
    """(N_SAMPLES, N_UNITS) noisy copies of a pattern for each class, and the classes."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, N_CLASSES, N_SAMPLES)
    patterns = rng.random((N_CLASSES, N_UNITS)) < 0.5
    return patterns[labels] ^ (rng.random((N_SAMPLES, N_UNITS)) < 0.1), labels


def sites() -> tuple[np.ndarray, np.ndarray]:
    """(N_SAMPLES, N_UNITS) one-hot states of sites of three, and weights."""
    rng = np.random.default_rng(6)
    states = rng.choice(3, (N_SAMPLES, N_UNITS // 3), p=[0.6, 0.3, 0.1])
    return (states[:, :, None] == np.arange(3)).reshape(N_SAMPLES, N_UNITS), rng.integers(1, 4, N_SAMPLES) / 2


def data_of(folder: Path, packed: str = PACKED) -> Dataset:
    """What the cases are trained on, from a packed file of a folder."""
    return open_dataset(str(folder / packed), validation_fraction=0.25)


def digest(values: Any) -> str:
    """Of type, shape and bytes of an array."""
    array = np.ascontiguousarray(values)
    return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()[:16]


def held(network: DeepBeliefNetwork) -> dict[str, str]:
    """The digest of every tensor that a network and its training hold, by its name in a checkpoint."""
    return {block.name: digest(block.block) for block in checkpoint.tensors(network)}


def contents(path: Path, case: Case, data: Dataset, grid: Grid) -> dict[str, Any]:
    """What a checkpoint is read as, and what comes of its training when it goes on to its end, which an exact one tells
    to the bit."""
    network = checkpoint.load(path, grid)
    run_ = TrainingRun.of(network)
    position = {name: value for name, value in vars(run_.position).items() if name not in ("seconds", "sums")}
    found = {
        "layers": list(network.spec.layers), "connections": network.spec.connections, "seed": network.spec.seed,
        "position": position, "tensors": held(network), "best_accuracy": run_.best_accuracy,
    }  # fmt: skip
    if case.packed == SITES:
        found |= {"visible": network.spec.visible, "hidden": network.spec.hidden, "alphabet": run_.alphabet}
    for _ in case.records(network, data):
        pass
    return {**found, "at the end": held(network)} if case.spec.exact else found


def name_of(case: str) -> str:
    return case.replace(" ", "-").lower() + ".safetensors"


def read(folder: Path) -> dict[str, Any]:
    """Everything that the files of a folder are read as, in the form of its ``expected.json``."""
    result = dict[str, Any]()
    with Grid(MPI.COMM_SELF) as grid:
        for name, case in CASES.items():
            if (folder / name_of(name)).exists():
                result[name] = contents(folder / name_of(name), case, data_of(folder, case.packed), grid)
    for name in (PACKED, SITES):
        if (folder / name).exists():
            result[name] = packed_contents(folder / name)
    if not (folder / RUN).exists():  # of some cases only
        return result
    partition, made = load_placement(folder / PLACEMENT)
    result[PLACEMENT] = [[owner.tolist() for owner in partition.owners], partition.n_parts, made]
    updates, n_damaged = digests.read(folder / RUN / digests.NAME)
    result[digests.NAME] = [len(updates), n_damaged, updates[-1].as_line()]
    if find_spec("h5py"):
        result[EXPORTED] = imported(folder / EXPORTED)
    result[RUN] = {name: hashlib.sha256((folder / RUN / name).read_bytes()).hexdigest()[:16] for name in MODELS}
    return result


def packed_contents(path: Path) -> list[str]:
    """Digests of values and labels, or weights; with the kind of units and letters that the file names."""
    data = open_dataset(str(path), test_fraction=0.0)
    split = data.train
    values = np.empty((N_UNITS, len(split)), np.float32)
    split.table.columns(np.arange(N_UNITS)).fill(split.rows, values)
    if split.weights is None:
        return [digest(values), digest(split.labels)]
    return [digest(values), digest(split.weights), data.visible, data.alphabet]


def imported(path: Path) -> dict[str, str]:
    """The parameters that ``modelpar import`` makes of a file, and its chains.  Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as name, Grid(MPI.COMM_SELF) as grid:
        out = Path(name) / "imported.safetensors"
        modelpar("import", path, out)
        tensors = held(checkpoint.load(out, grid))
    return {name: tensors[name] for name in ("rbm.0.W", "rbm.0.b", "rbm.0.c", "chains")}


def modelpar(*words: str | Path) -> None:
    """A command in this process.  Raises RuntimeError where it fails."""
    status = run(MPI.COMM_SELF, [str(word) for word in words])
    if status:
        raise RuntimeError(f"modelpar {' '.join(map(str, words))} ended with status {status}")


def write(folder: Path, *some: str) -> None:
    """The files of this version, or of some cases.  Raises OSError where the folder is there."""
    folder.mkdir(parents=True)
    states, labels = samples()
    write_packed(folder / PACKED, states, labels)
    one_hot, weights = sites()
    write_packed(folder / SITES, one_hot, visible="categorical:3", alphabet="-AB", weights=weights)
    with Grid(MPI.COMM_SELF) as grid:
        for name, case in CASES.items():
            if some and name not in some:
                continue
            network = DeepBeliefNetwork(case.spec, grid)
            with closing(case.records(network, data_of(folder, case.packed))) as records:
                for _ in islice((record for record in records if record.kind == "step"), case.updates):
                    pass
                checkpoint.save(network, folder / name_of(name))
    if some:
        (folder / EXPECTED).write_text(json.dumps(read(folder), indent=1, sort_keys=True) + "\n")
        return
    owners = (np.arange(N_UNITS) % 2, np.arange(6) // 3)
    save_placement(folder / PLACEMENT, Partition(owners, 2), {"method": "by hand", "seed": 3})
    modelpar("export", folder / name_of(LADDER), folder / EXPORTED)
    modelpar(*RUN_WORDS.split(), "--run-dir", folder / RUN)
    for name in OF_THE_MACHINE:
        (folder / RUN / name).unlink(missing_ok=True)
    config = folder / RUN / "config.toml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if not line.startswith("run_dir")))
    (folder / EXPECTED).write_text(json.dumps(read(folder), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:])
