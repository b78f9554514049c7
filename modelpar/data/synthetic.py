"""Made data: any size of picture, any number of columns on a rank, nothing to download.

Every value follows from the name of the set alone (counter-based draws with a fixed seed), so a rank makes its own
columns, and every run, grid and seed meets the same training and test set.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.columns import Columns
from modelpar.data.dataset import EagerTable, Source
from modelpar.data.packed import in_memory
from modelpar.draws import Purpose, Stream, uniform
from modelpar.errors import DataError

IntArray = npt.NDArray[np.int64]

TRAIN, TEST = 5000, 1000
CLASSES = 10  # of the patterns
CELLS, CELLS_ON = 4, 7  # a pattern is a square of 4 x 4 cells, 7 of them on
NOISE = 0.02  # probability that a pixel of a pattern is turned over
_SEED = 1998
_LABELS, _LINES, _ROW_SHIFTS, _COLUMN_SHIFTS, _NOISE, _CELLS = range(6)  # what draws are for: Stream.repeat

KINDS = ("bars", "patterns")


def open_synthetic(name: str) -> Source:
    """``bars:SIDE``, ``patterns:SIDE``, or ``:ROWSxCOLUMNS`` for pictures that are not square.  Raises DataError."""
    kind, _, size = name.partition(":")
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if not match:
        raise DataError(f"data {name!r} needs the size of its pictures, as in {kind}:8 or {kind}:8x12")
    shape = int(match[1]), int(match[2] or match[1])
    least = 2 if kind == "bars" else CELLS
    if min(shape) < least or shape[0] * shape[1] >= 1 << 31:
        raise DataError(
            f"data {name!r} has pictures of {shape[0]} x {shape[1]}, but sides must be at least {least} and pixels "
            "below 2^31"
        )
    make: Any = BarsAndStripes if kind == "bars" else ShiftedPatterns
    train, test = make(name, shape, 0, TRAIN), make(name, shape, TRAIN, TEST)
    return replace(_source(train), test=_source(test))


class Pictures(EagerTable):
    """Base of the made tables: samples ``first .. first + n - 1`` of an endless sequence of black and white ones."""

    def __init__(self, name: str, shape: tuple[int, int], first: int, n: int) -> None:
        super().__init__(name, n, shape[0] * shape[1])
        self.shape, self.first = shape, first
        self.labels: IntArray

    def draw(self, purpose: int, ids: IntArray) -> npt.NDArray[np.float32]:
        """(ids, n_samples) uniform draws, one for every id and sample."""
        out = np.empty((len(ids), self.n_samples), np.float32)
        uniform(Stream(_SEED, 0, Purpose.DATA, purpose), ids, self.first, out)
        return out

    def integers(self, purpose: int, n: int) -> IntArray:
        """(n_samples,) draws from ``0 .. n - 1``."""
        return (self.draw(purpose, np.zeros(1, np.int64))[0] * n).astype(np.int64)


class BarsAndStripes(Pictures):
    """Every column (a bar, class 0) or every row (a stripe, class 1) is on or off, not all alike (MacKay 2003, p. 524).

    Small pictures have few states (2^SIDE - 2 of each class), so that training and test set share samples.
    """

    def __init__(self, name: str, shape: tuple[int, int], first: int, n: int) -> None:
        super().__init__(name, shape, first, n)
        self.labels = self.integers(_LABELS, 2)
        self.lines = (self.draw(_LINES, np.arange(max(shape))) < 0.5).astype(np.uint8)  # (lines, n_samples)
        n_lines = np.where(self.labels == 0, shape[1], shape[0])
        on = np.where(np.arange(max(shape))[:, None] < n_lines, self.lines, 0).sum(axis=0)
        alike = np.flatnonzero((on == 0) | (on == n_lines))
        self.lines[alike % n_lines[alike], alike] ^= 1

    def read(self, unit_ids: IntArray) -> Columns:
        """Look up each pixel's line."""
        row, column = np.divmod(unit_ids, self.shape[1])
        values = np.where(self.labels == 1, self.lines[row], self.lines[column])
        return in_memory(values.T)


class ShiftedPatterns(Pictures):
    """Ten patterns of coarse cells, each sample shifted (cyclically) by up to an eighth of a side, and 2 % noise."""

    def __init__(self, name: str, shape: tuple[int, int], first: int, n: int) -> None:
        super().__init__(name, shape, first, n)
        self.labels = self.integers(_LABELS, CLASSES)
        self.row_shifts = self._shifts(_ROW_SHIFTS, shape[0] // 8)
        self.column_shifts = self._shifts(_COLUMN_SHIFTS, shape[1] // 8)
        order = np.empty((CELLS * CELLS, CLASSES), np.float32)
        uniform(Stream(_SEED, 0, Purpose.DATA, _CELLS), np.arange(CELLS * CELLS), 0, order)
        rank = order.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        self.cells = (rank < CELLS_ON).T.astype(np.uint8)  # (classes, cells)

    def _shifts(self, purpose: int, most: int) -> IntArray:
        return self.integers(purpose, 2 * most + 1) - most

    def read(self, unit_ids: IntArray) -> Columns:
        """Shift each pixel back and look up its cell, unit by unit: never more than a few columns beside the result."""
        rows, columns = self.shape
        values = np.empty((self.n_samples, len(unit_ids)), np.uint8)
        for start in range(0, len(unit_ids), 256):
            ids = unit_ids[start : start + 256]
            row, column = np.divmod(ids[:, None], columns)
            cell = (row - self.row_shifts) % rows * CELLS // rows * CELLS
            cell += (column - self.column_shifts) % columns * CELLS // columns
            noise = self.draw(_NOISE, ids) < NOISE
            values[:, start : start + 256] = (self.cells[self.labels, cell] ^ noise).T
        return in_memory(values)


def _source(table: Pictures) -> Source:
    return Source(table, 1.0, table.shape, table.labels)
