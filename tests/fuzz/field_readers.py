"""Damaged files of the formats of fields of science, opened as the program does; every value is touched.

``write_...(path, random)`` makes a damaged file out of a valid one, by the draws of a ``random.Random`` alone.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from modelpar import DataSpec
from modelpar.analysis.contacts import Structure
from modelpar.data import check_range, open_dataset
from modelpar.data.missing import MissingValues
from modelpar.formats.vcf import read_sites
from tests.fuzz.harness import Case, Fault
from tests.fuzz.mutation import as_json, damaged_bytes, damaged_json, damaged_text


def read_field_data(path: Path, visible: str = "", missing: str = "auto") -> None:
    """As ``--data`` does; states of sites must be one-hot, whatever the file."""
    data = open_dataset(DataSpec(data=str(path), test_fraction=0.0, missing=missing), visible=visible)
    table, every = data.train.table, np.arange(data.n_visible)
    table.columns(every)
    kind, _, n_states = data.visible.partition(":")
    if kind == "categorical":
        if data.n_visible % int(n_states):
            raise Fault(f"{data.n_visible} units of {data.visible}")
        check_range(data, every, data.visible)
    some = every[:: max(1, data.n_visible // 20)]
    table.columns(some).summary(np.arange(table.n_samples))
    if data.train.missing is not None:
        MissingValues(data.train, every).of(np.arange(table.n_samples))


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


# -- genotypes -------------------------------------------------------------------------------------------------------


def write_bed(path: Path, random: Random) -> None:
    """With its companions, one of the three damaged, or all as they should be but for unknown genotypes."""
    n, sites = random.choice((1, 5, 9)), random.choice((1, 4, 30))
    octets = bytes(random.choice((0, 2, 3, 0x0A, 0x2B, 0xFF, 0xA0)) for _ in range(sites * -(-n // 4)))
    content = {".bed": b"\x6c\x1b\x01" + octets, ".fam": b"F I 0 0 0 1\n" * n, ".bim": b"1 rs 0 9 A C\n" * sites}
    which = random.choice((".bed", ".bed", ".fam", ".bim", ""))
    if which:
        content[which] = damaged_bytes(content[which], random)
    for ending, some in content.items():
        (path if ending == ".bed" else path.with_suffix(ending)).write_bytes(some)


def write_vcf(path: Path, random: Random) -> None:
    n, sign = random.choice((1, 4, 30)), random.choice("||/")
    more, alleles = random.choice(("", ":1:0,2")), random.choice(("01", "01", "01.", "012"))
    head = "##fileformat=VCFv4.2\n##x\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT"
    lines = [head + "".join(f"\ti{i}" for i in range(n))]
    for site in range(random.choice((1, 6, 20))):
        genotypes = [f"{random.choice(alleles)}{sign}{random.choice(alleles)}{more}" for _ in range(n)]
        lines.append(f"1\t{site}\trs{site}\tA\tC\t.\t.\t.\tGT{':DP:AD' if more else ''}\t" + "\t".join(genotypes))
    text = "\n".join(lines) + "\n"
    path.write_bytes(packed(damaged(text, random) if random.random() < 0.7 else text.encode(), random))


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


def write_zarr(path: Path, random: Random) -> None:
    """A store, one of whose files is damaged: most often the metadata, as JSON or as text."""
    import zarr

    values = np.random.default_rng(random.getrandbits(32)).random((30, 9)) < 0.3
    kind, version = random.choice(("?", "u1", "f4", "f8", ">i4", "f2")), random.choice((2, 3))
    how: dict[str, Any] = random.choice(({}, {"compressors": None}, {"fill_value": 1}))
    if version == 3 and random.random() < 0.3:
        how = {**how, "shards": (14, 8)}
    inner = random.choice(("", "a", "a/b"))
    if inner:
        zarr.open_group(path, mode="w", zarr_format=version)
    shapes: dict[str, Any] = {"shape": (30, 9), "chunks": (7, 4)}
    array = zarr.create_array(path, name=inner or None, dtype=kind, zarr_format=version, **shapes, **how)
    array[...] = values.astype(kind)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    metadata = [file for file in files if file.name in (".zarray", "zarr.json")]
    chosen = random.choice(metadata if random.random() < 0.7 else files)
    content, way = chosen.read_bytes(), random.randrange(4)
    if way == 0 and chosen in metadata:
        chosen.write_text(as_json(damaged_json(json.loads(content), random), random))
    elif way == 1 and chosen in metadata:
        chosen.write_bytes(damaged_text(content.decode(), random).encode("utf-8", "backslashreplace"))
    elif way == 2:
        chosen.unlink()
    else:
        chosen.write_bytes(damaged_bytes(content, random))


def write_parquet(path: Path, random: Random) -> None:
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(random.getrandbits(32))
    kind = random.choice(("?", "u1", "f4", "f8", "i8", "f2"))
    columns: dict[str, Any] = {f"c{k}": (rng.random(40) < 0.3).astype(kind) for k in range(6)}
    way = random.randrange(8)
    if way == 0:
        columns["labels"] = rng.integers(-1, 3, 40)
    elif way == 1:
        odd: Any = (["x"] * 40, [None] * 40, [[1]] * 40, [{"a": 1}] * 40, np.full(40, 2**63, np.uint64))
        columns["odd"] = random.choice(odd)
    how: dict[str, Any] = random.choice(({}, {"row_group_size": 9}, {"compression": "gzip", "use_dictionary": False}))
    parquet.write_table(pyarrow.table(columns), content := io.BytesIO(), **how)
    path.write_bytes(damaged_bytes(content.getvalue(), random) if random.random() < 0.7 else content.getvalue())


def write_csv(path: Path, random: Random) -> None:
    """As file.csv: it is known by its name."""
    sign = random.choice((",", ",", ";"))
    rows = [[f"c{k}" for k in range(4)]] if random.random() < 0.6 else []
    cells = random.choice((("0", "1"), ("0", "1", "0.5", "-3"), ("0", "1", ""), ("0", "1", "-1"), ("0", "", "x", "2")))
    rows += [[random.choice(cells) for _ in range(4)] for _ in range(9)]
    text = "\n".join(sign.join(row) for row in rows) + "\n"
    path.with_suffix(".csv").write_bytes(
        packed(damaged(text, random) if random.random() < 0.7 else text.encode(), random)
    )


def read_csv(path: Path, visible: str = "", missing: str = "auto") -> None:
    read_field_data(path.with_suffix(".csv"), visible, missing)


# -- what goes with samples and alignments --------------------------------------------------------------------------


def read_places(path: Path) -> None:
    """As ``sample --sites`` does, for a network of as many sites as a plain file has lines of them."""
    lines = path.read_bytes().splitlines()
    read_sites(path, sum(not line.startswith(b"#") for line in lines))


def write_distances(path: Path, random: Random) -> None:
    n = random.choice((1, 40))
    text = "".join(
        f"{random.randrange(1, 9)} {random.randrange(1, 9)} 0.1 {random.random() * 20:.3f}\n" for _ in range(n)
    )
    path.write_bytes(packed(damaged(text, random), random))


def read_distances(path: Path) -> None:
    Structure.read(path, 8)


def cases() -> Iterator[Case]:
    yield Case("field/sites", write_vcf, read_places)
    yield Case("field/distances", write_distances, read_distances)
    if importlib.util.find_spec("pyarrow") is not None:
        yield Case("field/parquet", write_parquet, read_field_data)
        yield Case("field/csv", write_csv, read_csv)
    for write in (write_bed, write_vcf):
        name = f"field/{write.__name__.removeprefix('write_')}"
        yield Case(name, write, partial(read_field_data, missing="most-frequent"))
        yield Case(f"{name}/bits", write, partial(read_field_data, visible="bernoulli"))
    if importlib.util.find_spec("zarr") is not None:
        yield Case("field/zarr", write_zarr, read_field_data)
    if importlib.util.find_spec("pyarrow") is not None:
        yield Case("field/csv/missing", write_csv, partial(read_csv, visible="categorical:2", missing="sample"))
    if importlib.util.find_spec("h5py") is not None:
        yield Case("field/hdf5", write_hdf5, read_field_data)
    yield Case("field/fasta", write_fasta, read_field_data)
    yield Case("field/fasta/missing", write_fasta, partial(read_field_data, missing="sample"))
    yield Case("field/fasta/states", write_fasta, partial(read_field_data, visible="categorical:21"))
