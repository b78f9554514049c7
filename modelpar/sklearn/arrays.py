"""Conversions between arrays and the engine: X to a data set, a network's tensors to complete arrays and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from modelpar.chains.gibbs import Chains
from modelpar.checkpoint import tensors
from modelpar.collective import messages
from modelpar.data import Dataset, Split
from modelpar.data.categorical import as_categorical
from modelpar.data.doubts import ENOUGH, check_fills_range
from modelpar.data.memory import array_source
from modelpar.data.sample_weights import check_weights
from modelpar.errors import DataError, SpecError, warn
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.evaluation import check_split
from modelpar.training.feeds import sample_chunks, visible_feed
from modelpar.training.state import TrainingRun
from modelpar.units import parse_visible
from modelpar.values import plain
from modelpar.values.forms import plain_array, plain_rows

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

KINDS = ("auto", "bernoulli", "gaussian")
SLACK = 1e-6  # by how much scaled values may miss [0, 1] through rounding
FAR = 1.0  # by how much they may miss it after fitting, where samples are new


def prepared(X: Any) -> Any:
    """X in a form in which scikit-learn's checks see the values that the engine will use: sparse matrices without
    duplicates, which the checks would keep, and no masked values or ``np.matrix``.  The caller's X is not changed.

    Raises DataError.
    """
    if scipy.sparse.issparse(X):
        return plain_rows(X, "X").matrix if X.dtype.kind in "buif" and X.ndim == 2 else X
    return plain_array(X, "X") if isinstance(X, (np.ma.MaskedArray, np.matrix)) else X


def counting(X: Any, sample_weight: Any) -> tuple[Any, Doubles | None]:
    """(the samples of X that have any weight, their weights); all of X where ``sample_weight`` is None.

    Raises DataError where weights are not one number from 0 on for each sample.
    """
    if sample_weight is None:
        return X, None
    weights = check_weights(sample_weight, X.shape[0], "sample_weight")
    rows = np.flatnonzero(weights)
    return (X if len(rows) == len(weights) else X[rows]), weights[rows]


def dataset_of(
    X: Any, labels: IntArray | None = None, n_classes: int = 0, validation_samples: IntArray | None = None,
    weights: Doubles | None = None, visible: str = "",
) -> Dataset:  # fmt: skip
    """A data set from X: ``validation_samples`` form its validation set, all others its training set.

    weights   of the samples of X, where there is no validation set
    visible   the kind of units; of categorical ones X has the states of sites
    """
    n_states = parse_visible(visible).categories if visible else 0
    source = array_source(X.astype(np.int32) if n_states else X, "X")
    table = (as_categorical(source, n_states) if n_states else source).table
    samples, validation = np.arange(table.n_samples), None
    if validation_samples is not None:
        samples, held_out = np.setdiff1d(samples, validation_samples), np.sort(validation_samples)
        validation = Split(table, held_out, None if labels is None else labels[held_out])
    train = Split(table, samples, None if labels is None else labels[samples], weights)
    return Dataset("X", table.n_units, n_classes, None, train, validation, None, 1.0, has_options=False)


def visible_values(X: Any, visible: str) -> tuple[Any, str]:
    """(X, kind of visible units): ``auto`` is bernoulli where all values lie in [0, 1], else gaussian.

    Values outside of the interval through rounding are clipped.  Raises SpecError for an unknown kind, DataError for
    ``bernoulli`` with values outside of the interval.
    """
    if visible not in KINDS:
        raise SpecError(f"visible is {plain.shown(visible)}, but must be one of {', '.join(KINDS)}")
    if visible == "gaussian":
        return X, visible
    values = X.data if scipy.sparse.issparse(X) else X
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    # also relative to the largest value: in another unit, all values may be small
    if low < -SLACK * min(1.0, high) or high > 1 + SLACK:
        if visible == "auto":
            return X, "gaussian"
        raise DataError(
            f"X has values from {low:g} to {high:g}, but Bernoulli visible units need values from 0 to 1; scale X, for "
            "example with MinMaxScaler, or use visible='gaussian'"
        )
    if low < 0 or high > 1:
        X = X.copy()
        values = X.data if scipy.sparse.issparse(X) else X
        np.clip(values, 0, 1, out=values)
    return X, "bernoulli" if visible == "auto" else visible


def collect(network: DeepBeliefNetwork) -> dict[str, Array]:
    """All tensors of a checkpoint, complete and in unit-id order, on every rank.  Collective."""
    arrays = {}
    for block in tensors(network):
        array = np.zeros(block.shape, block.block.dtype)
        array[block.index] = block.block
        # each element is on exactly one shard, so the sum only joins the pieces
        messages.allreduce(network.grid.shard_comm, array)
        arrays[block.name] = array
    return arrays


def put(network: DeepBeliefNetwork, arrays: dict[str, Array]) -> None:
    """The inverse of :func:`collect`: each rank takes what it owns.  Tensors that are not in ``arrays`` are kept."""
    chains, run = arrays.get("chains"), TrainingRun.of(network)
    rooms = None
    if chains is not None:
        rooms = {"chains": np.zeros((len(network.rbms[0].hidden_ids), chains.shape[1]), network.dtype)}
    for part in network.parts():
        if f"velocity.{part.name}.W" in arrays:
            run.velocity[part.name] = part.parameters.like()
    for block in tensors(network, rooms):
        if block.name in arrays:
            block.block[...] = arrays[block.name][block.index]
    network.refresh()
    run.refresh(network)
    if rooms is not None:
        run.chains = Chains.of_replica(
            rooms["chains"], network.grid.replica, network.grid.n_replicas, real=network.spec.hidden != "bernoulli"
        )


def each_sample(
    network: DeepBeliefNetwork, X: Any, unit_ids: IntArray, n_units: int, dtype: npt.DTypeLike,
    compute: Callable[[Array, IntArray], Array],
) -> Array:  # fmt: skip
    """(n_samples, n_units) on every rank, from the units that each rank computes.  Collective.

    unit_ids   the units that this rank computes; those of all shards together are all units
    compute    (visible activations (n_visible_owned, batch), samples (batch,)) -> (len(unit_ids), batch)
    """
    dataset, grid = dataset_of(X, visible=network.spec.visible), network.grid
    _check_scale(network, dataset, X)
    feed = visible_feed(network, dataset, dataset.train, "none")
    result = np.zeros((feed.n_samples, n_units), dtype)
    for samples in sample_chunks(feed.n_samples, grid.replica, grid.n_replicas, network.samples_at_once):
        v = np.empty((feed.n_units, len(samples)), network.dtype)
        feed.fill(samples, 0, v)
        result[np.ix_(samples, unit_ids)] = compute(v, samples).T
    messages.allreduce(grid.comm, result)
    return result


def _check_scale(network: DeepBeliefNetwork, dataset: Dataset, X: Any) -> None:
    """Warn where X is on another scale than the data that the network was fitted to.  Collective."""
    values, comm = X.data if scipy.sparse.issparse(X) else X, network.grid.comm
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if network.spec.visible == "gaussian":
        check_split(network, dataset, dataset.train)
    elif network.spec.visible_kind.categories or network.spec.visible == "spin":
        return  # whose values were checked
    elif low < -FAR or high > 1 + FAR:
        warn(comm, f"X has values from {low:g} to {high:g}, but those that were fitted lay in [0, 1]; scale X as then")
    elif len(dataset.train) >= ENOUGH:
        check_fills_range(dataset, low, high, comm)
