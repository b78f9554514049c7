"""Sequence logos of samples and of hidden units, by logomaker (Tareen and Kinney 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.analysis.pictures import figure, styled
from modelpar.errors import SpecError

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

SITES = 60  # of one line of a logo
LOW = {
    "bits": 0.02,
    "weight": 0.1,
}  # part of the highest stack below which a letter, which nobody could read, is not drawn
STACKS: Any = {"font_name": "DejaVu Sans", "vpad": 0.02, "flip_below": False}
GROUPS = {  # amino acids by what their side chains are, then nucleotides
    "AVLIMFWYP": "#3a3a3a", "C": "#E69F00", "STGNQ": "#009E73", "DE": "#D55E00", "KRH": "#0072B2", "-": "#cccccc",
}  # fmt: skip
NUCLEOTIDES = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00", "U": "#D55E00", "-": "#cccccc"}


def information(frequencies: Array) -> Doubles:
    """Heights (sites, states) of a logo: frequency times the information of the site in bits (Schneider and Stephens
    1990)."""
    f = np.asarray(frequencies, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(f > 0, f * np.log2(f), 0).sum(axis=1, keepdims=True)
    return np.asarray(f * (np.log2(f.shape[1]) - entropy))


@styled
def frequency_logos(frequencies: dict[str, Array], alphabet: str) -> Any:
    """Logos in bits of several sets, as of data and samples, one below the other line by line.

    frequencies   name: (sites, states)
    """
    return _logos({name: information(f) for name, f in frequencies.items()}, alphabet, "bits")


@styled
def unit_logos(W: Array, alphabet: str, units: Sequence[int]) -> Any:
    """Weights of hidden units: letters above the line switch a unit on, those below switch it off.

    W   (sites * states, hidden), in the zero-sum gauge
    """
    sites = np.asarray(W, np.float64).reshape(-1, len(alphabet), np.shape(W)[1])
    return _logos({f"hidden unit {unit}": sites[:, :, unit] for unit in units}, alphabet, "weight")


def strongest_units(W: Array, count: int) -> list[int]:
    """The hidden units with the largest norms of weights, the largest first."""
    norms = np.linalg.norm(np.asarray(W, np.float64), axis=0)
    return [int(unit) for unit in np.argsort(-norms, kind="stable")[:count]]


def _logos(heights: dict[str, Array], alphabet: str, label: str) -> Any:
    """Every set in lines of at most SITES sites."""
    try:
        import logomaker
        import pandas
    except ImportError:
        raise SpecError("logos need logomaker, which is not installed: pip install 'modelpar[logos]'") from None
    n_sites = len(next(iter(heights.values())))
    n_lines = -(-n_sites // SITES)
    per_line = -(-n_sites // n_lines)
    made = figure(0.17 * per_line + 1.0, 1.25 * n_lines * len(heights) + 0.3)
    panels = made.subplots(n_lines * len(heights), 1, squeeze=False)[:, 0]
    for line in range(n_lines):
        sites = np.arange(line * per_line, min((line + 1) * per_line, n_sites))
        for k, (name, values) in enumerate(heights.items()):
            axes = panels[line * len(heights) + k]
            high = np.where(values > 0, values, 0).sum(axis=1).max(initial=0)
            low = np.where(values < 0, values, 0).sum(axis=1).min(initial=0)
            seen = np.where(np.abs(values) < LOW[label] * max(high, -low), 0, values)[sites]
            frame = pandas.DataFrame(seen, columns=list(alphabet), index=sites + 1)
            logomaker.Logo(frame, ax=axes, color_scheme=colours(alphabet), **STACKS)
            for letter in axes.patches:
                letter.set_in_layout(False)  # each would be measured again and again
            margin = 0.04 * (high - low or 1.0)
            axes.set_xlim(sites[0] + 0.4, sites[0] + per_line + 0.6)
            axes.set_ylim(low - (margin if low < 0 else 0), high + margin)
            axes.locator_params(axis="y", nbins=3)
            axes.set_ylabel(label)
            axes.set_title(name, loc="left")
            axes.set_xticks([site + 1 for site in sites if site == sites[0] or (site + 1) % 10 == 0])
            if low < 0:
                axes.axhline(0, color="#777777", linewidth=0.6)
                axes.spines["bottom"].set_visible(False)
    panels[-1].set_xlabel("site")
    return made


def colours(alphabet: str) -> dict[str, str]:
    """Colours of letters: of nucleotides where there are no others, else of amino acids; grey for those unknown."""
    if set(alphabet.upper()) <= set(NUCLEOTIDES):
        return {letter: NUCLEOTIDES[letter.upper()] for letter in alphabet}
    by_letter = {letter: colour for letters, colour in GROUPS.items() for letter in letters}
    return {letter: by_letter.get(letter.upper(), "#777777") for letter in alphabet}
