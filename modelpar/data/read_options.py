"""What a user says of how a file is to be read, where the file leaves it open."""

from __future__ import annotations

from dataclasses import dataclass

MISSING = ("auto", "error", "gap", "most-frequent", "sample")
FILLED = ("most-frequent", "sample")  # of them, those by which something stands in the place of missing values


@dataclass(frozen=True)
class ReadOptions:
    """Options of readers; those that have nothing to do with a format are passed over by its reader.

    alphabet   of sequences: ``protein``, ``dna``, ``rna``, or the letters of the states in their order; empty: by the
               letters that there are
    missing    one of ``MISSING``: what becomes of letters that say little, of genotypes that are not known, of NaN and
               of states -1; ``auto``: gaps of sequences, else refused; ``sample``: training draws them from the model
    visible    the kind of visible units that the data are for; empty where that is not known
    """

    alphabet: str = ""
    missing: str = "auto"
    visible: str = ""

    @property
    def n_states(self) -> int:
        """States of a site of the categorical units that the data are for; 0 where they are for others."""
        kind, _, number = self.visible.partition(":")
        return int(number) if kind == "categorical" and number.isdecimal() else 0
