"""Statistics and updates of one block of weights, over threads, in integers where the operands allow it.

A block W (rows, columns) has a velocity V; v are activations of its rows' units, s of its columns' units, each in the
data's phase (0) and the model's (1).  C = v0 s0^T - v1 s1^T, and then element by element

    V = carry * V + gain * C;  V -= shrink * W;  W += V

Without compilation NumPy performs the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.counts import HAS_COUNT
from modelpar.kernels.llvm.vectors import LANES, compiled
from modelpar.kernels.products import dispatch
from modelpar.kernels.states import Packed, unpack
from modelpar.kernels.statistics import counts, probability_counts, tables, tiles
from modelpar.kernels.statistics.update import add_row, update_row

Array = npt.NDArray[Any]
Pair = tuple[Packed, Packed]

GRAIN = 1 << 19  # weights for which one more thread is worth waking, where sums are given: about 150 us of work


class Counts:
    """C of packed states v and packed k-bit values s; its unit is ``1 / (2^k - 1)``.

    If the data's phase has no samples (``empty_like``), C is that of the model's phase only.
    """

    def __init__(self, data: Pair, model: Pair) -> None:
        (v0, s0), (v1, s1) = data, model
        # both phases have the same strides
        alike = v0.batch == s0.batch and v1.batch == s1.batch and v0.batch in (0, v1.batch) and s0.planes == s1.planes
        if not alike:
            raise ValueError(
                f"both phases must have the same samples and planes, but have {v0.batch} and {s0.batch} samples, "
                f"{s0.planes} planes, and {v1.batch} and {s1.batch} samples, {s1.planes} planes"
            )
        self.data, self.model = data, model
        self.unit = 1.0 / ((1 << model[1].planes) - 1)
        self.shape: tuple[int, ...] = model[0].n_units, model[1].n_units

    @staticmethod
    def empty_like(model: Pair) -> Pair:
        """Return a phase of the same units without samples."""
        v, s = model
        return Packed.empty(v.n_units, 0), Packed.empty(s.n_units, 0, s.planes)

    @staticmethod
    def largest(planes: int, n_samples: int) -> int:
        """Return the largest absolute value that C can have."""
        return n_samples * ((1 << planes) - 1)

    def _operands(self) -> tuple[int, tuple[Any, ...]]:
        """(what rows are divided at multiples of, first arguments of the loops in ``counts``)"""
        (v0, s0), (v1, s1) = self.data, self.model
        rows = np.ascontiguousarray(v0.rows), np.ascontiguousarray(v1.rows)
        kernel = kernel_of(s1.planes)
        entry = ENTRIES[kernel]()
        if kernel == "tiles":
            v, s = tiles.signed_bytes(*rows), tiles.bytes_of_values(s0.words, s1.words)
            return tiles.ROWS, (entry, (tiles.ROWS, tiles.COLUMNS), v, s, tiles.NO_BITS, tiles.NO_VALUES)
        vectors = counts.both_by_vectors(s0.words, s1.words)
        if kernel == "tables":
            samples = v0.batch, v1.batch
            codes, values = tables.codes_of_rows(rows, samples), tables.values_of_columns(vectors, samples)
            return LANES, (entry, (tables.ROWS, counts.COLUMNS), codes, values, tiles.NO_BITS, tiles.NO_VALUES)
        return counts.TILE, (entry, (counts.TILE, counts.COLUMNS), rows[0], vectors[0], rows[1], vectors[1])

    def learn(self, W: Array, V: Array, carry: float, gain: float, shrink: float) -> None:
        """Update W and V in one pass over memory; ``gain`` is for C in its own unit."""
        scalars = _scalars(W, carry, gain, shrink)
        if not compiled():
            _update(W, V, self.plain(), *scalars)
            return
        n, operands = self._operands()
        grain = self._grain(W)
        threads.split(len(W), grain, lambda a, b: counts.count_and_update(*operands, W, V, *scalars, a, b), n)

    def add_to(self, V: Array, gain: float) -> None:
        """V = V + gain * C; ``gain`` is for C in its own unit."""
        (scalar,) = _scalars(V, gain)
        if not compiled():
            V += scalar * self.plain().astype(V.dtype)
            return
        n, operands = self._operands()
        grain = self._grain(V)
        threads.split(len(V), grain, lambda a, b: counts.count_and_add(*operands, V, scalar, a, b), n)

    def fill(self, out: Array) -> None:
        """out (rows, columns), of a type that can represent ``largest``, = C"""
        for _ in self.fill_in_pieces(out, len(out)):
            pass

    def fill_in_pieces(self, out: Array, n_rows: int) -> Iterator[tuple[int, int]]:
        """As ``fill``, about ``n_rows`` rows at a time: yields (start, stop) of the rows that are now filled."""
        n, operands = self._operands() if compiled() else (1, ())
        if not compiled():
            out[:] = self.plain()
        n_rows = max(n, -(-n_rows // n) * n)
        for start in range(0, len(out), n_rows):
            stop = min(start + n_rows, len(out))
            if compiled():
                self._fill_rows(n, operands, start, stop, out)
            yield start, stop

    def _fill_rows(self, n: int, operands: tuple[Any, ...], start: int, stop: int, out: Array) -> None:
        def work(a: int, b: int) -> None:
            counts.count_block(*operands, start + a, start + b, out)

        threads.split(stop - start, self._grain(out), work, n)

    def _grain(self, W: Array) -> int:
        """Rows that are worth another thread: ones are counted plane by plane."""
        values = self.model[1]
        return _rows(W, values.batch * (values.planes if kernel_of(values.planes) == "words" else 1))

    def plain(self) -> Array:
        """Return C in float64, which represents it exactly."""
        (v0, s0), (v1, s1) = (tuple(unpack(x, np.float64) for x in phase) for phase in (self.data, self.model))
        return np.asarray(v0 @ s0.T - v1 @ s1.T)


class ProbabilityCounts:
    """C of packed states v and probabilities s (columns, batch), which count as multiples of ``1 / scale``."""

    def __init__(self, data: tuple[Packed, Array], model: tuple[Packed, Array], n_samples: int) -> None:
        """n_samples   of the minibatch, over all replicas: determines the scale"""
        self.data, self.model = data, model
        self.scale = np.float32(2.0 ** probability_counts.fraction_bits(n_samples))
        self.unit = 1.0 / float(self.scale)
        self.shape: tuple[int, ...] = data[0].n_units, len(data[1])

    @staticmethod
    def empty_like(model: tuple[Packed, Array]) -> tuple[Packed, Array]:
        """Return a phase of the same units without samples."""
        v, p = model
        return Packed.empty(v.n_units, 0), np.empty((len(p), 0), p.dtype)

    def _operands(self) -> tuple[Any, ...]:
        operands: list[Any] = []
        for v, p in (self.data, self.model):
            words = np.ascontiguousarray(v.rows)
            operands += [probability_counts.codes_of_samples(words, v.batch), np.ascontiguousarray(p)]
        return (*operands, self.scale)

    def learn(self, W: Array, V: Array, carry: float, gain: float, shrink: float) -> None:
        """As ``Counts.learn``."""
        scalars = _scalars(W, carry, gain, shrink)
        if not compiled():
            _update(W, V, self.plain(), *scalars)
            return
        kernel, operands = probability_counts.entry_of_kernel(), self._operands()
        threads.split(
            W.shape[1],
            probability_counts.PANEL,
            lambda a, b: probability_counts.count_and_update(kernel, W, V, *operands, *scalars, a, b),
            probability_counts.PANEL,
        )

    def fill(self, out: Array) -> None:
        """out (rows, columns) int32 = C"""
        if not compiled():
            out[:] = self.plain()
            return
        kernel, operands = probability_counts.entry_of_kernel(), self._operands()
        threads.split(
            out.shape[1],
            probability_counts.PANEL,
            lambda a, b: probability_counts.count_block(kernel, *operands, a, b, out),
            probability_counts.PANEL,
        )

    def plain(self) -> Array:
        """Return C in float64, which represents it exactly."""
        (v0, p0), (v1, p1) = self.data, self.model
        fixed = [np.rint(p * self.scale).astype(np.float64) for p in (p0, p1)]
        return np.asarray(unpack(v0, np.float64) @ fixed[0].T - unpack(v1, np.float64) @ fixed[1].T)


def update_from(C: Array, W: Array, V: Array, carry: float, gain: float, shrink: float) -> None:
    """Update W and V from integers C, of the shape of W, that were summed over replicas."""
    scalars = _scalars(W, carry, gain, shrink)
    if W.ndim == 1:  # listed connections
        threads.split(len(W), GRAIN, lambda a, b: update_row(W[a:b], V[a:b], C[a:b], *scalars))
        return
    if not compiled():
        _update(W, V, C, *scalars)
        return
    threads.split(len(W), _rows(W), lambda a, b: counts.update_rows(W, V, C, *scalars, a, b))


def accumulate(C: Array, V: Array, carry: float, gain: float) -> None:
    """V = carry * V + gain * C, of integers C, of the shape of V."""
    keep, scale = _scalars(V, carry, gain)
    if not compiled():
        V[:] = keep * V + scale * C.astype(V.dtype)
        return
    flat, counted = V.reshape(-1), C.reshape(-1)
    threads.split(len(flat), GRAIN, lambda a, b: add_row(flat[a:b], counted[a:b], keep, scale))


def _update(W: Array, V: Array, C: Array, carry: Any, gain: Any, shrink: Any) -> None:
    V[:] = carry * V + gain * C.astype(W.dtype)
    V -= shrink * W
    W += V


# the compiled kernels that count, by address
ENTRIES = {"tiles": tiles.entry, "tables": tables.entry, "words": counts.entry}


def kernel_of(planes: int) -> str:
    """Return how values of so many bits are counted: by tiles, tables, or the ones of words.

    Single bits are counted as fast as they become bytes for tiles; where no instruction counts the ones of a vector's
    lanes, tables are faster for one bit, and several times as fast for more.
    """
    name = dispatch.named()
    if (name == "tiles" or (not name and planes > 1)) and tiles.self_test():
        return "tiles"
    return "tables" if name == "tables" or not HAS_COUNT else "words"


def _scalars(W: Array, *values: float) -> tuple[Any, ...]:
    return tuple(W.dtype.type(value) for value in values)


def _rows(W: Array, samples: int = 0) -> int:
    """Rows that are worth another thread, with statistics of so many samples, by the rates of a core of 2024."""
    return max(LANES, threads.rows_worth_waking(W.shape[1] * (0.3 + 0.002 * samples) + 1))
