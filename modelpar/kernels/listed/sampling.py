"""From listed connections to packed states while the sums are in cache: those of some units, then all that follows."""

from __future__ import annotations

import numpy as np

from modelpar.kernels.listed.products import sum_blocks
from modelpar.kernels.products.draw import draw_panel, probabilities
from modelpar.kernels.products.subset_sums import PANEL, aligned_int32, pad
from modelpar.machine.compilation import njit


@njit(cache=True, nogil=True)
def sample_blocks(  # type: ignore[no-untyped-def]
    start, stop, first, inputs, members, outs, at, places, widest, W, scale, words, batch, bias,
    first_sample, samples, units, tag, key0, key1, levels, means, states, planes, targets,
):  # fmt: skip
    """Sums, bias, sigmoid, draw, packing of the members of blocks ``start .. stop - 1``; returns the sum of squared
    errors.

    Blocks are those of ``kernels.listed.products``; bias, units and what is filled, (units, ...) by the members'
    positions, as in ``kernels.products.draw.sample_units``.
    """
    room = PANEL
    for g in range(start, stop):
        room = max(room, members[g + 1] - members[g])
    n, n_words = pad(batch), (batch + 63) // 64
    sums = aligned_int32(room * n).reshape(room, n)
    p = aligned_int32(room * n).view(np.float32).reshape(room, n)
    some_bias, some_units = np.empty(room, bias.dtype), np.empty(room, units.dtype)
    n_states, n_planes, n_targets = min(len(states), 1), min(len(planes), 1), min(len(targets), 1)
    some_states = np.zeros((room * n_states, n_words), np.uint64)
    some_planes = np.zeros((room * n_planes, planes.shape[1] if n_planes else 1, n_words), np.uint64)
    some_targets = np.zeros((room * n_targets, n_words), np.uint64)
    error = np.int64(0)
    g = start
    while g < stop:
        origin, end = members[g], g + 1
        while end < stop and members[end + 1] - origin <= room:
            end += 1
        count = members[end] - origin
        sum_blocks(g, end, first, inputs, members, outs, at, places, widest, W, scale, words, origin, sums)
        for u in range(count):
            unit = outs[origin + u]
            some_bias[u], some_units[u] = bias[unit], units[unit]
            if n_targets:
                some_targets[u] = targets[unit]
        probabilities(sums, scale_of_step(scale), some_bias[:count], p[:count])
        p[:count, batch:] = 0
        error += draw_panel(
            p[:count], batch, first_sample, samples, some_units[:count], tag, key0, key1, levels,
            some_states[: count * n_states], some_planes[: count * n_planes], some_targets[: count * n_targets],
        )  # fmt: skip
        for u in range(count):
            unit = outs[origin + u]
            if len(means):
                means[unit] = p[u, :batch]
            if n_states:
                states[unit] = some_states[u]
            if n_planes:
                planes[unit] = some_planes[u]
        g = end
    return error


@njit(cache=True, nogil=True)
def scale_of_step(scale):  # type: ignore[no-untyped-def]
    """What turns sums in steps of 1 / scale into float32 values."""
    return np.float32(1.0) / scale
