"""Offsets of groups, against a sum written out."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.values.offsets import offsets_of


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, bool])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_each_group_begins_where_the_one_before_ends(n: int, dtype: type) -> None:
    counts = np.random.default_rng(n).integers(0, 2 if dtype is bool else 100, n).astype(dtype)
    offsets = offsets_of(counts)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(counts[:i].tolist()) for i in range(n + 1)]
