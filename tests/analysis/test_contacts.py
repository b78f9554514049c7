"""Contact scores against loops; tables of distances, good and bad ones."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest

from modelpar.analysis.contacts import Structure, average_product_corrected, precision, ranked_pairs, scores
from modelpar.errors import DataError

L, Q = 7, 4


def couplings() -> np.ndarray:
    J = np.random.default_rng(1).normal(size=(L, Q, L, Q))
    return J + J.transpose(2, 3, 0, 1)


@pytest.mark.parametrize("gap", [0, None])
def test_scores_are_those_of_loops(gap: int | None) -> None:
    J, norms = couplings(), np.zeros((L, L))
    for i in range(L):
        for j in range(L):
            block = J[i, :, j, :]
            block = block - block.mean(axis=0) - block.mean(axis=1)[:, None] + block.mean()
            states = [a for a in range(Q) if a != gap]
            norms[i, j] = math.sqrt(sum(block[a, b] ** 2 for a in states for b in states)) if i != j else 0
    expected = np.zeros((L, L))
    for i in range(L):
        for j in range(L):
            of_i, of_j = (np.mean([norms[k, m] for m in range(L) if m != k]) for k in (i, j))
            whole = np.mean([norms[k, m] for k in range(L) for m in range(L) if m != k])
            expected[i, j] = norms[i, j] - of_i * of_j / whole if i != j else 0
    assert np.allclose(scores(J, gap=gap), expected)


def test_nothing_to_correct() -> None:
    assert not average_product_corrected(np.zeros((3, 3))).any()
    assert average_product_corrected(np.ones((1, 1))).tolist() == [[0]]


@pytest.mark.parametrize("name", ["table.dat", "table.dat.gz"])
def test_precision_of_the_first_pairs(tmp_path: Path, name: str) -> None:
    """Pairs 0-5, 0-6, 1-6 are far enough along the chain; the last is not in the table."""
    text = "1 6 0.3 7.9\n1.0e+00 7.0e+00 0.2 8.0\n1 2 0.9 3.0\n"
    path = tmp_path / name
    with gzip.open(path, "wt") if name.endswith("gz") else open(path, "w") as file:
        file.write(text)
    structure = Structure.read(path, L)
    assert structure.contacts.sum() == 4
    score = np.zeros((L, L))
    score[0, 5], score[0, 6], score[1, 6], score[0, 1] = 0.5, 0.4, 0.9, 1.0
    assert ranked_pairs(score).tolist() == [[1, 6], [0, 5], [0, 6]]
    assert ranked_pairs(score, structure).tolist() == [[0, 5], [0, 6]]
    assert precision(score, structure, 1) == 1
    assert precision(score, structure, 5) == 0.5
    assert math.isnan(precision(score, structure, 0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 pairs"),
        ("1 6\n", "columns"),
        ("1 6 x\n", "cannot be read"),
        ("1 6 0.1 2\n1 7 0.1\n", "cannot be read"),
        ("0 6 0.3 7.9\n", "integers from 1"),
        ("1.5 6 0.3 7.9\n", "integers from 1"),
        ("1 8 0.3 7.9\n", "has the site 8"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "table.dat").write_text(text)
    with pytest.raises(DataError, match=says):
        Structure.read(tmp_path / "table.dat", L)


def test_tables_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    whole, line = gzip.compress(b"1 6 0.3 7.9\n" * 100), b"1 6 0.3 7.9\n"
    path = tmp_path / "table.gz"
    for content, says in (
        (None, "does not exist"), (b"no gzip", "cannot be read"), (whole[:-9], "is truncated"),
        (whole[:12] + b"\xff\xff" + whole[14:], "is corrupt"), (gzip.compress(line * 10**6), "has more than"),
    ):  # fmt: skip
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=says):
            Structure.read(path, L)
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    with pytest.raises(DataError, match="a pipe"):
        Structure.read(tmp_path / "pipe", L)
