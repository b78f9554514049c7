"""Checks of arguments, which become plain integers, arrays, seeds and paths; GraphErrors show what came."""

from __future__ import annotations

import copy
import operator
import os
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse as scipy_sparse

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

MOST = 2**31 - 1  # units, or parts: searches keep both in 32 bits
LARGEST = 2**63 - 1  # weights are summed in 64 bits


MOST_CHARACTERS, LONG_WORD = 300, 80  # of a message, and of a word in one that is too long
# line ends, escape sequences of terminals, and characters that are not seen or turn the direction of text
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class GraphError(ValueError):
    """An impossible graph or partition; the message is one line, whatever names and values of users it repeats."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(one_line(arg) if isinstance(arg, str) else arg for arg in args))


def one_line(text: str) -> str:
    """The text as a message: escaped, and of long words and then of a long text the beginning and the end."""
    text = _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), _cut(text, 8 * MOST_CHARACTERS))
    excess, words = len(text) - MOST_CHARACTERS, text.split(" ")
    for i in sorted(range(len(words)), key=lambda i: -len(words[i])) if excess > 0 else ():
        before = len(words[i])
        words[i] = _cut(words[i], max(LONG_WORD, before - max(excess, 0)))
        excess -= before - len(words[i])
    return _cut(" ".join(words), MOST_CHARACTERS)


def _cut(text: str, most: int) -> str:
    head = most // 2 - 10
    return text if len(text) <= most else f"{text[:head]}...{text[head + 3 - most :]}"


def shown(value: object) -> str:
    """A value as Python writes it, on one line and shortened."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an integer of more digits than Python writes, or a nest of great depth
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def integer(name: str, value: object, least: int | None = 0, most: int | None = None) -> int:
    """An integer of any type that ``operator.index`` takes, as an int.

    Raises GraphError for anything else, and where it is not between ``least`` and ``most``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise GraphError(f"{name} is {shown(value)}, but must be an integer") from None
    if least is not None and number < least:
        raise GraphError(f"{name} is {shown(number)}, but must be at least {least}")
    if most is not None and number > most:
        raise GraphError(f"{name} is {shown(number)}, but must be at most {most}")
    return number


def parts_of(n_parts: object) -> int:
    """The number of parts; it may exceed the number of units, then parts are empty.  Raises GraphError below one."""
    number = integer("the number of parts", n_parts, None, MOST)
    if number < 1:
        raise GraphError(f"{shown(number)} parts were asked for, but at least one is needed")
    return number


def seed_of(seed: object) -> int:
    """A seed of any size.  Raises GraphError where it is negative, or not an integer."""
    return integer("the seed", seed)


def fraction(name: str, value: Any) -> float:
    """A real number from 0 to 1.  Raises GraphError for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise GraphError(f"{name} is {shown(value)}, but must be a number from 0 to 1") from None
    if not 0 <= number <= 1:
        raise GraphError(f"{name} is {number:g}, but must be from 0 to 1")
    return number


def integers(name: str, values: Any, n: int | None = None) -> IntArray:
    """(n,) int64 from any integer type; the caller's own array where that is int64 already.

    Raises GraphError where values are not integers, have another number or shape, or need more bits.
    """
    wanted = f"{name} must be {'' if n is None else f'{n} '}integers, but came as "
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise GraphError(f"{wanted}{shown(values)}") from None
    if array.ndim == 1 and not array.size and n in (None, 0):
        return np.zeros(0, np.int64)
    if array.ndim == 1 and array.dtype == object:  # numbers of several kinds, or large ones
        numbers = [integer(f"one of the {name}", value, None) for value in array]
        if all(abs(number) <= LARGEST for number in numbers):
            array = np.array(numbers, np.int64)
        else:
            raise GraphError(f"one of the {name} is {shown(max(numbers, key=abs))}, which is more than 64 bits hold")
    if array.ndim != 1 or n not in (None, len(array)) or not np.issubdtype(array.dtype, np.integer):
        raise GraphError(f"{wanted}{array.dtype} of shape {array.shape}")
    if array.dtype.kind == "u" and int(array.max()) > LARGEST:
        raise GraphError(f"one of the {name} is {int(array.max())}, which is more than 64 bits hold")
    return array.astype(np.int64, copy=False)


def coordinates_of(name: str, values: Any, n: int) -> FloatArray:
    """(n, 2) finite real numbers: the positions of n units in the plane.  Raises GraphError for anything else."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise TypeError
        points = np.asarray(array, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise GraphError(f"{name} must be two numbers for each unit, but came as {shown(values)}") from None
    if not points.size and n == 0:
        return np.zeros((0, 2))
    if points.shape != (n, 2):
        raise GraphError(
            f"{name} came in shape {points.shape}, but need two numbers, row and column, for each of {n} units"
        )
    if not np.isfinite(points).all():
        wrong = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise GraphError(f"{name} must be finite, but those of unit {wrong} are {shown(points[wrong].tolist())}")
    return points


def path_of(path: AnyPath) -> Path:
    """Whatever the operating system accepts as a path.  Raises GraphError for anything else."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        text = "\0"
    if "\0" in text:
        raise GraphError(f"{shown(path)} is not a path of a file")
    return Path(text)


def listed(name: str, values: Any, wanted: str) -> list[Any]:
    """The elements of anything that has them in an order.  Raises GraphError for anything else."""
    try:
        if isinstance(values, (str, bytes, Mapping, Set)):
            raise TypeError
        return list(values)
    except TypeError:
        raise GraphError(f"{name} are {shown(values)}, but must be {wanted}") from None


def sizes_of(layers: Iterable[int]) -> tuple[int, ...]:
    """The units of every layer as plain numbers.  Raises GraphError for an impossible one, or without layers."""
    given = listed("layers", layers, "numbers of units")
    sizes = tuple(integer(f"layer {i}", size, most=MOST) for i, size in enumerate(given))
    if not sizes:
        raise GraphError("there are no layers, but a network has at least one")
    if sum(sizes) > MOST:
        raise GraphError(f"layers have {sum(sizes)} units together, but at most {MOST} can be partitioned")
    return sizes


def check_in_layer(name: str, units: IntArray, size: int) -> None:
    """Raise GraphError where a unit is not one of 0 to size - 1."""
    if units.size and (units.min() < 0 or units.max() >= size):
        wrong = int(units.min() if units.min() < 0 else units.max())
        raise GraphError(f"an edge has {name} unit {wrong}, but that layer's units are 0 to {size - 1}")


def checked(matrix: Any) -> Any:
    """A matrix of scipy.sparse whose indices its compiled conversions can trust.  The argument is not changed.

    Raises GraphError where it is damaged.
    """
    try:
        return _checked(matrix)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        raise GraphError(
            f"a mask is damaged: its indices do not fit {matrix.shape[0]} x {matrix.shape[1]} units; make it again"
        ) from None


def _checked(matrix: Any) -> Any:
    if hasattr(matrix, "check_format"):  # CSR, CSC, BSR
        matrix = copy.copy(matrix)  # the check sets attributes
        matrix.check_format(full_check=True)
        return matrix
    if matrix.format == "lil" and [*map(len, matrix.rows)] != [*map(len, matrix.data)]:
        raise ValueError("rows have another number of columns than of values")
    entries = matrix.tocoo()
    for ids, n in zip((entries.row, entries.col), matrix.shape, strict=True):
        if (
            ids.dtype.kind not in "ui"
            or len(ids) != len(entries.data)
            or (len(ids) and not 0 <= ids.min() <= ids.max() < n)
        ):
            raise ValueError("an entry is outside of the matrix")
    return entries


def csr(mask: Any) -> scipy_sparse.csr_array:
    """A mask in CSR, with its duplicates and zeros.  Raises GraphError where it is not a matrix of numbers."""
    given = mask if scipy_sparse.issparse(mask) else None
    try:
        if np.ma.is_masked(mask):
            raise GraphError("a mask has masked values, which say neither yes nor no; fill them, as by .filled(0)")
        values = np.asarray(mask) if given is None else given
        if len(values.shape) != 2 or values.dtype.kind not in "biufc":
            raise GraphError(
                f"a mask came as {values.dtype} of shape {values.shape}, but must be numbers or booleans, "
                f"(lower units, upper units)"
            )
        if given is None and np.isnan(values).any():
            raise GraphError("a mask has NaN, which says neither yes nor no")
        matrix = scipy_sparse.csr_array(values != 0 if given is None else checked(given))
        if given is not None and matrix.dtype.kind in "fc" and np.isnan(matrix.data).any():
            raise GraphError("a mask has NaN, which says neither yes nor no")
    except GraphError:
        raise
    except (TypeError, ValueError, IndexError):
        raise GraphError(f"a mask must be a matrix (lower units, upper units), but came as {shown(mask)}") from None
    return matrix
