"""The patterns of connections that ``--connections`` names for each RBM, with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from modelpar.errors import SpecError

MOST = 1 << 31  # of any number in a pattern: units of a layer
DENSE = "dense"
PRUNED = "pruned"
MASK = "mask:"  # followed by the name of a file
FORMS = {
    DENSE: "dense",
    "local": "local:FIELD or local:FIELD/STRIDE",
    "mask": "mask:FILE",
    "random": "random:DEGREE",
    "erdos-renyi": "erdos-renyi:DENSITY",
    "small-world": "small-world:DEGREE/REWIRED",
    "scale-free": "scale-free:DEGREE",
    "radix-net": "radix-net:RADIXxRADIX.../COPIES",
    PRUNED: "pruned",
}


@dataclass(frozen=True)
class Pattern:
    """The connections of one RBM, as asked for."""

    kind: str = DENSE  # one of FORMS
    numbers: tuple[float, ...] = ()  # field and stride, degree, density, or degree and rewired fraction
    radices: tuple[int, ...] = ()
    path: str = ""

    @property
    def dense(self) -> bool:
        return self.kind == DENSE


def parse(text: str) -> Pattern:
    """``local:5/2`` -> Pattern("local", (5, 2)).  Raises SpecError for any other text."""
    kind, separator, rest = text.strip().partition(":")
    if kind not in FORMS:
        raise SpecError(f"--connections has {text.strip()!r}, which is not known; use {'; '.join(FORMS.values())}")
    if kind in (DENSE, PRUNED):
        if separator:
            raise SpecError(f"--connections has {text.strip()!r}, but {kind} takes nothing after it")
        return Pattern(kind)
    if kind == "mask":
        if not rest:
            raise SpecError("--connections has 'mask' without a file; use mask:FILE")
        return Pattern(kind, path=rest)
    try:
        return _READERS[kind](rest)
    except ValueError:
        raise SpecError(f"--connections has {text.strip()!r}, but should have {FORMS[kind]}") from None


def _local(text: str) -> Pattern:
    field, slash, stride = text.partition("/")
    return Pattern("local", (_integer(field), _integer(stride) if slash else 1))


def _degree(kind: str) -> Callable[[str], Pattern]:
    return lambda text: Pattern(kind, (_integer(text),))


def _density(text: str) -> Pattern:
    return Pattern("erdos-renyi", (_fraction(text),))


def _small_world(text: str) -> Pattern:
    degree, _, rewired = text.partition("/")
    return Pattern("small-world", (_integer(degree), _fraction(rewired)))


def _radix_net(text: str) -> Pattern:
    radices, slash, copies = text.partition("/")
    if radices.count("x") >= MOST.bit_length():  # their product is a number of units
        raise ValueError
    factors = tuple(_integer(radix, 2) for radix in radices.split("x"))
    return Pattern("radix-net", (_integer(copies) if slash else 1,), factors)


def _integer(text: str, at_least: int = 1) -> int:
    number = int(text)
    if not at_least <= number <= MOST:
        raise ValueError
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not (0 <= number <= 1 and math.isfinite(number)):
        raise ValueError
    return number


_READERS: dict[str, Callable[[str], Pattern]] = {
    "local": _local, "random": _degree("random"), "erdos-renyi": _density, "small-world": _small_world,
    "scale-free": _degree("scale-free"), "radix-net": _radix_net,
}  # fmt: skip


def patterns(text: str, n_rbms: int) -> tuple[Pattern, ...]:
    """One pattern for each RBM; a single one applies to all.  Raises SpecError."""
    words = text.split(",")
    if len(words) not in (1, n_rbms):
        raise SpecError(f"--connections names {len(words)} patterns ({text}), but the network has {n_rbms} RBM(s)")
    parsed = tuple(parse(word) for word in words)
    return parsed * n_rbms if len(words) == 1 else parsed


def parse_image_shape(text: str, n_units: int) -> tuple[int, int, int]:
    """``28x28`` or ``3x32x32`` -> (maps, rows, columns) of the visible units; a square where the text is empty.

    Raises SpecError where it does not fit the units.
    """
    if not text:
        side = math.isqrt(n_units)
        if side * side != n_units:
            raise SpecError(
                f"local connections need units on a grid, but {n_units} is not a square number; give --visible-grid"
            )
        return 1, side, side
    words = text.lower().split("x")
    if len(words) not in (2, 3) or not all(word.isdecimal() and len(word) < 20 and int(word) > 0 for word in words):
        raise SpecError(
            f"--visible-grid is {text!r}, but must be rows x columns, or maps x rows x columns, as in 28x28"
        )
    numbers = [int(word) for word in words]
    maps, rows, columns = numbers if len(numbers) == 3 else (1, *numbers)
    if maps * rows * columns != n_units:
        raise SpecError(
            f"--visible-grid is {text}, which has {maps * rows * columns} units, but --layers has {n_units}"
        )
    return maps, rows, columns
