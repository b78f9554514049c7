"""Weights of complete connections, a matrix spread over shards, and the products of an RBM in each layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import draws
from modelpar.collective import messages
from modelpar.comm.exchange import Exchange, Traffic
from modelpar.comm.transfer import Transfer
from modelpar.kernels.backprop import column_squares, scale_columns
from modelpar.kernels.digest import digest
from modelpar.kernels.products import precision
from modelpar.kernels.products.bounds import Bounds, signed_sums
from modelpar.kernels.products.product import Activations, Product, Sampled, Sampler, plain_sums
from modelpar.kernels.states import Packed
from modelpar.kernels.statistics import shrinkage, update
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts
from modelpar.ownership.layout import UnitLayout
from modelpar.streams import Stream
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import Piece

Array = npt.NDArray[Any]
REFRESHED = 1 << 22  # bytes of a block that are received at a time
IntArray = npt.NDArray[np.int64]


class Dense:
    """Weights of complete connections: W is a matrix.  What its layouts share."""

    spreads_visible = spreads_hidden = False
    has_copies = recompute = False
    list_bytes = 0
    visible_rows: IntArray  # (W.shape[0],) unit ids of the rows of parameters.W
    hidden_columns: IntArray  # (W.shape[1],) unit ids of its columns

    def __init__(self, visible: Exchange, hidden: Exchange, *, exact: bool = False) -> None:
        """visible, hidden   what moves the activations of the two layers, and knows who owns them"""
        self._visible, self._hidden, self._shard, self._exact = visible.layout, hidden.layout, visible.comm.rank, exact
        self._visible_exchange, self._hidden_exchange = visible, hidden
        self._up, self._down = Scratch(), Scratch()
        self.visible_rows, self.hidden_columns = self._visible.ordering, self._hidden.ordering
        self.whole_matrix = visible.comm.size == 1
        self.rooms = self.least_rooms = self._visible.n_units, self._hidden.n_units

    @classmethod
    def over(
        cls, visible: UnitLayout, hidden: UnitLayout, comm: MPI.Comm, traffic: Traffic, *, exact: bool = False
    ) -> Self:
        """Weights between layers with these owners, one rank of ``comm`` a shard."""
        return cls(Exchange(comm, visible, traffic), Exchange(comm, hidden, traffic), exact=exact)

    @property
    def matrix_ids(self) -> tuple[IntArray, IntArray]:
        return self.visible_rows, self.hidden_columns

    @property
    def halo_units(self) -> tuple[int, int]:
        visible, hidden = (layout.n_units - int(layout.counts[self._shard]) for layout in (self._visible, self._hidden))
        return visible * self.spreads_visible, hidden * self.spreads_hidden

    def parameters(
        self, dtype: npt.DTypeLike, n_b: int, n_c: int, n_potential: int = 0, n_precision: int = 0
    ) -> Parameters:
        shape = len(self.visible_rows), len(self.hidden_columns)
        return Parameters(shape, n_b, n_c, dtype, n_potential=n_potential, n_precision=n_precision)

    def spread_visible(self, owned: Activations) -> Transfer:
        return Transfer(owned)

    def spread_hidden(self, owned: Activations) -> Transfer:
        return Transfer(owned)

    def sides(
        self, visible: tuple[Activations, Activations], hidden: tuple[Activations, Activations]
    ) -> list[tuple[Activations, Activations]]:
        return [(visible[1], hidden[1])]

    def subtract_outer(self, V: Array, carry: float, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> None:
        update.subtract_outer(V, carry, rows, columns)

    def scale_outer(self, V: Array, rows: Array, columns: Array) -> None:
        update.scale_outer(V, rows, columns)

    def sums_of_own(self, V: Array, rows: Array, columns: Array) -> None:
        return None

    def bounds(self, parameters: Parameters) -> Bounds:
        comm, traffic = self._visible_exchange.comm, self._visible_exchange.traffic
        rows, columns, weight = signed_sums(parameters.W)
        partial = self._partial(rows, columns)
        comm.Allreduce(MPI.IN_PLACE, partial)
        most = np.array([weight, columns.max(initial=0), rows.max(initial=0)])
        comm.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
        with traffic.measuring():
            for values in (partial, most):
                traffic.add_allreduce("shard", values, comm.size)
        return Bounds(*most.tolist())

    def _partial(self, rows: Array, columns: Array) -> Array:
        """Of sums over rows and columns of W those to which all shards have to add."""
        raise NotImplementedError

    def counted_here(self, W: Array) -> Array:
        return W

    def for_gradients(self) -> Any:
        return self

    def refresh(self, parameters: Parameters) -> None:
        """One block always agrees with itself."""

    @property
    def visible_spread(self) -> IntArray:
        return self.visible_rows

    @property
    def owned_in_spread(self) -> slice:
        start, stop = self._visible.offsets[self._shard : self._shard + 2] if self.spreads_visible else (0, None)
        return slice(start, stop)

    def counts(self, data: Any, model: Any) -> Counts:
        return Counts(data, model)

    def probability_counts(self, data: Any, model: Any, n_samples: int) -> ProbabilityCounts:
        return ProbabilityCounts(data, model, n_samples)

    def add_products(self, V: Array, visible: Array, hidden: Array, gain: float, carry: float) -> None:
        precision.matmul(visible, hidden.T, V, gain, carry)

    def draw(self, parameters: Parameters, stream: Stream) -> None:
        W, columns = parameters.W, self.hidden_columns
        W[:] = 0
        # the id of a hidden unit stands for the sample; consecutive ids share blocks of the generator, which is faster
        consecutive = len(columns) > 0 and bool(np.all(np.diff(columns) == 1))
        draws.sample_gaussian(W, stream, self.visible_rows, int(columns[0]) if consecutive else columns, W)

    def digest(self, W: Array) -> int:
        return digest(W, self.visible_rows, self.hidden_columns)

    def incoming(self, W: Array, unit: int) -> tuple[IntArray, Array] | None:
        columns = np.flatnonzero(self.hidden_columns == unit)
        return (self.visible_rows, W[:, columns[0]]) if len(columns) else None

    def entries(self, W: Array) -> tuple[IntArray, IntArray, Array]:
        visible = np.broadcast_to(self.visible_rows[:, None], W.shape).reshape(-1)
        hidden = np.broadcast_to(self.hidden_columns[None, :], W.shape).reshape(-1)
        return visible, hidden, W.reshape(-1)

    def piece(self, W: Array) -> Piece:
        return Piece((self._visible.n_units, self._hidden.n_units), W, self.visible_rows, self.hidden_columns)

    def lists(self, *, described: bool = False) -> dict[str, Piece]:
        return {}

    def limit_norms(self, parameters: Parameters, limit: float, share: Callable[[Array], None]) -> None:
        W = parameters.W
        squares = np.empty(W.shape[1], W.dtype)
        column_squares(W, squares)
        self._sum_incoming(squares)
        share(squares)
        lengths = np.sqrt(squares)
        if np.any(lengths > limit):
            scale_columns(W, np.minimum(1, limit / np.maximum(lengths, 1e-30)).astype(W.dtype))

    @property
    def incoming_counts(self) -> IntArray:
        return np.full(len(self.hidden_columns), self._visible.n_units)

    def incoming_sums(self, W: Array, *, squared: bool) -> Array:
        largest = shrinkage.column_largest(W)
        self._sum_incoming(largest, MPI.MAX)
        parts = shrinkage.column_parts(W, largest, squared=squared)
        self._sum_incoming(parts)
        return shrinkage.from_parts(parts, largest, squared=squared)

    def shrink_incoming(self, blocks: list[Array], limits: Array) -> None:
        for W, of_columns in zip(blocks, self._of_blocks(limits, len(blocks)), strict=True):
            shrinkage.over_rows(W, shrinkage.shrink_columns, of_columns)

    def scale_incoming(self, blocks: list[Array], factors: Array) -> None:
        for W, of_columns in zip(blocks, self._of_blocks(factors, len(blocks)), strict=True):
            shrinkage.over_rows(W, shrinkage.scale_columns, of_columns)

    def shrink_sites(self, blocks: list[Array], n_states: int, limit: float) -> None:
        for W in blocks:
            shrinkage.shrink_sites(W, n_states, limit)

    def _of_blocks(self, of_columns: Array, n: int) -> list[Array]:
        """Values of the hidden units of W for each of its ``n`` blocks: for ``rows`` those of all.  Collective."""
        return [of_columns, *([self._hidden_exchange.gather(of_columns[:, None])[:, 0]] if n > 1 else [])]

    def _sum_incoming(self, values: Array, op: MPI.Op = MPI.SUM) -> None:
        """Add up over the shards, in place, the parts of a sum over the visible units, or combine them by another
        operation.   values (W.shape[1],)"""

    def _upward(self, W: Array, visible: Transfer, *, partial: bool = False) -> Product:
        return Product(W, visible.wait(), True, self.rooms[0], self._exact or partial)

    def _downward(self, W: Array, hidden: Transfer, *, partial: bool = False) -> Product:
        return Product(W, hidden.wait(), False, self.rooms[1], self._exact or partial)


class ColumnWeights(Dense):
    """A shard has the columns of its hidden units: (n_visible, n_hidden_owned).

    Visible activations are gathered, their summed inputs reduced; hidden ones stay where they are.
    """

    spreads_visible = True

    def __init__(self, visible: Exchange, hidden: Exchange, *, exact: bool = False) -> None:
        super().__init__(visible, hidden, exact=exact)
        self.hidden_columns = self._hidden.owned(self._shard)

    def spread_visible(self, owned: Activations) -> Transfer:
        return _gathered(self._visible_exchange, owned)

    def up(self, parameters: Parameters, visible: Transfer) -> Array:
        sums = self._upward(parameters.W, visible).sums(self._up.buffer)
        return plain_sums(sums, self.rooms[0])

    def down(self, parameters: Parameters, hidden: Transfer) -> Array:
        return plain_sums(self._reduced(parameters, hidden), self.rooms[1])

    def sample_up(self, parameters: Parameters, visible: Transfer, sampler: Sampler) -> Sampled:
        return sampler.of_product(self._upward(parameters.W, visible), self._up.buffer)

    def sample_down(self, parameters: Parameters, hidden: Transfer, sampler: Sampler) -> Sampled:
        if self.whole_matrix:  # the same sums, drawn from while they are in the cache
            return sampler.of_product(self._downward(parameters.W, hidden, partial=True), self._down.buffer)
        return sampler.of_sums(self._reduced(parameters, hidden), self.rooms[1])

    def _reduced(self, parameters: Parameters, hidden: Transfer) -> Array:
        partial = self._downward(parameters.W, hidden, partial=True).sums(self._down.buffer)
        return self._visible_exchange.reduce(partial)

    def _sum_incoming(self, values: Array, op: MPI.Op = MPI.SUM) -> None:
        """Nothing to add: a column of W is complete on its shard."""

    def _partial(self, rows: Array, columns: Array) -> Array:
        return rows


class RowWeights(Dense):
    """A shard has the rows of its visible units: (n_visible_owned, n_hidden).

    Hidden activations are gathered, their summed inputs reduced; visible ones stay where they are.
    """

    spreads_hidden = True

    def __init__(self, visible: Exchange, hidden: Exchange, *, exact: bool = False) -> None:
        super().__init__(visible, hidden, exact=exact)
        self.visible_rows = self._visible.owned(self._shard)

    def spread_hidden(self, owned: Activations) -> Transfer:
        return _gathered(self._hidden_exchange, owned)

    def up(self, parameters: Parameters, visible: Transfer) -> Array:
        return plain_sums(self._reduced(parameters, visible), self.rooms[0])

    def down(self, parameters: Parameters, hidden: Transfer) -> Array:
        sums = self._downward(parameters.W, hidden).sums(self._down.buffer)
        return plain_sums(sums, self.rooms[1])

    def sample_up(self, parameters: Parameters, visible: Transfer, sampler: Sampler) -> Sampled:
        if self.whole_matrix:  # the same sums, drawn from while they are in the cache
            return sampler.of_product(self._upward(parameters.W, visible, partial=True), self._up.buffer)
        return sampler.of_sums(self._reduced(parameters, visible), self.rooms[0])

    def sample_down(self, parameters: Parameters, hidden: Transfer, sampler: Sampler) -> Sampled:
        return sampler.of_product(self._downward(parameters.W, hidden), self._down.buffer)

    def _reduced(self, parameters: Parameters, visible: Transfer) -> Array:
        return self._hidden_exchange.reduce(self._upward(parameters.W, visible, partial=True).sums(self._up.buffer))

    def _sum_incoming(self, values: Array, op: MPI.Op = MPI.SUM) -> None:
        self._hidden_exchange.sum_over_shards(values, op)

    def _partial(self, rows: Array, columns: Array) -> Array:
        return columns


class DualWeights(ColumnWeights):
    """A shard has the columns of its hidden units (``parameters.W``) and the rows of its visible units (``.rows``).

    Every sum is made on the shard that owns the unit, so nothing is reduced: both sides are gathered, states as bits.
    The two blocks get the same statistics in the same arithmetic, and so stay the same matrix bit for bit, where these
    are integers.
    """

    spreads_hidden = True

    def parameters(
        self, dtype: npt.DTypeLike, n_b: int, n_c: int, n_potential: int = 0, n_precision: int = 0
    ) -> Parameters:
        columns = (len(self.visible_rows), len(self.hidden_columns))
        rows = (int(self._visible.counts[self._shard]), self._hidden.n_units)
        return Parameters(columns, n_b, n_c, dtype, rows, n_potential, n_precision)

    def spread_hidden(self, owned: Activations) -> Transfer:
        return _gathered(self._hidden_exchange, owned)

    def down(self, parameters: Parameters, hidden: Transfer) -> Array:
        assert parameters.rows is not None
        sums = self._downward(parameters.rows, hidden).sums(self._down.buffer)
        return plain_sums(sums, self.rooms[1])

    def sample_down(self, parameters: Parameters, hidden: Transfer, sampler: Sampler) -> Sampled:
        assert parameters.rows is not None
        return sampler.of_product(self._downward(parameters.rows, hidden), self._down.buffer)

    def sides(
        self, visible: tuple[Activations, Activations], hidden: tuple[Activations, Activations]
    ) -> list[tuple[Activations, Activations]]:
        return [(visible[1], hidden[0]), (visible[0], hidden[1])]

    def for_gradients(self) -> ColumnWeights:
        """The columns alone, as a column layout has them, through the same exchanges."""
        return ColumnWeights(self._visible_exchange, self._hidden_exchange, exact=self._exact)

    def refresh(self, parameters: Parameters) -> None:
        """Every shard sends each other the rows that it wants of its columns, some of them at a time."""
        W, rows = parameters.W, parameters.rows
        assert rows is not None
        comm, traffic = self._hidden_exchange.comm, self._hidden_exchange.traffic
        firsts, counts = self._visible.offsets.tolist(), self._visible.counts.tolist()
        n_columns = self._hidden.n_units
        n_times = max(1, -(-max(counts) * n_columns * W.itemsize // REFRESHED))
        for i in range(n_times):
            cuts = [(n * i // n_times, n * (i + 1) // n_times) for n in counts]
            sent = [W[first + start : first + stop] for first, (start, stop) in zip(firsts, cuts, strict=False)]
            mine = slice(*cuts[comm.rank])
            # what comes from a shard is its columns of these rows; ``rows`` has the columns shard after shard
            received = [np.empty((mine.stop - mine.start, n), W.dtype) for n in self._hidden.counts.tolist()]
            with traffic.status.waiting("refresh"):
                messages.exchange(comm, sent, received)
            for part, start in zip(received, self._hidden.offsets.tolist(), strict=False):
                rows[mine, start : start + part.shape[1]] = part
        traffic.add("shard", "refresh", W, rows.nbytes - len(rows) * W.shape[1] * W.itemsize)


LAYOUTS: dict[str, type[ColumnWeights | RowWeights]] = {
    "column": ColumnWeights, "row": RowWeights, "dual": DualWeights,
}  # fmt: skip


def _gathered(exchange: Exchange, owned: Activations) -> Transfer:
    return Transfer(exchange.gather_packed(owned) if isinstance(owned, Packed) else exchange.gather(owned))


class Scratch:
    """One array that is used again and again, for batches of changing size."""

    def __init__(self) -> None:
        self._flat: Array = np.empty(0)

    def buffer(self, n_units: int, batch: int, dtype: npt.DTypeLike) -> Array:
        """(n_units, batch), contents undefined."""
        if self._flat.size < n_units * batch or self._flat.dtype != dtype:
            self._flat = np.empty(n_units * batch, dtype)
        return self._flat[: n_units * batch].reshape(n_units, batch)

    def like(self, activations: Array, n_units: int) -> Array:
        """(n_units, batch) of the type and batch size of ``activations``; contents undefined."""
        return self.buffer(n_units, activations.shape[1], activations.dtype)
