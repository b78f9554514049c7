"""The visible side of an RBM whose visible units are Gaussian.

With the precision t of a visible unit, the inverse of its variance given the hidden units,

    E(v, h) = sum_i t_i (v_i - b_i / t_i)^2 / 2 - v^T W h - c.h,        v_i | h ~ N((W h + b)_i / t_i, 1 / t_i)

which are the natural parameters of the exponential family: hidden units see W^T v + c whatever the precisions are, so
neither they nor the statistics of the weights need to know those of other shards, and the curvature of the
log-likelihood in each parameter is the variance of a statistic of standardised values, v h or v^2 / 2, however small
variances become.  In terms of means (Cho, Ilin and Raiko 2011) it grows with the precision or its square.

Precisions are used within bounds: a unit that hardly varies must not come to a variance of 0, nor one step make all
means large.  Where they are not learned ``precision`` is None, and they are 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar import draws
from modelpar.streams import Stream
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST, MOST = 0.25, 100.0  # precision, in units of the data's: standard deviations from 2 down to 1/10


def precision_of(parameters: Parameters) -> Array | None:
    """(n_visible_owned,) within the bounds; None where it is 1."""
    return np.clip(parameters.precision[0], LEAST, MOST) if len(parameters.precision) else None


def keep_within_bounds(parameters: Parameters) -> None:
    """After a step."""
    np.clip(parameters.precision, LEAST, MOST, out=parameters.precision)


def to_means(x: Array, precision: Array | None) -> Array:
    """Summed inputs, biases included (n_visible_owned, batch), become means, in place."""
    if precision is not None:
        x /= precision.astype(x.dtype, copy=False)[:, None]
    return x


def drawn(mean: Array, precision: Array | None, stream: Stream, ids: IntArray, samples: int | IntArray) -> Array:
    """Values of the owned units ``ids`` around their means (n_visible_owned, batch), a new array."""
    values = np.empty_like(mean)
    if precision is None:
        draws.sample_gaussian(mean, stream, ids, samples, values)
        return values
    deviations = (1.0 / np.sqrt(precision.astype(np.float64))).astype(mean.dtype)
    draws.sample_gaussian(np.zeros_like(mean), stream, ids, samples, values)
    values *= deviations[:, None]
    values += mean
    return values


def log_weights(v: Array, b: Array, precision: Array | None) -> Doubles:
    """sum_i -t_i (v_i - b_i / t_i)^2 / 2 of the owned units, (samples,).   v (n_visible_owned, samples)"""
    wide, t = v.astype(np.float64), _wide(precision)
    return np.asarray(-0.5 * (t * (wide - b.astype(np.float64)[:, None] / t) ** 2).sum(axis=0))


def log_integrals(x: Array, precision: Array | None) -> Doubles:
    """log of the integral of exp(x.v - sum_i t_i v_i^2 / 2) over the owned units, (samples,).

    x   (n_visible_owned, samples) summed inputs, biases included
    """
    wide, t = np.asarray(x, np.float64), _wide(precision)
    return np.asarray(0.5 * (wide**2 / t).sum(axis=0) + log_normaliser(len(wide), precision))


def log_normaliser(n: int, precision: Array | None) -> float:
    """log of the integral of exp(-sum_i t_i v_i^2 / 2) over ``n`` units."""
    total = 0.5 * n * math.log(2 * math.pi)
    return total if precision is None else total - 0.5 * float(np.log(precision.astype(np.float64)).sum())


def _wide(precision: Array | None) -> Any:
    return 1.0 if precision is None else precision.astype(np.float64)[:, None]
