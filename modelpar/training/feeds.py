"""The inputs of each RBM: the data for the first, the activations of the trained ones below for the others.

A feed fills ``out (n_owned, batch)`` with the owned units' values of given samples.  Upper feeds stay split over the
shards: nothing is ever collected on one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.data import DataFeed, Dataset, Split, column_moments
from modelpar.data.feed import Feed
from modelpar.data.gather_dense import fill_floats
from modelpar.data.packed import PackedColumns
from modelpar.draws import Purpose
from modelpar.errors import DataError
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, unpack
from modelpar.machine.memory import available_bytes
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.state import TrainingRun
from modelpar.weights.dense import Scratch

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

SHARE_OF_MEMORY = 0.5  # of what a node has left, that kept activations may take
BEYOND_TRAINING = 1 << 62  # no training counts so many samples


def check_width(network: DeepBeliefNetwork, dataset: Dataset, *splits: Split | None) -> None:
    """Raise DataError, on every rank alike, where samples of a data set or of splits have another number of values
    than there are visible units.  To be called before any value is read: readers take the ids of units."""
    widths = [dataset.n_visible, *(split.table.n_units for split in (dataset.train, *splits) if split is not None)]
    for width in widths:
        if width != network.spec.layers[0]:
            raise DataError(
                f"{dataset.name} has {width} values a sample, but the network has {network.spec.layers[0]} visible "
                f"units; use --layers {width}-..."
            )


def learn_scaling(network: DeepBeliefNetwork, dataset: Dataset) -> None:
    """Set how raw values become visible activations: to [0, 1], or standardised for Gaussian units.

    A unit that never varies is left unscaled; one that does is scaled, however small its values are.  Every shard reads
    its own columns only.  Collective.  Raises DataError where values cannot be read.
    """
    kind = network.spec.visible_kind.name
    if kind == "gaussian":
        mean, deviation = column_moments(dataset.train, network.visible_ids, comm=network.grid.comm)
        network.input_offset, network.input_scale = mean, np.where(deviation > 0, deviation, 1.0)
    elif kind == "spin":  # -1 and 1 become 0 and 1
        network.input_offset = np.full(len(network.visible_ids), -float(dataset.scale))
        network.input_scale = np.full(len(network.visible_ids), 2 * float(dataset.scale))
    else:
        network.input_offset = np.zeros(len(network.visible_ids))
        network.input_scale = np.full(len(network.visible_ids), float(dataset.scale))


def in_data_units(network: DeepBeliefNetwork, v: Array, scale: float | None = None) -> Array:
    """Owned visible activations (n_visible_owned, batch) as values of the data, in the unit in which these came.

    Grey values in bytes go from 0 to 255, states from 0 to 1, spins from -1 to 1; what Gaussian units see standardised
    is put back, in float64, as a mean may be large beside the deviation.

    scale   the raw value that means 1.0 to Bernoulli units, that of the training data where None
    """
    kind = network.spec.visible_kind
    if kind.name == "spin" and scale is not None:
        return np.asarray((2 * v - 1) * scale, v.dtype)
    if kind.gaussian or kind.name == "spin":
        return np.asarray(v * network.input_scale[:, None] + network.input_offset[:, None])
    one = network.input_scale if scale is None else np.full(len(v), scale)
    return np.asarray(v * one[:, None], v.dtype)


def visible_feed(
    network: DeepBeliefNetwork, dataset: Dataset, split: Split, binarise: str, *, spread: bool = False
) -> DataFeed:
    """The values of the owned visible units, or of all that this shard's weights need (``spread``), in their order.

    Collective.  Raises DataError where the data do not fit the network.
    """
    check_width(network, dataset, split)
    # Bernoulli units take what the data set calls 1.0, so that a test set of another type fits too
    units = network.rbms[0].weights.visible_spread if spread else network.visible_ids
    kind = network.spec.visible_kind
    offset: Any = 0.0
    scale: Any = dataset.scale
    if kind.gaussian and not spread:
        offset, scale = network.input_offset, network.input_scale
    elif kind.name == "spin":
        offset, scale = -dataset.scale, 2 * dataset.scale
    return DataFeed(
        split, units, offset=offset, scale=scale, binarise=binarise,
        seed=network.spec.seed, comm=network.grid.comm,
    )  # fmt: skip


def real_values(network: DeepBeliefNetwork, dataset: Dataset, split: Split) -> Feed:
    """The data as all but the training of the first RBM see them: no draw stands between them and the layers.

    Collective.  Raises DataError where the data do not fit the network.
    """
    binarise = TrainingRun.of(network).binarise
    return visible_feed(network, dataset, split, "none" if binarise == "stochastic" else binarise)


class DrawnOnce:
    """States drawn from data once a sample, and not anew in every epoch: what the layers above see in exact mode.

    The draws belong to the sample's id and not to the counter of training, so kept activations and recomputed ones are
    the same.  Training counts its samples from 0 on: these are drawn as samples that it never reaches.
    """

    def __init__(self, feed: DataFeed) -> None:
        self.feed, self.binary, self.weights = feed, feed.binary, feed.weights
        self.n_samples, self.n_units = feed.n_samples, feed.n_units

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """See :meth:`Feed.states`."""
        return self.feed.states(samples, samples + BEYOND_TRAINING)

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """See :meth:`Feed.fill`."""
        self.feed.fill(samples, samples + BEYOND_TRAINING, out)


def feed_above(network: DeepBeliefNetwork, rbm: RBM, below: Feed, *, pass_up: str, cache: str) -> Feed:
    """The hidden side of a trained RBM as data for the next one.  Collective.

    pass_up   ``probabilities`` or ``states``, drawn once a sample
    cache     ``keep``, ``recompute``, or ``auto``: keep what fits into half of the node's free memory
    """
    grid = network.grid
    live = RecomputedActivations(rbm, below, states=pass_up == "states")
    if cache == "auto":
        on_node = grid.node_comm.allreduce(KeptActivations.bytes_needed(live))
        fits = on_node < SHARE_OF_MEMORY * grid.node_comm.bcast(available_bytes())
        cache = "keep" if grid.comm.allreduce(fits, MPI.LAND) else "recompute"
    return KeptActivations(network, live) if cache == "keep" else live


class RecomputedActivations:
    """The hidden side of an RBM, propagated anew for every minibatch.  Its methods are collective over the shards.

    As states it is drawn by sample id, not by the counter of training: kept states and recomputed ones are the same.
    """

    def __init__(self, rbm: RBM, below: Feed, *, states: bool) -> None:
        self.rbm, self.below, self.binary, self.weights = rbm, below, states, below.weights
        self.n_samples, self.n_units = below.n_samples, len(rbm.hidden_ids)
        self._visible = Scratch()

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """See :meth:`Feed.states`."""
        above = self.rbm.sample_hidden(self._below(samples, first_draw), Purpose.PASS_UP, 0, samples)
        assert isinstance(above, Packed)  # real values are in the last layer only
        return above

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """See :meth:`Feed.fill`."""
        if self.binary:
            unpack(self.states(samples, first_draw), out=out)
        else:
            out[:] = self.rbm.hidden_given_visible(self._below(samples, first_draw))

    def _below(self, samples: IntArray, first_draw: int) -> Activations:
        if self.below.binary:
            return self.below.states(samples, first_draw)
        v = self._visible.buffer(self.below.n_units, len(samples), self.rbm.W.dtype)
        self.below.fill(samples, first_draw, v)
        return v


class KeptActivations:
    """The hidden side of an RBM for all samples, in memory: (n_samples, n_owned), states packed 8 to a byte.

    Making one is collective: every replica propagates its part of the samples, and all keep all, since the next
    epoch's shuffle gives every replica other samples.
    """

    def __init__(self, network: DeepBeliefNetwork, live: RecomputedActivations) -> None:
        replica_comm, chunk = network.grid.replica_comm, network.samples_at_once
        self.n_samples, self.n_units, self.binary = live.n_samples, live.n_units, live.binary
        self.weights = live.weights
        dtype = live.rbm.W.dtype
        self._units, self._zeros, self._ones = np.arange(self.n_units), np.zeros(self.n_units), np.ones(self.n_units)
        width = -(-self.n_units // 8) if self.binary else self.n_units
        rows = np.empty((self.n_samples, width), np.uint8 if self.binary else dtype)
        out = Scratch()
        for start in range(0, self.n_samples, chunk):
            bounds = np.linspace(start, min(start + chunk, self.n_samples), replica_comm.size + 1).astype(np.int64)
            first, last = bounds[replica_comm.rank], bounds[replica_comm.rank + 1]
            samples = np.arange(first, last)
            block = out.buffer(self.n_units, len(samples), dtype)
            live.fill(samples, int(first), block)
            rows[first:last] = np.packbits(block.T != 0, axis=1, bitorder="little") if self.binary else block.T
            messages.gather_rows(replica_comm, rows[bounds[0] : bounds[-1]], np.diff(bounds))
            others = int(bounds[-1] - bounds[0] - len(samples))
            network.traffic.add("replica", "gather", rows, others * width * rows.itemsize)
        self._rows = rows
        self._bits = PackedColumns(rows, self.n_units) if self.binary else None

    @staticmethod
    def bytes_needed(live: RecomputedActivations) -> int:
        """Memory that keeping would take on this rank."""
        width = -(-live.n_units // 8) if live.binary else live.n_units * live.rbm.W.itemsize
        return live.n_samples * width

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """See :meth:`Feed.states`."""
        assert self._bits is not None  # of binary feeds only
        return self._bits.states(samples)

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """See :meth:`Feed.fill`."""
        if self.binary:
            unpack(self.states(samples, first_draw), out=out)
        else:
            fill_floats(self._rows, samples, self._units, self._zeros, self._ones, out)


MEAN_STEPS = 1 << 32  # float32 values in [0, 1] are summed in exact mode as integer multiples of 1 / MEAN_STEPS


def mean_of(network: DeepBeliefNetwork, feed: Feed) -> npt.NDArray[np.float64]:
    """(n_units,) mean of every owned unit of a feed over all samples, by their weights.  Collective.

    Summed in float64; in exact mode as integers, which makes the means the same bits at every grid.
    """
    grid, exact = network.grid, network.spec.exact
    sums: Array = np.zeros(feed.n_units, np.int64 if exact else np.float64)
    # of the largest: terms stay from 0 to 1
    weights = None if feed.weights is None else feed.weights / feed.weights.max()
    for samples in sample_chunks(feed.n_samples, grid.replica, grid.n_replicas, network.samples_at_once):
        block = np.empty((feed.n_units, len(samples)), network.dtype)
        feed.fill(samples, int(samples[0]) if len(samples) else 0, block)
        if weights is not None:
            block = block.astype(np.float64) * weights[samples]
        if exact:
            sums += np.rint(block.astype(np.float64) * MEAN_STEPS).astype(np.int64).sum(axis=1)
        else:
            sums += block.sum(axis=1, dtype=np.float64)
    grid.replica_comm.Allreduce(MPI.IN_PLACE, sums)
    network.traffic.add_allreduce("replica", sums, grid.n_replicas, "biases")
    if weights is None:
        return sums / ((MEAN_STEPS if exact else 1) * max(feed.n_samples, 1))
    return sums / (np.rint(weights * MEAN_STEPS).astype(np.int64).sum() if exact else weights.sum())


def sample_chunks(n_samples: int, replica: int, n_replicas: int, chunk: int) -> Sequence[IntArray]:
    """This replica's samples in chunks; as many chunks on every replica, so that collective work stays in step."""
    pieces = []
    for start in range(0, n_samples, chunk):
        bounds = np.linspace(start, min(start + chunk, n_samples), n_replicas + 1).astype(np.int64)
        pieces.append(np.arange(bounds[replica], bounds[replica + 1]))
    return pieces
