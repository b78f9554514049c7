"""Sums of log(1 + exp(x)) over the units of a layer, for many samples: a sigmoid a value, a logarithm a group of units.

``log(1 + exp(x)) = max(x, 0) - log(sigmoid(|x|))``, and the logarithms of a group's units are that of the product of
their sigmoids, each at least 1/2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.sampling.elementary import log
from modelpar.kernels.sampling.epilogue import sigmoid
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]

GROUP = 64  # units whose sigmoids are multiplied: products stay above 2^-64
SPAN = 512  # samples at a time, whose products stay in the first-level cache
STEPS = float(1 << 32)  # of terms whose sums are the same in any order
GRAIN = 1 << 16  # values that are worth another thread
FRACTION = 24  # bits of the fraction of sums in fixed point, as int64
FIXED_STEPS = float(1 << FRACTION)


@njit(cache=True, nogil=True, error_model="numpy")
def add_differences(x, base, low, high, first, last, out):  # type: ignore[no-untyped-def]
    """out[s] += sum over units of log(1 + exp(y(high)[s])) - log(1 + exp(y(low)[s])), s = first .. last - 1,
    y(a) = a x + (1 - a) base

    x, base (units, samples) float32 or float64; base may be None, for 0; low, high of their type
    out (samples,) float64
    """
    one = np.ones(1, x.dtype)[0]
    n_units = x.shape[0]
    below, above = np.empty(SPAN, x.dtype), np.empty(SPAN, x.dtype)
    linear = np.empty(SPAN, x.dtype)
    for start in range(first, last, SPAN):
        n = min(SPAN, last - start)
        for group in range(0, n_units, GROUP):
            for s in range(n):
                below[s], above[s], linear[s] = 1, 1, 0
            for j in range(group, min(group + GROUP, n_units)):
                row = x[j, start : start + n]
                for s in range(n):
                    a, b = low * row[s], high * row[s]
                    if base is not None:
                        other = base[j, start + s]
                        a += (one - low) * other
                        b += (one - high) * other
                    linear[s] += max(b, b - b) - max(a, a - a)
                    below[s] *= sigmoid(abs(a))
                    above[s] *= sigmoid(abs(b))
            for s in range(n):
                out[start + s] += np.float64(linear[s]) + math.log(np.float64(below[s]) / np.float64(above[s]))


@njit(cache=True, nogil=True, error_model="numpy")
def add_rounded_differences(x, base, low, high, first, last, out):  # type: ignore[no-untyped-def]
    """As ``add_differences``, each unit's term a multiple of 1 / STEPS: the same sum in any order."""
    one = np.ones(1, x.dtype)[0]
    for j in range(x.shape[0]):
        for s in range(first, last):
            a, b = low * x[j, s], high * x[j, s]
            if base is not None:
                a += (one - low) * base[j, s]
                b += (one - high) * base[j, s]
            term = np.float64(max(b, b - b) - max(a, a - a))
            term += math.log(np.float64(sigmoid(abs(a))) / np.float64(sigmoid(abs(b))))
            out[s] += np.rint(term * STEPS) / STEPS


def in_steps(values: Array) -> npt.NDArray[np.float64]:
    """Values as multiples of 1 / STEPS, which add up exactly, in any order, to 2^20."""
    return np.asarray(np.rint(np.asarray(values, np.float64) * STEPS) / STEPS)


def softplus_differences(
    x: Array, low: float, high: float, base: Array | None = None, *, exact: bool = False
) -> npt.NDArray[np.float64]:
    """(samples,) float64: sum over units of log(1 + exp(y(high))) - log(1 + exp(y(low))), y(a) = a x + (1 - a) base.

    x, base   (units, samples) float32 or float64, C-contiguous; base is 0 where it is None
    exact     of terms that are multiples of 2^-32: sums over shards are the same at every grid
    """
    out = np.zeros(x.shape[1])
    if not compiled():
        wide, other = x.astype(np.float64), 0.0 if base is None else base.astype(np.float64)
        below, above = (a * wide + (1 - a) * other for a in (low, high))
        terms = np.logaddexp(0, above) - np.logaddexp(0, below)
        out += (in_steps(terms) if exact else terms).sum(axis=0)
        return out
    a, b = x.dtype.type(low), x.dtype.type(high)
    grain = threads.rows_of(GRAIN, x.shape[0])
    add = add_rounded_differences if exact else add_differences
    threads.split(x.shape[1], grain, lambda start, stop: add(x, base, a, b, start, stop, out), align=16)
    return out


def softplus_sums(x: Array, *, exact: bool = False) -> npt.NDArray[np.float64]:
    """(samples,) float64: sum over units of log(1 + exp(x)); parameters as in :func:`softplus_differences`."""
    one = float(in_steps(np.array(math.log(2)))) if exact else math.log(2)
    return softplus_differences(x, 0.0, 1.0, exact=exact) + len(x) * one


@njit(cache=True, nogil=True, error_model="numpy")
def add_fixed_softplus(x, beta, first, last, out):  # type: ignore[no-untyped-def]
    """out[s] += sum over units of log(1 + exp(beta x[s])), each in steps of 2^-FRACTION, s = first .. last - 1

    x (units, samples) float32 or float64; beta of its type; out (samples,) int64
    """
    for start in range(first, last, SPAN):
        n = min(SPAN, last - start)
        for j in range(x.shape[0]):
            for s in range(start, start + n):
                y = np.float64(beta * x[j, s])
                out[s] += np.int64(np.rint((max(y, 0.0) - log(sigmoid(abs(y)))) * FIXED_STEPS))


def fixed_softplus_sums(x: Array, beta: float) -> npt.NDArray[np.int64]:
    """(samples,) int64: sum over units of log(1 + exp(beta x)) in steps of 2^-FRACTION, each unit's rounded by itself.

    Sums of parts of the units add up to that of all, to the last bit, on every machine.   x as in
    :func:`softplus_differences`
    """
    if not compiled():  # its last bits hardly ever reach the steps
        wide = (x * x.dtype.type(beta)).astype(np.float64)
        return np.asarray(np.rint(np.logaddexp(0, wide) * FIXED_STEPS).astype(np.int64).sum(axis=0))
    out = np.zeros(x.shape[1], np.int64)
    factor, grain = x.dtype.type(beta), threads.rows_of(GRAIN, x.shape[0])
    threads.split(x.shape[1], grain, lambda start, stop: add_fixed_softplus(x, factor, start, stop, out), align=16)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def lies_below(u, log_ratio, out):  # type: ignore[no-untyped-def]
    """out[s] = u[s] < exp(log_ratio[s])      u (samples,) float64 in [0, 1); log_ratio int64 in steps of 2^-FRACTION"""
    for s in range(len(u)):
        drawn = np.int64(np.rint(log(max(u[s], 1e-300)) * FIXED_STEPS))
        out[s] = log_ratio[s] >= 0 or u[s] == 0.0 or drawn < log_ratio[s]
