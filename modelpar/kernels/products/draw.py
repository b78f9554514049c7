"""From sums of weights to packed states while the panel is in cache: bias, sigmoid, draw, packing.

One draw u in [0, 1) of a unit and sample gives its state ``u < p``, and its k-bit statistic ``ceil(p L - u)`` with
``L = 2^k - 1``: integers 0 .. L whose mean is ``p L``, of which that of one bit is the state itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from modelpar.kernels.llvm.calls import address_of, caller
from modelpar.kernels.llvm.sampling import (
    draw_16,
    load_16,
    philox_32,
    round_16,
    sigmoid_of_sums_16,
    squared_error_16,
    store_16,
)  # fmt: skip
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products.aligned import aligned_int32, pad
from modelpar.kernels.products.subset_sums import PANEL, SUM_PANEL, no_weights_yet, sum_panel
from modelpar.kernels.sampling.philox import CHUNK, MARGIN, SCRATCH, row_words
from modelpar.machine.compilation import njit

ERROR_STEPS = 1 << 20  # squared errors are summed as multiples of 1 / ERROR_STEPS: exact in any order


class Wanted(NamedTuple):
    """The arrays that a compiled loop fills for the units of a layer, and the targets of their errors.

    An array without rows is skipped.
    """

    means: Any  # (units, batch) float32: probabilities
    states: Any  # (units, words) uint64: drawn states
    planes: Any  # (units, k, words) uint64: the k-bit statistic
    targets: Any  # (units, words) uint64: states that the probabilities are compared with


# loop(*inputs, start, stop, draw, wanted) -> summed squared error, in 1 / ERROR_STEPS: compiled, over some of the units
Loop = Callable[..., int]


@njit(cache=True, nogil=True)
def probabilities(sums, scale, bias, rows, p):  # type: ignore[no-untyped-def]
    """p (panel, n) = sigmoid(scale * sums + bias[rows][:, None]), float32

    sums: int32; n is a multiple of 16, and both lie at multiples of 64 bytes; bias (units,), rows (panel,)
    """
    n = p.shape[1]
    for u in range(len(rows)):
        source, target = address(sums) + 4 * n * u, address(p) + 4 * n * u
        for s in range(0, 4 * n, 4 * LANES):
            sigmoid_of_sums_16(source + s, scale, bias[rows[u]], target + s)


@njit(cache=True, nogil=True)
def draw_row(p, words, n, levels, state, planes, plane_stride, n_planes, target):  # type: ignore[no-untyped-def]
    """One unit's states and statistics from its probabilities and random words; returns its squared error.

    p, words, state, planes and target are addresses: of probabilities float32 and random words uint32, both at least
    (pad(n),); of the bits of the state, of the first plane and of the target, 0 for none.  16 samples are two bytes of
    a word.
    """
    error = np.int64(0)
    for start in range(0, n, LANES):
        keep = np.uint64(0xFFFF) if start + LANES <= n else (np.uint64(1) << np.uint64(n - start)) - np.uint64(1)
        here, drawn, at = p + 4 * start, words + 4 * start, start >> 3
        if state:
            store_16(state + at, draw_16(here, drawn) & keep)
        if n_planes:
            round_16(here, drawn, levels, keep, planes + at, plane_stride, n_planes)
        if target:
            error += squared_error_16(here, load_16(target + at))
    return error


@njit(cache=True, nogil=True)
def prepare_panel(p, batch, rows, means, states, planes):  # type: ignore[no-untyped-def]
    """Set p after the batch and the last words to 0 (draws may fill only some bytes of these), and means = p."""
    for u in range(len(rows)):
        row, line = rows[u], p[u]
        for s in range(batch, len(line)):
            line[s] = 0
        if len(means):
            out = means[row]
            for s in range(batch):
                out[s] = line[s]
        if len(states) and batch:
            states[row, states.shape[1] - 1] = 0
        if len(planes) and batch:
            for k in range(planes.shape[1]):
                planes[row, k, planes.shape[2] - 1] = 0


@njit(cache=True, nogil=True)
def draw_panel(p, batch, rows, draw, wanted):  # type: ignore[no-untyped-def]
    """Draw and pack the units of a panel from their probabilities; returns the sum of their squared errors.

    p      (panel, pad(batch)) float32; columns after the batch are set to 0
    rows   (panel,) int32: positions of these units in the arrays of ``draw`` (``kernels.sampling.philox.Draw``) and
           ``wanted`` (:class:`Wanted`)
    """
    first, samples, units, tag, keys, levels = draw
    means, states, planes, targets = wanted
    key0, key1 = keys
    words = np.empty(SCRATCH, np.uint32)
    words_at = address(words) + 4 * MARGIN
    drawing, explicit = len(states) > 0 or len(planes) > 0, len(samples) > 0
    error = np.int64(0)
    prepare_panel(p, batch, rows, means, states, planes)
    for u in range(len(rows)):
        row = np.int64(rows[u])
        p_at = address(p) + u * p.strides[0]
        state = address(states) + row * states.strides[0] if len(states) else 0
        plane = address(planes) + row * planes.strides[0] if len(planes) else 0
        target = address(targets) + row * targets.strides[0] if len(targets) else 0
        for start in range(0, batch, CHUNK):
            n, at = min(CHUNK, batch - start), start >> 3
            if drawing and explicit:
                row_words(first, samples, start, n, units[row], tag, key0, key1, words, MARGIN)
            elif drawing:  # the same words, inlined: a call for each row would take as long as its words
                skip = (first + start) % 4
                block, unit = np.uint64((first + start) // 4), np.uint64(units[row])
                for s in range(0, skip + n, 32):
                    here = words_at + 4 * (s - skip)
                    philox_32(block + np.uint64(s // 4), unit, np.uint64(tag), np.uint64(key0), np.uint64(key1), here)
            error += draw_row(
                p_at + 4 * start, words_at, n, levels, state + at if state else 0, plane + at,
                planes.strides[1], planes.shape[1] if plane else 0, target + at if target else 0,
            )  # fmt: skip
    return error


@njit(cache=True, nogil=True)
def positions(start, stop):  # type: ignore[no-untyped-def]
    """int32 ``start .. stop - 1``"""
    rows = np.empty(stop - start, np.int32)
    for u in range(len(rows)):
        rows[u] = start + u
    return rows


@njit(cache=True, nogil=True)
def copy_rows(source, target):  # type: ignore[no-untyped-def]
    """target (rows, columns) = source[: rows, : columns]

    numba's assignment of slices takes seconds to compile, because of its error message.
    """
    for u in range(target.shape[0]):
        row, out = source[u], target[u]
        for s in range(len(out)):
            out[s] = row[s]


@njit(cache=True, nogil=True)
def incoming_sums(kernel, W, integers, up, n_in, scale, codes, offsets, active, batch, start, stop, out):  # type: ignore[no-untyped-def]
    """out (units, batch) int32: rows ``start .. stop - 1`` are filled"""
    sums = aligned_int32(PANEL * pad(batch)).reshape(PANEL, pad(batch))
    weights = no_weights_yet()
    for first in range(start, stop, PANEL):
        n_units = min(PANEL, stop - first)
        sums[:] = 0
        sum_panel(kernel, W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums)
        copy_rows(sums, out[first : first + n_units])


@njit(cache=True, nogil=True)
def sample_units(  # type: ignore[no-untyped-def]
    kernel, W, integers, up, n_in, scale, codes, offsets, active, batch, bias, start, stop, draw, wanted
):
    """Sums, bias, sigmoid, draw, packing of the units ``start .. stop - 1``; returns the sum of squared errors.

    bias (units,) float32; ``draw`` and ``wanted`` as in draw_panel
    """
    n = pad(batch)
    sums = aligned_int32(PANEL * n).reshape(PANEL, n)
    p = aligned_int32(PANEL * n).view(np.float32).reshape(PANEL, n)
    weights = no_weights_yet()
    step = np.float32(1.0) / scale
    error = np.int64(0)
    for low in range(start, stop, PANEL):
        rows = positions(low, min(low + PANEL, stop))
        sums[:] = 0
        sum_panel(kernel, W, integers, up, n_in, low, len(rows), scale, codes, offsets, active, batch, weights, sums)
        probabilities(sums, step, bias, rows, p)
        error += draw_panel(p, batch, rows, draw, wanted)
    return error


_IDS, _WORDS = types.Array(types.int64, 1, "C"), types.Array(types.uint64, 2, "C")
_MEANS, _PLANES = types.Array(types.float32, 2, "C"), types.Array(types.uint64, 3, "C")
_DRAW = types.Tuple((types.int64, _IDS, _IDS, types.int64, types.UniTuple(types.int64, 2), types.float32))
_WANTED = types.Tuple((_MEANS, _WORDS, _PLANES, _WORDS))
_W, _INTEGERS, _UP, _N_IN, _, _, _SCALE, _CODES, _OFFSETS, _ACTIVE, _BATCH, *_ = SUM_PANEL.args
SAMPLE_UNITS = types.int64(
    types.int64, _W, _INTEGERS, _UP, _N_IN, _SCALE, _CODES, _OFFSETS, _ACTIVE, _BATCH,
    types.Array(types.float32, 1, "C"), types.int64, types.int64, _DRAW, _WANTED,
)  # fmt: skip
call_sample_units = caller(SAMPLE_UNITS)


@functools.cache
def entry_of_sample_units() -> int:
    """Return the address of ``sample_units`` for ``call_sample_units``, compiled now where it is not yet."""
    return address_of(sample_units, SAMPLE_UNITS)


@njit(cache=True, nogil=True)
def sample_sums(sums, step, bias, start, stop, draw, wanted):  # type: ignore[no-untyped-def]
    """As ``sample_units``, from given sums (units, batch) int32."""
    batch = sums.shape[1]
    n = pad(batch)
    panel = aligned_int32(PANEL * n).reshape(PANEL, n)
    p = aligned_int32(PANEL * n).view(np.float32).reshape(PANEL, n)
    error = np.int64(0)
    for low in range(start, stop, PANEL):
        rows = positions(low, min(low + PANEL, stop))
        copy_rows(sums[low:], panel[: len(rows), :batch])
        probabilities(panel, step, bias, rows, p)
        error += draw_panel(p, batch, rows, draw, wanted)
    return error


@njit(cache=True, nogil=True)
def sample_means(means, start, stop, draw, wanted):  # type: ignore[no-untyped-def]
    """As ``sample_units``, from given probabilities (units, batch) float32."""
    batch = means.shape[1]
    p = np.empty((PANEL, pad(batch)), np.float32)
    error = np.int64(0)
    for low in range(start, stop, PANEL):
        rows = positions(low, min(low + PANEL, stop))
        copy_rows(means[low:], p[: len(rows), :batch])
        error += draw_panel(p, batch, rows, draw, wanted)
    return error
