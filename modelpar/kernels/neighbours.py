"""Which rows of bits agree with each other in many places: a count of common ones for every pair, in tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled, count_bits
from modelpar.kernels.states import count_ones
from modelpar.machine.compilation import njit

Words = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]

TILE = 256  # rows: with their words they stay in the second-level cache, and their counts in the first


@njit(cache=True, nogil=True)
def count_tile(rows, tile, own, least, first, second):  # type: ignore[no-untyped-def]
    """first[i] += 1 and, unless the tile is of these rows itself, second[j] += 1, for each row i and row j of the tile
    that have ``least`` ones in common.  A row is not compared with itself.

    rows (n, words) uint64; tile (words, TILE): the same of other rows, words first; own   whether it is of these rows
    first (n,), second (TILE,) int64
    """
    common = np.empty(tile.shape[1], np.int64)
    for i in range(rows.shape[0]):
        common[:] = 0
        for w in range(rows.shape[1]):
            word, others = rows[i, w], tile[w]
            if word:
                for j in range(len(common)):
                    common[j] += count_bits(word & others[j])
        if own:
            common[i] = 0
        found = np.int64(0)
        for j in range(len(common)):
            hit = np.int64(1) if common[j] >= least else np.int64(0)
            found += hit
            second[j] += hit
        first[i] += found


def neighbours(words: Words, least: int, part: int = 0, n_parts: int = 1) -> IntArray:
    """(n,) how many other rows have at least ``least`` > 0 ones in common with each row of ``words`` (n, words).

    part, n_parts   only of this part of all pairs: the counts of all parts add up
    """
    n, n_words = words.shape
    counts = np.zeros(n, np.int64)
    if not compiled():
        for i in range(part, n, n_parts):
            hits = count_ones(words & words[i]).sum(axis=1, dtype=np.int64) >= least
            counts[i] = hits.sum() - hits[i]
        return counts
    n_tiles = -(-n // TILE)
    padded = np.zeros((n_tiles * TILE, n_words), np.uint64)
    padded[:n] = words
    rows = padded.reshape(n_tiles, TILE, n_words)
    tiles = np.ascontiguousarray(rows.transpose(0, 2, 1))
    a, b = np.triu_indices(n_tiles)
    a, b = a[part::n_parts], b[part::n_parts]
    parts: list[IntArray] = []

    def work(start: int, stop: int) -> None:
        mine, ignored = np.zeros((n_tiles, TILE), np.int64), np.zeros(TILE, np.int64)
        for one, other in zip(a[start:stop].tolist(), b[start:stop].tolist(), strict=True):
            count_tile(
                rows[one], tiles[other], one == other, least, mine[one], ignored if one == other else mine[other]
            )
        parts.append(mine)

    threads.split(len(a), 1, work)
    for mine in parts:
        counts += mine.reshape(-1)[:n]
    return counts


def words_of(bits: npt.NDArray[Any]) -> Words:
    """Rows of bytes (n, bytes) uint8 as rows of words of 64 bits, with zeros at their ends."""
    padded = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)
