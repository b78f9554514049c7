"""From listed connections to packed states while sums are in cache: sums of some units, then bias, sigmoid, draw."""

from __future__ import annotations

import numpy as np

from modelpar.kernels.listed.products import sum_blocks
from modelpar.kernels.products.aligned import aligned_int32, pad
from modelpar.kernels.products.draw import draw_panel, probabilities
from modelpar.kernels.products.subset_sums import PANEL
from modelpar.machine.compilation import njit


@njit(cache=True, nogil=True)
def sample_blocks(  # type: ignore[no-untyped-def]
    first, inputs, members, outs, starts, positions, widest, W, scale, words, batch, bias, start, stop, draw, wanted
):
    """Sums, bias, sigmoid, draw and packing of the members of blocks ``start .. stop - 1``; returns the sum of squared
    errors.

    Arrays of blocks as in ``kernels.listed.products``; bias, draw and wanted as in ``kernels.products.draw``, by the
    members' positions.
    """
    most = PANEL
    for g in range(start, stop):
        most = max(most, members[g + 1] - members[g])
    n = pad(batch)
    sums = aligned_int32(most * n).reshape(most, n)
    p = aligned_int32(most * n).view(np.float32).reshape(most, n)
    step = np.float32(1.0) / scale
    error = np.int64(0)
    g = start
    while g < stop:
        origin, end = members[g], g + 1
        while end < stop and members[end + 1] - origin <= most:
            end += 1
        rows = outs[origin : members[end]]
        sum_blocks(g, end, first, inputs, members, outs, starts, positions, widest, W, scale, words, origin, sums)
        probabilities(sums, step, bias, rows, p)
        error += draw_panel(p, batch, rows, draw, wanted)
        g = end
    return error
