"""Rectified units with real values: draws, moments and cumulants of many samples, in vectors.

A unit with the summed input x has two sides of 0.  On each h = +-scale y, with y >= 0 of the density in proportion to
exp(-y^2 / 2 + z y), z = +-scale x + shift, and the weight scale times its integral.  ``sides`` holds (scale, shift)
above and (scale, shift) below 0 for each unit: (units, 4) float64.  A scale of 0 closes a side.

The functions of one value take arrays too where nothing is compiled, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.sampling import philox
from modelpar.kernels.sampling.elementary import log
from modelpar.kernels.sampling.normal_tail import LARGEST, ROOT, exceeded, exp, integrals, mills, select
from modelpar.kernels.sampling.philox import CHUNK, MARGIN, SCRATCH, Draw, row_words
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

SECOND = 1 << 31  # ids of units are below: with it they key the choice of a side
SPAN = 256  # samples at a time, whose sums stay in the first-level cache; a power of two
GRAIN = 1 << 15  # values that are worth another thread: 130 us of means, 220 us of draws
_UNIT_32, _HALF = 2.0**-32, 0.5


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _depths(up, down):  # type: ignore[no-untyped-def]
    """Of z of both sides: exp(-z^2 / 2) where z > 0 else 1, for both; what the integrals of both are to be multiplied
    by for the same scale, and the logarithm of that scale."""
    c_up, c_down = select(up < 0.0, 0.0, 0.5 * up * up), select(down < 0.0, 0.0, 0.5 * down * down)
    higher = c_up > c_down
    high, low = select(higher, c_up, c_down), select(higher, c_down, c_up)
    e_low, apart = exp(-low), exp(low - high)
    e_high = e_low * apart
    return (
        select(higher, e_high, e_low), select(higher, e_low, e_high), select(higher, 1.0, apart),
        select(higher, apart, 1.0), high,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _distance(z):  # type: ignore[no-untyped-def]
    b = abs(z)
    return select(b > LARGEST, LARGEST, b)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _side(z, e):  # type: ignore[no-untyped-def]
    """The integrals of y^k exp(-y^2 / 2 + z y), k = 0, 1, 2, times e."""
    r0, r1, r2 = integrals(_distance(z))
    up = z > 0.0
    n0 = select(up, ROOT - e * r0, r0)
    n1 = select(up, z * n0 + e, r1)
    return n0, n1, select(up, n0 + z * n1, r2)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def moments(x, scale_up, shift_up, scale_down, shift_down):  # type: ignore[no-untyped-def]
    """(mean of h, of |h|, of h^2 above 0, of h^2 below 0; all per sample)"""
    up, down = x * scale_up + shift_up, shift_down - x * scale_down
    e_up, e_down, w_up, w_down, _ = _depths(up, down)
    u0, u1, u2 = _side(up, e_up)
    d0, d1, d2 = _side(down, e_down)
    w_up, w_down = w_up * scale_up, w_down * scale_down
    one = 1.0 / (w_up * u0 + w_down * d0)
    w_up, w_down = w_up * scale_up * one, w_down * scale_down * one
    above, below = w_up * u1, w_down * d1
    return above - below, above + below, w_up * scale_up * u2, w_down * scale_down * d2


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def cumulant(x, scale_up, shift_up, scale_down, shift_down):  # type: ignore[no-untyped-def]
    """The logarithm of the weights of both sides together."""
    up, down = x * scale_up + shift_up, shift_down - x * scale_down
    e_up, e_down, w_up, w_down, depth = _depths(up, down)
    r_up, _ = mills(_distance(up))
    r_down, _ = mills(_distance(down))
    u0 = select(up > 0.0, ROOT - e_up * r_up, r_up)
    d0 = select(down > 0.0, ROOT - e_down * r_down, r_down)
    return log(w_up * scale_up * u0 + w_down * scale_down * d0) + depth


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def drawn(x, scale_up, shift_up, scale_down, shift_down, size_word, side_word):  # type: ignore[no-untyped-def]
    """A value of h by two random words: one chooses the side, the other how much of it lies farther from 0."""
    up, down = x * scale_up + shift_up, shift_down - x * scale_down
    e_up, e_down, w_up, w_down, _ = _depths(up, down)
    b_up, b_down = _distance(up), _distance(down)
    r_up, first_up = mills(b_up)
    r_down, first_down = mills(b_down)
    w_up *= scale_up * select(up > 0.0, ROOT - e_up * r_up, r_up)
    w_down *= scale_down * select(down > 0.0, ROOT - e_down * r_down, r_down)
    below = (np.float64(side_word) + _HALF) * _UNIT_32 * (w_up + w_down) < w_down
    s = (np.float64(size_word) + _HALF) * _UNIT_32
    y = exceeded(
        select(below, down, up), select(below, b_down, b_up), select(below, r_down, r_up),
        select(below, first_down, first_up), select(below, e_down, e_up), s,
    )  # fmt: skip
    return select(below, -scale_down, scale_up) * y


# -- rows of units -----------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def draw_rows(x, sides, start, stop, draw, out):  # type: ignore[no-untyped-def]
    """out[start:stop] = drawn values of these units.   x, out (units, batch) of the same type; draw: ``philox.Draw``"""
    first, samples, units, tag, keys, _ = draw
    key0, key1 = keys
    sizes, choices = np.empty(SCRATCH, np.uint32), np.empty(SCRATCH, np.uint32)
    batch = x.shape[1]
    for i in range(start, stop):
        a, b, c, d = sides[i, 0], sides[i, 1], sides[i, 2], sides[i, 3]
        for begin in range(0, batch, CHUNK):
            n = min(CHUNK, batch - begin)
            row_words(first, samples, begin, n, units[i], tag, key0, key1, sizes, MARGIN)
            row_words(first, samples, begin, n, units[i] + SECOND, tag, key0, key1, choices, MARGIN)
            source, row = x[i, begin : begin + n], out[i, begin : begin + n]
            size, choice = sizes[MARGIN : MARGIN + n], choices[MARGIN : MARGIN + n]
            for j in range(n):
                row[j] = drawn(np.float64(source[j]), a, b, c, d, size[j], choice[j])


@njit(cache=True, nogil=True, error_model="numpy")
def mean_rows(x, sides, start, stop, means):  # type: ignore[no-untyped-def]
    """means[start:stop] = means of these units.   x, means (units, batch) of the same type"""
    for i in range(start, stop):
        a, b, c, d = sides[i, 0], sides[i, 1], sides[i, 2], sides[i, 3]
        source, row = x[i], means[i]
        for j in range(len(source)):
            row[j] = moments(np.float64(source[j]), a, b, c, d)[0]


@njit(cache=True, nogil=True, error_model="numpy")
def fold(sums):  # type: ignore[no-untyped-def]
    """The sum of each of the rows, sums (k, SPAN), in its first element, in an order of its own."""
    n = sums.shape[1] // 2
    while n:
        for k in range(len(sums)):
            for j in range(n):
                sums[k, j] += sums[k, j + n]
        n //= 2


@njit(cache=True, nogil=True, error_model="numpy")
def moment_rows(x, sides, start, stop, means, sums):  # type: ignore[no-untyped-def]
    """As ``mean_rows``, and sums (3, units) float64 of |h|, h^2 above 0 and h^2 below 0 over the samples."""
    part = np.empty((3, SPAN))
    for i in range(start, stop):
        a, b, c, d = sides[i, 0], sides[i, 1], sides[i, 2], sides[i, 3]
        part[:] = 0.0
        size, above, below = part[0], part[1], part[2]
        for begin in range(0, x.shape[1], SPAN):
            n = min(SPAN, x.shape[1] - begin)
            source, row = x[i, begin : begin + n], means[i, begin : begin + n]
            for j in range(n):
                mean, m1, m2, m3 = moments(np.float64(source[j]), a, b, c, d)
                row[j] = mean
                size[j] += m1
                above[j] += m2
                below[j] += m3
        fold(part)
        for k in range(3):
            sums[k, i] = part[k, 0]


@njit(cache=True, nogil=True, error_model="numpy")
def add_cumulants(x, sides, first, last, out):  # type: ignore[no-untyped-def]
    """out[s] += the sum over the units of their cumulants, s = first .. last - 1.   x (units, batch); out float64"""
    for i in range(len(x)):
        a, b, c, d = sides[i, 0], sides[i, 1], sides[i, 2], sides[i, 3]
        source, row = x[i, first:last], out[first:last]
        for j in range(len(source)):
            row[j] += cumulant(np.float64(source[j]), a, b, c, d)


# -- for callers -------------------------------------------------------------------------------------------------------


def draw_values(x: Array, sides: Doubles, draw: Draw) -> Array:
    """Values drawn given the summed inputs x (units, batch), biases included, C-contiguous."""
    out, plain = np.empty_like(x), tuple(draw)
    if not compiled():
        sizes, choices = (_words(draw, x.shape, second) for second in (0, SECOND))
        out[:] = drawn(x.astype(np.float64), *_columns(sides), sizes, choices)
        return out
    threads.split(len(x), threads.rows_of(GRAIN, x.shape[1]), lambda a, b: draw_rows(x, sides, a, b, plain, out))
    return out


def means_of(x: Array, sides: Doubles) -> Array:
    """Means given the summed inputs x (units, batch), biases included, C-contiguous."""
    out = np.empty_like(x)
    if not compiled():
        out[:] = moments(x.astype(np.float64), *_columns(sides))[0]
        return out
    threads.split(len(x), threads.rows_of(GRAIN, x.shape[1]), lambda a, b: mean_rows(x, sides, a, b, out))
    return out


def moments_of(x: Array, sides: Doubles) -> tuple[Array, Doubles]:
    """(means, sums (3, units) over the samples of E|h|, and of E[h^2] above and below 0)."""
    means, sums = np.empty_like(x), np.zeros((3, len(x)))
    if not compiled():
        part = np.zeros((3, len(x), SPAN))
        for begin in range(0, x.shape[1], SPAN):
            piece = x[:, begin : begin + SPAN].astype(np.float64)
            means[:, begin : begin + SPAN], *others = moments(piece, *_columns(sides))
            part[:, :, : piece.shape[1]] += np.array(others)
        for i in range(len(x)):
            fold(part[:, i])
        return means, part[:, :, 0].copy()
    grain = threads.rows_of(GRAIN, x.shape[1])
    threads.split(len(x), grain, lambda a, b: moment_rows(x, sides, a, b, means, sums))
    return means, sums


def cumulant_sums(x: Array, sides: Doubles) -> Doubles:
    """(batch,) sums over the units of the logarithms of the integrals of exp(x h - U(h))."""
    out = np.zeros(x.shape[1])
    if not compiled():
        for i in range(len(x)):
            out += cumulant(x[i].astype(np.float64), *sides[i])
        return out
    grain = threads.rows_of(GRAIN, len(x))
    threads.split(x.shape[1], grain, lambda a, b: add_cumulants(x, sides, a, b, out), align=16)
    return out


def _columns(sides: Doubles) -> Doubles:
    return np.ascontiguousarray(sides.T[:, :, None])


def _words(draw: Draw, shape: tuple[int, ...], second: int) -> npt.NDArray[np.uint32]:
    """Random words (units, batch) of units whose ids are ``second`` larger."""
    words = np.empty(SCRATCH, np.uint32)
    out = np.empty(shape, np.uint32)
    for i, unit in enumerate(draw.units):
        for begin in range(0, shape[1], CHUNK):
            n = min(CHUNK, shape[1] - begin)
            philox.row_words(draw.first, draw.samples, begin, n, unit + second, draw.tag, *draw.keys, words, MARGIN)
            out[i, begin : begin + n] = words[MARGIN : MARGIN + n]
    return out
