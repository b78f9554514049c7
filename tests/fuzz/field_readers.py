"""Damaged files of the formats of fields of science, opened as the program does; every value is touched.

``write_...(path, random)`` makes a damaged file out of a valid one, by the draws of a ``random.Random`` alone.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from modelpar import DataSpec
from modelpar.data import open_dataset
from modelpar.data.categorical import check_one_hot
from tests.fuzz.harness import Case, Fault
from tests.fuzz.mutation import damaged_bytes, damaged_text


def read_field_data(path: Path, visible: str = "") -> None:
    """As ``--data`` does; states of sites must be one-hot, whatever the file."""
    data = open_dataset(DataSpec(data=str(path), test_fraction=0.0), visible=visible)
    table, every = data.train.table, np.arange(data.n_visible)
    columns = table.columns(every)
    kind, _, n_states = data.visible.partition(":")
    if kind == "categorical":
        if data.n_visible % int(n_states):
            raise Fault(f"{data.n_visible} units of {data.visible}")
        check_one_hot(columns, np.arange(table.n_samples), int(n_states), str(path))
    some = every[:: max(1, data.n_visible // 20)]
    table.columns(some).summary(np.arange(table.n_samples))


def damaged(content: str, random: Random) -> bytes:
    """Text or bytes of it changed."""
    if random.random() < 0.5:
        return damaged_text(content, random).encode("utf-8", "backslashreplace")
    return damaged_bytes(content.encode(), random)


def packed(content: bytes, random: Random) -> bytes:
    """The content, or a gzip file of it, at times in two parts, at times damaged after packing."""
    if random.random() < 0.5:
        return content
    cut = random.choice((0, random.randrange(len(content) + 1)))
    result = gzip.compress(content[:cut], mtime=0) + gzip.compress(content[cut:], mtime=0)
    return damaged_bytes(result, random) if random.random() < 0.3 else result


# -- alignments ------------------------------------------------------------------------------------------------------


def write_fasta(path: Path, random: Random) -> None:
    letters = random.choice(("ACDEFGHIKLMNPQRSTVWY-.XB", "ACGT-N", "ACGU-", "acgt", "ACDEacde.-"))
    n, sites = random.choice((1, 5, 60)), random.choice((1, 7, 40))
    sequences = ["".join(random.choices(letters, k=sites)) for _ in range(n)]
    if random.random() < 0.3:  # insertions
        sequences = ["".join(random.choices("abc", k=random.randrange(4))) + sequence for sequence in sequences]
    text = "".join(f">s{i} of\n{sequence[:30]}\n{sequence[30:]}\n" for i, sequence in enumerate(sequences))
    if random.random() < 0.02:
        text = ">" + "A" * random.choice((10**5, 10**6)) + random.choice(("\n", "\nA\n"))
    path.write_bytes(packed(damaged(text, random), random))


# -- arrays in files of libraries ------------------------------------------------------------------------------------


def write_hdf5(path: Path, random: Random) -> None:
    import h5py

    values = np.random.default_rng(random.getrandbits(32)).random((30, 9)) < 0.3
    with h5py.File(content := io.BytesIO(), "w") as file:
        how: dict[str, Any] = random.choice(({}, {"chunks": (7, 4)}, {"chunks": (30, 1), "compression": "gzip"}))
        kind = random.choice(("?", "u1", "f4", "f8", ">i4", "f2", "S3", "c8"))
        file.create_dataset(random.choice(("data", "a/b/c")), data=values.astype(kind), **how)
        way = random.randrange(8)
        if way == 0:
            file["other"] = random.choice((np.ones((3, 3)), np.ones(3), "text", np.float64(1)))
        elif way == 1:
            large = random.choice((10**6, 3 * 10**8, 2**40))
            file.create_dataset("big", random.choice(((9, large), (large, large), (large, 2, 2))), "f4", chunks=True)
        elif way == 2:
            file["link"] = random.choice((h5py.SoftLink("/link"), h5py.ExternalLink("/etc/passwd", "/")))
        elif way == 3:
            file["loop"] = file["/"]
    path.write_bytes(damaged_bytes(content.getvalue(), random) if random.random() < 0.6 else content.getvalue())


def cases() -> Iterator[Case]:
    if importlib.util.find_spec("h5py") is not None:
        yield Case("field/hdf5", write_hdf5, read_field_data)
    yield Case("field/fasta", write_fasta, read_field_data)
    yield Case("field/fasta/states", write_fasta, partial(read_field_data, visible="categorical:21"))
