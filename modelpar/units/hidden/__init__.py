"""Hidden units with real values, one module a kind: see :mod:`modelpar.units.hidden.protocol`."""

from modelpar.units.hidden.drawing import Drawn, cumulant_sums, drawn
from modelpar.units.hidden.kinds import hidden_units
from modelpar.units.hidden.protocol import HiddenUnits

__all__ = ["Drawn", "HiddenUnits", "cumulant_sums", "drawn", "hidden_units"]
