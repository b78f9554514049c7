"""The ways from a split to packed states: bits that are kept, draws from bytes, and whatever else by way of floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.bits import pack_words
from modelpar.data.columns import Columns, DenseColumns
from modelpar.data.dataset import Split
from modelpar.data.drawn import draw_bytes
from modelpar.data.gather_dense import threshold
from modelpar.data.packed import PackedColumns, packed_rows, width
from modelpar.draws import GRAIN, sample_bernoulli
from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.sampling import philox
from modelpar.kernels.states import Packed
from modelpar.machine.memory import available_bytes
from modelpar.streams import Stream

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

SHARE_OF_MEMORY = 0.5  # of what is left, that the bits of all ranks may take


class KeptStates:
    """Bits of a split that are kept: ``rows`` of packed columns."""

    def __init__(self, columns: PackedColumns, rows: IntArray) -> None:
        self.columns, self.rows = columns, rows

    def states(self, samples: IntArray, first_draw: int | IntArray) -> Packed:
        """See :meth:`modelpar.data.feed.Feed.states`."""
        return self.columns.states(self.rows[samples])


class FilledStates:
    """States by way of a float32 minibatch: scaled values, drawn or above a threshold, or states themselves."""

    def __init__(
        self, columns: Columns, rows: IntArray, unit_ids: IntArray, offset: Array, scale: Array,
        stream: Stream | None, level: float | None,
    ) -> None:  # fmt: skip
        self.columns, self.rows, self.unit_ids, self.offset, self.scale = columns, rows, unit_ids, offset, scale
        self.stream, self.level = stream, level

    def fill(self, samples: IntArray, first_draw: int | IntArray, out: Array) -> None:
        """The states as floats; ``out`` (n_units, batch)."""
        self.columns.fill(self.rows[samples], out, self.offset, self.scale)
        if self.stream is not None:
            sample_bernoulli(out, self.stream, self.unit_ids, first_draw, out)
        elif self.level is not None:
            threshold(out, self.level)

    def states(self, samples: IntArray, first_draw: int | IntArray) -> Packed:
        """See :meth:`modelpar.data.feed.Feed.states`."""
        values = np.empty((len(self.unit_ids), len(samples)), np.float32)
        self.fill(samples, first_draw, values)
        packed = Packed.empty(*values.shape)
        pack_words(values, 0.5, False, packed.rows)
        return packed


class DrawnStates:
    """States drawn from bytes without a float in between: the bits of :class:`FilledStates` in half the time."""

    def __init__(
        self, columns: DenseColumns, rows: IntArray, unit_ids: IntArray, offset: Array, scale: Array, stream: Stream
    ) -> None:
        self.columns, self.rows, self.stream = columns, rows, stream
        self.units = philox.kernel_units(unit_ids, columns.n_units)
        self.offset, self.scale = offset.astype(np.float32), scale.astype(np.float32)

    def states(self, samples: IntArray, first_draw: int | IntArray) -> Packed:
        """See :meth:`modelpar.data.feed.Feed.states`."""
        rows = self.rows[samples]
        first, ids = philox.kernel_samples(first_draw, len(rows))
        packed, columns, words = Packed.empty(len(self.units), len(rows)), self.columns, self.stream.words
        columns.check()

        def work(start: int, stop: int) -> None:
            draw_bytes(
                columns.source, rows, columns.unit_ids, columns.adjacent, self.offset, self.scale, first, ids,
                self.units, *words, start, stop, packed.rows,
            )  # fmt: skip

        threads.split(len(self.units), threads.rows_of(GRAIN, len(rows)), work)
        return packed


def drawn_states(
    columns: Columns, rows: IntArray, unit_ids: IntArray, offset: Array, scale: Array, stream: Stream
) -> DrawnStates | FilledStates:
    """The fused way where the columns are bytes and kernels are compiled, else by way of floats: the same bits."""
    if compiled() and isinstance(columns, DenseColumns) and columns.source.dtype == np.uint8:
        return DrawnStates(columns, rows, unit_ids, offset, scale, stream)
    return FilledStates(columns, rows, unit_ids, offset, scale, stream, None)


def kept_states(
    split: Split, columns: Columns, unit_ids: IntArray, offset: Array, scale: Array, level: float | None, n_ranks: int
) -> tuple[bool, KeptStates | None]:
    """Whether all scaled values of a split are states (above ``level``, where one is given), and their bits.

    The bits are made once for a split, a thousand rows at a time, unless they take more memory than the columns do or
    than ``n_ranks`` such parts should.  Not collective.
    """
    if isinstance(columns, PackedColumns) and columns.are_states(offset, scale, level):
        return True, KeptStates(columns, split.rows)
    key = unit_ids.tobytes(), offset.tobytes(), scale.tobytes(), level
    if key not in split.states:
        needed = len(split) * width(columns.n_units)
        otherwise = getattr(columns, "nbytes", needed)  # sparse columns may be the smaller form
        keep = needed <= otherwise and needed * n_ranks < SHARE_OF_MEMORY * available_bytes()
        if level is not None and not keep:
            split.states[key] = True, None
        else:
            bits = packed_rows(columns, split.rows, offset=offset, scale=scale, level=level, keep=keep)
            kept = None if bits is None or not keep else PackedColumns(bits, columns.n_units)
            split.states[key] = bits is not None, kept
    binary, kept = split.states[key]
    return binary, None if kept is None else KeptStates(kept, np.arange(len(split)))
