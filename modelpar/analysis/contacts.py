"""Contacts of a protein: pairs of sites that the couplings of a model put near to each other."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.analysis.couplings import zero_sum
from modelpar.errors import DataError
from modelpar.formats.reading import unpacked

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

SEPARATION = 4  # sites along the chain up to which a contact says nothing of the fold
CONTACT = 8.0  # angstroms
LONGEST_LINE = 256  # bytes of a table's line, on average


def scores(J: Array, *, gap: int | None = 0) -> Doubles:
    """Scores (sites, sites) of all pairs: the norm of their couplings, corrected for what a site has with all others.

    J    (sites, states, sites, states)
    gap  state that is left out of the norm, since gaps come in stretches; None: none is

    Frobenius norm in the zero-sum gauge, then the average product correction (Dunn, Wahl and Gloor 2008); 0 on the
    diagonal.
    """
    J = zero_sum(J)
    if gap is not None:
        J = np.delete(np.delete(J, gap, axis=1), gap, axis=3)
    return average_product_corrected(np.sqrt((J**2).sum(axis=(1, 3))))


def average_product_corrected(norms: Array) -> Doubles:
    """norms - row mean * column mean / mean, over pairs of different sites; 0 on the diagonal."""
    norms = np.array(norms, np.float64)
    n = len(norms)
    np.fill_diagonal(norms, 0)
    if n < 2 or not norms.any():
        return norms
    of_site, of_all = norms.sum(axis=0) / (n - 1), norms.sum() / (n * (n - 1))
    norms -= np.outer(of_site, of_site) / of_all
    np.fill_diagonal(norms, 0)
    return norms


@dataclass(frozen=True)
class Structure:
    """Distances (sites, sites) in angstroms; NaN where a structure does not have them."""

    distances: Doubles

    @classmethod
    def read(cls, path: str | Path, n_sites: int) -> Structure:
        """From a table of pairs, plain or .gz: i and j from 1 in the first two columns, the distance in the last.

        Raises DataError where the file cannot be read, is not such a table, or has other sites.
        """
        most = LONGEST_LINE * (n_sites * n_sites + 1)
        with unpacked(Path(path)) as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise DataError(f"{path} has more than {most} bytes, the most for the pairs of {n_sites} sites")
        try:
            with warnings.catch_warnings(action="ignore"):  # of a file without any lines
                table = np.loadtxt(io.BytesIO(content), ndmin=2)
        except ValueError as error:
            raise DataError(f"{path} cannot be read as a table of distances ({error}); lines of i, j, ..., distance "
                            "are needed") from None  # fmt: skip
        if table.shape[0] == 0 or table.shape[1] < 3:
            raise DataError(f"{path} has {table.shape[0]} pairs of {table.shape[1]} columns; i, j, ..., distance are "
                            "needed")  # fmt: skip
        with np.errstate(invalid="ignore"):
            i, j = table[:, 0].astype(np.int64) - 1, table[:, 1].astype(np.int64) - 1
        if not np.array_equal(table[:, :2], np.stack([i, j], axis=1) + 1) or min(i.min(), j.min()) < 0:
            raise DataError(f"{path} has sites that are not integers from 1")
        if max(i.max(), j.max()) >= n_sites:
            raise DataError(f"{path} has the site {max(i.max(), j.max()) + 1}, but the alignment has {n_sites}; give "
                            "the distances of the same columns")  # fmt: skip
        distances = np.full((n_sites, n_sites), np.nan)
        distances[i, j] = distances[j, i] = table[:, -1]
        return cls(distances)

    @property
    def contacts(self) -> npt.NDArray[np.bool_]:
        """Which pairs are nearer than 8 angstroms."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.distances < CONTACT)


def ranked_pairs(pair_scores: Array, structure: Structure | None = None) -> npt.NDArray[np.int64]:
    """(pairs, 2) sites i < j, more than 4 apart, the highest score first; of those that the structure has."""
    i, j = np.triu_indices(len(pair_scores), SEPARATION + 1)
    if structure is not None:
        known = np.isfinite(structure.distances[i, j])
        i, j = i[known], j[known]
    order = np.argsort(-np.asarray(pair_scores)[i, j], kind="stable")
    return np.stack([i[order], j[order]], axis=1)


def precision(pair_scores: Array, structure: Structure, n_pairs: int) -> float:
    """How many of the first ``n_pairs`` ranked pairs are contacts, as a fraction; NaN where there are no pairs."""
    first = ranked_pairs(pair_scores, structure)[:n_pairs]
    return float(structure.contacts[first[:, 0], first[:, 1]].mean()) if len(first) else float("nan")
