"""What callers hand over, made plain: whole numbers, arrays, seeds and paths, or a GraphError that says what came."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse as scipy_sparse

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

MOST = 2**31 - 1  # units, or parts: searches keep both in 32 bits
LARGEST = 2**63 - 1  # of what is counted: weights are summed in 64 bits


class GraphError(ValueError):
    """A graph, or a partition of one, that cannot be; the message is one line."""


def shown(value: object) -> str:
    """A value as Python writes it, in one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole(name: str, value: object, least: int | None = 0, most: int | None = None) -> int:
    """A whole number of any kind that ``operator.index`` takes, as a plain one.

    Raises GraphError where it is none, or is not between ``least`` and ``most``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise GraphError(f"{name} is {shown(value)}, but must be a whole number") from None
    if least is not None and number < least:
        raise GraphError(f"{name} is {number}, but must be at least {least}")
    if most is not None and number > most:
        raise GraphError(f"{name} is {number}, but must be at most {most}")
    return number


def parts_of(n_parts: object) -> int:
    """The number of parts; more than there are units is fine, and leaves parts empty.  Raises GraphError below one."""
    number = whole("the number of parts", n_parts, None, MOST)
    if number < 1:
        raise GraphError(f"{number} parts were asked for, but at least one is needed")
    return number


def seed_of(seed: object) -> int:
    """A seed of any size.  Raises GraphError where it is negative, or no whole number."""
    return whole("the seed", seed)


def share(name: str, value: Any) -> float:
    """A real number from 0 to 1.  Raises GraphError where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise GraphError(f"{name} is {shown(value)}, but must be a number from 0 to 1") from None
    if not 0 <= number <= 1:
        raise GraphError(f"{name} is {number:g}, but must be from 0 to 1")
    return number


def wholes(name: str, values: Any, n: int | None = None) -> IntArray:
    """(n,) whole numbers of 64 bits, of any integer type; the caller's own array where it is that already.

    Raises GraphError where values have fractions, are of another number or shape, or need more bits.
    """
    wanted = f"{name} must be {'' if n is None else f'{n} '}whole numbers, but came as "
    try:
        found = np.asarray(values)
    except (TypeError, ValueError):
        raise GraphError(f"{wanted}{shown(values)}") from None
    if found.ndim == 1 and not found.size and n in (None, 0):
        return np.zeros(0, np.int64)
    if found.ndim == 1 and found.dtype == object:  # numbers of several kinds, or large ones
        numbers = [whole(f"one of the {name}", value, None) for value in found]
        if all(abs(number) <= LARGEST for number in numbers):
            found = np.array(numbers, np.int64)
        else:
            raise GraphError(f"one of the {name} is {max(numbers, key=abs)}, which is more than 64 bits hold")
    if found.ndim != 1 or n not in (None, len(found)) or not np.issubdtype(found.dtype, np.integer):
        raise GraphError(f"{wanted}{found.dtype} of shape {found.shape}")
    if found.dtype.kind == "u" and int(found.max()) > LARGEST:
        raise GraphError(f"one of the {name} is {int(found.max())}, which is more than 64 bits hold")
    return found.astype(np.int64, copy=False)


def places_of(name: str, values: Any, n: int) -> FloatArray:
    """(n, 2) finite real numbers: where n units lie in the plane.  Raises GraphError where they are not that."""
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "biufO":
            raise TypeError
        places = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        raise GraphError(f"{name} must be two numbers for each unit, but came as {shown(values)}") from None
    if not places.size and n == 0:
        return np.zeros((0, 2))
    if places.shape != (n, 2):
        raise GraphError(
            f"{name} came in shape {places.shape}, but need two numbers, row and column, for each of {n} units"
        )
    if not np.isfinite(places).all():
        wrong = int(np.argmin(np.isfinite(places).all(axis=1)))
        raise GraphError(f"{name} must be finite, but those of unit {wrong} are {shown(places[wrong].tolist())}")
    return places


def path_of(path: AnyPath) -> Path:
    """Whatever the operating system takes for a path.  Raises GraphError where it is none."""
    try:
        found = os.fsdecode(path)
    except TypeError:
        found = "\0"
    if "\0" in found:
        raise GraphError(f"{shown(path)} is no path of a file")
    return Path(found)


def sizes_of(layers: Iterable[int]) -> tuple[int, ...]:
    """The units of every layer as plain numbers.  Raises GraphError where one cannot be, or there is no layer."""
    try:
        given = list(layers)
    except TypeError:
        raise GraphError(f"layers are {shown(layers)}, but must be numbers of units") from None
    sizes = tuple(whole(f"layer {i}", size, most=MOST) for i, size in enumerate(given))
    if not sizes:
        raise GraphError("there are no layers, but a network has at least one")
    if sum(sizes) > MOST:
        raise GraphError(f"layers have {sum(sizes)} units together, but at most {MOST} can be partitioned")
    return sizes


def in_layer(name: str, units: IntArray, size: int) -> None:
    """Raise GraphError where a unit is not one of 0 to size - 1."""
    if units.size and (units.min() < 0 or units.max() >= size):
        wrong = int(units.min() if units.min() < 0 else units.max())
        raise GraphError(f"an edge has {name} unit {wrong}, but that layer's units are 0 to {size - 1}")


def csr(mask: Any) -> scipy_sparse.csr_array:
    """A mask in CSR, duplicates and zeros as they came.  Raises GraphError where it is no matrix of numbers."""
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
        found = scipy_sparse.csr_array(values != 0 if given is None else values)
        if given is not None and found.dtype.kind in "fc" and np.isnan(found.data).any():
            raise GraphError("a mask has NaN, which says neither yes nor no")
    except GraphError:
        raise
    except (TypeError, ValueError, IndexError):
        raise GraphError(f"a mask must be a matrix (lower units, upper units), but came as {shown(mask)}") from None
    return found
