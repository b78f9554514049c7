"""Ids as runs: what they hold, by the ids written out one by one."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.checkpoint.ids import Ids

CASES = {
    "none": [],
    "all": range(12),
    "backwards": range(11, -1, -1),
    "one": [5],
    "scattered": [7, 3, 11, 0, 9],
    "runs": [8, 9, 10, 0, 1, 2, 5, 4],
    "ascending, not in memory": [4, 0, 5, 1, 6, 2],
}


@pytest.mark.parametrize("ids", CASES.values(), ids=CASES.keys())
def test_between_gives_ids_and_where_they_are(ids):
    held = Ids.of(np.array(ids, np.int64))
    assert len(held) == len(ids)
    assert held.in_memory.tolist() == list(ids)
    for start in range(-1, 13):
        for stop in range(start, 14):
            result, positions = held.between(start, stop)
            assert result.tolist() == sorted(i for i in ids if start <= i < stop)
            assert [ids[at] for at in positions] == result.tolist()


def test_neighbours_in_memory_are_one_run():
    held = Ids.of(np.array(CASES["runs"]))
    assert held.starts.tolist() == [0, 4, 5, 8]
    assert held.lengths.tolist() == [3, 1, 1, 3]
    assert held.positions.tolist() == [3, 7, 6, 0]
    assert len(Ids.all(12).starts) == 1
    assert len(Ids.all(0)) == 0


def test_runs_are_the_same_as_their_ids():
    starts, lengths = np.array([20, 3, 9, 30]), np.array([4, 2, 0, 1])
    by_runs, by_ids = Ids.of_runs(starts, lengths), Ids.of(np.array([20, 21, 22, 23, 3, 4, 30]))
    for name in ("starts", "lengths", "positions"):
        assert getattr(by_runs, name).tolist() == getattr(by_ids, name).tolist()


@pytest.mark.parametrize(
    ("ids", "n", "wrong"),
    [([], 0, False), ([0, 2, 1], 3, False), ([0, 3], 3, True), ([-1, 0], 3, True), ([1, 2, 1], 3, True)],
)
def test_mistakes(ids, n, wrong):
    assert Ids.of(np.array(ids, np.int64)).mistake(n) == wrong


def test_overlapping_runs_are_a_mistake():
    assert Ids.of_runs(np.array([0, 3]), np.array([4, 2])).mistake(9)
    assert not Ids.of_runs(np.array([0, 4]), np.array([4, 2])).mistake(9)


def test_meets_is_an_id_in_common():
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(300):
        one, other = (rng.permutation(12)[: rng.integers(0, 7)] for _ in range(2))
        common = bool(set(one.tolist()) & set(other.tolist()))
        seen.add(common)
        assert Ids.of(one).meets(Ids.of(other)) == common
    assert seen == {True, False}


@pytest.mark.parametrize("longest", [1, 3, 100])
@pytest.mark.parametrize("max_gap", [0, 2, 50])
def test_stretches_hold_every_id_once(longest, max_gap):
    ids = np.array([40, 1, 2, 3, 5, 9, 10, 11, 12, 13, 30, 31])
    stretches = list(Ids.of(ids).stretches(longest, max_gap))
    held = [i for start, stop in stretches for i in range(start, stop)]
    assert len(set(held)) == len(held)
    assert set(ids.tolist()) <= set(held)
    assert all(0 < stop - start <= longest for start, stop in stretches)
    missing = [i for i in held if i not in ids]
    gaps = {0: [], 2: [4], 50: sorted(set(range(1, 41)) - set(ids.tolist()))}
    assert set(missing) <= set(gaps[max_gap])
    if longest == 100:
        assert missing == gaps[max_gap]
    assert not list(Ids.of(ids[:0]).stretches(longest, max_gap))
