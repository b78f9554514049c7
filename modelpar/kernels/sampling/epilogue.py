"""Biases and sigmoids after a product, while its panel is in cache.

The sigmoid is ``1 / (1 + exp(-x))`` with our own exponential, because numba has no vector one: argument
reduction by Cody and Waite (1980) to ``exp(-x) = 2^n exp(f)``, ``|f| <= ln(2) / 2``, and a polynomial in f.  No fused
multiply-add and no relaxed arithmetic is used: every operation is one IEEE rounding, so the sigmoid of a value has the
same bits at every position, in every thread, at every vector width and on every machine.

Accuracy against the exact value: relative error at most ``SIGMOID_ERROR[dtype]`` wherever the result is a normal
number; below that (x < -87.3 in float32, x < -708.3 in float64) the result is subnormal or exactly 0.
sigmoid(-inf) = 0, sigmoid(inf) = 1, sigmoid(0) = 0.5 exactly, NaN stays NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import overload

from modelpar.kernels import threads
from modelpar.kernels.llvm.exponential import (
    BIAS_32,
    BIAS_64,
    HIGH_32,
    HIGH_64,
    LN2_HIGH_32,
    LN2_HIGH_64,
    LN2_LOW_32,
    LN2_LOW_64,
    LOG2E_32,
    LOG2E_64,
    LOW_32,
    LOW_64,
    ROUND_32,
    ROUND_64,
    SERIES_32,
    SHIFT_32,
    SHIFT_64,
)  # fmt: skip
from modelpar.kernels.sampling.philox import CHUNK
from modelpar.machine.compilation import njit

FloatArray = npt.NDArray[Any]

SIGMOID_ERROR = {np.dtype(np.float32): 2.0**-22, np.dtype(np.float64): 2.0**-51}  # relative, normal results

GRAIN = 1 << 18  # elements for which one more thread is worth waking: about 120 us of work

_ONE_32 = np.float32(1.0)
_A32, _B32, _C32, _D32, _E32, _F32 = SERIES_32


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def sigmoid32(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)) of a float32."""
    v = -x
    v = HIGH_32 if v > HIGH_32 else v
    v = LOW_32 if v < LOW_32 else v
    rounded = v * LOG2E_32 + ROUND_32
    n = rounded - ROUND_32
    f = (v - n * LN2_HIGH_32) - n * LN2_LOW_32
    power = np.int32(np.int32(np.float32(rounded).view(np.int32) + BIAS_32) << SHIFT_32).view(np.float32)
    series = ((((_A32 * f + _B32) * f + _C32) * f + _D32) * f + _E32) * f + _F32
    return _ONE_32 / (_ONE_32 + power * ((series * (f * f) + f) + _ONE_32))


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def sigmoid64(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)) of a float64."""
    v = -x
    v = HIGH_64 if v > HIGH_64 else v
    v = LOW_64 if v < LOW_64 else v
    rounded = v * LOG2E_64 + ROUND_64
    n = rounded - ROUND_64
    f = (v - n * LN2_HIGH_64) - n * LN2_LOW_64
    power = np.int64(np.int64(np.float64(rounded).view(np.int64) + BIAS_64) << SHIFT_64).view(np.float64)
    series = 1.0 / 6227020800.0
    series = series * f + 1.0 / 479001600.0
    series = series * f + 1.0 / 39916800.0
    series = series * f + 1.0 / 3628800.0
    series = series * f + 1.0 / 362880.0
    series = series * f + 1.0 / 40320.0
    series = series * f + 1.0 / 5040.0
    series = series * f + 1.0 / 720.0
    series = series * f + 1.0 / 120.0
    series = series * f + 1.0 / 24.0
    series = series * f + 1.0 / 6.0
    series = series * f + 0.5
    return 1.0 / (1.0 + power * ((series * (f * f) + f) + 1.0))


def sigmoid(x):  # type: ignore[no-untyped-def]
    """The sigmoid for the type of x; compiled code selects it at compile time."""
    return sigmoid32(x) if isinstance(x, np.float32) else sigmoid64(x)


@overload(sigmoid, inline="always")
def _typed_sigmoid(x):  # type: ignore[no-untyped-def]
    if x.bitwidth == 32:
        return lambda x: sigmoid32(x)
    return lambda x: sigmoid64(x)


@njit(cache=True, nogil=True, error_model="numpy")
def sigmoid_span(x):  # type: ignore[no-untyped-def]
    """x (n,) = sigmoid(x)"""
    for j in range(len(x)):
        x[j] = sigmoid(x[j])


@njit(cache=True, nogil=True)
def bias_panel(x, bias):  # type: ignore[no-untyped-def]
    """x (units, batch) += bias[:, None]"""
    for i in range(x.shape[0]):
        row = x[i]
        shift = bias[i]
        for j in range(len(row)):
            row[j] += shift


@njit(cache=True, nogil=True)
def sigmoid_panel(x, bias):  # type: ignore[no-untyped-def]
    """x (units, batch) = sigmoid(x + bias[:, None]), a few rows at a time: short rows make short vector loops."""
    n_units, n_samples = x.shape
    group = max(1, CHUNK // max(1, n_samples))
    flat = x.reshape(-1)
    for i in range(0, n_units, group):
        end = min(i + group, n_units)
        bias_panel(x[i:end], bias[i:end])
        sigmoid_span(flat[i * n_samples : end * n_samples])


def bias_sigmoid(x: FloatArray, bias: FloatArray) -> None:
    """``x = sigmoid(x + bias[:, None])`` in place: x (units, batch), bias (units,) of the same type."""
    _check(x, bias)

    def work(start: int, stop: int) -> None:
        sigmoid_panel(x[start:stop], bias[start:stop])

    threads.split(x.shape[0], threads.rows_of(GRAIN, x.shape[1]), work)


def add_bias(x: FloatArray, bias: FloatArray) -> None:
    """``x += bias[:, None]`` in place: x (units, batch), bias (units,) of the same type."""
    _check(x, bias)

    def work(start: int, stop: int) -> None:
        bias_panel(x[start:stop], bias[start:stop])

    threads.split(x.shape[0], threads.rows_of(GRAIN, x.shape[1]), work)


def _check(x: FloatArray, bias: FloatArray) -> None:
    if x.ndim != 2 or bias.shape != x.shape[:1] or bias.dtype != x.dtype:
        raise ValueError(f"activations are {x.dtype} {x.shape}, but biases are {bias.dtype} {bias.shape}")
    if not x.flags.c_contiguous:
        raise ValueError(f"activations of shape {x.shape} have strides {x.strides}, but must be C-contiguous")
