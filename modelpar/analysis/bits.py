"""States as bits, a row of words for each sample or for each unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels.states import WORD

Words = npt.NDArray[np.uint64]


def packed_rows(values: npt.NDArray[Any]) -> Words:
    """States 0 and 1 (rows, columns) as words of bits, (rows, columns / 64 rounded up); the bits left over are 0."""
    values = np.asarray(values, bool)
    n, n_columns = values.shape
    octets = np.zeros((n, -(-n_columns // WORD) * WORD // 8), np.uint8)
    packed = np.packbits(values, axis=1, bitorder="little")
    octets[:, : packed.shape[1]] = packed
    return octets.view(np.uint64)
