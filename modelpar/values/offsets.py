"""Where groups that stand one after the other begin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def offsets_of(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(n + 1,) where each of n groups of so many begins, and where the last one ends.   counts (n,)"""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
