"""Messages beyond what MPI's counts can say: how they are cut, as arithmetic."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from modelpar.collective import messages

INT = 2**31 - 1  # the largest count, and displacement, that MPI 3 takes


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [0, 1, 2**28, 2**30 + 1, INT, 2**31, 3_000_000_000, np.int64(5_000_000_001)])
def test_pieces_are_all_of_it_and_each_can_be_said(n, itemsize):
    result = list(messages.pieces(n, itemsize))
    assert result[0].start == 0
    assert result[-1].stop == n
    assert all(before.stop == after.start for before, after in pairwise(result))
    assert all(0 <= (piece.stop - piece.start) * itemsize <= messages.LIMIT <= INT for piece in result)
    assert len(result) == max(1, -(-int(n) * itemsize // messages.LIMIT))


def test_what_fits_is_asked_in_whole_numbers_without_a_limit():
    """NumPy's int32 would wrap: 65536 x 65536 is 0 in it."""
    assert not messages.fits(np.int32(2**31 - 1), 8)
    assert not messages.fits(65536 * 65536, 4)
    assert messages.fits(messages.LIMIT // 8, 8)
    assert not messages.fits(messages.LIMIT // 8 + 1, 8)


def test_pieces_share_the_memory(monkeypatch):
    monkeypatch.setattr(messages, "LIMIT", 20)
    values = np.zeros((3, 4), np.float32)
    parts = messages.cut(values)
    assert [len(part) for part in parts] == [5, 5, 2]
    for i, part in enumerate(parts):
        part[:] = i
    assert values.reshape(-1).tolist() == [0] * 5 + [1] * 5 + [2] * 2


def test_an_element_larger_than_the_limit_travels_alone(monkeypatch):
    monkeypatch.setattr(messages, "LIMIT", 3)
    assert [len(part) for part in messages.cut(np.zeros(4))] == [1, 1, 1, 1]
