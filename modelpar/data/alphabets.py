"""Alphabets of aligned sequences: which letters are the states of a site, and which say little or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modelpar.errors import SpecError

IntArray = npt.NDArray[np.int64]

GAP = "-"
MOST_STATES = 200  # more than there are characters to write them
_NUCLEOTIDES = "ACGTUN"
_SHARE = 0.9  # of letters that are nucleotides in DNA and RNA; in proteins a quarter of them are


@dataclass(frozen=True)
class Alphabet:
    """The letters of the states, in their order, and those that stand for several of them, or for none.

    what   the letters are, for messages
    """

    letters: str
    vague: str
    what: str

    @property
    def gap(self) -> int:
        """The state of a gap; -1 where there is none."""
        return self.letters.find(GAP)

    @property
    def has_case(self) -> bool:
        """Whether lower-case letters are states of their own."""
        return self.letters != self.letters.upper()


PROTEIN = Alphabet("-ACDEFGHIKLMNPQRSTVWY", "BJOUXZ", "amino acids")
DNA = Alphabet("-ACGT", "BDHKMNRSVWXY", "nucleotides of DNA")
RNA = Alphabet("-ACGU", "BDHKMNRSVWXY", "nucleotides of RNA")
BY_NAME = {"protein": PROTEIN, "dna": DNA, "rna": RNA}


def alphabet_of(counts: IntArray, asked: str) -> Alphabet:
    """The one that was asked for, by name or letters, else the one that the letters of a file suggest.

    counts   (256,) how often each upper-case letter and other character stands in the file
    Raises SpecError where what was asked for is no alphabet.
    """
    if asked:
        return own_alphabet(asked)
    letters = {chr(code): int(counts[code]) for code in range(ord("A"), ord("Z") + 1)}
    nucleotides = sum(letters[letter] for letter in _NUCLEOTIDES)
    if nucleotides < _SHARE * sum(letters.values()) or nucleotides == letters["N"]:
        return PROTEIN
    return RNA if letters["U"] > letters["T"] else DNA


def own_alphabet(asked: str) -> Alphabet:
    """An alphabet by its name or its letters.  Raises SpecError."""
    if asked.lower() in BY_NAME:
        return BY_NAME[asked.lower()]
    wrong = [letter for letter in asked if not ("!" <= letter <= "~") or letter in ">."]
    twice = [letter for letter in asked if asked.count(letter) > 1]
    if wrong or twice or not 2 <= len(asked) <= MOST_STATES:
        why = f"has {wrong[0]!r}" if wrong else f"has {twice[0]!r} twice" if twice else f"has {len(asked)} letter(s)"
        raise SpecError(
            f"--alphabet {asked} {why}, but must be protein, dna, rna, or 2 or more different letters in the order of "
            "their states, as in -ACGT"
        )
    same = next((known for known in BY_NAME.values() if known.letters == asked), None)
    return same or replace(PROTEIN, letters=asked, vague="", what=f"the letters {asked}")
