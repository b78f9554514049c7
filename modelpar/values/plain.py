"""Numbers, truth values and texts that users pass, as plain Python values.

Whatever Python itself converts to a number is accepted: NumPy's scalars, arrays without dimensions, fractions,
decimals, tensors.  They become ``int``, ``float``, ``bool`` and ``str``, which compare, print and serialise in one way.
NumPy is not imported here: options are read before it is loaded.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

from modelpar.errors import ModelparError, SpecError

BOUNDS = {
    "at_least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def is_truth(value: Any) -> bool:
    """Whether a value is a truth value, not a number: of Python, of NumPy, or an array or tensor without dimensions."""
    return isinstance(value, bool) or (is_single(value) and str(getattr(value, "dtype", "")).endswith("bool"))


def is_single(value: Any) -> bool:
    """Whether a value is not an array with dimensions, not even with a single element."""
    return getattr(value, "ndim", 0) == 0


def integer(value: Any) -> int | None:
    """An integer by ``operator.index``; None for anything else, 2.0 and True included."""
    if is_truth(value) or not is_single(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real(value: Any) -> float | None:
    """A real number as a float, infinities and NaN included; None for anything else, texts and truth values too."""
    number = integer(value)
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


def integer_number(name: str, value: Any, *, error: type[ModelparError] = SpecError, **bounds: float) -> int:
    """``value`` as an int within ``bounds`` (as ``at_least=0``); raises ``error``, with ``name``, for anything else."""
    number = integer(value)
    if number is None:
        raise error(f"{name} is {shown(value)}, but must be an integer")
    check_bounds(name, number, number, bounds, error)
    return number


def real_number(name: str, value: Any, *, error: type[ModelparError] = SpecError, **bounds: float) -> float:
    """``value`` as a finite float within ``bounds``; raises ``error``, with ``name``, for anything else."""
    number = real(value)
    if number is None or not math.isfinite(number):
        raise error(f"{name} is {shown(value)}, but must be a finite number")
    check_bounds(name, number, integer(value) if integer(value) is not None else number, bounds, error)
    return number


def check_bounds(
    name: str, number: float, given: Any, bounds: dict[str, float], error: type[ModelparError] = SpecError
) -> None:
    """Raise ``error`` where a number, shown as it was ``given``, is out of its bounds."""
    for kind, bound in bounds.items():
        words, compare = BOUNDS[kind]
        if not compare(number, bound):
            raise error(f"{name} is {shown(given)}, but must be {words} {bound:g}")


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


def instance(
    name: str, value: Any, kind: type, *, error: type[ModelparError] = SpecError, optional: bool = False
) -> None:
    """Raise ``error`` where ``value`` is not of a class, nor, if ``optional``, None."""
    if not isinstance(value, kind) and not (optional and value is None):
        raise error(f"{name} is {shown(value)}, but must be a {kind.__name__}")


def elements(value: Any, most: int | None = None) -> list[Any] | None:
    """The elements, or the first ``most``, of a list, a tuple, a range or an array of one dimension; None for anything
    else."""
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        return None
    return list(islice(value, most))


def shown(value: Any) -> str:
    """A value as messages show it, on one line: numbers as Python writes them, whatever their type."""
    try:
        number = real(value)
        if number is not None:
            return str(integer(value) if integer(value) is not None else number)
        if is_truth(value):
            return str(bool(value))
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an integer of more digits than Python writes, or a nest of great depth
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else f"{text[:77]}..."
