"""Options as fields of frozen classes, checked and kept as plain Python values."""

from __future__ import annotations

import os
from dataclasses import Field, field, fields
from typing import Any

from modelpar.errors import SpecError
from modelpar.values import plain

MOST_UNITS = 1 << 31  # of a layer: as many as the values of a sample
MOST_LAYERS = 1 << 10
MOST_INTEGER = (1 << 63) - 1  # of any option


def option(default: Any, help: str, *, choices: tuple[str, ...] = (), at_least: float | None = None,
           above: float | None = None, at_most: float | None = None, below: float | None = None,
           flag: str | None = None, path: str | None = None, numeric: bool = False) -> Any:  # fmt: skip
    """A dataclass field with its help text, and the values that it accepts.

    ``flag`` is its name on the command line, where that is not the class's prefix and the field's name.
    ``path`` tells that it names a file or folder: ``file``; ``data``, which may be the name of a data set too; or
    ``masks``, of which some words are mask:FILE.
    ``numeric`` tells that the text may be given as a number.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    metadata = {"help": help, "choices": choices, "bounds": bounds, "flag": flag, "path": path, "numeric": numeric}
    return field(default=default, metadata=metadata)


def option_name(field_name: str) -> str:
    """``batch_size`` -> ``--batch-size``"""
    return "--" + field_name.replace("_", "-")


class Spec:
    """Base of the frozen option classes: every field is checked, and kept as a plain Python value."""

    prefix = ""  # prepended to a field's name on the command line, where two classes share a name

    @classmethod
    def flag(cls, f: Field[Any]) -> str:
        """The name of a field on the command line."""
        return f.metadata.get("flag") or option_name(cls.prefix + f.name)

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, _plain_value(f, self.flag(f), getattr(self, f.name)))


def _plain_value(f: Field[Any], name: str, value: Any) -> Any:
    """The value of a field as its type says.  Raises SpecError where it has another type, or is not valid."""
    kind, bounds, choices = str(f.type), f.metadata.get("bounds", {}), f.metadata.get("choices")
    if value is None and kind.endswith(" | None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind == "int":
        return plain.integer_number(name, value, **{"at_most": MOST_INTEGER, **bounds})
    if kind == "float":
        return plain.real_number(name, value, **bounds)
    if kind == "bool":
        return plain.truth(name, value)
    if kind == "tuple[int, ...]":
        return _sizes(name, value)
    given = value
    if f.metadata.get("numeric") and plain.real(value) is not None:  # a threshold, or bits
        value = plain.shown(value)
    elif not choices or isinstance(value, os.PathLike):
        value = plain.text(name, value)
    if choices and not (isinstance(value, str) and value in choices):
        raise SpecError(f"{name} is {plain.shown(given)}, but must be one of {', '.join(choices)}")
    return str(value)


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    """Sizes of layers from any sequence of integers."""
    sizes = plain.elements(value, MOST_LAYERS + 1)
    if sizes is None:
        raise SpecError(f"{name} is {plain.shown(value)}, but must be integers, one for each layer")
    if len(sizes) > MOST_LAYERS:
        raise SpecError(f"{name} has more than {MOST_LAYERS} layers, the most that are possible; leave some out")
    for units in sizes:
        if (plain.integer(units) or 0) < 1:
            raise SpecError(f"{name} has a layer of {plain.shown(units)} units, but every layer needs at least one")
        if (plain.integer(units) or 0) > MOST_UNITS:
            raise SpecError(f"{name} has a layer of {plain.shown(units)} units, but at most {MOST_UNITS} are possible")
    return tuple(plain.integer_number(name, units) for units in sizes)
