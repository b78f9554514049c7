"""The weights between two layers, held over shards: what a layout means for the products of an RBM.

Every layout answers the same questions, so that the mathematics of RBMs and of back-propagation never asks which one
it has.  An activation is *owned* (this shard's units) or *spread* (the units that this shard's block of weights
needs); which of the two a side of the block needs is all that layouts differ in.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from modelpar.exchange import Exchange
from modelpar.kernels import dense
from modelpar.layout import UnitLayout

Array = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


class Weights(Protocol):
    """A shard's block of one weight matrix ``W``, and the products in which it takes part.

    spread_visible, spread_hidden   owned activations (n_owned, batch) -> as the block needs them
    up, down                        spread activations -> summed input of the owned units on the other side
    All four are collective over the shards in at least one layout: call them on all.
    A returned array is used again by the next call of the same method.
    """

    visible_rows: IntArray  # (W.shape[0],) unit ids of the block's rows
    hidden_columns: IntArray  # (W.shape[1],) unit ids of the block's columns

    def spread_visible(self, owned: Array) -> Array: ...
    def spread_hidden(self, owned: Array) -> Array: ...
    def up(self, W: Array, visible: Array) -> Array: ...
    def down(self, W: Array, hidden: Array) -> Array: ...

    def sum_incoming(self, sums: Array) -> None:
        """Add up over the shards, in place, what each holds of a sum over the visible units.  sums (W.shape[1],)"""


class ColumnWeights:
    """A shard holds the columns of its hidden units: (n_visible, n_hidden_owned).

    Visible activations are gathered, their summed inputs reduced; hidden ones stay where they are.
    """

    def __init__(self, visible: UnitLayout, hidden: UnitLayout, exchange: Exchange, shard: int) -> None:
        self.visible_rows, self.hidden_columns = visible.ordering, hidden.owned(shard)
        self._exchange = exchange  # of the visible layer
        self._up, self._down = Scratch(), Scratch()

    def spread_visible(self, owned: Array) -> Array:
        return self._exchange.gather(owned)

    def spread_hidden(self, owned: Array) -> Array:
        return owned

    def up(self, W: Array, visible: Array) -> Array:
        return self._up.product(W.T, visible)

    def down(self, W: Array, hidden: Array) -> Array:
        return self._exchange.reduce(self._down.product(W, hidden))

    def sum_incoming(self, sums: Array) -> None:
        """Nothing to add: a column of W is whole on its shard."""


class RowWeights:
    """A shard holds the rows of its visible units: (n_visible_owned, n_hidden).

    Hidden activations are gathered, their summed inputs reduced; visible ones stay where they are.
    """

    def __init__(self, visible: UnitLayout, hidden: UnitLayout, exchange: Exchange, shard: int) -> None:
        self.visible_rows, self.hidden_columns = visible.owned(shard), hidden.ordering
        self._exchange = exchange  # of the hidden layer
        self._up, self._down = Scratch(), Scratch()

    def spread_visible(self, owned: Array) -> Array:
        return owned

    def spread_hidden(self, owned: Array) -> Array:
        return self._exchange.gather(owned)

    def up(self, W: Array, visible: Array) -> Array:
        return self._exchange.reduce(self._up.product(W.T, visible))

    def down(self, W: Array, hidden: Array) -> Array:
        return self._down.product(W, hidden)

    def sum_incoming(self, sums: Array) -> None:
        self._exchange.sum_over_shards(sums)


class Scratch:
    """One array that is used again and again, for batches of changing size."""

    def __init__(self) -> None:
        self._flat: Array = np.empty(0)

    def room(self, n_units: int, batch: int, dtype: npt.DTypeLike) -> Array:
        """(n_units, batch), contents undefined."""
        if self._flat.size < n_units * batch or self._flat.dtype != dtype:
            self._flat = np.empty(n_units * batch, dtype)
        return self._flat[: n_units * batch].reshape(n_units, batch)

    def like(self, activations: Array, n_units: int) -> Array:
        """(n_units, batch) of the type and batch size of ``activations``; contents undefined."""
        return self.room(n_units, activations.shape[1], activations.dtype)

    def product(self, matrix: Array, activations: Array) -> Array:
        """matrix @ activations   (n, units) @ (units, batch)"""
        out = self.like(activations, matrix.shape[0])
        dense.matmul(matrix, activations, out)
        return out
