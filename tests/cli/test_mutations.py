"""``modelpar mutations``: free energies of variants against the sum over all hidden states, and mistakes in one line.

Modules: modelpar/cli/mutation_commands
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, save
from modelpar.cli import mutations, run
from modelpar.cli.mutations import read_wild_type
from modelpar.errors import DataError

pytestmark = [pytest.mark.ranks(1, 2, 3)]

LETTERS = "-ACGT"
SPEC = NetworkSpec((6 * 5, 4), visible="categorical:5", seed=2, weight_scale=1.0)
WILD = "AC-GTT"


@pytest.fixture
def folder(comm, tmp_path):
    where = comm.bcast(tmp_path)
    if comm.rank == 0:
        with Grid(MPI.COMM_SELF) as grid:
            save(model(grid), where / "dna.safetensors")
            save(DeepBeliefNetwork(NetworkSpec((30, 4)), grid), where / "bits.safetensors")
            save(DeepBeliefNetwork(NetworkSpec((30, 4, 3), visible="categorical:5"), grid), where / "stack.safetensors")
        (where / "wild.fasta").write_text(f">the wild one\n{WILD[:4]}\n{WILD[4:]}\n>another\nAAAAAA\n")
        (where / "long.fasta").write_text(f">long\n{WILD}A\n")
        (where / "odd.fasta").write_text(">odd\nAC-GTJ\n")
    comm.barrier()
    return where


def model(grid: Grid) -> DeepBeliefNetwork:
    network = DeepBeliefNetwork(SPEC, grid)
    rbm = network.rbms[0]
    rng = np.random.default_rng(3)
    rbm.b[:] = rng.normal(size=30)[rbm.visible_ids]
    rbm.c[:] = rng.normal(size=4)[rbm.hidden_ids]
    return network


def free_energy(W: np.ndarray, b: np.ndarray, c: np.ndarray, letters: str) -> float:
    """-log of the sum over every hidden state, in float64."""
    v = np.zeros(30)
    v[[5 * site + LETTERS.index(letter) for site, letter in enumerate(letters)]] = 1
    return -float(
        np.log(sum(np.exp(v @ b + h @ c + v @ W @ h) for h in map(np.array, itertools.product((0, 1), repeat=4))))
    )


def command(comm, folder: Path, words: str) -> int:
    return run(comm, ["mutations", *(str(folder / word) if "." in word else word for word in words.split())])


def test_every_variant(comm, agree, folder, monkeypatch) -> None:
    monkeypatch.setattr(mutations, "VALUES_AT_ONCE", 700)  # some sites at a time
    words = f"dna.safetensors --wild-type wild.fasta --model-shards {comm.size} --out table.csv"
    agree(command(comm, folder, words) == 0)
    with Grid(MPI.COMM_SELF) as grid:
        rbm = model(grid).rbms[0]
        W, b, c = (np.array(part, np.float64) for part in (rbm.W, rbm.b, rbm.c))
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [(i, a) for i in range(6) for a in LETTERS if a != WILD[i]]
    agree([(int(row["site"]), row["from"], row["to"]) for row in rows] == [(i + 1, WILD[i], a) for i, a in wanted])
    own = free_energy(W, b, c, WILD)
    expected = [free_energy(W, b, c, WILD[:i] + a + WILD[i + 1 :]) - own for i, a in wanted]
    agree(np.allclose([float(row["delta"]) for row in rows], expected, atol=2e-5))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bits.safetensors --wild-type wild.fasta --out x.csv", "the network has bernoulli visible units"),
        ("stack.safetensors --wild-type wild.fasta --out x.csv", "a stack of 2 RBMs"),
        ("dna.safetensors --wild-type long.fasta --out x.csv", "has 7 sites, but the network was trained on 6"),
        ("dna.safetensors --wild-type odd.fasta --out x.csv", "letter 'J' at site 6"),
        ("dna.safetensors --wild-type wild.fasta --alphabet ACG --out x.csv", "has 3 letters, but there are 5"),
        ("dna.safetensors --wild-type gone.fasta --out x.csv", "gone.fasta"),
        ("dna.safetensors --wild-type bits.safetensors --out x.csv", "text before its first record"),
        ("dna.safetensors --wild-type wild.fasta --out x.txt", "use .csv"),
        ("dna.safetensors --wild-type wild.fasta --out nowhere/x.csv", "nowhere"),
    ],
)
def test_mistakes_are_one_line(comm, agree, folder, capfd, words, message) -> None:
    agree(command(comm, folder, words) == 2)
    printed = capfd.readouterr().err
    agree((message in printed and printed.count("modelpar: error:") == 1) or comm.rank > 0, printed)
    agree(not list(folder.glob("x.*")))


@pytest.mark.parametrize(
    ("text", "letters", "states"),
    [
        ("acgt", LETTERS, [1, 2, 3, 4]),
        ("A.cgGT", LETTERS, [1, 3, 4]),  # lower-case letters and the dots beside them are insertions
        ("A.GT", LETTERS, [1, 0, 3, 4]),
        ("aA", "aA", [0, 1]),
    ],
)
def test_insertions_and_gaps(tmp_path: Path, text: str, letters: str, states: list[int]) -> None:
    path = tmp_path / f"{MPI.COMM_WORLD.rank}.fasta"
    path.write_text(f">one\n{text}\n")
    name, result = read_wild_type(path, letters, len(states))
    assert (name, result.tolist()) == ("one", states)
    with pytest.raises(DataError, match="sites"):
        read_wild_type(path, letters, 9)
