"""Memory that loads and stores of whole vectors need: on boundaries of 64 bytes, in rows of whole vectors."""

from __future__ import annotations

import numpy as np

from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.machine.compilation import njit


@njit(cache=True, nogil=True)
def pad(batch):  # type: ignore[no-untyped-def]
    """The batch size rounded up to a multiple of a vector: the length of a row of sums."""
    return (batch + LANES - 1) // LANES * LANES


@njit(cache=True, nogil=True)
def aligned_int32(n):  # type: ignore[no-untyped-def]
    """Zeros (n,) int32 on a 64-byte boundary, so that no load of a vector crosses a cache line."""
    raw = np.zeros(n + 16, np.int32)
    skip = (-address(raw) % 64) // 4
    return raw[skip : skip + n]


@njit(cache=True, nogil=True)
def aligned_scratch(n):  # type: ignore[no-untyped-def]
    """As ``aligned_int32``, contents undefined."""
    raw = np.empty(n + 16, np.int32)
    skip = (-address(raw) % 64) // 4
    return raw[skip : skip + n]


@njit(cache=True, nogil=True)
def any_set(values):  # type: ignore[no-untyped-def]
    """Whether one of values (n,) int32 is not 0."""
    some = np.int32(0)
    for i in range(len(values)):
        some |= values[i]
    return some != 0
