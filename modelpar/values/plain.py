"""Numbers, truth values and texts from the user's hands as plain Python values.

Whatever Python itself takes for a number is one: NumPy's scalars, arrays of no dimension, fractions, decimals, tensors.
They are kept as ``int``, ``float``, ``bool`` and ``str``, which compare, print and can be written to files alike.
NumPy is not imported here: options are read before it is loaded.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable
from typing import Any

from modelpar.errors import ModelparError, SpecError

BOUNDS = {
    "at_least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def is_truth(value: Any) -> bool:
    """Whether a value is true or false, and no number: Python's, NumPy's, or an array or tensor of no dimension."""
    return isinstance(value, bool) or (is_single(value) and str(getattr(value, "dtype", "")).endswith("bool"))


def is_single(value: Any) -> bool:
    """Whether a value is no array with dimensions, not even one of a single element."""
    return getattr(value, "ndim", 0) == 0


def whole(value: Any) -> int | None:
    """A whole number by ``operator.index``; None where it is none.  2.0 is none, and neither is True."""
    if is_truth(value) or not is_single(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real(value: Any) -> float | None:
    """A real number as a float, infinities and NaN included; None for anything else, texts and truth values too."""
    number = whole(value)
    if number is None:
        is_complex = isinstance(value, complex) or str(getattr(value, "dtype", "")).startswith("complex")
        if isinstance(value, str) or is_truth(value) or is_complex or not is_single(value):
            return None
        if not hasattr(value, "__float__"):
            return None
    try:
        return float(value if number is None else number)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return None


def whole_number(name: str, value: Any, *, error: type[ModelparError] = SpecError, **bounds: float) -> int:
    """``value`` as an int within ``bounds`` (as ``at_least=0``); raises ``error``, with ``name``, where it is none."""
    number = whole(value)
    if number is None:
        raise error(f"{name} is {shown(value)}, but must be a whole number")
    check_bounds(name, number, number, bounds, error)
    return number


def real_number(name: str, value: Any, *, error: type[ModelparError] = SpecError, **bounds: float) -> float:
    """``value`` as a finite float within ``bounds``; raises ``error``, with ``name``, where it is none."""
    number = real(value)
    if number is None or not math.isfinite(number):
        raise error(f"{name} is {shown(value)}, but must be a finite number")
    check_bounds(name, number, whole(value) if whole(value) is not None else number, bounds, error)
    return number


def check_bounds(
    name: str, number: float, told: Any, bounds: dict[str, float], error: type[ModelparError] = SpecError
) -> None:
    """Raise ``error`` where a number, which is ``told`` as the user gave it, is out of its bounds."""
    for kind, bound in bounds.items():
        words, holds = BOUNDS[kind]
        if not holds(number, bound):
            raise error(f"{name} is {told}, but must be {words} {bound:g}")


def truth(name: str, value: Any, *, error: type[ModelparError] = SpecError) -> bool:
    """``value`` as a bool; raises ``error`` for anything else, 0 and 1 included."""
    if not is_truth(value):
        raise error(f"{name} is {shown(value)}, but must be true or false")
    return bool(value)


def text(name: str, value: Any, *, error: type[ModelparError] = SpecError) -> str:
    """``value``, a text or a path, as a str; raises ``error`` for anything else."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
        if isinstance(value, bytes):
            value = os.fsdecode(value)
    if not isinstance(value, str):
        raise error(f"{name} is {shown(value)}, but must be a text")
    return str(value)


def elements(value: Any) -> list[Any] | None:
    """What is in a list, a tuple, a range or an array of one dimension; None of anything else."""
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        return None
    return list(value)


def shown(value: Any) -> str:
    """A value as a message tells it, on one line: numbers as Python writes them, whatever type they came in."""
    number = real(value)
    if number is not None:
        return str(whole(value) if whole(value) is not None else number)
    if is_truth(value):
        return str(bool(value))
    told = " ".join(repr(value).split())
    return told if len(told) <= 80 else f"{told[:77]}..."
