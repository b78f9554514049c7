"""Draws of categorical sites: from sums of weights to one-hot bits, by the inverse of the distribution function.

A site is ``categories`` units in a row, of which one is 1.  One draw u in [0, 1) of a site and sample, keyed by the
site's first unit, gives its state: the first category whose cumulative weight exceeds u times that of all.  Sums are
made in the order of the categories, and exponentials by the operations of ``epilogue.sigmoid32``: the same states at
every grid, in every thread and on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels.llvm import exponential
from modelpar.kernels.llvm.sampling import accumulated_16, exp_16
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.sampling.philox import CHUNK, MARGIN, SCRATCH, kernel_samples, row_words, uniform_rows
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

SPAN = 64  # samples at a time: a word of bits
ERROR_STEPS = 1 << 20  # as in ``kernels.products.draw``
# u has 23 bits: u times a sum is then smaller than the sum, however it is rounded
_TOP_23, _UNIT_23 = np.uint32(9), np.float32(2.0**-23)
_STEPS, _HALF, _ZERO, _ONE = np.float32(ERROR_STEPS), np.float32(0.5), np.float32(0.0), np.float32(1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def weigh_site(sums, step, bias, row, start, n, e, top, total):  # type: ignore[no-untyped-def]
    """e (categories, SPAN) = exp(x - top), total = their sums, x = step * sums + bias, of n samples from ``start`` on

    sums (units, batch) int32 or float32; bias (units,) float32; ``row`` is the first of the site's units; top, total
    (SPAN,) float32.  What e has after the n-th sample is not to be used.
    """
    for s in range(SPAN):
        top[s] = -np.float32(np.inf)
        total[s] = _ZERO
    for q in range(len(e)):
        line, source, shift = e[q], sums[row + q], bias[row + q]
        for s in range(n):
            line[s] = step * np.float32(source[start + s]) + shift
        for s in range(SPAN):
            top[s] = max(top[s], line[s])
    for q in range(len(e)):
        line = e[q]
        at, highest = address(line), address(top)
        for s in range(0, 4 * SPAN, 4 * LANES):
            exp_16(at + s, highest + s, at + s)
        for s in range(SPAN):
            total[s] += line[s]


@njit(cache=True, nogil=True, error_model="numpy")
def draw_sites(sums, step, bias, categories, start, stop, draw, wanted):  # type: ignore[no-untyped-def]
    """Draw and pack the sites ``start .. stop - 1``; returns the sum of the squared errors of their units.

    sums   (units, batch) int32 or float32, of which step * sums + bias is the summed input; bias (units,) float32
    draw, wanted   as in ``kernels.products.draw.draw_panel``: means and states are filled, the statistic is not
    """
    first, samples, units, tag, keys, _ = draw
    means, states, _, targets = wanted
    key0, key1 = keys
    batch = sums.shape[1]
    e = np.zeros((categories, SPAN), np.float32)
    top, total = np.empty(SPAN, np.float32), np.empty(SPAN, np.float32)
    left = np.empty(SPAN, np.float32)
    words = np.empty(SCRATCH, np.uint32)
    error = np.int64(0)
    for site in range(start, stop):
        row = site * categories
        for block in range(0, batch, CHUNK):
            if len(states):
                row_words(first, samples, block, min(CHUNK, batch - block), units[row], tag, key0, key1, words, MARGIN)
            for at in range(block, min(block + CHUNK, batch), SPAN):
                n, word = min(SPAN, batch - at), at // SPAN
                weigh_site(sums, step, bias, row, at, n, e, top, total)
                if len(states):
                    drawn = words[MARGIN + at - block : MARGIN + at - block + n]
                    for s in range(n):
                        left[s] = np.float32(np.int32(drawn[s] >> _TOP_23)) * _UNIT_23 * total[s]
                    pack_site(e, left, n, states, row, word)
                if len(means) or len(targets):
                    for q in range(categories):
                        line = e[q]
                        for s in range(n):
                            p = line[s] / total[s]
                            if len(means):
                                means[row + q, at + s] = p
                            if len(targets):
                                on = (targets[row + q, word] >> np.uint64(s)) & np.uint64(1)
                                miss = _ONE - p if on else p
                                error += np.int64(np.int32(miss * miss * _STEPS + _HALF))
    return error


@njit(cache=True, nogil=True, error_model="numpy")
def pack_site(e, threshold, n, states, row, word):  # type: ignore[no-untyped-def]
    """states[row : row + categories, word] = one bit for each of n samples: that of the first category whose sum of
    weights, e (categories, SPAN), exceeds the threshold (SPAN,).
    """
    sums = np.zeros(SPAN, np.float32)
    at, limits, addends = address(sums), address(threshold), address(e)
    drawn = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(SPAN - n)
    before = np.uint64(0)
    for q in range(len(e)):
        after = np.uint64(0)
        for s in range(0, SPAN, LANES):
            bits = accumulated_16(at + 4 * s, addends + 4 * (q * SPAN + s), limits + 4 * s)
            after |= bits << np.uint64(s)
        states[row + q, word] = (after ^ before) & drawn
        before = after


# -- the same in NumPy, for any type and without compilation ---------------------------------------------------------


def _exponentials(x: Array) -> Array:
    """exp of values of at most 0; in float32 by the same operations as the compiled loops."""
    if x.dtype != np.float32:
        return np.asarray(np.exp(x))
    v = np.maximum(x, exponential.LOW_32)
    rounded = v * exponential.LOG2E_32 + exponential.ROUND_32
    n = rounded - exponential.ROUND_32
    f = (v - n * exponential.LN2_HIGH_32) - n * exponential.LN2_LOW_32
    power = ((rounded.view(np.int32) + exponential.BIAS_32) << exponential.SHIFT_32).view(np.float32)
    series = np.full_like(f, exponential.SERIES_32[0])
    for coefficient in exponential.SERIES_32[1:]:
        series = series * f + coefficient
    return np.asarray(power * ((series * (f * f) + f) + np.float32(1)))


def weights_of_sites(x: Array, categories: int) -> tuple[Array, Array]:
    """(exp(x - that of the most likely category), cumulative sums of them), both (sites, categories, batch).

    x   (units, batch) summed inputs, biases included
    """
    by_site = x.reshape(-1, categories, x.shape[1])
    e = _exponentials(by_site - by_site.max(axis=1, keepdims=True))
    return e, np.cumsum(e, axis=1, dtype=e.dtype)


def means_of_sites(x: Array, categories: int) -> Array:
    """Softmax over the categories of each site.   x (units, batch)"""
    e, sums = weights_of_sites(x, categories)
    return np.asarray((e / sums[:, -1:]).reshape(x.shape))


def sample_sites(
    x: Array, categories: int, unit_ids: IntArray, words: tuple[int, int, int], samples: int | IntArray
) -> Packed:
    """One-hot states drawn from summed inputs x (units, batch), biases included; ``words`` of the stream."""
    _, sums = weights_of_sites(x, categories)
    u = np.empty((len(sums), x.shape[1]), np.float32)
    first, ids = kernel_samples(samples, x.shape[1])
    uniform_rows(first, ids, np.ascontiguousarray(unit_ids[::categories]), *words, u)
    u = (np.floor(u * np.float32(1 << 23)) * _UNIT_23).astype(x.dtype)
    after = (u * sums[:, -1])[:, None] < sums
    after[:, 1:] ^= after[:, :-1].copy()
    return pack(after.reshape(x.shape))


def log_sums_of_sites(x: Array, categories: int) -> npt.NDArray[np.float64]:
    """(sites, batch) log of the sum over the categories of exp(x), in float64.   x (units, batch)"""
    by_site = np.asarray(x, np.float64).reshape(-1, categories, x.shape[1])
    top = by_site.max(axis=1, keepdims=True)
    return np.asarray(top[:, 0] + np.log(np.exp(by_site - top).sum(axis=1)))


def squared_error_of(p: Array, target: Packed) -> int:
    """The summed squared error of probabilities against states, in 1 / ERROR_STEPS."""
    one, steps = p.dtype.type(1), p.dtype.type(ERROR_STEPS)
    miss = np.where(unpack(target, np.uint8) != 0, one - p, p)
    return int(np.floor(miss * miss * steps + p.dtype.type(0.5)).astype(np.int64).sum())
