"""Columns whose values are two, 0 and one other, kept as bits: an eighth of a byte a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.bits import choose_values, gather_bits, pack_words, spread_bits
from modelpar.data.column_summary import ColumnSummary, summary_of_two
from modelpar.data.columns import Columns, DenseColumns
from modelpar.data.gather_dense import affine, arithmetic_of
from modelpar.data.mapped import MappedFile
from modelpar.kernels import threads
from modelpar.kernels.states import Packed, count_ones
from modelpar.machine.memory import check_room

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

LOOKED_AT = 1024  # rows at a time, a multiple of 64
_VALUES = 1 << 24  # values of them, of wide rows
_FIRST_LOOK = 64  # rows that tell grey values from states in nearly every case
_LARGEST = 1e150  # above, squares overflow
_GRAIN = 1 << 22  # bits for which one more thread is worth waking: about 120 us of work


class PackedColumns:
    """Columns of rows of bits (n, n_units / 8 rounded up) uint8, in memory or memory-mapped; see ``data.bits``.

    high    the raw value of a bit that is set
    dtype   of the values that were packed: bytes are scaled in the type of what is filled, floats in float64
    file    that the bits are mapped to, None where they are in memory
    """

    def __init__(
        self, bits: Array, n_units: int, *, high: float = 1.0, dtype: npt.DTypeLike = np.uint8,
        file: MappedFile | None = None,
    ) -> None:  # fmt: skip
        if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != width(n_units):
            raise ValueError(
                f"{n_units} units need rows of {width(n_units)} bytes, but came as {bits.dtype} {bits.shape}"
            )
        # Read-only and contiguous always: any other array would have the kernels compiled again.
        self.bits = np.ascontiguousarray(bits).view()
        self.bits.flags.writeable = False
        self.n_units, self.high, self.dtype, self.file = n_units, float(high), np.dtype(dtype), file

    @property
    def nbytes(self) -> int:
        """Memory, or length of the file's part that is mapped."""
        return int(self.bits.nbytes)

    def states(self, rows: IntArray) -> Packed:
        """The bits of ``rows`` (batch,), units first.  Raises DataError where a mapped file was truncated."""
        if self.file is not None:
            self.file.check()
        packed = Packed.empty(self.n_units, len(rows))
        words = packed.rows

        def work(start: int, stop: int) -> None:
            gather_bits(self.bits, rows, start, words[start:stop])

        threads.split(self.n_units, threads.rows_of(_GRAIN, len(rows)), work, align=64)
        return packed

    def fill(self, rows: IntArray, out: Array, offset: Array | None = None, scale: Array | None = None) -> None:
        """See :meth:`modelpar.data.columns.Columns.fill`."""
        arithmetic = arithmetic_of(self.dtype, out, offset)
        offset, scale = affine(self.n_units, len(rows), out, arithmetic, offset, scale)
        with np.errstate(divide="ignore", invalid="ignore"):
            zeros = ((0 - offset) / scale).astype(out.dtype)
            ones = ((arithmetic.type(self.high) - offset) / scale).astype(out.dtype)
        choose_values(self.states(rows).rows, zeros, ones, out)

    def summary(self, rows: IntArray) -> ColumnSummary:
        """See :meth:`modelpar.data.columns.Columns.summary`."""
        counts = np.zeros(self.n_units, np.int64)
        for start in range(0, len(rows), LOOKED_AT):
            counts += count_ones(self.states(rows[start : start + LOOKED_AT]).rows).sum(axis=1, dtype=np.int64)
        return summary_of_two(len(rows), counts, self.high)

    def are_states(self, offset: Array, scale: Array, level: float | None) -> bool:
        """Whether the bits are what scaling (and the threshold ``level`` on scaled values) makes of the values."""
        plain = not offset.any() and bool((scale == self.high).all())
        return plain and (level is None or keeps_states(level))


def keeps_states(level: float) -> bool:
    """Whether a threshold makes the states 0 and 1 of 0 and 1."""
    return bool(0 <= np.float32(level) < 1)


def width(n_units: int) -> int:
    """Bytes of a row."""
    return -(-n_units // 8)


def packed_rows(
    columns: Columns, rows: IntArray, *, offset: Array | None = None, scale: Array | None = None,
    level: float | None = None, keep: bool = True, check: bool = False,
) -> Array | None:  # fmt: skip
    """Bits (len(rows), width) of the scaled values of ``rows``; None where one is neither 0 nor 1.

    level   with a threshold any value will do, and the bits are those above it; scaled values are float32 then
    keep    False: only look, and give bits of no rows
    check   with a threshold: None where a scaled value is not from 0 to 1 either
    """
    bits = np.empty((len(rows) if keep else 0, width(columns.n_units)), np.uint8)
    scratch = np.empty((0 if keep else LOOKED_AT, width(columns.n_units)), np.uint8)
    dtype = np.float64 if level is None and values_type(columns) == np.float64 else np.float32
    for start, stop in _pieces(len(rows), columns.n_units):
        values = np.empty((columns.n_units, stop - start), dtype)
        columns.fill(rows[start:stop], values, offset, scale)
        if check and not ((values >= 0) & (values <= 1)).all():
            return None
        target = bits[start:stop] if keep else scratch[: stop - start]
        words = Packed.empty(columns.n_units, stop - start).rows
        if not pack_words(values, 0.5 if level is None else level, level is None, words):
            return None
        spread_bits(words, target)
    return bits


def values_type(columns: Columns) -> np.dtype[Any]:
    """The type of the raw values: float64 where columns do not tell."""
    source = getattr(columns, "source", None)
    return np.dtype(getattr(columns, "dtype", np.float64) if source is None else source.dtype)


def _pieces(n: int, n_units: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of rows to look at together: a few first, which in most cases tell all."""
    start, most = 0, max(_FIRST_LOOK, min(LOOKED_AT, _VALUES // max(1, n_units) // 64 * 64))
    while start < n:
        stop = min(n, start + (most if start else _FIRST_LOOK))
        yield start, stop
        start = stop


class Keeper:
    """Keeps raw rows (n, n_units) that come piece by piece: as bits while they have no third value, then as they are.

    dtype   in which values are kept
    name    of the table, for errors

    Raises DataError, here and by ``add``, where there is no memory for them.
    """

    def __init__(self, n_samples: int, n_units: int, dtype: npt.DTypeLike, name: str = "the data") -> None:
        self.name, self.n_samples, self.n_units, self.dtype = name, n_samples, n_units, np.dtype(dtype)
        check_room(n_samples * width(n_units), name)
        self.high: float | None = None  # none was met so far
        self.bits = np.empty((n_samples, width(n_units)), np.uint8)
        self.values: Array | None = None
        self.start = 0

    def add(self, rows: Array) -> None:
        """The next rows (any number, n_units), of the type in which they are kept."""
        if self.values is None and not self.pack(rows):
            self._unpack()
        if self.values is not None:
            self.values[self.start : self.start + len(rows)] = rows
            self.start += len(rows)

    def pack(self, rows: Array) -> bool:
        """As :meth:`add` of rows that are kept as bits; False, and they are not kept, where they have a third value."""
        on = rows != 0
        if self.high is None and on.any():
            self.high = float(rows[on][0])
        if self.high is not None and not (0 < self.high < _LARGEST and (rows[on] == self.high).all()):
            return False
        self.bits[self.start : self.start + len(rows)] = np.packbits(on, axis=1, bitorder="little")
        self.start += len(rows)
        return True

    def columns(self) -> Columns:
        """The columns that were kept."""
        if self.values is not None:
            return DenseColumns(self.values)
        return PackedColumns(self.bits, self.n_units, high=1.0 if self.high is None else self.high, dtype=self.dtype)

    def _unpack(self) -> None:
        check_room(self.n_samples * self.n_units * self.dtype.itemsize, self.name)
        self.values = np.empty((self.n_samples, self.n_units), self.dtype)
        for start in range(0, self.start, LOOKED_AT):
            stop = min(start + LOOKED_AT, self.start)
            self.values[start:stop] = np.unpackbits(
                self.bits[start:stop], axis=1, count=self.n_units, bitorder="little"
            )
            self.values[start:stop] *= np.array(self.high or 0, self.dtype)
        self.bits = self.bits[:0].copy()  # let go of the memory


def in_memory(values: Array, name: str = "the data") -> Columns:
    """Columns of raw values (n, n_units) of a type in which they are kept: bits where they are 0 and one other."""
    keeper = Keeper(len(values), values.shape[1], values.dtype, name)
    packed = all(keeper.pack(values[start:stop]) for start, stop in _pieces(len(values), values.shape[1]))
    return keeper.columns() if packed else DenseColumns(np.ascontiguousarray(values))
