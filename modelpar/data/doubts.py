"""Data with which training is pointless are reported before it begins: refused if they cannot be meant, else warned of.

The summaries that checks and scaling need anyway, and the labels, show all of it, so it costs no pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import Dataset, Split, Table
from modelpar.errors import DataError, warn

if TYPE_CHECKING:
    from mpi4py import MPI

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

HALF_OF_BYTES = 128  # bytes that are all below, or just there, were hardly grey values from 0 to 255
FAINT = 0.1  # fraction of 1.0 that other values should come up to
ENOUGH = 10  # samples of whose spread something can be said
OTHER_SPREAD, OTHER_MEAN = 10.0, 5.0  # times that of the training samples; their deviations between the means

_TOLD: WeakKeyDictionary[Table, set[tuple[str, int]]] = WeakKeyDictionary()  # texts, and handles of communicators


def _once(table: Table, comm: MPI.Comm | None, text: str) -> None:
    """Warn, unless the same has been said of these data before: what is pre-trained on them is fine-tuned as well."""
    reported, this = _TOLD.setdefault(table, set()), (text, 0 if comm is None else comm.handle)
    if this not in reported:
        warn(comm, text)
        reported.add(this)  # not where a filter makes it an error: that is raised again


@dataclass(frozen=True)
class _Seen:
    """Range and sizes of the training samples, over all ranks."""

    low: float
    high: float
    n_units: int
    n_constant: int  # units that are the same in all samples, as states where there is a threshold

    @staticmethod
    def of(dataset: Dataset, unit_ids: IntArray, level: float | None, comm: MPI.Comm | None) -> _Seen:
        mine = np.inf, -np.inf, 0, 0
        if len(unit_ids):
            summary = dataset.train.summary(unit_ids)
            same = summary.low == summary.high
            if level is not None:
                same = _states(summary.low, dataset.scale, level) == _states(summary.high, dataset.scale, level)
            mine = float(summary.low.min()), float(summary.high.max()), len(unit_ids), int(same.sum())
        of_ranks = [mine] if comm is None else comm.allgather(mine)
        times = max(1, sum(t[2] for t in of_ranks) // dataset.n_visible)  # every replica has of_ranks
        return _Seen(
            min(t[0] for t in of_ranks), max(t[1] for t in of_ranks), sum(t[2] for t in of_ranks) // times,
            sum(t[3] for t in of_ranks) // times,
        )  # fmt: skip


def check_training(
    dataset: Dataset, unit_ids: IntArray, visible: str, *, comm: MPI.Comm | None = None, again: bool = False
) -> None:
    """Whether there is something to learn in the training samples, whose values :func:`check_range` has passed.

    Refused: values, or states by a threshold, that are all alike.  Warned of: samples that are all alike, values that
    fill little of the range from 0 to 1.0, Gaussian units that never vary, and test or validation samples on another
    scale than the training samples.

    again   training goes on: the samples are some of all there are, and may be alike
    Collective over ``comm`` where one is given.  Raises DataError, on every rank.
    """
    level = None if dataset.binarise in ("none", "stochastic") else float(dataset.binarise)
    seen = _Seen.of(dataset, unit_ids, level, comm)
    if len(dataset.train) < 2 or not seen.n_units:
        return
    if not again:
        _check_alike(dataset, visible, level, seen, comm)
    if visible == "bernoulli" and level is None:
        check_fills_range(dataset, seen.low, seen.high, comm)
    _check_others(dataset, unit_ids, comm)


def _check_alike(dataset: Dataset, visible: str, level: float | None, seen: _Seen, comm: MPI.Comm | None) -> None:
    name, n, low, high = dataset.train.table.name, len(dataset.train), seen.low, seen.high
    if low == high:
        raise DataError(
            f"{name} holds the value {low:g} and no other in all {n} training samples, so there is nothing to learn; "
            "look at how it was saved"
        )
    if level is not None:
        ends = _states(np.array([low, high]), dataset.scale, level)
        if ends[0] == ends[1]:
            bottom, top = low / dataset.scale, high / dataset.scale
            scaled = f", or --scale {high:g}" if dataset.scale == 255 and 0 < high <= HALF_OF_BYTES else ""
            raise DataError(
                f"--binarise {dataset.binarise} makes every state {int(ends[0])}: it is a threshold on values of which "
                f"{dataset.scale:g} means 1.0, and those of {name} go from {bottom:.4g} to {top:.4g} ({low:g} to "
                f"{high:g} before scaling); use a threshold between them, such as {(bottom + top) / 2:.2g}{scaled}"
            )
    if seen.n_constant == seen.n_units:
        what = "states" if level is not None else "values"
        problem = f"all {n} training samples of {name} have the same {what}"
        if visible == "gaussian":
            raise DataError(f"{problem}, which standardised are 0 everywhere; give samples that differ")
        _once(dataset.train.table, comm, f"{problem}: there is one pattern to learn; look at how it was saved")
    elif visible == "gaussian" and seen.n_constant:
        _once(
            dataset.train.table,
            comm,
            f"{seen.n_constant} of the {seen.n_units} units of {name} never vary in the {n} training samples, and are "
            "0 standardised; look at how these were saved where they should vary",
        )


def check_fills_range(dataset: Dataset, low: float, high: float, comm: MPI.Comm | None) -> None:
    """Warn where Bernoulli units are fed with values that stay far below what means 1.0."""
    faint = HALF_OF_BYTES if dataset.scale == 255 else FAINT * dataset.scale
    if dataset.scale_given or not 0 < high <= faint:
        return
    mend = f"use --scale {high:g}, or divide" if dataset.has_options else "divide"
    _once(
        dataset.train.table,
        comm,
        f"{dataset.train.table.name} holds values from {low:g} to {high:g}, but {dataset.scale:g} means 1.0, so they "
        f"are at most {high / dataset.scale:.2g} to the visible units; where {high:g} should mean 1.0, {mend} the "
        f"values by it",
    )


def _check_others(dataset: Dataset, unit_ids: IntArray, comm: MPI.Comm | None) -> None:
    for which, split in (("validation", dataset.validation), ("test", dataset.test)):
        if split is not None and len(split) >= ENOUGH and len(dataset.train) >= ENOUGH:
            train = dataset.train.summary(unit_ids)
            check_same_scale(split, unit_ids, train.mean, train.std, which, comm)


def check_same_scale(
    split: Split, unit_ids: IntArray, mean: FloatArray, std: FloatArray, which: str, comm: MPI.Comm | None
) -> None:
    """Warn where the samples of a split vary much more or less than those for training, or about other means.

    mean, std   (n_units,) of the training samples.  Collective over ``comm`` where one is given.
    """
    if len(split) < ENOUGH:
        return
    summary = split.summary(unit_ids)
    varies = std > 0
    apart = np.abs(summary.mean - mean)[varies] / std[varies] if varies.any() else np.zeros(0)
    mine = np.array([std[varies].sum(), summary.std[varies].sum(), varies.sum(), (apart > OTHER_MEAN).sum()], float)
    if comm is not None:
        mine = comm.allreduce(mine)
    wanted, spread, n, n_apart = map(float, mine)
    if not n:
        return
    about = f"are the {which} samples of {split.table.name} in the unit of the training samples? Their values"
    mend = "save both in one unit"
    if spread > OTHER_SPREAD * wanted or spread * OTHER_SPREAD < wanted:
        _once(
            split.table,
            comm,
            f"{about} deviate by {spread / n:.3g} from their means, the others by {wanted / n:.3g}; {mend}",
        )
    elif n_apart > n / 2:
        _once(
            split.table,
            comm,
            f"{about} have means more than {OTHER_MEAN:g} deviations away from the others' in {n_apart / n:.0%} of the "
            f"units; {mend}",
        )


def check_classes(dataset: Dataset, n_classes: int, comm: MPI.Comm | None = None) -> None:
    """Warn of classes that no training sample has.   n_classes: of the output layer, above every label"""
    labels = dataset.train.labels
    if labels is None or not len(labels):
        return
    counts = np.bincount(labels, minlength=n_classes)
    there, absent = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    name, renumber = dataset.name, "number the classes from 0 on, as np.unique(labels, return_inverse=True)[1] does"
    if len(there) == 1:
        _once(
            dataset.train.table,
            comm,
            f"all {len(labels)} training labels of {name} are {there[0]}, so there is nothing to tell apart; give "
            "samples of other classes too, or train without labels",
        )
    elif len(absent):
        unseen = []
        for which, split in (("validation", dataset.validation), ("test", dataset.test)):
            if split is not None and split.labels is not None:
                lost = int(np.isin(split.labels, absent).sum())
                unseen += [f"{lost} {which} samples are of these"] if lost else []
        gaps = ", ".join(
            [f"{len(absent)} of the {n_classes} classes have no training sample ({_some(absent)})", *unseen]
        )
        _once(
            dataset.train.table,
            comm,
            f"the training labels of {name} go from {there[0]} to {there[-1]}, and {gaps}; {renumber}",
        )


def _some(classes: IntArray) -> str:
    shown = ", ".join(map(str, classes[:5]))
    return shown if len(classes) <= 5 else f"{shown}, ... {classes[-1]}"


def _states(values: Any, scale: float, level: float) -> Any:
    """Raw values after a threshold, rounded as where it is applied."""
    return (np.asarray(values, np.float64) / scale).astype(np.float32) > np.float32(level)
