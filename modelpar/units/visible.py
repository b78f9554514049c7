"""Kinds of visible units.

bernoulli       0 or 1
spin            -1 or 1 in data and samples; inside the engine 0 or 1, which is a change of variables (s = 2 v - 1) that
                weights and biases take up, so that an RBM of spins is one of Bernoulli units with other numbers
categorical:Q   sites of Q units in a row, of which one is 1: a Potts spin.  Given the hidden units a site's state has
                softmax probabilities (Smolensky 1986; Salakhutdinov, Mnih and Hinton 2007, equation 1)
gaussian        real values, with a variance of each unit that is learned, or 1 (:mod:`modelpar.model.gaussian_visible`)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelpar.errors import SpecError
from modelpar.values import plain

KINDS = ("bernoulli", "spin", "categorical:Q", "gaussian")
CATEGORICAL = "categorical"
MOST_CATEGORIES = 1 << 10
VARIANCES = ("learned", "unit")  # of Gaussian units


@dataclass(frozen=True)
class Visible:
    """A kind of visible units.

    categories   units of a site, 0 where each unit is one by itself
    learned      names of the parameters of a unit besides its bias
    """

    name: str = "bernoulli"
    categories: int = 0
    learned: tuple[str, ...] = ()

    @property
    def gaussian(self) -> bool:
        return self.name == "gaussian"

    @property
    def unit_of_layout(self) -> int:
        """How many units in a row must have the same owner."""
        return self.categories or 1

    def check_layer(self, n_units: int) -> None:
        """Raise SpecError for a layer that is not of whole sites."""
        if self.categories and n_units % self.categories:
            raise SpecError(
                f"--layers begins with {n_units} units, but --visible categorical:{self.categories} has sites of "
                f"{self.categories} units each: give a multiple of {self.categories}, such as "
                f"{max(round(n_units / self.categories), 1) * self.categories}"
            )


def parse_visible(text: Any, variances: str = "unit") -> Visible:
    """The kind that a word names.   variances: of Gaussian units, one of VARIANCES.  Raises SpecError."""
    word = plain.text("--visible", text)
    if word == "gaussian" and variances == "learned":
        return Visible(word, learned=("precision",))
    if word in ("bernoulli", "spin", "gaussian"):
        return Visible(word)
    name, _, number = word.partition(":")
    if name == CATEGORICAL and number.isascii() and number.isdecimal() and len(number) < 10:
        if not 2 <= int(number) <= MOST_CATEGORIES:
            raise SpecError(f"--visible is {word}, but a site has 2 to {MOST_CATEGORIES} categories")
        return Visible(CATEGORICAL, int(number))
    raise SpecError(
        f"--visible is {plain.shown(text)}, but must be one of {', '.join(KINDS)}, Q the categories of a site: 21 of a "
        "protein's alignment"
    )
