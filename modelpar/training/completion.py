"""Missing values of training samples, drawn from the RBM that is trained on them, given those that are known.

What a sample says of the data's phase is then the model's expectation given what is known of it: the gradient of the
likelihood of the known values, as in Salakhutdinov, Mnih and Hinton (2007) and Fissore, Decelle and Furtlehner (2019).
It takes a few sweeps of Gibbs sampling with the known values held, from the most frequent values, for each minibatch:
nothing is carried from one to the next, so draws depend on sample, unit and seed alone, at any grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data import Split
from modelpar.data.feed import Feed
from modelpar.data.missing import MissingValues
from modelpar.draws import Purpose
from modelpar.errors import together
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, unpack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.feeds import BEYOND_TRAINING

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


def missing_values(network: DeepBeliefNetwork, split: Split) -> MissingValues | None:
    """Those of the owned visible units; None where nothing is to be drawn.  Collective.  Raises DataError."""
    if split.missing is None:
        return None
    with together(network.grid.comm):
        return MissingValues(split, network.visible_ids)


class CompletedFeed:
    """A feed whose missing values are drawn; its methods are collective over the shards.

    sweeps   of Gibbs sampling
    once     draws belong to the sample and not to the counter of training: kept activations and recomputed ones are
             the same then
    """

    def __init__(self, rbm: RBM, feed: Feed, missing: MissingValues, sweeps: int, *, once: bool = False) -> None:
        self.rbm, self.feed, self.missing, self.sweeps, self.once = rbm, feed, missing, sweeps, once
        self.n_samples, self.n_units, self.binary, self.weights = (
            feed.n_samples, feed.n_units, feed.binary, feed.weights,
        )  # fmt: skip

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """See :meth:`Feed.states`."""
        completed = self._completed(self.feed.states(samples, first_draw), samples, first_draw)
        assert isinstance(completed, Packed)
        return completed

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """See :meth:`Feed.fill`."""
        if self.binary:
            unpack(self.states(samples, first_draw), out=out)
            return
        self.feed.fill(samples, first_draw, out)
        out[:] = self._completed(out.copy(), samples, first_draw)

    def _completed(self, v: Activations, samples: IntArray, first_draw: int) -> Activations:
        """v (n_visible_owned, batch) with draws in the place of what is missing."""
        unknown, counters = self.missing.of(samples), samples + BEYOND_TRAINING if self.once else first_draw
        for sweep in range(self.sweeps):
            h = self.rbm.sample_hidden(v, Purpose.MISSING, 2 * sweep + 1, counters)
            v = _with(v, unknown, self.rbm.sample_visible(h, Purpose.MISSING, 2 * sweep + 2, counters))
        return v


def _with(v: Activations, unknown: Packed, drawn: Activations) -> Activations:
    """v with the values of ``drawn`` at those that are unknown."""
    if isinstance(v, Packed):
        assert isinstance(drawn, Packed)  # units with states
        return Packed((v.words & ~unknown.words) | (drawn.words & unknown.words), v.batch)
    values = unpack(drawn, v.dtype) if isinstance(drawn, Packed) else drawn
    return np.where(unpack(unknown, np.bool_), values, v).astype(v.dtype, copy=False)


class KnownFeed:
    """What is known of a feed: its values, 0 where they are missing; or, with ``ones``, 1 where they are known."""

    binary = False

    def __init__(self, feed: Feed, missing: MissingValues, *, ones: bool = False) -> None:
        self.feed, self.missing, self.ones = feed, missing, ones
        self.n_samples, self.n_units, self.weights = feed.n_samples, feed.n_units, feed.weights

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """See :meth:`Feed.states`."""
        raise ValueError("known values are summed, and not handed out as states")

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """See :meth:`Feed.fill`."""
        unknown = unpack(self.missing.of(samples), np.bool_)
        if self.ones:
            out[:] = ~unknown
        else:
            self.feed.fill(samples, first_draw, out)
            out[unknown] = 0
