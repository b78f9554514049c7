"""Which rows of a source form which split, and what goes with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import Source, Split
from modelpar.draws import permutation
from modelpar.errors import DataError

IntArray = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


def check_test(source: Source, test: Source) -> None:
    """Raise DataError where test data do not fit the training data."""
    train_table, table = source.table, test.table
    if table.n_units != train_table.n_units:
        raise DataError(
            f"{table.name} has {table.n_units} units, but {train_table.name} has {train_table.n_units}; test and "
            "training data need the same width"
        )
    if (test.visible, test.alphabet) != (source.visible, source.alphabet):
        kinds = [f"{one.visible or 'no states'} {one.alphabet}".strip() for one in (test, source)]
        raise DataError(f"{table.name} has {kinds[0]}, but {train_table.name} has {kinds[1]}; both must be of one kind")
    if test.scale != source.scale:
        raise DataError(
            f"{table.name} means 1.0 by {test.scale:g}, but {train_table.name} by {source.scale:g}; save test and "
            "training data as the same type"
        )


def set_aside(rows: IntArray, fraction: float, seed: int, epoch: int) -> tuple[IntArray, IntArray]:
    """(rows that stay, rows set aside), each ascending."""
    order = permutation(seed, epoch, len(rows))
    n = round(len(rows) * fraction)
    return np.sort(rows[order[n:]]), np.sort(rows[order[:n]])


def split_of(source: Source, rows: IntArray, labels: IntArray | None, weights: Doubles | None) -> Split | None:
    """The split of those of these rows that have any weight; None without any.

    labels, weights   of all rows of the source, where there are any

    Which rows these are chosen from does not depend on weights: a sample that one run has set aside is in no other
    run's training set for its weights.
    """
    if weights is not None:
        rows = rows[weights[rows] > 0]
    if not len(rows):
        return None
    return Split(source.table, rows, _of(labels, rows), _of(weights, rows), source.missing)


def _of(values: Any, rows: IntArray) -> Any:
    return None if values is None else values[rows]
