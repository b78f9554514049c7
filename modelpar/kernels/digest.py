"""A 64-bit digest of a matrix, linear in its elements: the digests of its shards add up to that of the matrix.

For elements ``x[i, j]`` of 32 bits, read as unsigned integers, all arithmetic modulo 2^64::

    digest = sum over i of R(rows[i]) * (sum over j of C(columns[j]) * x[i, j])

``R`` is an odd 64-bit and ``C`` an odd 32-bit mix of a global unit id, so that an element costs one widening product
32 x 32 -> 64 and one sum.  An element of 64 bits is two of 32 (the lower half first) in neighbouring columns,
``2 * column`` and ``2 * column + 1``; a vector is a matrix of one column, whose id is 0.  Zero bits add nothing: a
digest does not depend on the shape, and a word whose bits belong to two shards may be digested by both, each with zeros
for the other's bits.  Sums of products of keys and elements are multilinear hashing (Carter and Wegman 1979).

Differences that always change the digest: one changed element, and two exchanged elements of a row (the keys of columns
below 2^31 are all different).  Any other two different matrices have the same digest with a probability of at most
2^-30 where some element differs in its lower 27 bits, and of at most 2^-25 where none does (for example, where only
signs differ): given all other keys, at most one of the 2^31 keys of that element's column gives a collision, unless the
column's sum over the rows ends in many zero bits.  For a vector the probability is at most 2^-32.  These bounds assume
independent keys.  The keys are fixed mixes of the ids, so the bounds hold for accidental differences, not for those of
an adversary.  If the first step at which two runs differ is missed, the next one, where all tensors differ, is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.machine.compilation import njit

MODULUS = 1 << 64
GRAIN = 1 << 18  # elements of 32 bits for which one more thread is worth waking: about 100 us of work
WIDTH = 4096  # words of a row, where memory is digested as it lies: the keys of its columns stay in the cache
PLANE = 1 << 24  # column ids reserved for the words of one bit plane

Ids = npt.NDArray[np.integer] | Sequence[int]

_MASK_31 = np.uint64(2**31 - 1)
_WORD = np.uint64(64)


def digest(block: npt.NDArray[Any], rows: Ids, columns: Ids | None) -> int:
    """Return the digest of one shard's block; the sum over all shards, modulo 2^64, is the digest of the matrix.

    block    (n_rows, n_columns), or (n_rows,) with columns None; elements of 32 or 64 bits, for example packed words
    rows     (n_rows,) global ids below 2^63, in the order of the block
    columns  (n_columns,) global ids; those of 32-bit elements below 2^31, of 64-bit elements below 2^30

    Not collective.  A block that is not C-contiguous is copied.  Raises ValueError where the sizes do not match.
    """
    if columns is None:
        block, columns = block.reshape(-1, 1), [0]
    if block.shape != (len(rows), len(columns)) or block.itemsize not in (4, 8):
        raise ValueError(
            f"a block of {block.dtype} {block.shape} cannot be digested with {len(rows)} rows and {len(columns)} "
            "columns; elements have 4 or 8 bytes"
        )
    if block.size == 0:
        return 0
    halves = np.ascontiguousarray(block).view(np.uint32)
    ids = np.asarray(columns, np.uint64)
    if block.itemsize == 8:
        ids = np.stack([2 * ids, 2 * ids + 1], axis=1).reshape(-1)
    return _summed(halves, _row_keys(np.asarray(rows, np.uint64)), _column_keys(ids))


def digest_memory(values: npt.NDArray[Any]) -> int:
    """Return the digest of values by their places in memory, for comparing memory that is laid out alike.

    values   contiguous, of any shape, elements of 32 or 64 bits: as a matrix with rows of ``WIDTH`` words of 32 bits

    A changed element always changes it; exchanged rows or more changes do but for the chances that the module states.
    Not collective.
    """
    words = values.reshape(-1).view(np.uint32)
    whole = len(words) // WIDTH
    row_keys, column_keys = _keys_of_memory(whole + 1)
    total = 0
    if whole:
        total = _summed(words[: whole * WIDTH].reshape(whole, WIDTH), row_keys[:whole], column_keys)
    rest = words[whole * WIDTH :].reshape(1, -1)
    return (total + _summed(rest, row_keys[whole:], column_keys[: rest.size])) % MODULUS


def digest_of_digests(digests: Sequence[int]) -> int:
    """One digest of several: a change of one of them always changes it."""
    keys = _row_keys(np.arange(len(digests), dtype=np.uint64)).tolist()
    return sum(key * one for key, one in zip(keys, digests, strict=True)) % MODULUS


def _summed(halves: npt.NDArray[np.uint32], row_keys: Any, column_keys: Any) -> int:
    """``digest_rows`` over the threads of this rank."""
    parts: list[int] = []

    def work(start: int, stop: int) -> None:
        with np.errstate(over="ignore"):  # the scalars of an uncompiled run (NUMBA_DISABLE_JIT) warn when they wrap
            parts.append(int(digest_rows(halves[start:stop], row_keys[start:stop], column_keys)))

    threads.split(len(halves), threads.rows_of(GRAIN, halves.shape[1]), work)
    return sum(parts) % MODULUS


def digest_listed(values: npt.NDArray[Any], rows: npt.NDArray[np.integer], columns: npt.NDArray[np.integer]) -> int:
    """Return the digest of a matrix given by its nonzero elements, equal to :func:`digest` of the dense matrix.

    values         (n,) of 32 or 64 bits
    rows, columns  (n,) global ids of each

    Not collective.
    """
    total = 0
    for start in range(0, len(values), GRAIN):
        piece = slice(start, start + GRAIN)
        halves = np.ascontiguousarray(values[piece]).view(np.uint32).reshape(len(values[piece]), -1)
        ids = np.asarray(columns[piece], np.uint64).reshape(-1, 1)
        if values.itemsize == 8:
            ids = np.concatenate([2 * ids, 2 * ids + 1], axis=1)
        inner = (halves * _column_keys(ids).astype(np.uint64)).sum(axis=1, dtype=np.uint64)
        total += int((_row_keys(np.asarray(rows[piece], np.uint64)) * inner).sum(dtype=np.uint64))
    return total % MODULUS


def digest_states(words: npt.NDArray[np.uint64], rows: Ids, first: int = 0) -> int:
    """Return the digest of packed states of some consecutive samples of a minibatch.

    words   (n_units, n_words), or (n_units, planes, n_words): bit ``s`` of word ``w`` is that of sample ``64 w + s``;
            bits after the last sample are zero
    rows    (n_units,) global unit ids
    first   position of the first sample in the minibatch, any number: digests of replicas add up even where it is not
            a multiple of 64

    Not collective.
    """
    planes = words if words.ndim == 3 else words[:, None]
    start, shift = divmod(first, 64)
    shifted = np.zeros((*planes.shape[:2], planes.shape[2] + 1), np.uint64)
    shifted[..., :-1] = planes << np.uint64(shift)
    if shift:
        shifted[..., 1:] |= planes >> (_WORD - np.uint64(shift))
    columns = np.arange(planes.shape[1])[:, None] * PLANE + (start + np.arange(shifted.shape[2]))
    return digest(shifted.reshape(len(words), -1), rows, columns.reshape(-1))


@njit(cache=True, nogil=True)
def digest_rows(halves, row_keys, column_keys):  # type: ignore[no-untyped-def]
    """(row_keys * (halves * column_keys).sum(axis=1)).sum() modulo 2^64: halves (rows, columns), column_keys uint32."""
    total = np.uint64(0)
    for i in range(len(row_keys)):
        line = halves[i]
        inner = np.uint64(0)
        for j in range(len(column_keys)):
            inner += np.uint64(line[j]) * np.uint64(column_keys[j])
        total += row_keys[i] * inner
    return total


@lru_cache(maxsize=32)
def _keys_of_memory(n_rows: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    return _row_keys(np.arange(n_rows, dtype=np.uint64)), _column_keys(np.arange(WIDTH, dtype=np.uint64))


def _row_keys(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Odd 64-bit keys: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) with its lowest bit set."""
    z = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31)) | np.uint64(1)


def _column_keys(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """Odd 32-bit keys, different for different ids below 2^31.

    Twice a mix of 31 bits, plus 1: shifts and odd multipliers permute the 31-bit integers.
    """
    z = (ids ^ (ids >> np.uint64(31))) + np.uint64(0x1E3779B9) & _MASK_31
    z = (z ^ (z >> np.uint64(16))) * np.uint64(0x7FEB352D) & _MASK_31
    z = (z ^ (z >> np.uint64(15))) * np.uint64(0x846CA68B) & _MASK_31
    z = (z ^ (z >> np.uint64(16))) * np.uint64(0x2C1B3C6D) & _MASK_31
    z ^= z >> np.uint64(15)
    return (np.uint64(2) * z + np.uint64(1)).astype(np.uint32)
