"""Readers of partitioners: graph files, partitions by other programs, and placements."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mpi4py import MPI

import partitioners
from modelpar.ownership.placement import place
from modelpar.spec import NetworkSpec
from partitioners import Partition, Sparse, UnitGraph
from partitioners.graph_files import read_hmetis, read_metis, read_parts, write_hmetis, write_metis, write_parts
from partitioners.placement import load_placement, save_placement
from tests.fuzz.harness import Case
from tests.fuzz.mutation import EDGES, as_json, damaged_bytes, damaged_json, damaged_text

LAYERS = (6, 4, 3)
HEADS = (
    "3000000000 1 011 3", "10 18 111 1", "2147483647 0", "4 0 10 65536", "% layers 2000000000 100000000\n0 2100000000",
    "% layers 1073741823 1073741824\n0 2147483647 10", "% layers " + "1 " * 70_000, "1 1 1 1 1", "0 0", "", "0 0 010 2",
    "% layers " + "9" * 5000 + " 1", "9" * 5000 + " 1", "13 18 010 3", "13 18 0", "13 18 100", "13 18 1",
)  # fmt: skip


def cases() -> Iterator[Case]:
    for name, read in (("metis", metis), ("hmetis", hmetis), ("parts", parts)):
        yield Case(f"graph/{name}", partial(damage, kind=name), read)
    yield Case("graph/placement", damage_placement, placement)
    yield Case("graph/placement/place", damage_placement, placed)


@cache
def graph() -> UnitGraph:
    rng = np.random.default_rng(1)
    links = [Sparse.from_mask(rng.random(pair) < 0.5) for pair in ((6, 4), (4, 3))]
    return UnitGraph(LAYERS, tuple(links), np.arange(13))


@cache
def valid(kind: str) -> str:
    partition = Partition(tuple(np.arange(n) % 2 for n in LAYERS), 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it"
        if kind == "parts":
            write_parts(path, partition)
        else:
            (write_metis if kind == "metis" else write_hmetis)(path, graph())
        return path.read_text()


def damage(path: Path, random: Random, kind: str) -> None:
    text = valid(kind)
    if random.random() < 0.2:
        path.write_bytes(damaged_bytes(text.encode(), random))
        return
    if random.random() < 0.3:
        lines = text.split("\n")
        lines[: random.choice((1, 2))] = [random.choice(HEADS)]
        text = "\n".join(lines)
    path.write_text(damaged_text(text, random), encoding="utf-8", errors="backslashreplace")


def metis(path: Path) -> None:
    partitioners.method("block")(read_metis(path), 2)


@cache
def compiled() -> None:
    """Compile what only few of the damaged files come to."""
    partitioners.method("refined")(graph(), 2)


def hmetis(path: Path) -> None:
    compiled()
    partitioners.method("refined")(read_hmetis(path), 2)


def parts(path: Path) -> None:
    read_parts(path, graph(), 2)


# -- placements ------------------------------------------------------------------------------------------------------


@cache
def valid_placement() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.npz"
        save_placement(path, Partition(tuple(np.arange(n) % 2 for n in LAYERS), 2), {"method": "block", "seed": 1})
        return path.read_bytes()


def damage_placement(path: Path, random: Random) -> None:
    """Bytes of the archive, or an archive whose arrays are others than they should be."""
    if random.random() < 0.3:
        path.write_bytes(damaged_bytes(valid_placement(), random))
        return
    members = {f"layer{i}": array_bytes(np.arange(n, dtype=np.int32) % 2) for i, n in enumerate(LAYERS)}
    members["n_parts"] = array_bytes(np.int64(2))
    members["made"] = array_bytes(np.array(json.dumps({"method": "block"})))
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(list(members))
        members[name] = _damaged_array(members[name], random)
    if random.random() < 0.2:
        members[random.choice(("layer7", "layer-1", "layer01", "other", "../x", "n_parts2", "layer" + "9" * 5000))] = (
            members["layer0"]
        )
    if random.random() < 0.2:
        members.pop(random.choice(list(members)))
    content = io.BytesIO()
    kind = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(content, "w", kind) as archive:
        for name, inside in members.items():
            archive.writestr(f"{name}.npy", inside)
    path.write_bytes(content.getvalue())


def array_bytes(array: Any) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array), allow_pickle=True)
    return content.getvalue()


def _damaged_array(content: bytes, random: Random) -> bytes:
    way, large = random.randrange(8), random.choice((10**6, 10**8, 2**31, 2**62))
    if way == 0:
        return damaged_bytes(content, random)
    if way == 1:  # another shape than there are values
        shape = random.choice(
            (f"({large},)", f"({large}, {large})", "(0, 5)", "(-1,)", "(2, 3)", "()", "(1.5,)", "(True,)")
        )
        return content[:10] + content[10:128].replace(b"(6,)", shape.encode()).ljust(118)[:118] + content[128:]
    if way == 2:
        return array_bytes(np.array([random.choice(EDGES) for _ in range(6)], object).astype("f8"))
    if way == 3:
        values = [random.choice([edge for edge in EDGES if abs(edge) < 2**63]) for _ in range(6)]
        return array_bytes(np.array(values, np.int64))
    if way == 4:
        return array_bytes(np.array([{}], object))  # a pickle
    if way == 5:
        return array_bytes(np.zeros(random.choice((0, 10**6, 2 * 10**7)), np.uint8))
    if way == 6:
        return array_bytes(np.array(as_json(damaged_json({"method": "block", "seed": [1, 2]}, random), random)))
    return array_bytes(np.zeros(4, random.choice(("S5", "U3", "M8[s]", "i1,f4", "c8", "?", ">i4", "V3"))))


def placement(path: Path) -> None:
    load_placement(path)


def placed(path: Path) -> None:
    place(NetworkSpec(LAYERS), 2, MPI.COMM_SELF, file=path)
