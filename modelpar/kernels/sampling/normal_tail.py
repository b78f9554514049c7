"""The normal distribution beyond a point, without calls of libraries: moments, masses and quantiles.

For b >= 0 and y >= 0 with the density exp(-y^2 / 2 - b y) / R(b), where R is the ratio of Mills (1926), sqrt(pi / 2)
erfcx(b / sqrt 2), three polynomials give all that is needed: E[y] = P(b) / Q(b) and E[y^2] = S(b) / Q(b), and because
R E[y] = 1 - b R, R = Q / (b Q + P).  They are one minimax fit over all b >= 0, by Lawson's (1961) weights in 50 digits,
with P = (Q - S) / b, so that E[y^2] = 1 - b E[y] holds by construction.  All coefficients are positive: sums of
positive terms lose no digits, however far in the tail.  Relative errors against the exact values: below 1e-14.

Every function is sums, products, quotients, square roots and choices between values that are there, each one IEEE
rounding in float64: loops over them vectorise, and they give the same bits compiled, for a number, and interpreted, for
an array.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import overload

from modelpar.kernels.llvm.exponential import BIAS_64, LN2_HIGH_64, LN2_LOW_64, LOG2E_64, LOW_64, ROUND_64, SHIFT_64
from modelpar.kernels.sampling.elementary import log
from modelpar.machine.compilation import njit

ROOT = math.sqrt(2 * math.pi)
LARGEST = 1e20  # farther out is as far as this: b^12 is a float64
FAR = 34.0  # beyond it the hazard's integral is expanded to second order: 7 digits, and more farther out
NEAR = 1000.0  # and where b^3 is larger than so many times that integral, which has the same error
_ONE_ROOT = 1 / ROOT


def select(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``; both are there already, so it is no branch."""
    return np.where(condition, a, b)


@overload(select, jit_options={"forceinline": True})
def _compiled_select(condition, a, b):  # type: ignore[no-untyped-def]
    return lambda condition, a, b: a if condition else b


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def exp(x):  # type: ignore[no-untyped-def]
    """The exponential function of x <= 0, from -708 on; as ``epilogue.sigmoid64``, by one term less."""
    v = select(x < LOW_64, LOW_64, x)
    rounded = v * LOG2E_64 + ROUND_64
    n = rounded - ROUND_64
    f = (v - n * LN2_HIGH_64) - n * LN2_LOW_64
    power = np.int64(np.int64(np.float64(rounded).view(np.int64) + BIAS_64) << SHIFT_64).view(np.float64)
    series = 1.0 / 479001600.0
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
    return power * ((series * (f * f) + f) + 1.0)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _p(b):  # type: ignore[no-untyped-def]
    y = 3.166554345768044e-07 * b + 8.925984439395455e-06
    y = y * b + 0.00012879207244808716
    y = y * b + 0.0012197308928892452
    y = y * b + 0.008291240748336941
    y = y * b + 0.04198993558015279
    y = y * b + 0.16001569874200247
    y = y * b + 0.4533432736965618
    y = y * b + 0.9174824792728066
    y = y * b + 1.207836260310442
    return y * b + 0.7978845608028667


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _q(b):  # type: ignore[no-untyped-def]
    y = 3.166554345768044e-07 * b + 8.925984439395455e-06
    y = y * b + 0.00012942538331724078
    y = y * b + 0.00123758286176804
    y = y * b + 0.008546924960623736
    y = y * b + 0.044375841459646556
    y = y * b + 0.17583872729859054
    y = y * b + 0.5303796527993789
    y = y * b + 1.1930445285820004
    y = y * b + 1.910118589555593
    y = y * b + 1.9692278371222558
    return y * b + 1.0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _s(b):  # type: ignore[no-untyped-def]
    y = 6.333108691536074e-07 * b + 1.7851968878794986e-05
    y = y * b + 0.00025568421228679464
    y = y * b + 0.0023859058794937623
    y = y * b + 0.015823028556588084
    y = y * b + 0.07703637910281717
    y = y * b + 0.2755620493091939
    y = y * b + 0.702282329245151
    y = y * b + 1.171343276319389
    return y * b + 1.0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def mills(b):  # type: ignore[no-untyped-def]
    """(R, R E[y]) at b >= 0."""
    p, q = _p(b), _q(b)
    inverse = 1.0 / (b * q + p)
    return q * inverse, p * inverse


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def integrals(b):  # type: ignore[no-untyped-def]
    """(R, R E[y], R E[y^2]) at b >= 0: the integrals of y^k exp(-y^2 / 2 - b y) over y >= 0."""
    p, q, s = _p(b), _q(b), _s(b)
    inverse = 1.0 / (b * q + p)
    return q * inverse, p * inverse, s * inverse


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _quantile(root):  # type: ignore[no-untyped-def]
    """Numerator and denominator of the t >= 0 that is exceeded with the probability exp(-root^2) <= 1/2.

    A minimax fit up to root = 25, t = 35: its error is 6e-12 (t + 0.1).
    """
    above = 0.021489770150449748 * root + 1.2563484543821855
    above = above * root + 17.19107913997702
    above = above * root + 72.26079726212352
    above = above * root + 93.59078777840485
    above = above * root + 2.6667999787160404
    above = above * root - 67.46591051792595
    above = above * root - 37.42723371336966
    above = above * root - 3.5638320232194527
    below = 0.01519541159746685 * root + 0.8884299210844554
    below = below * root + 12.20380414257704
    below = below * root + 53.10850520866074
    below = below * root + 86.25947759163185
    below = below * root + 62.006752446343455
    below = below * root + 17.217545069824407
    below = below * root + 1.0
    return above, below


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def exceeded(z, b, ratio, first, e, s):  # type: ignore[no-untyped-def]
    """The y >= 0, of the density in proportion to exp(-y^2 / 2 + z y), that is exceeded with the probability s.

    b   |z|, at most LARGEST; ratio, first: ``mills(b)``; e: exp(-z^2 / 2) where z > 0
    s   from 2^-33 to 1 - 2^-33

    With t = y - z, normal beyond -z: of z > 0 the smaller of the probabilities beyond and before t is inverted, else
    the logarithm of that beyond t.  Far in the tail, and where y is small, a difference has few digits: there
    E = -log s <= (1 - s) / s is the hazard's integral h y + h E[y] y^2 / 2, with h = 1 / R.
    """
    up = z > 0.0
    far = (z < 0.0) & ((b > FAR) | (b * b * b * s > NEAR * (1.0 - s)))
    beyond = s * (1.0 - e * ratio * _ONE_ROOT)
    before = (1.0 - s) + s * (e * ratio * _ONE_ROOT)
    tail = s * ratio * _ONE_ROOT
    bulk = select(beyond < before, beyond, before)
    chance = select(up, bulk, select(far, s, tail))
    lost = -log(chance)
    depth = select(up, lost, lost + 0.5 * b * b)
    depth = select(far, 1.0 + 2.0 * lost * first, depth)
    root = np.sqrt(select(depth < 0.0, 0.0, depth))
    above, below = _quantile(root)
    t = select(far, 2.0 * lost * ratio, above) / select(far, 1.0 + root, below)
    in_bulk = z + select(beyond < before, t, -t)
    y = select(up, in_bulk, select(far, t, t - b))
    return select(y < 0.0, 0.0, y)
