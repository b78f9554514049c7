"""Offsets of consecutive groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def offsets_of(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(n + 1,) the start of each of n consecutive groups, and the end of the last one.   counts (n,)"""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
