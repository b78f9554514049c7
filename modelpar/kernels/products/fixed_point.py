"""Real values in fixed point, whose sums of products float64 holds without rounding: exact in any order.

A product of multiples of ``2^-a`` and ``2^-b`` is a multiple of ``2^-(a + b)``, and so is every partial sum of such
products; float64 represents them all as long as they stay below ``2^(53 - a - b)``.  With the precisions of this module
that is 131 072 for summed inputs, 128 for back-propagated errors and 2048 for gradients, far above the values in
training (after Demmel and Nguyen 2013, who choose the precision by the data).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.products import dense
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]

WEIGHTS, ACTIVATIONS, ERRORS = 20, 16, 26  # bits of the fraction
STEPS = float(1 << WEIGHTS)
PANEL = 1024  # outgoing units whose weights are rounded at a time, for a product by the BLAS
GRAIN = 1 << 16  # weights for which one more thread is worth waking


def on_grid(x: Array, bits: int) -> Array:
    """Return x in float64, rounded to multiples of ``2^-bits``; a new array."""
    fixed = np.rint(x * 2.0**bits)
    fixed *= 2.0**-bits
    return np.asarray(fixed, np.float64)


def product(W: Array, up: bool, activations: Array, out: Array) -> None:
    """out = W_fixed.T @ activations (up) or W_fixed @ activations, exactly; W_fixed = on_grid(W, WEIGHTS).

    W (rows, columns) float32; activations (units, batch) and out (n, batch) float64
    """
    n = W.shape[1] if up else W.shape[0]
    for start in range(0, n, PANEL):
        stop = min(start + PANEL, n)
        block = W[:, start:stop] if up else W[start:stop]
        rounded = np.empty(block.shape)

        def work(first: int, last: int, block: Array = block, rounded: Array = rounded) -> None:
            round_rows(block[first:last], rounded[first:last])

        threads.split(len(block), threads.rows_of(GRAIN, block.shape[1]), work)
        dense.matmul(rounded.T if up else rounded, activations, out[start:stop])


@njit(cache=True, nogil=True)
def round_rows(block, rounded):  # type: ignore[no-untyped-def]
    """rounded = on_grid(block, WEIGHTS)      both (rows, columns)"""
    for i in range(block.shape[0]):
        row, target = block[i], rounded[i]
        for j in range(len(row)):
            target[j] = np.rint(np.float64(row[j]) * STEPS) * (1.0 / STEPS)
