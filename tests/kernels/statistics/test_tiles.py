"""Statistics on tiles against NumPy's integers, whatever the sizes; tests/kernels/statistics/test_learning.py asks the
same of the kernels that are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels.llvm.tiles import allowed
from modelpar.kernels.products import dispatch
from modelpar.kernels.statistics import tiles
from tests.kernels.statistics.cases import drawn

needs_tiles = pytest.mark.skipif(not allowed(), reason="this processor, or system, has no tiles")


def test_the_self_test_is_of_what_is_allowed() -> None:
    assert tiles.self_test() == allowed()


@needs_tiles
@pytest.mark.parametrize("planes", [1, 3, 8])
@pytest.mark.parametrize("batch", [1, 64, 100, 130])
@pytest.mark.parametrize("size", [(1, 1), (31, 33), (33, 31), (70, 513), (64, 1030)], ids=str)
@pytest.mark.parametrize("alone", [False, True], ids=["both phases", "the model's"])
def test_counts_on_tiles(
    size: tuple[int, int], batch: int, planes: int, alone: bool, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, "tiles")
    counted, C = drawn(size, batch, planes, alone=alone)
    assert np.array_equal(counted.plain(), C)
    out = np.full(size, 99, np.int32)
    counted.fill(out)
    assert np.array_equal(out, C)
    pieces = np.full(size, 99, np.int32)
    spans = list(counted.fill_in_pieces(pieces, 20))
    assert [start for start, _ in spans] == [*range(0, size[0], tiles.ROWS)]
    assert np.array_equal(pieces, C)
    W, V = np.random.default_rng(1).normal(0, 0.1, (2, *size)).astype(np.float32)
    velocity = np.float32(0.9) * V + np.float32(0.01) * C.astype(np.float32)
    velocity -= np.float32(0.001) * W
    expected = W + velocity
    counted.learn(W, V, 0.9, 0.01, 0.001)
    assert np.array_equal(V, velocity)
    assert np.array_equal(W, expected)
