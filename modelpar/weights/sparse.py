"""Weights of connections that are not complete, spread over shards: compressed, and exchanging only what is needed.

A shard has the connections of its hidden units and those of its visible units.  Those between two of its own are
stored once; those to a unit of another shard are on both sides, and learn the same there.  So every sum is made on
the shard that owns the unit, nothing but states of single units travels, and no float where states are packed: the
dual layout of a matrix most of which is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.exchange import Traffic
from modelpar.comm.halo import Halo
from modelpar.comm.transfer import Transfer
from modelpar.kernels import threads
from modelpar.kernels.digest import digest_listed
from modelpar.kernels.listed import products as loops
from modelpar.kernels.listed.blocks import BlockCounts, BlockProbabilityCounts, Blocks
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products.bounds import Bounds
from modelpar.kernels.products.product import Activations, Sampled, Sampler, plain_sums
from modelpar.kernels.states import Packed, unpack
from modelpar.kernels.statistics import shrinkage
from modelpar.ownership.connections import Connections, runs
from modelpar.ownership.layout import UnitLayout
from modelpar.streams import Stream
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import Piece
from modelpar.weights.shard_lists import Shared

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OwnPart(Packed):
    """States of the owned hidden units that were drawn together with those of the halo, which need not travel."""

    spread: Packed

    def __reduce__(self) -> tuple[type[Packed], tuple[Any, int]]:
        return Packed, (self.words, self.batch)  # elsewhere only the owned ones are of use


class SparseWeights:
    """``parameters.W`` (connections,): those of the owned hidden units as the whole matrix has them, then the others.

    Activations are spread to the units that this shard's connections have an end at, its own first.  Making one is
    collective over ``comm``.

    recompute   draw the hidden states of others that are needed here too, from their inputs, in place of receiving
                them: draws belong to units, so they are the same bits.  All connections of these units are stored for
                it, and more visible states travel.
    """

    spreads_visible, has_copies, matrix_ids, whole_matrix = True, True, None, False

    def __init__(
        self, connections: Connections, visible: UnitLayout, hidden: UnitLayout, comm: MPI.Comm, traffic: Traffic, *,
        exact: bool = False, recompute: bool = False,
    ) -> None:  # fmt: skip
        self.connections, self._comm, self.recompute, self._traffic = connections, comm, recompute, traffic
        self._visible_ids, self._hidden_ids = visible.owned(comm.rank), hidden.owned(comm.rank)
        shared = Shared(connections, visible, hidden, comm.rank, all_connections=recompute)
        self._visible_halo = Halo(comm, visible, shared.visible_needed, traffic)
        self._hidden_halo = Halo(comm, hidden, shared.hidden_needed, traffic)
        self._starts = shared.starts
        self.n_own = int(shared.starts[-1])
        self.n_weights = self.n_own + len(shared.foreign[0])
        self._lent = shared.lent(comm.size)
        self._borrowed = np.bincount(hidden.owner[shared.foreign[1]], minlength=comm.size)
        self._up, self._n_own_blocks, self._up_inner = shared.up(self._visible_halo.units, self._hidden_halo.units)
        self._down, self._down_inner = shared.down(self._hidden_halo.units)
        self.rooms = self.least_rooms = connections.widest, connections.widest_down

    # -- what an RBM asks of its weights -----------------------------------------------------------------------------

    @property
    def visible_spread(self) -> IntArray:
        """Ids of the units that spread visible activations are of."""
        return self._visible_halo.units

    @property
    def owned_in_spread(self) -> slice:
        return slice(len(self._visible_ids))

    def parameters(
        self, dtype: npt.DTypeLike, n_b: int, n_c: int, n_potential: int = 0, n_precision: int = 0
    ) -> Parameters:
        return Parameters((self.n_weights,), n_b, n_c, dtype, n_potential=n_potential, n_precision=n_precision)

    def spread_visible(self, owned: Activations) -> Transfer:
        return self._spread(self._visible_halo, owned)

    def spread_hidden(self, owned: Activations) -> Transfer:
        if isinstance(owned, OwnPart):
            return Transfer(owned.spread)
        return self._spread(self._hidden_halo, owned)

    def _spread(self, halo: Halo, owned: Activations) -> Transfer:
        """Packed values are handed on while they travel: units that need none of the halo are computed meanwhile."""
        transfer = halo.begin(owned)
        if not isinstance(owned, Packed):
            transfer.wait()
        return transfer

    def up(self, parameters: Parameters, visible: Transfer) -> Array:
        return self._sums(self._up, slice(self._n_own_blocks), self._up_inner, parameters.W, visible, self._sizes[0])

    def down(self, parameters: Parameters, hidden: Transfer) -> Array:
        return self._sums(self._down, slice(None), self._down_inner, parameters.W, hidden, self._sizes[1])

    def sample_up(self, parameters: Parameters, visible: Transfer, sampler: Sampler) -> Sampled:
        packed = isinstance(visible.activations, Packed)
        if self.recompute and packed and parameters.W.dtype == np.float32 and compiled():
            return self._sample_all(parameters.W, visible, sampler)
        part = slice(self._n_own_blocks)
        return self._sampled(self._up, part, self._up_inner, parameters.W, visible, sampler, self._sizes[0])

    def _sample_all(self, W: Array, visible: Transfer, sampler: Sampler) -> Sampled:
        """Draw the owned hidden units and those of the halo, whose biases are received; hand out the owned ones."""
        with visible:
            biases: Any = self._hidden_halo.begin(np.ascontiguousarray(sampler.bias[:, None])).wait()
        wider = replace(sampler, bias=biases[:, 0], unit_ids=self._hidden_halo.units)
        size = self._hidden_halo.n_units, self._sizes[0][1]
        sampled = self._sampled(self._up, slice(self._up.n_blocks), self._up_inner, W, visible, wider, size)
        states = None if sampled.states is None else self._own_part(sampled.states)
        statistic = sampled.statistic
        if statistic is not None:
            statistic = states if statistic is sampled.states else self._own_part(statistic)
        means = None if sampled.means is None else sampled.means[: len(self._hidden_ids)]
        return Sampled(means, states, statistic, sampled.error)

    def _own_part(self, drawn: Packed) -> OwnPart:
        return OwnPart(drawn.words[: len(self._hidden_ids)], drawn.batch, drawn)

    def sample_down(self, parameters: Parameters, hidden: Transfer, sampler: Sampler) -> Sampled:
        part = slice(self._down.n_blocks)
        return self._sampled(self._down, part, self._down_inner, parameters.W, hidden, sampler, self._sizes[1])

    def _sampled(
        self, blocks: Blocks, part: slice, inner: int, W: Array, spread: Transfer, sampler: Sampler,
        size: tuple[int, int],
    ) -> Sampled:  # fmt: skip
        n_units, n_inputs = size
        x = spread.activations
        if not isinstance(x, Packed) or W.dtype != np.float32 or not compiled():
            return sampler.of_sums(self._input_sums(blocks, part, inner, W, spread, n_units, n_inputs), n_inputs)

        def split(run: Callable[[int, int], None]) -> None:
            with spread:
                threads.split(inner, blocks.grain, run)
            threads.split(part.stop - inner, blocks.grain, run, first=inner)

        with spread:
            loop, inputs = blocks.sampling_of(W, x, n_inputs, sampler.bias)
            return sampler.drawn(n_units, x.batch, loop, inputs, split)

    @property
    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(owned units, units that the scale of their sums is for) of hidden and of visible units"""
        return (len(self._hidden_ids), self.rooms[0]), (len(self._visible_ids), self.rooms[1])

    def _sums(self, blocks: Blocks, part: slice, inner: int, W: Array, x: Transfer, size: tuple[int, int]) -> Array:
        return plain_sums(self._input_sums(blocks, part, inner, W, x, *size), size[1])

    def _input_sums(
        self, blocks: Blocks, part: slice, inner: int, W: Array, spread: Transfer, n_units: int, n_inputs: int
    ) -> Array:
        """Summed input (n_units, batch): int32 steps where they are packed and weights are float32, else floats."""
        x = spread.activations
        if isinstance(x, Packed) and W.dtype == np.float32:
            with spread:
                sums = np.empty((n_units, x.batch), np.int32)
                blocks.sum_states(W, x, n_inputs, sums, slice(inner))
            blocks.sum_states(W, x, n_inputs, sums, slice(inner, part.stop))
            return sums
        x = spread.wait()
        values = unpack(x, W.dtype) if isinstance(x, Packed) else x
        sums = np.empty((n_units, values.shape[1]), values.dtype)
        blocks.multiply(W, values, sums, part)
        return sums

    def bounds(self, parameters: Parameters) -> Bounds:
        W = parameters.W
        weight, up = self._up.signed_sums(W, len(self._hidden_ids), slice(self._n_own_blocks))
        _, down = self._down.signed_sums(W, len(self._visible_ids))
        most = np.array([weight, up, down])
        self._comm.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
        with self._traffic.measuring():
            self._traffic.add_allreduce("shard", most, self._comm.size)
        return Bounds(*most.tolist())

    def sides(
        self, visible: tuple[Activations, Activations], hidden: tuple[Activations, Activations]
    ) -> list[tuple[Activations, Activations]]:
        return [(visible[1], hidden[1])]

    def counts(self, data: Any, model: Any) -> BlockCounts:
        return BlockCounts(self._up, self.n_weights, data, model)

    def probability_counts(self, data: Any, model: Any, n_samples: int) -> BlockProbabilityCounts:
        return BlockProbabilityCounts(self._up, self.n_weights, data, model, n_samples)

    def add_products(self, V: Array, visible: Array, hidden: Array, gain: float, carry: float) -> None:
        self._up.add_products(V, visible, hidden, gain, carry)

    def subtract_outer(self, V: Array, carry: float, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> None:
        self._up.subtract_outer(V, carry, rows, columns)

    def scale_outer(self, V: Array, rows: Array, columns: Array) -> None:
        self._up.scale_outer(V, rows, columns)

    def sums_of_own(self, V: Array, rows: Array, columns: Array) -> tuple[Array, Array]:
        sums = np.empty((len(self._visible_ids), 1), V.dtype), np.empty((len(self._hidden_ids), 1), V.dtype)
        below, above = (np.ascontiguousarray(x[:, None], V.dtype) for x in (rows, columns))
        self._down.multiply(V, above, sums[0])
        self._up.multiply(V, below, sums[1], slice(self._n_own_blocks))
        return sums[0][:, 0], sums[1][:, 0]

    def counted_here(self, W: Array) -> Array:
        return W[: self.n_own]

    def for_gradients(self) -> SparseWeights:
        return self

    # -- the weights as such -----------------------------------------------------------------------------------------

    def draw(self, parameters: Parameters, stream: Stream) -> None:
        """Standard normal draws, keyed by both units as those of a dense matrix are."""
        blocks, units, columns = self._up, self._visible_halo.units, self._hidden_halo.units
        loops.draw_weights(*blocks.lists, units, columns, *stream.words, parameters.W)

    def refresh(self, parameters: Parameters) -> None:
        """The owners of hidden units lend their weights to those of the visible units."""
        W = parameters.W
        lent, borrowed = (np.cumsum(sizes)[:-1] for sizes in (self._lent[1], self._borrowed))
        sent, received = np.split(W[self._lent[0]], lent), np.split(W[self.n_own :], borrowed)
        with self._traffic.status.waiting("refresh"):
            messages.exchange(self._comm, sent, received)
        self._traffic.add("shard", "refresh", W, W[self.n_own :].nbytes)

    @property
    def incoming_counts(self) -> IntArray:
        return np.diff(self._starts)

    def incoming_sums(self, W: Array, *, squared: bool) -> Array:
        return shrinkage.run_sums(W, self._starts, squared=squared)

    def shrink_incoming(self, blocks: list[Array], limits: Array) -> None:
        self._over_members(shrinkage.shrink_members, blocks, limits)

    def scale_incoming(self, blocks: list[Array], factors: Array) -> None:
        self._over_members(shrinkage.scale_members, blocks, factors)

    def _over_members(self, loop: Callable[..., object], blocks: list[Array], of_units: Array) -> None:
        """Run a loop over all weights of each unit, with a number for each owned hidden unit.  Collective."""
        lists, [W] = self._up, blocks
        spread = self.spread_hidden(np.ascontiguousarray(of_units[:, None], W.dtype)).wait()
        assert not isinstance(spread, Packed)
        loop(lists.first, lists.members, lists.outs, lists.starts, spread[:, 0], W)

    def shrink_sites(self, blocks: list[Array], n_states: int, limit: float) -> None:
        lists, units, [W] = self._up, self._visible_halo.units, blocks
        shrinkage.shrink_sites_of_members(
            lists.first, lists.members, lists.inputs, units, lists.starts, n_states, float(limit), W
        )

    def limit_norms(self, parameters: Parameters, limit: float, share: Callable[[Array], None]) -> None:
        """Scale back each hidden unit's incoming weights where they are longer than ``limit``."""
        W, blocks = parameters.W, self._up
        lengths = np.zeros((len(self._hidden_ids), 1), W.dtype)
        loops.norms(W, self._starts, lengths[:, 0])
        share(lengths)
        factors = np.asarray(np.minimum(1, limit / np.maximum(lengths, 1e-30)), W.dtype)
        spread = self.spread_hidden(factors).wait()
        assert not isinstance(spread, Packed)
        loops.scale_members(blocks.first, blocks.members, blocks.outs, blocks.starts, spread[:, 0], W)

    def digest(self, W: Array) -> int:
        """The digest of the connections of the owned hidden units: 64 bits, which add up over the shards."""
        offsets, below = self.connections.below(self._hidden_ids)
        return digest_listed(W[: self.n_own], below, np.repeat(self._hidden_ids, np.diff(offsets)))

    def incoming(self, W: Array, unit: int) -> tuple[IntArray, Array] | None:
        """(visible ids, weights) of one hidden unit, where this shard owns it."""
        j = int(np.searchsorted(self._hidden_ids, unit))
        if j == len(self._hidden_ids) or self._hidden_ids[j] != unit:
            return None
        _, below = self.connections.below(self._hidden_ids[j : j + 1])
        return np.asarray(below, np.int64), W[self._starts[j] : self._starts[j + 1]]

    @property
    def halo_units(self) -> tuple[int, int]:
        """Visible and hidden units of others whose states this shard needs"""
        return self._visible_halo.n_halo, self._hidden_halo.n_halo

    @property
    def list_bytes(self) -> int:
        """Memory of the lists of connections."""
        return self._up.n_bytes + self._down.n_bytes

    @property
    def ends(self) -> tuple[IntArray, IntArray]:
        """(n_weights,) visible and hidden unit ids of every weight of this shard, in the order of W"""
        blocks = self._up
        sizes, widths = np.diff(blocks.members), np.diff(blocks.first)
        lengths = np.repeat(widths, sizes)
        inputs = blocks.inputs[runs(np.repeat(blocks.first[:-1], sizes), lengths)]
        order = runs(blocks.starts, lengths)
        visible, hidden = np.empty(self.n_weights, np.int64), np.empty(self.n_weights, np.int64)
        visible[order] = self._visible_halo.units[inputs]
        hidden[order] = self._hidden_halo.units[np.repeat(blocks.outs, lengths)]
        return visible, hidden

    @property
    def _numbers(self) -> tuple[IntArray, IntArray]:
        """(n_owned hidden,) where in the complete matrix the connections of each begin, and how many there are"""
        return self.connections.offsets_of(self._hidden_ids), self.connections.degrees()[1][self._hidden_ids]

    def entries(self, W: Array) -> tuple[IntArray, IntArray, Array]:
        visible, hidden = self.ends
        return visible[: self.n_own], hidden[: self.n_own], W[: self.n_own]

    def piece(self, W: Array) -> Piece:
        """A tensor (hidden units, units of a field) for receptive fields, (connections,) for all others."""
        connections, own = self.connections, W[: self.n_own]
        if connections.described:
            n_hidden, widest = connections.n_hidden, connections.widest
            return Piece((n_hidden, widest), own.reshape(-1, widest), self._hidden_ids, np.arange(widest))
        return Piece((connections.n_connections,), own, self._numbers)

    def lists(self, *, described: bool = False) -> dict[str, Piece]:
        connections = self.connections
        if connections.described and not described:
            return {}
        offsets, below = connections.below(self._hidden_ids)
        degrees = np.diff(offsets).astype(np.int32)
        return {
            "degrees": Piece((connections.n_hidden,), degrees, self._hidden_ids),
            "visible": Piece((connections.n_connections,), np.asarray(below, np.int32), self._numbers),
        }
