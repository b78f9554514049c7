"""The kinds of hidden units by their names."""

from __future__ import annotations

from modelpar.units.hidden.drelu import DReLU
from modelpar.units.hidden.gaussian import Gaussian
from modelpar.units.hidden.protocol import HiddenUnits
from modelpar.units.hidden.relu import ReLU

KINDS: dict[str, HiddenUnits] = {units.name: units for units in (Gaussian(), ReLU(), DReLU())}


def hidden_units(name: str) -> HiddenUnits | None:
    """The kind of this name, one of ``NetworkSpec.hidden``; None for Bernoulli units, which have states."""
    return KINDS.get(name)
