"""Valid checkpoints to be damaged, and their headers and tensors taken apart and put together again."""

from __future__ import annotations

import json
import tempfile
import warnings
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint.checksum import checksum
from modelpar.checkpoint.header import _BLANK, _MARKER, _TYPES, ALIGNMENT, CHECKSUM, HEADER_CHECKSUM
from modelpar.comm.grid import Grid
from modelpar.errors import ModelparWarning
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.build_connections import connect
from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.resolve import resolve
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.trainer import fine_tune, pretrain
from tests import small
from tests.fuzz.mutation import EDGES, as_json, damaged_bytes, damaged_json, scalar

DENSE = NetworkSpec((13, 9, 4), classes=3, seed=5)
TRAINING = TrainingSpec(epochs=2, batch_size=16, chains=6)
# name -> network, training, and after how many records it is saved; None: at the end, fine-tuned
KINDS: dict[str, tuple[NetworkSpec, TrainingSpec, int | None]] = {
    "dense": (DENSE, TRAINING, None),
    "begun": (DENSE, TrainingSpec(epochs=2, batch_size=16, chains=6, average=3, l1=0.01), 5),
    "listed": (NetworkSpec((13, 9), seed=5, connections="random:4"), TRAINING, 2),
    "local": (NetworkSpec((16, 9, 5), seed=5, connections="local:2,dense", visible_grid="4x4"), TRAINING, 2),
    "tempered": (
        NetworkSpec((13, 6), seed=5), TrainingSpec(epochs=2, batch_size=16, chains=6, chain_method="pt",
                                                   chain_temperatures=3), 4,
    ),
    "trajectory": (
        NetworkSpec((13, 6), seed=5, dtype="float64"),
        TrainingSpec(epochs=12, batch_size=8, chains=6, chain_method="ptt", learning_rate=0.9), 50,
    ),
}  # fmt: skip


@cache
def grid() -> Grid:
    return Grid(MPI.COMM_SELF)


@cache
def valid(kind: str) -> bytes:
    """A checkpoint as this version writes it."""
    spec, training, n_records = KINDS[kind]
    connections = connect(spec, MPI.COMM_SELF)
    blocks = NetworkLayout.blocks([*spec.layers, *([spec.classes] if spec.classes else [])], 1)
    network = DeepBeliefNetwork(spec, grid(), resolve(spec, grid(), blocks, connections=connections))
    data = small.dataset(spec.layers[0], held_out=True)
    records = pretrain(network, data, training)
    for i, _ in enumerate(records):
        if i == n_records:
            break
    if n_records is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelparWarning)  # it learns little in one epoch
            list(fine_tune(network, data, FineTuneSpec(epochs=1, batch_size=16)))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(network, Path(folder) / "it")
        return (Path(folder) / "it").read_bytes()


def apart(content: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(the JSON of the header, the bytes of each tensor)"""
    n = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + n])
    data = content[8 + n :]
    return entries, {
        name: data[slice(*entry["data_offsets"])] for name, entry in entries.items() if name != "__metadata__"
    }


def in_order(entries: dict[str, Any], tensors: dict[str, bytes]) -> dict[str, bytes]:
    """The tensors in the order that their types ask for; entries are put into it too."""

    def key(name: str) -> tuple[int, str]:
        entry = entries.get(name)
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        return -_TYPES[kind].itemsize if isinstance(kind, str) and kind in _TYPES else 0, name

    names = sorted(tensors, key=key)
    for name in names:
        if name in entries:
            entries[name] = entries.pop(name)
    return {name: tensors[name] for name in names}


def together(entries: dict[str, Any], tensors: dict[str, bytes], *, sums: bool = True) -> bytes:
    """A file whose checksums and offsets are right, whatever else its header says.   sums: or only the header's"""
    metadata = entries.get("__metadata__")
    at = 0
    for name, content in tensors.items():
        entry = entries.get(name)
        if isinstance(entry, dict) and isinstance(metadata, dict) and sums:
            entry["data_offsets"] = [at, at + len(content)]
            kind = entry.get("dtype")
            width = _TYPES[kind].itemsize if isinstance(kind, str) and kind in _TYPES else 1
            values = np.frombuffer(content[: len(content) // width * width], f"u{width}")
            metadata[CHECKSUM + name] = f"{checksum(values):016x}"
        at += len(content)
    if isinstance(metadata, dict) and HEADER_CHECKSUM in metadata:
        metadata[HEADER_CHECKSUM] = _BLANK.decode()
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    digits = f"{checksum(np.frombuffer(text, np.uint8)):016x}".encode()
    text = text.replace(_MARKER + _BLANK, _MARKER + digits, 1)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


def damage(path: Path, random: Random, kind: str) -> None:
    """Write a checkpoint that is damaged in bytes, in its header, in its definitions or in its tensors."""
    content = valid(kind)
    way = random.random()
    if way < 0.15:
        path.write_bytes(damaged_bytes(content, random))
        return
    entries, tensors = apart(content)
    if way < 0.4:
        entries = damaged_json(entries, random)
        entries = entries if isinstance(entries, dict) else {"__metadata__": entries}
    elif way < 0.75:
        key = random.choice(("network", "training", "training", "data"))
        if key in entries["__metadata__"]:
            value = damaged_json(json.loads(entries["__metadata__"][key]), random)
            entries["__metadata__"][key] = as_json(value, random)
    elif way < 0.9:
        _damage_tensor(entries, tensors, random)
    else:
        _enlarge(entries, random)
    if random.random() < 0.8:
        tensors = in_order(entries, tensors)
    path.write_bytes(together(entries, tensors, sums=random.random() < 0.8))


def _damage_tensor(entries: dict[str, Any], tensors: dict[str, bytes], random: Random) -> None:
    """Other values, another type, or another length, with the checksum that belongs to them."""
    small_ones = [name for name in tensors if name.endswith((".degrees", ".visible", "chains.direction", "chains"))]
    name = random.choice(small_ones or list(tensors)) if random.random() < 0.7 else random.choice(list(tensors))
    dtype = _TYPES[entries[name]["dtype"]]
    values = np.frombuffer(tensors[name], dtype).copy()
    way = random.randrange(5)
    if way == 0 and values.size:
        with np.errstate(all="ignore"):
            values[random.randrange(values.size)] = (
                np.array([random.choice(EDGES)], object).astype("f8").astype(dtype)[0]
            )
    elif way == 1:
        entries[name]["dtype"] = random.choice(list(_TYPES))
        with np.errstate(all="ignore"):
            values = values.astype(_TYPES[entries[name]["dtype"]])
        if values.dtype == np.int64 and values.size > 7:
            values[:4], values[4:8] = 2**62, [24, 0, 0, 0]
    elif way == 2:
        values = values[::-1].copy() if random.random() < 0.5 else np.roll(values, 1)
    elif way == 3 and values.size > 1:
        values[0], values[1] = values[1], values[0]
        values[-1] = values[0]
    else:
        values = values[: random.randrange(values.size + 1)]
        if len(entries[name]["shape"]) == 1:
            entries[name]["shape"] = [len(values)]
    tensors[name] = values.tobytes()


def _enlarge(entries: dict[str, Any], random: Random) -> None:
    """A definition of many units, levels, parts or connections, which the file does not hold."""
    network, training = (json.loads(entries["__metadata__"][key]) for key in ("network", "training"))
    large = random.choice((10**6, 3 * 10**8, 2**31, 2**31 - 1, 2**40))
    way = random.randrange(7)
    if way == 0:
        network["layers"][random.randrange(len(network["layers"]))] = large
    elif way == 1:
        network["layers"] = [4] * random.choice((1025, 300_000))
    elif way == 2:
        network["classes"] = large
    elif way == 3:
        network["connections"] = random.choice(
            (f"random:{large}", "local:1/1", f"local:2/{large}", "radix-net:" + "x".join(["2"] * 5000))
        )
    elif way == 4 and "tempering" in training:
        training["tempering"]["tried"] = training["tempering"]["accepted"] = [0] * random.choice((50, 5000, 10**5))
        training["tempering"]["kept"] = random.choice((0, len(training["tempering"]["tried"]), large))
    elif way == 5:
        training[random.choice(("updates", "best", "outer", "squares", "average", "last"))] = ["rbm.0"] * 3
    else:
        name = random.choice([name for name in entries if name != "__metadata__"])
        entries[name]["shape"] = random.choice(([large], [large, large], [0, 2**70], [large, 0], [1] * 40, []))
    entries["__metadata__"]["network"], entries["__metadata__"]["training"] = map(json.dumps, (network, training))
    if random.random() < 0.2:
        entries["__metadata__"][str(scalar(random))[:50]] = "more"
