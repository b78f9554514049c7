"""Statistics and checks of the raw values of a rank's columns, in one pass that both share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import Dataset, Split, agreed
from modelpar.data.missing import MissingValues
from modelpar.errors import DataError
from modelpar.kernels.states import unpack
from modelpar.units import parse_visible

if TYPE_CHECKING:
    from mpi4py import MPI

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_AT_ONCE = 1024  # samples
_SLACK = 1e-6  # relative: what scaling in float32 may have added to a value of 1


def column_moments(split: Split, unit_ids: IntArray, *, comm: MPI.Comm | None = None) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the raw values of ``unit_ids``, each (n_units,) float64; the same at every grid.

    By the weights of the samples where these have some, and of the values that are known where others are missing.
    Collective over ``comm`` where one is given.  Raises DataError where values cannot be read.
    """
    with agreed(comm):
        if split.weights is not None or split.missing is not None:
            return _moments_by_weight(split, unit_ids)
        summary = split.summary(unit_ids)
    return summary.mean, summary.std


def _moments_by_weight(split: Split, unit_ids: IntArray) -> tuple[FloatArray, FloatArray]:
    """Deviations are from a column's first value: that of one which never varies is exactly 0."""
    columns, n = split.table.columns(unit_ids), len(unit_ids)
    unknown = None if split.missing is None else MissingValues(split, unit_ids)
    weights = np.ones(len(split)) if split.weights is None else split.weights
    first, mean, totals = np.empty((n, 1)), np.zeros(n), np.zeros(n)
    columns.fill(split.rows[:1], first)

    def sums(power: int) -> FloatArray:
        total = np.zeros(n)
        totals[:] = 0
        for start in range(0, len(split), _AT_ONCE):
            samples = np.arange(start, min(start + _AT_ONCE, len(split)))
            values = np.empty((n, len(samples)))
            columns.fill(split.rows[samples], values)
            of_values = np.broadcast_to(weights[samples], values.shape)
            if unknown is not None:
                of_values = np.where(unpack(unknown.of(samples), np.bool_), 0.0, of_values)
            total += (of_values * (values - first - mean[:, None]) ** power).sum(axis=1)
            totals[:] += of_values.sum(axis=1)
        return np.asarray(total / np.where(totals > 0, totals, 1.0))

    mean += sums(1)
    return first[:, 0] + mean, np.sqrt(sums(2))


def check_range(dataset: Dataset, unit_ids: IntArray, visible: str, *, comm: MPI.Comm | None = None) -> None:
    """Check the values of ``unit_ids`` in every split against a kind of visible units, as ``NetworkSpec.visible``.

    No value may be NaN or infinite; for Bernoulli units all must lie between 0 and the data set's scale, for spins
    between minus that and it, and of each site of categorical units (``unit_ids`` has all of a site) one must be the
    scale and the others 0.  Bytes that are never above 1 are states that were taken for grey values, which is an error
    too.

    Collective over ``comm`` where one is given.  Raises DataError, on every rank.
    """
    highest = 0.0
    with agreed(comm):
        for split in (dataset.train, dataset.validation, dataset.test):
            if split is not None and len(split) and len(unit_ids):
                highest = max(highest, _check_split(split, unit_ids, visible, dataset.scale))
    if comm is not None:
        highest = max(comm.allgather(highest))
    if problem := states_taken_for_grey(dataset.train.table.name, dataset.scale, highest, given=dataset.scale_given):
        raise DataError(problem)


def states_taken_for_grey(name: str, scale: float, highest: float, *, given: bool) -> str:
    """Why bytes up to ``highest`` were hardly grey values; empty where they may be.   given: the scale, by the user"""
    if scale != 255 or highest != 1 or given:
        return ""
    return (
        f"{name} holds bytes that are only 0 and 1, but bytes are grey values up to 255; save states as .astype(bool), "
        "or use --scale 1"
    )


def _check_split(split: Split, unit_ids: IntArray, visible: str, scale: float) -> float:
    """The highest value of the split.  Raises DataError."""
    summary = split.summary(unit_ids)
    name = split.table.name
    if not summary.finite.all():
        bad = int(np.flatnonzero(~summary.finite)[0])
        sample, value = _first_not_finite(split, unit_ids[bad])
        raise DataError(
            f"{name} has the value {value} (sample {sample}, unit {unit_ids[bad]}), but values must be finite numbers"
        )
    low, high = float(summary.low.min()), float(summary.high.max())
    kind, most = parse_visible(visible), scale * (1 + _SLACK)
    if kind.name == "spin" and (low < -most or high > most):
        raise DataError(
            f"{name} has values from {low:g} to {high:g}, but spins need values from {-scale:g} to {scale:g}; scale "
            "the data, or use --visible gaussian"
        )
    if kind.name == "bernoulli" and (low < 0 or high > most):
        mend = f" (--scale {high:g})" if low >= 0 else ""
        spins = "spin or " if (low, high) == (-scale, scale) else ""
        raise DataError(
            f"{name} has values from {low:g} to {high:g}, but Bernoulli visible units need values from 0 to {scale:g}; "
            f"scale the data{mend}, or use --visible {spins}gaussian"
        )
    if kind.categories:
        _check_sites(split, unit_ids, kind.categories, scale)
    return high


def _check_sites(split: Split, unit_ids: IntArray, categories: int, scale: float) -> None:
    """Raise DataError unless of each site one unit is ``scale`` and the others are 0, in every sample."""
    columns, at_once = split.table.columns(unit_ids), max(1, (1 << 22) // max(len(unit_ids), 1))
    for start in range(0, len(split), at_once):
        rows = split.rows[start : start + at_once]
        values = np.empty((len(unit_ids), len(rows)), np.float32)
        columns.fill(rows, values)
        ones = (values == np.float32(scale)).reshape(-1, categories, len(rows)).sum(axis=1)
        others = ((values != 0) & (values != np.float32(scale))).reshape(ones.shape[0], categories, -1).any(axis=1)
        wrong = np.argwhere((ones != 1) | others)
        if len(wrong):
            site, sample = wrong[0]
            which = f"site {int(unit_ids[site * categories]) // categories} of sample {int(rows[sample])}"
            raise DataError(
                f"{split.table.name} has {ones[site, sample]} units that are {scale:g} at {which}, but of the "
                f"{categories} units of a site one must be {scale:g} and the others 0: one-hot, unit = site x "
                f"{categories} + category"
            )


def _first_not_finite(split: Split, unit_id: int) -> tuple[int, float]:
    """The first sample (row of its table) with a value of a unit that is NaN, infinite or too large, and the value."""
    column = split.table.columns(np.array([unit_id]))
    for start in range(0, len(split), 4096):
        rows = split.rows[start : start + 4096]
        values = np.empty((1, len(rows)))
        column.fill(rows, values)
        wrong = np.flatnonzero(~(np.abs(values[0]) < 1e150))  # above, squares overflow
        if len(wrong):
            return int(rows[wrong[0]]), float(values[0, wrong[0]])
    return int(split.rows[0]), float("nan")
