"""States and small integers of the units of a minibatch as packed bits, 64 samples to a word.

``words`` (units, planes, words) uint64, units first: bit ``s % 64`` of ``words[i, p, s // 64]`` is bit ``p`` of the
value of unit ``i`` in sample ``s``.  Bits after the last sample are always zero, so that counting needs no mask.
Sampled states have one plane; k-bit statistics (values 0 .. 2^k - 1) have k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled, count_bits
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]

WORD = 64  # samples
OF_WORD = 8.0  # nanoseconds in a weighted sum over units or samples


def n_words(batch: int) -> int:
    """Return the number of words that hold the bits of ``batch`` samples."""
    return -(-batch // WORD)


@dataclass(frozen=True, eq=False)
class Packed:
    """Values 0 .. 2^planes - 1 of units in the samples of a minibatch."""

    words: Words  # (units, planes, words), C-contiguous
    batch: int

    def __post_init__(self) -> None:
        if self.words.ndim != 3 or self.words.shape[2] != n_words(self.batch) or self.words.dtype != np.uint64:
            raise ValueError(
                f"{self.batch} samples need {n_words(self.batch)} words of 64 bits a unit and plane, but the words are "
                f"{self.words.dtype} {self.words.shape}"
            )

    @classmethod
    def empty(cls, n_units: int, batch: int, planes: int = 1) -> Packed:
        """Return packed values whose contents are undefined."""
        return cls(np.empty((n_units, planes, n_words(batch)), np.uint64), batch)

    @property
    def n_units(self) -> int:
        return self.words.shape[0]

    @property
    def planes(self) -> int:
        return self.words.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(units, batch), as for an array of activations."""
        return self.words.shape[0], self.batch

    @property
    def rows(self) -> Words:
        """(units, planes x words) view: all words of a unit in one row."""
        return self.words.reshape(self.words.shape[0], self.words.shape[1] * self.words.shape[2])

    def sums(self) -> npt.NDArray[np.int64]:
        """Return the sum over the samples of each unit's values (units,)."""
        if compiled():
            sums = np.zeros(self.n_units, np.int64)
            add_values(self.words, sums)
            return sums
        ones = count_ones(self.words).sum(axis=2, dtype=np.int64)
        return np.asarray((ones << np.arange(self.planes)).sum(axis=1, dtype=np.int64))

    def density(self, step: int = 1) -> float:
        """Return the fraction of the bits that are ones, of every ``step``-th unit."""
        n = -(-self.n_units // step) * self.planes * self.batch
        if compiled():
            ones = int(ones_of_units(self.words, step))
        else:
            ones = int(count_ones(self.words[::step]).sum(dtype=np.int64))
        return ones / n if n else 0.0

    def take(self, start: int, stop: int) -> Packed:
        """Return a copy of the samples ``start .. stop - 1``."""
        if start % WORD:
            return pack(unpack(self)[:, start:stop], self.planes)
        words = self.words[:, :, start // WORD : start // WORD + n_words(stop - start)].copy()
        if (stop - start) % WORD:
            words[:, :, -1] &= np.uint64((1 << (stop - start) % WORD) - 1)
        return Packed(words, stop - start)

    @classmethod
    def join(cls, pieces: Sequence[Packed]) -> Packed:
        """Return the samples of all pieces, one after the other; all but the last have a multiple of 64 samples."""
        return cls(np.concatenate([piece.words for piece in pieces], axis=2), sum(piece.batch for piece in pieces))


@njit(cache=True, nogil=True)
def add_values(words, sums):  # type: ignore[no-untyped-def]
    """sums (units,) += values of each unit, over the samples.   words (units, planes, words)"""
    for i in range(words.shape[0]):
        for p in range(words.shape[1]):
            ones = 0
            for w in range(words.shape[2]):
                ones += count_bits(words[i, p, w])
            sums[i] += ones << p


@njit(cache=True, nogil=True)
def ones_of_units(words, step):  # type: ignore[no-untyped-def]
    """The number of ones of every ``step``-th unit.   words (units, planes, words)"""
    ones = 0
    for i in range(0, words.shape[0], step):
        for p in range(words.shape[1]):
            for w in range(words.shape[2]):
                ones += count_bits(words[i, p, w])
    return ones


@njit(cache=True, nogil=True)
def add_over_units(words, weights, out, first, last):  # type: ignore[no-untyped-def]
    """out (64 n,) float64 += sum over the units of weights (units,) times the unit's values.   words (units, planes, n)

    Of the words ``first .. last - 1`` of samples.  Bits that are 0 add 0: with no branch, a word is some vector
    instructions.
    """
    for i in range(words.shape[0]):
        for p in range(words.shape[1]):
            weight = weights[i] * np.float64(1 << p)
            for w in range(first, last):
                word, here = words[i, p, w], out[64 * w : 64 * w + 64]
                for s in range(64):
                    here[s] += weight if (word >> np.uint64(s)) & np.uint64(1) else 0.0


@njit(cache=True, nogil=True)
def add_over_samples(words, weights, out, start, stop):  # type: ignore[no-untyped-def]
    """out (units,) float64 += sum over the samples of weights (n, 64) times the unit's values, in 64 sums each

    Of the units ``start .. stop - 1``.
    """
    sums = np.empty(64)
    for i in range(start, stop):
        sums[:] = 0.0
        for w in range(words.shape[2]):
            here = weights[w]
            for p in range(words.shape[1]):
                word, unit = words[i, p, w], np.float64(1 << p)
                for s in range(64):
                    sums[s] += unit * here[s] if (word >> np.uint64(s)) & np.uint64(1) else 0.0
        for n in (32, 16, 8, 4, 2, 1):
            for s in range(n):
                sums[s] += sums[s + n]
        out[i] += sums[0]


def over_units(states: Packed, weights: Array) -> Array:
    """(samples,) float64: the sum over the units of weights (units,) times the unit's value, bit by bit."""
    if not compiled():
        return np.asarray(weights @ unpack(states, np.float64))
    n_units, planes, n = states.words.shape
    out, weights = np.zeros(n * WORD), np.ascontiguousarray(weights, np.float64)
    grain = threads.rows_worth_waking(OF_WORD * n_units * planes + 1)
    threads.split(n, grain, lambda first, last: add_over_units(states.words, weights, out, first, last))
    return out[: states.batch]


def over_samples(states: Packed, weights: Array) -> Array:
    """(units,) float64: the sum over the samples of weights (samples,) times each unit's values, bit by bit."""
    if not compiled():
        return np.asarray(unpack(states, np.float64) @ weights)
    n_units, planes, n = states.words.shape
    out, padded = np.zeros(n_units), np.zeros(n * WORD)
    padded[: states.batch] = weights
    rows, grain = padded.reshape(-1, WORD), threads.rows_worth_waking(OF_WORD * n * planes + 20)
    threads.split(n_units, grain, lambda start, stop: add_over_samples(states.words, rows, out, start, stop))
    return out


def pack(values: Array, planes: int = 1) -> Packed:
    """Pack integers (units, batch) of any type.  Raises ValueError for values that do not fit the planes."""
    if values.ndim != 2:
        raise ValueError(f"values to pack must be (units, batch), but are {values.shape}")
    n_units, batch = values.shape
    plain = values.astype(np.uint16)
    if plain.size and ((plain != values).any() or plain.max() >= 1 << planes):
        raise ValueError(f"values to pack must be integers from 0 to {(1 << planes) - 1}")
    packed = np.zeros((n_units, planes, n_words(batch) * 8), np.uint8)
    used = -(-batch // 8)
    for p in range(planes):
        packed[:, p, :used] = np.packbits(plain >> p & 1, axis=1, bitorder="little")
    return Packed(packed.view("<u8").astype(np.uint64, copy=False), batch)


def unpack(states: Packed, dtype: npt.DTypeLike = np.float32, out: Array | None = None) -> Array:
    """Unpack to integers (units, batch) of ``dtype``, or into ``out``."""
    n_units, batch = states.shape
    values = np.empty((n_units, batch), dtype) if out is None else out
    octets = states.words.astype("<u8", copy=False).view(np.uint8)
    octets = octets.reshape(n_units, states.planes, 8 * states.words.shape[2])
    for p in range(states.planes):
        bits = np.unpackbits(octets[:, p], axis=1, count=batch, bitorder="little")
        if p == 0:
            values[:] = bits
        else:
            values += bits * values.dtype.type(1 << p)
    return values


if hasattr(np, "bitwise_count"):  # NumPy 2

    def count_ones(words: Words) -> npt.NDArray[np.uint8]:
        """Return the number of ones in every word."""
        return np.bitwise_count(words)

else:

    def count_ones(words: Words) -> npt.NDArray[np.uint8]:
        """Return the number of ones in every word."""
        octets = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 8)
        return np.unpackbits(octets, axis=-1).reshape(*words.shape, WORD).sum(axis=-1, dtype=np.uint8)
