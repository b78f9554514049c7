"""Sparse matrices that were damaged after they were made: an error, where scipy's own code would read beyond arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from modelpar.collective.agreement import agree
from modelpar.data import open_dataset
from modelpar.errors import DataError, SpecError
from modelpar.ownership.connections import Listed
from modelpar.sklearn import RBMTransformer
from modelpar.sklearn.arrays import prepared
from modelpar.values.forms import plain_rows
from partitioners import GraphError, Sparse

MASK = np.random.default_rng(5).random((12, 9)) < 0.4
ROWS = ("csr", "csc", "bsr", "coo", "dia", "dok", "lil")


def of(kind: str, values: np.ndarray[Any, Any] = MASK) -> Any:
    return sparse.csr_array(values).asformat(kind)


def wrong(array: str, place: int, value: int) -> Callable[[Any], None]:
    def change(matrix: Any) -> None:
        parts = getattr(matrix, array).copy()
        parts[place] = value
        setattr(matrix, array, parts)

    return change


def shorter(array: str) -> Callable[[Any], None]:
    return lambda matrix: setattr(matrix, array, getattr(matrix, array)[:-1])


def of_type(array: str, dtype: Any) -> Callable[[Any], None]:
    return lambda matrix: setattr(matrix, array, getattr(matrix, array).astype(dtype))


def lil_without_value(matrix: Any) -> None:
    matrix.rows[0] = [*matrix.rows[0], 8]


def lil_out_of_range(matrix: Any) -> None:
    matrix.rows[0], matrix.data[0] = [10**8], [True]


DAMAGE = [
    *((kind, change) for kind in ("csr", "csc", "bsr") for change in (
        wrong("indices", 0, 10**8), wrong("indices", 0, -(10**8)), wrong("indptr", 1, 10**8), wrong("indptr", 2, -5),
        wrong("indptr", -1, 10**9), wrong("indptr", 0, 1), shorter("indptr"), shorter("data"),
        of_type("indices", float), of_type("indptr", float),
    )),
    *(("coo", change) for change in (shorter("data"), wrong("row", 0, 10**8),
                                     wrong("col", 0, -1))),
    *(("dia", change) for change in (shorter("offsets"), wrong("offsets", 0, 3), of_type("offsets", float))),
    ("lil", lil_without_value), ("lil", lil_out_of_range),
]  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("transposed", [False, True])
def test_whole_matrices_are_what_scipy_makes_of_them(kind: str, transposed: bool) -> None:
    values = np.random.default_rng(1).integers(-3, 4, (12, 9)) * MASK
    rows = plain_rows(of(kind, values), "X", transposed=transposed)
    assert np.array_equal(rows.matrix.toarray(), values.T if transposed else values)


@pytest.mark.parametrize(("kind", "change"), DAMAGE)
def test_damaged_matrices_are_refused_everywhere(kind: str, change: Callable[[Any], None]) -> None:
    matrix = of(kind)
    change(matrix)
    for use, error in (
        (lambda: open_dataset(matrix), DataError), (lambda: prepared(matrix), DataError),
        (lambda: Listed.from_mask(matrix), SpecError), (lambda: RBMTransformer(2).fit(matrix), ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match="corrupt"):
            use()


def test_ranks_compare_damaged_matrices_without_a_crash(comm_self: Any) -> None:
    matrix = of("csr")
    wrong("indptr", 1, 10**8)(matrix)
    agree(comm_self, "test", X=matrix)


@pytest.fixture
def comm_self() -> Any:
    from mpi4py import MPI

    return MPI.COMM_SELF


def test_a_matrix_of_many_rows_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelpar.machine import memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 30)
    huge = sparse.coo_array((np.ones(1), ([0], [0])), shape=(10**8, 9))
    with pytest.raises(DataError, match="GiB of memory"):
        open_dataset(huge)
    with pytest.raises(SpecError, match="GiB of memory"):
        Listed.from_mask(huge.T)
    with pytest.raises(DataError, match="at most 2147483647"):
        open_dataset(sparse.coo_array((np.ones(1), ([0], [0])), shape=(9, 2**40)))


@pytest.mark.parametrize(
    ("offsets", "visible"),
    [([0, 2, 1], [0, 1]), ([0, 1, 3], [0, 1]), ([1, 2], [0, 1]), ([], []), ([0, 2], [0, 5]), ([0, 2], [-1, 0]),
     ([0, 2], [1, 0]), ([0, 2], [1, 1])],
)  # fmt: skip
def test_lists_of_connections_are_checked(offsets: list[int], visible: list[int]) -> None:
    with pytest.raises(SpecError):
        Listed(np.array(offsets, np.int64), np.array(visible, np.int32), 5)


@pytest.mark.parametrize(
    ("kind", "change"), [case for case in DAMAGE if case[0] != "dia" and "of_type" not in case[1].__qualname__]
)
def test_partitioners_refuse_them_too(kind: str, change: Callable[[Any], None]) -> None:
    matrix = of(kind)
    change(matrix)
    with pytest.raises(GraphError, match="a mask is damaged"):
        Sparse.from_mask(matrix)
