"""Kinds of units: what their values are, how they are drawn, and what they add to energies."""

from modelpar.units.visible import VARIANCES, Visible, parse_visible

__all__ = ["VARIANCES", "Visible", "parse_visible"]
