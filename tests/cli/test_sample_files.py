"""``modelpar sample --out`` in the formats of fields: what they hold, the same at every grid; mistakes in one line."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, open_dataset, save
from modelpar.analysis.of_network import states_of_split
from modelpar.cli import run, sample_commands, sample_files
from modelpar.cli.sample_files import FastaFile, chunks_of, letters_of
from modelpar.draws import Purpose, Stream, uniform
from modelpar.errors import DataError, SpecError
from modelpar.formats.vcf import Site, read_sites

pytestmark = [pytest.mark.ranks(1, 2, 3)]

SPEC = NetworkSpec((12, 7), seed=2, weight_scale=1.0, exact=True)
COUNT = 70  # more than a word of samples
SITES = [f"chr{1 + k // 8}\t{100 * k + 5}\trs{k}\tG\tT" for k in range(12)]


@pytest.fixture
def folder(comm, tmp_path):
    where = comm.bcast(tmp_path)
    if comm.rank == 0:
        with Grid(MPI.COMM_SELF) as grid:
            save(DeepBeliefNetwork(SPEC, grid), where / "states.safetensors")
            save(DeepBeliefNetwork(NetworkSpec((12, 7), visible="gaussian"), grid), where / "real.safetensors")
        text = "##fileformat=VCFv4.2\n#CHROM\tPOS\n" + "".join(f"{site}\t.\t.\t.\tGT\t0|1\n" for site in SITES)
        (where / "sites.vcf").write_text(text)
        with gzip.open(where / "sites.vcf.gz", "wt") as file:
            file.write(text)
        (where / "few.vcf").write_text("##fileformat=VCFv4.2\n1\t5\t.\tA\tC\n")
    comm.barrier()
    return where


def sample(comm, folder, words: str) -> int:
    """The exit status; names with a dot are files of the folder."""
    return run(comm, ["sample", *(str(folder / word) if "." in word else word for word in words.split())])


def expected_states(count: int, steps: int, seed: int) -> np.ndarray:
    """(count, units) of the network, from its means on one rank and the draws that no step has."""
    with Grid(MPI.COMM_SELF) as grid:
        means = DeepBeliefNetwork(SPEC, grid).fantasies(count, steps, first_draw=seed << 32)
    u = np.empty_like(means)
    uniform(Stream(SPEC.seed, 0, Purpose.FANTASY, (1 << 16) - 1), np.arange(12), seed << 32, u)
    return (u < means).T


def test_haplotypes(comm, agree, folder, monkeypatch) -> None:
    monkeypatch.setattr(sample_files, "CHUNK_BYTES", 12 * 4 * 64)  # two pieces
    words = f"states.safetensors --count {COUNT} --steps 5 --seed 3 --model-shards {comm.size} --sites sites.vcf.gz"
    agree(sample(comm, folder, f"{words} --out out.vcf") == 0)
    lines = (folder / "out.vcf").read_text().splitlines()
    head, body = [line for line in lines if line[0] == "#"], [line.split("\t") for line in lines if line[0] != "#"]
    agree(head[0] == "##fileformat=VCFv4.2" and "##contig=<ID=chr2>" in head and head[-1].count("\t") == 8 + COUNT // 2)
    agree(["\t".join(line[:5]) for line in body] == SITES)
    haplotypes = np.array([[genotype.split("|") for genotype in line[9:]] for line in body], int).reshape(12, COUNT)
    agree(np.array_equal(haplotypes.T, expected_states(COUNT, 5, 3)))
    with Grid(comm, model_shards=comm.size) as grid:  # and it is read as what it was written from
        data = open_dataset(str(folder / "out.vcf"), comm=comm, test_fraction=0.0)
        agree(np.array_equal(states_of_split(DeepBeliefNetwork(SPEC, grid), data, data.train), haplotypes.T))


def test_states_in_hdf5(comm, agree, folder) -> None:
    h5py = pytest.importorskip("h5py")
    words = f"states.safetensors --count {COUNT} --steps 2 --model-shards {comm.size} --out out.h5"
    agree(sample(comm, folder, words) == 0)
    with h5py.File(folder / "out.h5") as file:
        agree(np.array_equal(file["samples"][:], expected_states(COUNT, 2, 0)))
        agree(file["samples"].dtype == np.uint8 and file["samples"].attrs["visible"] == "bernoulli")
    agree(sample(comm, folder, "real.safetensors --count 3 --steps 2 --out real.h5") == 0)
    agree(sample(comm, folder, "real.safetensors --count 3 --steps 2 --out real.npy") == 0)
    with h5py.File(folder / "real.h5") as file:
        agree(np.allclose(file["samples"][:], np.load(folder / "real.npy")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("states.safetensors --out x.fasta", "holds letters, but the network has bernoulli"),
        ("real.safetensors --out x.vcf", "holds haplotypes, but the network has gaussian"),
        ("states.safetensors --count 3 --out x.vcf", "two haplotypes of each individual; use 4"),
        ("states.safetensors --out x.vcf --sites few.vcf", "has 1 sites, but the network has 12"),
        ("states.safetensors --out x.vcf --sites states.safetensors", "is not a VCF file"),
        ("states.safetensors --out sites.vcf --sites sites.vcf", "would write over"),
        ("states.safetensors --out x.npy --sites few.vcf", "--sites has no effect"),
        ("states.safetensors --out x.vcf --alphabet ACGT", "--alphabet has no effect"),
        ("states.safetensors --out x.h5 --image-shape 3x4", "no effect on the file"),
        ("states.safetensors --out nowhere/x.vcf", "cannot be written"),
    ],
)
def test_mistakes_are_one_line(comm, agree, folder, capfd, words, message) -> None:
    agree(sample(comm, folder, words) == 2)
    printed = capfd.readouterr().err
    agree((message in printed and printed.count("modelpar: error:") == 1) or comm.rank > 0, printed)
    agree(not list(folder.glob("x.*")))


def test_lines_of_letters(tmp_path) -> None:
    rows = np.eye(5, dtype=np.int8)[np.random.default_rng(1).integers(0, 5, (40, 3))].reshape(40, 15)
    path = tmp_path / f"letters-{MPI.COMM_WORLD.rank}.fasta"
    file = FastaFile(path, letters="-ACGT")
    file.add(rows[:15])
    file.add(rows[15:])
    file.finish()
    data = open_dataset(str(path), test_fraction=0.0)
    assert (data.visible, data.alphabet, len(data.train)) == ("categorical:5", "-ACGT", 40)
    lines = path.read_text().splitlines()
    assert lines[::2] == [f">sample_{k + 1}" for k in range(40)]
    assert lines[1::2] == ["".join("-ACGT"[a] for a in row) for row in rows.reshape(40, 3, 5).argmax(axis=2)]


def test_letters_and_chunks() -> None:
    assert letters_of(21, None, "x")[1] == "A"
    assert letters_of(3, "01?", "x") == "01?"
    assert letters_of(5, "rna", "x") == "-ACGU"
    for n, given, message in ((4, None, "needs letters for 4"), (3, "ABCD", "4 letters"), (2, "> ", "has '>'")):
        with pytest.raises(SpecError, match=message):
            letters_of(n, given, "--out x.fasta")
    assert list(chunks_of(1 << 20, 100, 10, 4)) == [slice(0, 64), slice(64, 100)]
    assert list(chunks_of(1 << 20, 100, 1 << 16, 4)) == [slice(0, 100)]
    assert sample_commands.FIELDS == sample_files.ENDINGS


def test_sites_are_read(folder, comm) -> None:
    sites = read_sites(folder / "sites.vcf", 12)
    assert len(sites) == 12
    assert sites[9] == Site("chr2", 905, "rs9", "G", "T")
    if comm.rank == 0:
        (folder / "no.vcf").write_text("#CHROM\n")
        (folder / "short.vcf").write_text("##fileformat=VCFv4.2\n1\tx\t.\tA\tC\n")
        (folder / "far.vcf").write_text(f"##fileformat=VCFv4.2\n1\t{'9' * 5000}\t.\tA\tC\n")
        (folder / "long.vcf").write_text(f"##fileformat=VCFv4.2\n1\t9\t.\tA\t{'C' * 100_000}\n")
        os.mkfifo(folder / "pipe.vcf")  # which would be waited for
        (folder / "torn.vcf.gz").write_bytes((folder / "sites.vcf.gz").read_bytes()[:-9])
    comm.barrier()
    for name, message in (
        ("no.vcf", "first line"), ("short.vcf", "line 2"), ("far.vcf", "line 2"), ("long.vcf", "line 2"),
        ("pipe.vcf", "a pipe"), ("torn.vcf.gz", "is truncated"), ("gone.vcf", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            read_sites(folder / name, 12)
    for n, message in ((11, "more than the 11 sites"), (13, "has 12 sites, but the network has 13")):
        with pytest.raises(DataError, match=message):
            read_sites(folder / "sites.vcf", n)
