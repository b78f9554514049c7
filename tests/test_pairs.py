"""The choice of combinations of parameters for the quick suite."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.pairs import covering, singles, with_grids


def pairs_of(rows: list[tuple[int, ...]]) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    return {pair for row in rows for pair in combinations(tuple(enumerate(row)), 2)}


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 4, 5), (2, 2, 2, 2, 2, 9), (1, 1, 3), (4, 4)])
def test_every_pair_is_there(sizes: tuple[int, ...]) -> None:
    rows = list(product(*map(range, sizes)))
    chosen = covering(rows)
    assert chosen == sorted(set(chosen))
    assert pairs_of([rows[i] for i in chosen]) == pairs_of(rows)
    largest, second = sorted(sizes)[-2:][::-1]
    assert largest * second <= len(chosen) <= 2 * largest * second  # no fewer can do


def test_combinations_that_are_not_tried_are_not_missed() -> None:
    rows = [row for row in product(range(3), repeat=3) if sum(row) != 2]
    assert pairs_of([rows[i] for i in covering(rows)]) == pairs_of(rows)


@pytest.mark.parametrize(("rows", "chosen"), [([], []), ([(0,), (1,)], [0, 1]), ([(0, 0, 0)], [0])])
def test_small_cases(rows: list[tuple[int, ...]], chosen: list[int]) -> None:
    assert covering(rows) == chosen


def test_every_value_is_there_once() -> None:
    rows = [("2x1", 0, "a"), ("2x1", 1, "b"), ("1x2", 0, "a"), ("1x2", 1, "a"), ("1x2", 0, "c")]
    assert singles(rows) == [0, 1, 4]
    assert {value for i in singles(rows) for value in rows[i]} == {"2x1", "1x2", 0, 1, "a", "b", "c"}


def test_every_value_is_there_with_every_grid() -> None:
    rows = [("2x1", 0, "a"), ("2x1", 0, "b"), ("2x1", 1, "a"), ("2x1", 1, "b"), ("1x2", 0, "a"), ("1x2", 1, "b")]
    assert with_grids(rows, 0) == [0, 3, 4, 5]
    assert with_grids(rows, 0, only_once=["1x2"]) == [0, 3, 4]
