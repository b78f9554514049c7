"""Alignments and arrays of states as one-hot bits: against letters that are looked up one by one.

Modules: modelpar/data/alphabets, modelpar/data/categorical, modelpar/data/one_hot, modelpar/data/read_options,
modelpar/formats/fasta
"""

from __future__ import annotations

import gzip
import os
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from modelpar.data import Dataset, check_range, open_dataset
from modelpar.data.alphabets import DNA, PROTEIN, RNA
from modelpar.errors import DataError, ModelparError, ModelparWarning, SpecError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(5)
PROTEINS = ["MK-VLA.C", "-KWVLAYC", "MRX-IAYD", "MKWVBAYC"]
FOLDER = Path(os.environ.get("MODELPAR_DATA", "")) / "msa"


def fasta(sequences: list[str], width: int = 5, end: str = "\n") -> str:
    """Lines of a few letters under names of some words."""
    lines = []
    for i, sequence in enumerate(sequences):
        lines += [f">seq{i}/1-9 of a family", *(sequence[k : k + width] for k in range(0, len(sequence), width))]
    return end.join(lines) + end


def one_hot(sequences: list[str], alphabet: str) -> Array:
    """By a look at each letter: unknown ones and dots are gaps."""
    result = np.zeros((len(sequences), len(sequences[0]), len(alphabet)), bool)
    for i, sequence in enumerate(sequences):
        for site, letter in enumerate(sequence.upper()):
            result[i, site, max(alphabet.find(letter), 0)] = True
    return result.reshape(len(sequences), -1)


def states(data: Dataset, unit_ids: Array | None = None) -> Array:
    """All values, as they are."""
    ids = np.arange(data.n_visible) if unit_ids is None else unit_ids
    values = np.empty((len(ids), data.train.table.n_samples), np.float32)
    data.train.table.columns(ids).fill(np.arange(values.shape[1]), values)
    return values.T


def opened(path: Any, **options: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelparWarning)
        return open_dataset(path, test_fraction=0.0, **options)


def problem(path: Any, **options: Any) -> str:
    """The one line with which a file is refused, when it is opened or read."""
    with pytest.raises(ModelparError) as caught:
        states(opened(path, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# -- what alignments become


@pytest.mark.parametrize("name", ["x.fasta", "x.fasta.gz", "x"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_proteins(tmp_path: Path, name: str, end: str) -> None:
    path = written(tmp_path / name, fasta(PROTEINS, end=end))
    with pytest.warns(ModelparWarning, match=r"that say little \(B 1, X 1\) are read as gaps"):
        data = open_dataset(path, test_fraction=0.0)
    assert (data.visible, data.alphabet, data.n_visible) == ("categorical:21", PROTEIN.letters, 8 * 21)
    assert (data.scale, data.image_shape) == (1.0, None)
    expected = one_hot(PROTEINS, PROTEIN.letters)
    assert np.array_equal(states(data), expected)
    units = RNG.permutation(data.n_visible)[:40]  # of a rank whose units are anywhere
    assert np.array_equal(states(data, units), expected[:, units])


@pytest.mark.parametrize(
    ("sequences", "alphabet"),
    [(["ACGT-N", "TTGAC."], DNA), (["acgt-n", "ttgacc"], DNA), (["ACGU", "AC-U"], RNA), (["ACGT", "WYKL"], PROTEIN),
     (["RYACGTACGTACGTACGTACGTAC", "ACACGTACGTACGTACGTACGTAC"], DNA)],
)  # fmt: skip
def test_the_letters_tell_the_alphabet(tmp_path: Path, sequences: list[str], alphabet: Any) -> None:
    data = opened(written(tmp_path / "x.fa", fasta(sequences)))
    assert data.alphabet == alphabet.letters
    assert np.array_equal(states(data), one_hot(sequences, alphabet.letters))


def test_an_alphabet_that_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "x.fa", fasta(["ACGA", "CA-G"]))
    assert opened(path, alphabet="Protein").visible == "categorical:21"
    own = opened(path, alphabet="GCA-")
    assert (own.visible, own.alphabet) == ("categorical:4", "GCA-")
    assert states(own).reshape(2, 4, 4).argmax(2).tolist() == [[2, 1, 0, 2], [1, 2, 3, 0]]
    case = opened(written(tmp_path / "y.fa", fasta(["aAbB", "BbAa"])), alphabet="abAB")
    assert states(case).reshape(2, 4, 4).argmax(2).tolist() == [[0, 2, 1, 3], [3, 1, 2, 0]]
    for wrong, why in (("A", "1 letter"), ("AAC", "'A' twice"), ("A C", "' '"), ("A.C", "'.'")):
        with pytest.raises(SpecError, match=why):
            opened(path, alphabet=wrong)


@pytest.mark.parametrize(
    "sequences",
    [["MKaaWV", "M-WpV", "MKWV"], ["MK..WV", "MKaaWV", "M-.pWV"], ["aMK.V", "MKyyWV"]],
    ids=["A3M", "A2M", "dots that are gaps"],
)
def test_insertions_are_left_out(tmp_path: Path, sequences: list[str]) -> None:
    kept = ["".join(letter for letter in sequence if not letter.islower()) for sequence in sequences]
    if sequences[0] == "MK..WV":
        kept = [sequence.replace(".", "") for sequence in kept]
    data = opened(written(tmp_path / "x.a3m.gz", "#A3M#\n" + fasta(sequences)))
    assert np.array_equal(states(data), one_hot(kept, PROTEIN.letters))


def test_a_test_set_has_the_alphabet_of_the_training_set(tmp_path: Path) -> None:
    train = written(tmp_path / "train.fa", fasta(PROTEINS))
    test = written(tmp_path / "test.fa", fasta(["ACGTACGT"]))
    data = opened(train, test=test)
    assert data.test is not None
    assert data.test.table.n_units == data.n_visible
    assert "but its letters are nucleotides" in problem(test, test=train)


@pytest.mark.parametrize("name", ["PF00014_mgap6.fasta.gz", "PF13354_wo_ref_seqs.fasta.gz"])
def test_families_of_proteins(name: str) -> None:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not in $MODELPAR_DATA/msa")
    data = opened(path)
    lines = gzip.decompress(path.read_bytes()).decode().split(">")[1:]
    sequences = ["".join(line.split("\n")[1:]) for line in lines]
    shape = {"PF00014": (13600, 53), "PF13354": (7515, 202)}[name[:7]]
    assert (data.train.table.n_samples, data.n_visible) == (shape[0], shape[1] * 21)
    some = RNG.integers(0, shape[0], 200)
    assert np.array_equal(states(data)[some], one_hot([sequences[i] for i in some], PROTEIN.letters))


def test_reading_takes_little_more_memory_than_the_bits(tmp_path: Path) -> None:
    n, sites = 20_000, 300
    letters = np.frombuffer(PROTEIN.letters.encode(), np.uint8)[RNG.integers(0, 21, (n, sites))]
    path = written(tmp_path / "x.fa", b"".join(b">\n%s\n" % row.tobytes() for row in letters))
    tracemalloc.start()
    try:
        columns = opened(path).train.table.columns(np.arange(sites * 21))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * columns.bits.nbytes + (40 << 20)  # type: ignore[attr-defined]


# -- what is refused


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(fasta(["ACDE", "ACD"]), "record 2 (seq1/1-9) of"), (fasta(["ACDE", "ACD"]), "3 letters, but those before it"),
     (">a\n>b\nACD\n", "record 1 (a) of"), (">a\nACD\n>", "record 2 of"), (">a\n\n", "has no sequence"),
     (">a\nAC5E\n", "the letter '5' at site 3"), (">a\nAC*E\n", "amino acids (-ACDEF"), (">a\nA\x00C\n", "'\\x00'"),
     (">a\nABBA\n>b\nabdaA\n>c\nAAaaaa\n", "without insertions"), ("#A3M#\n", "has no records"),
     (">a\nACGTUUUU\n", "nucleotides of RNA"), (b">\n" + bytes(range(33, 256)), "the letter '!'")],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_what_is_no_alignment(tmp_path: Path, content: str | bytes, wanted: str) -> None:
    for name in ("x.fasta", "x.fasta.gz"):
        assert wanted in problem(written(tmp_path / name, content))


def test_letters_that_say_little_can_be_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.fasta", fasta(PROTEINS))
    assert "record 3 (seq2/1-9)" in problem(path, missing="error")
    assert "--missing gap" in problem(path, missing="error")
    assert "for genotypes" in problem(path, missing="most-frequent")
    assert "no effect" in problem(path, scale=2.0)


def test_files_that_are_cut_off_or_change(tmp_path: Path) -> None:
    path = written(tmp_path / "x.fasta.gz", fasta(PROTEINS * 500))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert "truncated" in problem(path)
    path.write_bytes(content[:60] + b"\xff\x00\xff" + content[63:])
    assert "corrupt" in problem(path)
    path.write_bytes(content)
    data = opened(path)
    written(path, fasta(PROTEINS * 499))
    with pytest.raises(DataError, match="changed while it was read"):
        states(data)


# -- arrays of states

SITES = RNG.integers(0, 5, (31, 7))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
@pytest.mark.parametrize("how", ["memory", "npy", "fortran", "npz", "bool"])
def test_integers_are_states_of_sites(tmp_path: Path, dtype: Any, how: str) -> None:
    array: Any = SITES.astype(dtype)
    expected = (SITES[:, :, None] == np.arange(5)).reshape(31, -1)
    if how == "fortran":
        array = np.asfortranarray(array)
    elif how == "bool":  # one-hot already
        array = expected
    where: Any = array
    if how in ("npy", "fortran"):
        np.save(where := tmp_path / "x.npy", array)
    elif how == "npz":
        np.savez_compressed(where := tmp_path / "x.npz", data=array)
    data = opened(where, visible="categorical:5")
    assert (data.visible, data.alphabet, data.n_visible, data.scale) == ("categorical:5", "", 35, 1.0)
    assert np.array_equal(states(data), expected)
    units = RNG.permutation(35)[:11]
    assert np.array_equal(states(data, units), expected[:, units])


@pytest.mark.parametrize(
    ("array", "wanted"),
    [(SITES + 1, "has the state 5 (sample"), (SITES - 1, "has the state -1"), (SITES / 2, "units, which are not"),
     (np.ones((4, 12), bool), "whole sites of 5 states")],
)  # fmt: skip
def test_what_are_no_states(array: Array, wanted: str) -> None:
    assert wanted in problem(array, visible="categorical:5")


def test_bits_that_are_not_one_hot() -> None:
    expected = (SITES[:, :, None] == np.arange(5)).reshape(31, -1)
    for form in (expected, expected.astype(np.float32), csr_array(expected.astype(np.uint8))):
        check_range(opened(form, visible="categorical:5"), np.arange(35), "categorical:5")
    wrong = expected.copy()
    wrong[3, 2] = not wrong[3, 2]
    with pytest.raises(DataError, match="at site 0 of sample 3"):
        check_range(opened(wrong, visible="categorical:5"), np.arange(35), "categorical:5")


def test_other_ways_to_read_make_other_data(tmp_path: Path) -> None:
    """By their fingerprints: the run of one is not gone on with by the other."""
    path = written(tmp_path / "x.fa", fasta(["ACGA", "CA-G"]))
    marks = [opened(path, alphabet=how).fingerprint for how in ("", "dna", "ACG-", "ACG-")]
    assert all(mark is not None for mark in marks)
    assert marks[0] == marks[1] != marks[2] == marks[3]


def test_alignments_are_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelpar.data import cache
    from modelpar.data.packed_files import PackedTable

    monkeypatch.setattr(cache, "packed_folder", lambda: tmp_path / "packed")
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setattr(cache, "LEAST", 1)
    path = written(tmp_path / "x.fa.gz", fasta(PROTEINS))
    for alphabet in ("", "-ACDEFGHIKLMNPQRSTVWYXB"):
        data = opened(path, alphabet=alphabet)
        assert isinstance(data.train.table, PackedTable)
        assert np.array_equal(states(data), one_hot(PROTEINS, data.alphabet))
    assert len(list((tmp_path / "packed").iterdir())) == 2
