"""``modelpar data``: what it says of files, against NumPy; what it writes, read again; and what it refuses.

Modules: modelpar/cli/data_commands, modelpar/cli/data_report, modelpar/data/description
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from mpi4py import MPI

from modelpar.cli import run
from modelpar.data import open_dataset
from modelpar.data.bits import pick_bits
from modelpar.data.data_means import check_range
from modelpar.data.description import look_at
from modelpar.data.memory import array_source
from modelpar.data.packed_files import PackedTable, write_packed
from modelpar.errors import DataError, ModelparWarning

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
STATES = RNG.random((50, 21)) < 0.3
GREY = RNG.integers(0, 256, (50, 21), dtype=np.uint8)
FASTA = "".join(f">s{i}\n{'ACGT'[i % 4]}C-{'GTX'[i % 3]}T\n" for i in range(20))


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """What the command prints as JSON."""
    assert run(MPI.COMM_SELF, ["data", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def problem(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert run(MPI.COMM_SELF, ["data", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("values", "states"),
    [(STATES, True), (GREY, False), (STATES * 2.5, True), (np.where(STATES, 255, 0).astype(np.uint8), True),
     (STATES - 0.5, False), (np.where(STATES, np.nan, 1.0), False), (np.zeros((4, 3)), True),
     (-STATES.astype(float), False),
     (np.asfortranarray(GREY), False), (scipy.sparse.csr_array(STATES), True), (scipy.sparse.csr_array(GREY), False),
     (np.ones((5, 3), bool), True)],
    ids=range(12),
)  # fmt: skip
def test_values_are_those_of_numpy(values: Any, states: bool) -> None:
    found = look_at(array_source(values, "x").table)
    dense = values.toarray() if scipy.sparse.issparse(values) else values
    assert found.are_states == states
    assert found.n_missing == np.isnan(dense.astype(float)).sum()
    assert (found.low, found.high) == (np.nanmin(dense), np.nanmax(dense))
    assert found.n_on == (dense != 0).sum()


@pytest.mark.filterwarnings("default::modelpar.errors.ModelparWarning")
def test_an_alignment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.fa").write_text(FASTA)
    found = told(capsys, tmp_path / "x.fa", "--model-shards", "2", "--out", tmp_path / "x.npz")
    assert found["kind"] == "aligned sequences of nucleotides of DNA"
    assert (found["samples"], found["sites"], found["states"], found["units"]) == (20, 5, 5, 25)
    assert (found["visible"], found["alphabet"]) == ("categorical:5", "-ACGT")
    assert found["letters"] == {letter: FASTA.count(letter) for letter in "-ACGT"}
    assert found["missing"] == FASTA.count("X")
    assert found["bytes_of_rank"] == 20 * -(-3 * 5 // 8)  # three of five sites
    again = told(capsys, tmp_path / "x.npz")
    assert {name: again[name] for name in ("samples", "units", "visible", "alphabet")} == {
        "samples": 20, "units": 25, "visible": "categorical:5", "alphabet": "-ACGT",
    }  # fmt: skip
    with pytest.warns(ModelparWarning, match="are read as gaps"):
        one, other = (open_dataset(tmp_path / name, test_fraction=0.0) for name in ("x.fa", "x.npz"))
    assert (one.visible, one.alphabet) == (other.visible, other.alphabet)
    bits = [data.train.table.columns(np.arange(25)).bits for data in (one, other)]  # type: ignore[attr-defined]
    assert np.array_equal(*bits)


def test_a_threshold_makes_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "w.npz", data=GREY, weights=np.arange(50))
    assert told(capsys, tmp_path / "w.npz", "--binarise", "0.5", "--out", tmp_path / "v.npz")["weights"] == 49 * 25
    with np.load(tmp_path / "v.npz") as file:
        assert np.array_equal(file["weights"], np.arange(50))
        assert file["format"] == 2
    np.savez(tmp_path / "x.npz", data=GREY, labels=np.arange(50) % 3)
    out = tmp_path / "out.npz"
    found = told(capsys, tmp_path / "x.npz", "--binarise", "0.5", "--out", out)
    assert (found["read_as"], found["classes"], found["bytes_of_rank"]) == ("bits", 3, 50 * 3)
    with np.load(out) as file:
        assert np.array_equal(file["bits"], np.packbits(GREY / 255 > 0.5, axis=1, bitorder="little"))
        assert np.array_equal(file["labels"], np.arange(50) % 3)
        assert "format" not in file  # as earlier versions read it
    assert told(capsys, tmp_path / "x.npz")["bytes_of_rank"] == GREY.size


@pytest.mark.filterwarnings("default::modelpar.errors.ModelparWarning")
def test_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.fa").write_text(FASTA)
    assert run(MPI.COMM_SELF, ["data", str(tmp_path / "x.fa")]) == 0
    captured = capsys.readouterr()
    for word in ("categorical:5", "-ACGT", "memory of a rank", "20"):
        assert word in captured.out
    assert "are read as gaps" in captured.err


def test_states_that_train_would_take_for_grey_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The words of ``train``, which refuses them."""
    np.save(tmp_path / "x.npy", STATES.astype(np.uint8))
    with pytest.raises(DataError) as refusal:
        check_range(open_dataset(tmp_path / "x.npy", test_fraction=0.0), np.arange(STATES.shape[1]), "bernoulli")
    assert told(capsys, tmp_path / "x.npy")["warning"] == str(refusal.value)
    assert told(capsys, tmp_path / "x.npy", "--scale", "1")["warning"] is None


def test_what_is_refused_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "grey.npy", GREY)
    (tmp_path / "bad.fa").write_text(">a\nAC\n>b\nA\n")
    (tmp_path / "x.fa").write_text(FASTA)
    out = tmp_path / "out.npz"
    for words, wanted in (
        (("grey.npy", "--out", out), "by --binarise 0.5"), (("bad.fa", "--out", out), "record 2"),
        (("x.fa", "--missing", "error", "--out", out), "letter 'X'"), (("grey.npy", "--out", "x.npy"), "use .npz"),
        (("grey.npy", "--binarise", "stochastic"), "threshold"), (("x.fa", "--scale", "2"), "no effect"),
        (("grey.npy", "--visible", "categorical:5"), "has the state"), (("x.fa", "--alphabet", "AA"), "twice"),
        (("bars:4", "--visible", "categorical:3"), "not whole sites"), (("nothing.fa",), "does not exist"),
    ):  # fmt: skip
        assert wanted in problem(capsys, tmp_path / words[0] if ":" not in words[0] else words[0], *words[1:])
    packed = tmp_path / "packed.npz"
    write_packed(packed, STATES)
    before = packed.read_bytes()
    assert "write over" in problem(capsys, packed, "--out", packed)
    assert packed.read_bytes() == before
    assert not out.exists()


# -- packed files that say which units they are for


def test_packed_files_keep_the_kind(tmp_path: Path) -> None:
    hot = (RNG.integers(0, 3, (40, 6, 1)) == np.arange(3)).reshape(40, 18)
    write_packed(tmp_path / "x.npz", hot, visible="categorical:3", alphabet="012")
    data = open_dataset(tmp_path / "x.npz", test_fraction=0.0)
    assert (data.visible, data.alphabet) == ("categorical:3", "012")
    with np.load(tmp_path / "x.npz") as file:
        assert file["format"] == 2  # which versions that know format 1 alone refuse
    units = RNG.permutation(18)[:7]
    wanted = np.empty((40, 1), np.uint8)
    pick_bits(np.packbits(hot, axis=1, bitorder="little"), units, wanted)
    assert isinstance(data.train.table, PackedTable)
    assert np.array_equal(data.train.table.columns(units).bits, wanted)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("visible", "alphabet"),
    [("categorical:5", ""), ("categorical:0", ""), ("categorical:3", "ACGT"), ("categorical:3", "AAB"), ("Q" * 90, ""),
     ("categorical:3", "A\n\x1b"), ("", "AC"), ("categorical:-3", "ABC")],
)  # fmt: skip
def test_kinds_that_do_not_fit(tmp_path: Path, visible: str, alphabet: str) -> None:
    write_packed(tmp_path / "x.npz", np.ones((4, 18), bool), visible=visible, alphabet=alphabet)
    with pytest.raises(DataError, match="do not fit its 18 units"):
        open_dataset(tmp_path / "x.npz")
