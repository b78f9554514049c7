"""Exact mode: small trainings of every kind, what they leave, and the bytes that it must be, wherever it is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelpar import checkpoint
from modelpar.comm.grid import Grid
from modelpar.data import Dataset, Split
from modelpar.data.dataset import MappedTable
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.trainer import pretrain
from tests import networks

N_SAMPLES = 90  # in minibatches of 70: words of 64 bits are not full, and the last minibatch has 20
# Where checkpoints are written: layer, kind of record and updates, the last when all is over.
PLACES = {
    "in mid-epoch of the first RBM": (0, "step", 3),
    "at the end of the first RBM": (0, "epoch", 4),
    "in mid-epoch of the second RBM": (1, "step", 3),
    "at the end": None,
}


@dataclass(frozen=True)
class Training:
    """A training, and the SHA-256 that ``Outcome.fingerprint`` must have at every grid, on every machine.

    The fingerprints depend on IEEE arithmetic alone, with one exception: the first visible biases are logarithms of
    the C library, in double precision and rounded to single, so a library would have to be wrong by far more than a
    unit in the last place to change them.  They do not depend on the metadata of checkpoints, which may grow.
    """

    name: str
    fingerprint: str
    changes: dict[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] = (13, 9, 6)
    binarise: str = "none"
    weighted: bool = False

    @property
    def spec(self) -> TrainingSpec:
        return TrainingSpec(
            **{"epochs": 2, "batch_size": 70, "learning_rate": 0.2, "momentum_epochs": 1, "weight_decay": 0.01,
               "schedule": "linear", "statistics": "3", "reconstruction": "states", "pass_up": "states",
               "centred": False, "momentum": 0.9, "initial_momentum": 0.5,
               **self.changes}
        )  # fmt: skip

    def network(self, grid: Grid, layout: str = "column", owners: str = "blocks") -> DeepBeliefNetwork:
        spec = NetworkSpec(self.layers, layout=layout, seed=11, exact=True, weight_scale=0.3)
        return DeepBeliefNetwork(spec, grid, networks.layout_of(spec, grid.n_shards, owners))

    @property
    def dataset(self) -> Dataset:
        """Noisy copies of three patterns: states, or grey bytes where they are binarised."""
        n_visible = self.layers[0]
        rng = np.random.default_rng(n_visible)
        patterns, labels = rng.random((3, n_visible)) < 0.4, rng.integers(0, 3, N_SAMPLES + 20)
        bits = patterns[labels] ^ (rng.random((N_SAMPLES + 20, n_visible)) < 0.1)
        values = bits if self.binarise == "none" else np.abs(255 * bits - rng.integers(0, 120, bits.shape))
        table = MappedTable(self.name, values.astype(np.uint8))
        rows = np.arange(10, 10 + N_SAMPLES)  # not the first ones
        scale = 1.0 if self.binarise == "none" else 255.0
        weights = np.random.default_rng(2).random(N_SAMPLES) ** 4 if self.weighted else None
        train = Split(table, rows, labels[rows], weights)
        return Dataset(self.name, n_visible, 3, None, train, None, None, scale, self.binarise)


TRAININGS = {
    training.name: training
    for training in (
        Training(
            "CD-1 of states",
            "b2a30a490c15d4fc8e6feffe0e5e2be656f9961089795672057d872185d183d1",
            {"statistics": "1"},
        ),
        Training(
            "CD-2 of 3 bits, drawn data",
            "02d4de90fc12bffadacd0f972a862fa24dd9414606c05c4236c521df6a1d0858",
            {"gibbs_steps": 2},
            binarise="stochastic",
        ),
        Training(
            "PCD of 3 bits, drawn data",
            "b8f7f1e88622b05589838f41e5bdf0e23a649fa9b1741e9ced2595d781638ec2",
            {"persistent": True},
            binarise="stochastic",
        ),
        Training(
            "PCD-2 of 8 bits",
            "5c9d26c5b1bbae04b953c68e887207ee57e4fa5a213d1b26f5379aa719d6807e",
            {"persistent": True, "gibbs_steps": 2, "statistics": "8"},
        ),
        Training(
            "centred, own chains, averaged, L1, clipped",
            "b6253457322ac0d2812ca72907b3c723b2f25c4879c1e14f9fe7a39ed542b4ed",
            {
                "chains": 31,
                "chain_steps": 2,
                "chain_start": "random",
                "centred": True,
                "average": 4,
                "l1": 0.01,
                "clip": 0.03,
            },
            binarise="stochastic",
        ),
        Training(
            "PCD with penalties of units",
            "6af32c9fd506272f7276d1c59d6537f40da4b6ee37464e135e831736f33809c6",
            {"persistent": True, "l1": 0.005, "l1b": 0.02, "group_lasso": 0.05},
        ),
        Training(
            "weighted samples, chains that start at the data",
            "852bfbfe84332c35114f47b1131aa94336a4d493a55dbaafee5fa23b984d2ac0",
            {"chains": 31, "chain_start": "data"},
            binarise="stochastic",
            weighted=True,
        ),
        Training(
            "standardised, chains that start at the data anew",
            "6a1f64489527a5dccfc46c3868f48b4c6a058cf9b4d927806fd87a4994e4c864",
            {
                "chains": 90,
                "chain_restart": True,
                "chain_start": "data",
                "statistics": "float",
                "updates": 5,
                "standardised": True,
            },
        ),
        Training(
            "tempered chains",
            "900486ced557dd6f52b0b42d11d5d8ed539428afa7de9730340f45b11591f13b",
            {"chains": 31, "chain_steps": 2, "chain_method": "pt", "chain_temperatures": 4},
            binarise="stochastic",
        ),
        Training(
            "CD-1 of probabilities, data above a threshold",
            "bf5f8df74639da97f6cb008d4f5eeb37e2b693d4a5c0a1761c3a0002ccafed4a",
            {"statistics": "float"},
            binarise="0.5",
        ),
        # more units than a kernel takes at a time, and than a step of its sums
        Training(
            "wide",
            "63649be4d9b0d5a47b19571819d9a16ffb3a6ee99013818cef63a03ba3d997c1",
            {"learning_rate": 0.05},
            layers=(530, 70, 6),
        ),
    )
}
EVERYWHERE = TRAININGS["CD-2 of 3 bits, drawn data"]  # the one that is run in every way that there is


@dataclass(frozen=True)
class Outcome:
    """What a training has left; the same on every rank."""

    files: dict[str, bytes]  # checkpoints, by their places
    digests: list[Any]  # of every update: layer, updates of that layer, digests

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tensors of all checkpoints and the digests of all updates.

        Without what the end of an RBM's training keeps beside its parameters: chains and last parameters, of which the
        last update's digests tell already.
        """
        result = hashlib.sha256()
        for place, file in self.files.items():
            length = int.from_bytes(file[:8], "little")
            where = {name: entry.get("data_offsets") for name, entry in json.loads(file[8 : 8 + length]).items()}
            del where["__metadata__"]
            beside = ("last.", "chains", "ladder.") if PLACES[place] is None else ("last.",)
            for name in sorted(where, key=lambda name: where[name]):
                if not name.startswith(beside):
                    start, stop = where[name]
                    result.update(file[8 + length + start : 8 + length + stop])
        result.update(json.dumps(self.digests).encode())
        return result.hexdigest()

    def parts_from(self, other: Outcome) -> str:
        """In what it differs from ``other``, of which it may hold a part only; empty where in nothing."""
        for mine, theirs in zip(self.digests, other.digests[len(other.digests) - len(self.digests) :], strict=True):
            if mine != theirs:
                return f"update {mine[:2]}: {mine[2]} instead of {theirs[2]}"
        return ", ".join(place for place, file in self.files.items() if file != other.files[place])


def run(
    network: DeepBeliefNetwork, training: Training, folder: Path, places: Iterable[str] = PLACES, **changes: Any
) -> Outcome:
    """Pre-train from where the network stands to the end, leaving checkpoints at ``places``.

    folder   the same on every rank; changes: of the training's options.   Collective.
    """
    files: dict[str, bytes] = {}
    digests = []
    due = {PLACES[place]: place for place in places}

    def save(place: str) -> None:
        path = folder / f"{len(files)}.safetensors"
        checkpoint.save(network, path)
        files[place] = network.grid.comm.bcast(path.read_bytes() if network.grid.comm.rank == 0 else None)

    for record in pretrain(network, training.dataset, replace(training.spec, **changes)):
        if record.kind == "step":
            digests.append([record.layer, record.step, record.digests])
        if (record.layer, record.kind, record.step) in due:
            save(due[record.layer, record.kind, record.step])
    if None in due:
        save(due[None])
    return Outcome(files, digests)
