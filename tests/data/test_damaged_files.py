"""Every reader of data: what is damaged, cut off, empty or of another form is one line and status 2, and nothing is
written."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from mpi4py import MPI

from modelpar.cli import run
from modelpar.data import open_dataset, write_packed
from tests.data.test_genotypes import ALLELES, COPIES, bed, vcf, written
from tests.extent import quick

RNG = np.random.default_rng(3)
STATES = RNG.random((40, 30)) < 0.4
SEQUENCES = ["".join(row) for row in RNG.choice(list("ACDEFGHIKLMNPQRSTVWY-"), (40, 12))]


def fasta(path: Path, sequences: list[str] = SEQUENCES) -> None:
    text = "".join(f">s{i}\n{sequence}\n" for i, sequence in enumerate(sequences)).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def idx(path: Path) -> None:
    header = b"\0\0\x08\x02" + STATES.shape[0].to_bytes(4, "big") + STATES.shape[1].to_bytes(4, "big")
    content = header + (255 * STATES).astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def csv(path: Path) -> None:
    text = "\n".join(",".join(map(str, row)) for row in [[f"c{k}" for k in range(30)], *STATES.astype(int).tolist()])
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())


def hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=STATES, chunks=(8, 30), compression="gzip")


def parquet(path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({f"c{k}": column for k, column in enumerate(STATES.T)}), path)


def zarr(path: Path) -> None:
    import zarr

    array = zarr.create_array(path, shape=STATES.shape, chunks=(40, 30), dtype="bool")
    array[...] = STATES


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.npy": lambda path: np.save(path, STATES),
    "x.npz": lambda path: np.savez_compressed(path, data=STATES, labels=np.arange(40) % 3),
    "packed.npz": lambda path: write_packed(path, STATES),
    "sparse.npz": lambda path: scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(STATES.astype(np.float32))),
    "x.idx": idx, "x.idx.gz": idx, "x.fasta": fasta, "x.a3m.gz": fasta,
    "x.bed": lambda path: bed(path, COPIES),
    "x.vcf": lambda path: vcf(path, written(ALLELES, "|")),
    "x.vcf.gz": lambda path: vcf(path, written(ALLELES, "|")),
    "x.csv": csv, "x.csv.gz": csv, "x.parquet": parquet, "x.h5": hdf5, "x.zarr": zarr,
}  # fmt: skip
LIBRARIES = {"csv": "pyarrow", "parquet": "pyarrow", "h5": "h5py", "zarr": "zarr"}


def whole(folder: Path, name: str) -> Path:
    """A file as it should be."""
    library = LIBRARIES.get(name.removesuffix(".gz").partition(".")[2])
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    WRITERS[name](folder / name)
    return folder / name


def refused(path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What training and ``modelpar data --out`` say of it, which is the same; neither leaves anything behind."""
    lines = []
    folder, name = path.parent, path.name
    before = sorted(folder.rglob("*"))
    for words in (["train", "--data", str(path), "--run-dir", str(folder / "run"), "--no-pictures", "--epochs", "1",
                   "--pretrain-only"],
                  ["data", str(path), "--out", str(folder / "out.npz")]):  # fmt: skip
        capfd.readouterr()
        assert run(MPI.COMM_SELF, words) == 2, words
        out, err = capfd.readouterr()
        errors = [line for line in err.splitlines() if line]
        assert len(errors) == 1, err
        assert errors[0].startswith("modelpar: error: ")
        assert "Traceback" not in out + err
        assert sorted(folder.rglob("*")) == before
        lines.append(errors[0])
    assert any(part in lines[0] for part in (name, name.removesuffix(".gz").rpartition(".")[0])), lines[0]
    return lines[0]


def chunk_of(path: Path) -> Path:
    """The file to damage: of a store its only chunk."""
    if not path.is_dir():
        return path
    return max((file for file in path.rglob("*") if file.is_file()), key=lambda file: (file.name != "zarr.json", file))


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_file_is_read(tmp_path: Path, name: str) -> None:
    data = open_dataset(str(whole(tmp_path, name)), test_fraction=0.0)
    data.train.table.columns(np.arange(data.n_visible))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("damage", ["cut off", "empty", pytest.param("zeros in the middle", marks=pytest.mark.slow)])
def test_damaged_files(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, damage: str) -> None:
    path = whole(tmp_path, name)
    file = chunk_of(path)
    content = file.read_bytes()
    at = len(content) // 2
    if damage == "zeros in the middle" and name in ("x.npy", "x.idx", "x.bed", "x.h5"):
        pytest.skip("which are values of such a file, or between what it has")
    if damage == "cut off" and name == "x.csv":
        at -= 1  # in the middle of a line
    if name == "x.fasta" and damage == "cut off":
        at -= at % 17 - 8  # in the middle of a sequence
    changed = {
        "cut off": content[:at],
        "empty": b"",
        "zeros in the middle": content[:at] + bytes(60) + content[at + 60 :],
    }
    file.write_bytes(changed[damage])
    refused(path, capfd)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("letters.fasta", lambda path: fasta(path, [*SEQUENCES, "ACDEFGHIKL1!"]), "the letter '1'"),
        ("rna.fasta", lambda path: fasta(path, ["ACGUACGUACGU"] * 9 + ["ACGUACGUACGE"]), "the letter 'E'"),
        ("lengths.fa.gz", lambda path: fasta(path, [*SEQUENCES, "ACD"]), "must be aligned"),
        ("names.fasta", lambda path: path.write_text(">one\n>two\n"), "no sequence"),
        ("three.vcf", lambda path: vcf(path, written(ALLELES, "|"), alternatives="C,G"), "alleles"),
        ("ploidy.vcf", lambda path: vcf(path, [["0|1", "1|1"], ["0", "1"]]), "keep the chromosomes apart"),
        ("unknown.vcf", lambda path: vcf(path, [["0|1", ".|1"]]), "no allele of"),
        ("words.csv", lambda path: path.write_text("a,b\n1,x\n0,1\n"), "cannot be read as CSV"),
        ("widths.csv", lambda path: path.write_text("a,b\n1,0\n0,1,1\n"), "cannot be read as CSV"),
        ("holes.csv", lambda path: path.write_text("a,b\n1,\n0,1\n"), "has no value in row 1"),
        ("nan.npy", lambda path: np.save(path, np.where(STATES, np.nan, 1.0)), "nan"),
        ("objects.npy", lambda path: np.save(path, np.array([[{}]]), allow_pickle=True), "objects"),
        ("line.npy", lambda path: np.save(path, np.ones(9)), "1 dimension"),
        ("folder", lambda path: path.mkdir(), "four files"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else None,
)
def test_files_of_another_form(tmp_path: Path, capfd: pytest.CaptureFixture[str], name, write, message) -> None:
    if name.endswith(".csv"):
        pytest.importorskip("pyarrow")
    write(tmp_path / name)
    assert message in refused(tmp_path / name, capfd)


@pytest.mark.parametrize("companion", [".bim", ".fam"])
@pytest.mark.parametrize("damage", quick(["short", "gone", "empty", "odd"]))
def test_companions_of_plink(tmp_path: Path, capfd: pytest.CaptureFixture[str], companion: str, damage: str) -> None:
    path = bed(tmp_path / "x.bed", COPIES)
    file = path.with_suffix(companion)
    lines = file.read_text().splitlines(keepends=True)
    if damage == "gone":
        file.unlink()
    else:
        file.write_text({"short": "".join(lines[:-5]), "empty": "", "odd": "\0\1\n" * len(lines)}[damage])
    refused(path, capfd)


def test_a_folder_of_chunks_that_is_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = whole(tmp_path, "x.zarr")
    (path / "zarr.json").write_text("{}")
    assert "no arrays of two dimensions" in refused(path, capfd)
    shutil.rmtree(path)
    path.write_bytes(b"no store")
    assert "begins with" in refused(path, capfd)
