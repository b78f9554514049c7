"""Statistics by tables against NumPy's integers, whatever the processor; tests/kernels/statistics/test_learning.py asks
the same of the kernels that are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels.llvm.counts import HAS_COUNT
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import dispatch
from modelpar.kernels.states import pack
from modelpar.kernels.statistics.learning import Counts, kernel_of
from tests.kernels.statistics.cases import drawn

pytestmark = pytest.mark.skipif(not compiled(), reason="these kernels exist only compiled")


@pytest.mark.parametrize("planes", [1, 3, 8])
@pytest.mark.parametrize("batch", [1, 64, 100, 130])
@pytest.mark.parametrize("size", [(1, 1), (31, 33), (127, 65), (129, 64), (300, 513)], ids=str)
@pytest.mark.parametrize("alone", [False, True], ids=["both phases", "the model's"])
def test_counts_by_tables(
    size: tuple[int, int], batch: int, planes: int, alone: bool, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, "tables")
    counted, C = drawn(size, batch, planes, alone=alone)
    out = np.full(size, 99, np.int32)
    counted.fill(out)
    assert np.array_equal(out, C)
    pieces = np.full(size, 99, np.int32)
    assert len(list(counted.fill_in_pieces(pieces, 40))) == -(-size[0] // 48)  # 40, up to whole vectors
    assert np.array_equal(pieces, C)


@pytest.mark.parametrize(("planes", "batch"), [(1, 3000), (4, 2190), (8, 121), (8, 1000)])
@pytest.mark.parametrize("phase", [0, 1], ids=["data", "model"])
def test_the_largest_counts_do_not_leave_their_type(
    planes: int, batch: int, phase: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All units are on in one phase and off in the other: the sums of a piece go up to the largest int16."""
    monkeypatch.setenv(dispatch.VARIABLE, "tables")
    most = (1 << planes) - 1
    full = pack(np.ones((5, batch), np.uint8)), pack(np.full((7, batch), most), planes)
    none = pack(np.zeros((5, batch), np.uint8)), full[1]
    out = np.zeros((5, 7), np.int32)
    Counts(*((full, none) if phase == 0 else (none, full))).fill(out)
    assert (out == (1 - 2 * phase) * batch * most).all()


def test_tables_count_where_no_instruction_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    assert kernel_of(1) == ("words" if HAS_COUNT else "tables")
    monkeypatch.setenv(dispatch.VARIABLE, "lists")
    assert kernel_of(8) == ("words" if HAS_COUNT else "tables")
    monkeypatch.setenv(dispatch.VARIABLE, "tables")
    assert kernel_of(1) == "tables"
