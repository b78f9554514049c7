"""X for each kind of visible units: values in [0, 1], spins, states of sites, or real values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from modelpar.errors import DataError, SpecError
from modelpar.sklearn.arrays import FAR, KINDS, SLACK, visible_values
from modelpar.units import Visible, parse_visible
from modelpar.values import plain

Array = npt.NDArray[Any]

ALL_KINDS = (*KINDS[:2], "spin", "categorical:Q", *KINDS[2:])


def values_of_kind(X: Any, visible: str) -> tuple[Any, str]:
    """(X as the units have it, their kind), as :func:`visible_values` of all kinds.

    Spins are from -1 to 1, states of sites integers from 0 on, in whatever type, and dense.  Raises SpecError for an
    unknown kind, DataError for values that the kind does not have.
    """
    kind = kind_of(visible)
    if kind is None or kind.name in KINDS:
        return visible_values(X, visible)
    return with_states(X, kind), visible


def kind_of(visible: Any) -> Visible | None:
    """The kind that a word names, None for ``auto``.  Raises SpecError."""
    try:
        return None if isinstance(visible, str) and visible == "auto" else parse_visible(visible)
    except SpecError as error:
        if isinstance(visible, str) and visible.startswith("categorical:"):
            raise
        raise SpecError(f"visible is {plain.shown(visible)}, but must be one of {', '.join(ALL_KINDS)}") from error


def with_states(X: Any, kind: Visible, *, fitted: bool = False) -> Any:
    """X, dense where its units are sites.   fitted: X is new, and spins may lie somewhat beyond their range

    Raises DataError for values that spins or sites do not have; any other kind has all of them.
    """
    if kind.name == "spin":
        values = X.data if scipy.sparse.issparse(X) else X
        low, high, most = float(values.min(initial=0.0)), float(values.max(initial=0.0)), 1 + (FAR if fitted else SLACK)
        if low < -most or high > most:
            raise DataError(
                f"X has values from {low:g} to {high:g}, but spins need values from -1 to 1; scale X, or use "
                "visible='gaussian'"
            )
        return X
    if not kind.categories:
        return X
    X = X.toarray() if scipy.sparse.issparse(X) else X
    in_range = (X >= 0) & (kind.categories > X)
    wrong = (np.rint(X) != X) | ~in_range
    if wrong.any():
        sample, site = np.argwhere(wrong)[0]
        raise DataError(
            f"X has the value {X[sample, site]:g} (sample {sample}, site {site}), but the states of "
            f"categorical:{kind.categories} are integers from 0 to {kind.categories - 1}; encode them, as by "
            "OrdinalEncoder"
        )
    return X


def states_of_sites(units: Array, n_states: int) -> Array:
    """(n, sites) int64 states of one-hot units (n, sites * n_states)."""
    return np.asarray(units.reshape(len(units), -1, n_states).argmax(axis=2), np.int64)
