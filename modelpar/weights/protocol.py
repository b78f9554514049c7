"""The protocols of weights in any layout: what a step needs, and what files, pruning and measures need.

The mathematics of RBMs and of back-propagation never asks which kind it has.  An activation is *owned* (this shard's
units) or *spread* (the units that this shard's blocks of weights need); which of the two a side of a block needs is all
that layouts differ in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modelpar.comm.transfer import Transfer
from modelpar.kernels.products.bounds import Bounds
from modelpar.kernels.products.product import Activations, Sampled, Sampler
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts
from modelpar.streams import Stream
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class StepWeights(Protocol):
    """A shard's blocks of one weight matrix, and the products in which they take part.

    spread_visible, spread_hidden   owned activations (n_owned, batch) -> as the blocks need them, maybe still under way
    up, down              spread activations -> summed input of the owned units on the other side, as floats; what is
                          still under way is complete when they return, or raise
    sample_up, sample_down          the same, and what a sampler of the owned units on the other side makes of it
    sides                 owned and spread activations of both sides -> those that belong to each block
    All but the last are collective over the shards in at least one layout: call them on all.
    A returned array, unless it is packed, is used again by the next call of the same method.
    """

    rooms: tuple[int, int]  # units that the scales of sums of states are for, up and down: at least those there are
    least_rooms: tuple[int, int]  # those there are
    spreads_visible: bool  # whether spread visible activations are of more units than the owned ones
    whole_matrix: bool  # whether ``parameters.W`` is the complete matrix: nothing is exchanged

    @property
    def visible_spread(self) -> IntArray:
        """Ids of the units that spread visible activations are of, in their order."""

    @property
    def owned_in_spread(self) -> slice:
        """The positions of the owned units among them."""

    def spread_visible(self, owned: Activations) -> Transfer: ...
    def spread_hidden(self, owned: Activations) -> Transfer: ...
    def up(self, parameters: Parameters, visible: Transfer) -> Array: ...
    def down(self, parameters: Parameters, hidden: Transfer) -> Array: ...
    def sample_up(self, parameters: Parameters, visible: Transfer, sampler: Sampler) -> Sampled: ...
    def sample_down(self, parameters: Parameters, hidden: Transfer, sampler: Sampler) -> Sampled: ...
    def sides(
        self, visible: tuple[Activations, Activations], hidden: tuple[Activations, Activations]
    ) -> list[tuple[Activations, Activations]]: ...

    def counts(self, data: Any, model: Any) -> Counts:
        """The counts of one block, from (visible, hidden) activations of both phases as ``sides`` gives them."""

    def probability_counts(self, data: Any, model: Any, n_samples: int) -> ProbabilityCounts:
        """The same for probabilities; n_samples of the whole minibatch, over all replicas."""

    def add_products(self, V: Array, visible: Array, hidden: Array, gain: float, carry: float) -> None:
        """V = carry * V + gain * visible hidden^T, wherever there is a weight; V is like one block."""

    def subtract_outer(self, V: Array, carry: float, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> None:
        """V = carry * V - (a d^T + c f^T) wherever there is a weight; V is like one block, rows a, c and columns d, f
        of the units that ``sides`` gives it."""

    def scale_outer(self, V: Array, rows: Array, columns: Array) -> None:
        """V *= rows columns^T wherever there is a weight, likewise."""

    def sums_of_own(self, V: Array, rows: Array, columns: Array) -> tuple[Array, Array] | None:
        """(V columns, V^T rows) of the owned visible and hidden units, each over its own connections in the order of
        their ids; None where others have a part of these sums.   rows, columns of spread units, V like one block"""

    def bounds(self, parameters: Parameters) -> Bounds:
        """What weights and summed inputs come to at most, whatever units are on.  Collective over the shards."""

    def counted_here(self, W: Array) -> Array:
        """A view of the weights of one block such that those of all shards are each weight of the matrix once."""

    def for_gradients(self) -> Weights:
        """The same matrix as back-propagation uses it: one block, whose gradients are real values."""

    @property
    def incoming_counts(self) -> IntArray:
        """How many incoming weights each hidden unit has, of the units of ``incoming_sums``."""

    def incoming_sums(self, W: Array, *, squared: bool) -> Array:
        """Sums of |W|, or of its squares, over the incoming weights of each hidden unit of which this shard has a
        part (of lists: of the owned ones): float64, the same bits at every grid.  Collective over the shards."""

    def shrink_incoming(self, blocks: list[Array], limits: Array) -> None:
        """The weights of each hidden unit of ``incoming_sums`` move towards 0 by the unit's limit, and end there where
        they are nearer.   blocks   as ``Parameters.blocks`` has them, or W alone.  Collective over the shards."""

    def scale_incoming(self, blocks: list[Array], factors: Array) -> None:
        """The weights of each hidden unit are multiplied by the unit's factor; likewise."""

    def shrink_sites(self, blocks: list[Array], n_states: int, limit: float) -> None:
        """The weights of a hidden unit with all units of a site, ``n_states`` with consecutive ids, become shorter by
        ``limit``, as a vector, and 0 where they are not longer.  Sites are never split between shards."""

    def limit_norms(self, parameters: Parameters, limit: float, share: Callable[[Array], None]) -> None:
        """Scale back each hidden unit's incoming weights where they are longer than ``limit``.  Collective.

        share   makes lengths alike, in place, on replicas that are to stay alike: sums of real values may be rounded
                otherwise where ranks are placed otherwise
        """


@dataclass(frozen=True)
class Piece:
    """The part of a tensor that one shard alone has; the pieces of all shards tile it.

    shape     of the complete tensor, one or two dimensions
    values    (len(rows),) or (len(rows), len(columns)); shares memory with the parameters where these are given
    rows      which rows of the tensor they are: ids, or (first ids, lengths) of runs of consecutive ids
    columns   ids of its columns, None of a vector
    """

    shape: tuple[int, ...]
    values: Array
    rows: IntArray | tuple[IntArray, IntArray]
    columns: IntArray | None = None


class StoredWeights(Protocol):
    """The same matrix as an object of its own: made, drawn, written, pruned and measured.

    matrix_ids   (visible ids of the rows, hidden ids of the columns) of ``parameters.W``, None where it is not a matrix
    has_copies   whether ``parameters.W`` ends with copies of weights that other shards own
    recompute    whether hidden states of other shards are drawn here, in place of being received
    halo_units   how many visible and hidden units of other shards spread activations are of, besides the owned ones
    list_bytes   memory of the lists of connections
    """

    has_copies: bool
    recompute: bool

    @property
    def matrix_ids(self) -> tuple[IntArray, IntArray] | None: ...
    @property
    def halo_units(self) -> tuple[int, int]: ...
    @property
    def list_bytes(self) -> int: ...

    def parameters(
        self, dtype: npt.DTypeLike, n_b: int, n_c: int, n_potential: int = 0, n_precision: int = 0
    ) -> Parameters: ...

    def draw(self, parameters: Parameters, stream: Stream) -> None:
        """W = standard normal draws, keyed by both units, the same at every grid."""

    def refresh(self, parameters: Parameters) -> None:
        """Make the blocks agree after ``parameters.W`` was changed by anything but statistics.  Collective."""

    def digest(self, W: Array) -> int:
        """The digest of this shard's part of the matrix: 64 bits, which add up over the shards."""

    def incoming(self, W: Array, unit: int) -> tuple[IntArray, Array] | None:
        """(visible ids, weights) of this shard's part of one hidden unit, None where it has none."""

    def entries(self, W: Array) -> tuple[IntArray, IntArray, Array]:
        """(visible ids, hidden ids, weights) that this shard alone has, one by one; the last is a view of W."""

    def piece(self, W: Array) -> Piece:
        """The same as a file has it."""

    def lists(self, *, described: bool = False) -> dict[str, Piece]:
        """The arrays that describe the connections in a file, by name; none where they are complete.

        described   also where the network's spec describes them
        """


class Weights(StepWeights, StoredWeights, Protocol):
    """Weights between two layers, spread over shards."""
