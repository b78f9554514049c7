"""Numbers of about 106 bits: the unevaluated sum of a float64 and of what it has lost by rounding.

Sums after Knuth (1969, section 4.2.2) and products after Dekker (1971); no step needs a branch, so the compiler
vectorises over columns.  The same functions serve kernels and arrays.  Operands of products must stay below 1e290, or
parts of them overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

FloatArray = npt.NDArray[np.float64]
Pair = tuple[FloatArray, FloatArray]

_SPLIT = 134217729.0  # 2^27 + 1: a float64 times it falls apart into halves of 26 bits


@register_jitable  # type: ignore[untyped-decorator]
def two_sum(a: Any, b: Any) -> Any:
    """(fl(a + b), what it lacks)"""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@register_jitable  # type: ignore[untyped-decorator]
def two_product(a: Any, b: Any) -> Any:
    """(fl(a b), what it lacks)"""
    p = a * b
    c, d = _SPLIT * a, _SPLIT * b
    a_high, b_high = c - (c - a), d - (d - b)
    a_low, b_low = a - a_high, b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@register_jitable  # type: ignore[untyped-decorator]
def add_pair(high: Any, low: Any, value: Any, rest: Any) -> Any:
    """(high + low) + (value + rest)"""
    total, lost = two_sum(high, value)
    lower, lost_lower = two_sum(low, rest)
    total, lost = two_sum(total, lost + lower)
    return two_sum(total, lost + lost_lower)


@register_jitable  # type: ignore[untyped-decorator]
def add_square(high: Any, low: Any, value: Any, rest: Any) -> Any:
    """(high + low) + (value + rest)^2"""
    square, lost = two_product(value, value)
    return add_pair(high, low, square, lost + 2.0 * value * rest)


# -- arrays of pairs ---------------------------------------------------------------------------------------------------


def plus(a: Pair, b: Pair) -> Pair:
    """a + b"""
    return add_pair(*a, *b)  # type: ignore[no-any-return]


def times(a: Pair, factor: FloatArray) -> Pair:
    """a times one float64"""
    p, lost = two_product(a[0], factor)
    return two_sum(p, lost + a[1] * factor)  # type: ignore[no-any-return]


def product(a: Pair, b: Pair) -> Pair:
    """a times b"""
    p, lost = two_product(a[0], b[0])
    return two_sum(p, lost + (a[0] * b[1] + a[1] * b[0]))  # type: ignore[no-any-return]


def divided(a: Pair, n: float) -> Pair:
    """a divided by one float64"""
    quotient = a[0] / n
    back, lost = two_product(quotient, np.full_like(quotient, n))
    return two_sum(quotient, ((a[0] - back) - lost + a[1]) / n)  # type: ignore[no-any-return]
