"""Vectors and counters in windows of one rank, which hosts all of them."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.errors import ModelparWarning
from modelpar.sync import windows
from modelpar.sync.windows import SharedArrays


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    return request.param


@pytest.fixture(params=["free", "in turns", "apart"])
def arrays(request, dtype, monkeypatch):
    """Two vectors of 10 elements, in operations of 4, and three counters; apart: where little memory can be shared."""
    monkeypatch.setattr(windows, "PIECE", 4)
    check_ranks = (lambda: None) if request.param == "in turns" else None
    if request.param == "apart":
        monkeypatch.setattr(windows, "shared_memory_left", lambda: 99)
        with pytest.warns(ModelparWarning, match="--shm-size"):
            made = SharedArrays(MPI.COMM_SELF, [0], 10, dtype, 2, 3)
        assert not made.shared
    else:
        made = SharedArrays(MPI.COMM_SELF, [0], 10, dtype, 2, 3, check_ranks)
    yield made
    made.free()


def read(arrays, vector):
    out = np.full(arrays.n, np.nan, arrays.dtype)
    arrays.read(vector, out)
    return out


def test_all_is_zero_at_first(arrays):
    assert not read(arrays, 0).any()
    assert not read(arrays, 1).any()
    assert not arrays.counters().any()


def test_write_add_and_read(arrays, dtype):
    one = np.arange(10, dtype=dtype)
    arrays.write(1, one)
    arrays.add(1, one)
    before = np.empty(10, dtype)
    arrays.add_and_read(1, one, before)
    assert np.array_equal(before, 2 * one)
    assert np.array_equal(read(arrays, 1), 3 * one)
    assert not read(arrays, 0).any()


def test_what_is_hosted_is_the_memory_itself(arrays, dtype):
    arrays.write(1, np.arange(10, dtype=dtype))
    start, values = arrays.hosted(1)
    assert start == 0
    assert np.array_equal(values, np.arange(10))


def test_counters_count(arrays):
    assert [arrays.add_to_counter(1, 2), arrays.add_to_counter(1, 5)] == [0, 2]
    arrays.set_counters(0, [3])
    assert [arrays.replace_counter(0, 4, 9), arrays.replace_counter(0, 3, 9)] == [False, True]
    assert list(arrays.counters()) == [9, 7, 0]
    assert arrays.counter(1) == 7


def test_who_is_not_a_host_holds_nothing(arrays, monkeypatch):
    monkeypatch.setattr(arrays, "_me", 5)
    start, values = arrays.hosted(0)
    assert (start, values.size) == (0, 0)


def test_who_waits_for_a_turn_looks_for_lost_ranks(dtype, monkeypatch):
    """Somebody else has taken the vectors, and is never seen again."""
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 3:
            raise MPI.Exception(MPI.ERR_OTHER)

    arrays = SharedArrays(MPI.COMM_SELF, [0], 3, dtype, 1, 0, look)
    arrays.set_counters(0, [99])
    with pytest.raises(MPI.Exception):
        arrays.add(0, np.ones(3, dtype))
    assert len(looks) == 3
    arrays.free()
