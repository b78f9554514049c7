"""Kernels for states kept as bits, a row of bytes for each sample: bit ``u % 8`` of byte ``u // 8`` is unit ``u``.

A minibatch wants them units first, 64 samples to a word (:mod:`modelpar.kernels.states`): the transpose of 64 x 64
blocks of bits by six rounds of masked swaps (Warren, Hacker's Delight, 2nd ed. 2012, section 7-3).  As in
:mod:`modelpar.data.gather_dense` all blocks of a row go through a round side by side, which the compiler vectorises,
and three rounds at a time stay in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]

WORD = 64
_BLOCKS = 32  # of 64 units in a panel: 16 KiB, which stays in the first-level cache
_LANES = 8  # words of the widest vector register: rows of a panel are multiples

_1, _2, _4, _8, _16, _32 = (np.uint64(1 << k) for k in range(6))
_SWAP_1 = np.uint64(0x5555555555555555)
_SWAP_2 = np.uint64(0x3333333333333333)
_SWAP_4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_SWAP_8 = np.uint64(0x00FF00FF00FF00FF)
_SWAP_16 = np.uint64(0x0000FFFF0000FFFF)
_SWAP_32 = np.uint64(0x00000000FFFFFFFF)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _swap(low, high, mask, shift):  # type: ignore[no-untyped-def]  # pragma: no cover
    moved = ((low >> shift) ^ high) & mask
    return low ^ (moved << shift), high ^ moved


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def transpose_bits(tile: Array, n: int) -> None:
    """Transpose the first ``n`` 64 x 64 blocks, in place.   tile (64, blocks) uint64

    Bit u of tile[s, b] becomes bit s of tile[u, b].
    """
    for k in range(8):
        r0, r1, r2, r3 = tile[k], tile[k + 8], tile[k + 16], tile[k + 24]
        r4, r5, r6, r7 = tile[k + 32], tile[k + 40], tile[k + 48], tile[k + 56]
        for b in range(n):
            x0, x4 = _swap(r0[b], r4[b], _SWAP_32, _32)
            x1, x5 = _swap(r1[b], r5[b], _SWAP_32, _32)
            x2, x6 = _swap(r2[b], r6[b], _SWAP_32, _32)
            x3, x7 = _swap(r3[b], r7[b], _SWAP_32, _32)
            x0, x2 = _swap(x0, x2, _SWAP_16, _16)
            x1, x3 = _swap(x1, x3, _SWAP_16, _16)
            x4, x6 = _swap(x4, x6, _SWAP_16, _16)
            x5, x7 = _swap(x5, x7, _SWAP_16, _16)
            r0[b], r1[b] = _swap(x0, x1, _SWAP_8, _8)
            r2[b], r3[b] = _swap(x2, x3, _SWAP_8, _8)
            r4[b], r5[b] = _swap(x4, x5, _SWAP_8, _8)
            r6[b], r7[b] = _swap(x6, x7, _SWAP_8, _8)
    for k in range(0, WORD, 8):
        r0, r1, r2, r3 = tile[k], tile[k + 1], tile[k + 2], tile[k + 3]
        r4, r5, r6, r7 = tile[k + 4], tile[k + 5], tile[k + 6], tile[k + 7]
        for b in range(n):
            x0, x4 = _swap(r0[b], r4[b], _SWAP_4, _4)
            x1, x5 = _swap(r1[b], r5[b], _SWAP_4, _4)
            x2, x6 = _swap(r2[b], r6[b], _SWAP_4, _4)
            x3, x7 = _swap(r3[b], r7[b], _SWAP_4, _4)
            x0, x2 = _swap(x0, x2, _SWAP_2, _2)
            x1, x3 = _swap(x1, x3, _SWAP_2, _2)
            x4, x6 = _swap(x4, x6, _SWAP_2, _2)
            x5, x7 = _swap(x5, x7, _SWAP_2, _2)
            r0[b], r1[b] = _swap(x0, x1, _SWAP_1, _1)
            r2[b], r3[b] = _swap(x2, x3, _SWAP_1, _1)
            r4[b], r5[b] = _swap(x4, x5, _SWAP_1, _1)
            r6[b], r7[b] = _swap(x6, x7, _SWAP_1, _1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _load(source: Array, rows: Array, start: int, n: int, tile: Array) -> None:
    """tile[s] = bytes ``start .. start + n - 1`` of row ``rows[s]`` as words, the first byte lowest; others stay.

    Written so that the compiler makes one load of eight bytes: unsigned indices, as negative ones would be looked for,
    and one call for all rows, as the counting of references costs more than a row.
    """
    begin = np.uint64(start)
    for s in range(len(rows)):
        octets, words = source[rows[s]], tile[s]
        for w in range(n // 8):
            word = np.uint64(octets[begin + np.uint64(8 * w)])
            for k in range(1, 8):
                word |= np.uint64(octets[begin + np.uint64(8 * w + k)]) << np.uint64(8 * k)
            words[w] = word
        if n % 8:
            word = np.uint64(0)
            for k in range(n % 8):
                word |= np.uint64(octets[begin + np.uint64(n - n % 8 + k)]) << np.uint64(8 * k)
            words[n // 8] = word


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def gather_bits(source: Array, rows: Array, first: int, words: Array) -> None:
    """words = the units ``first``, ``first + 1``, ... of ``rows``, units first

    source (n, width) uint8; rows (batch,) int64; ``first``: a multiple of 8
    words (units, batch / 64 rounded up) uint64
    """
    n_units = words.shape[0]
    tile = np.zeros((WORD, _BLOCKS), np.uint64)
    for first_sample in range(0, len(rows), WORD):
        n_samples = min(WORD, len(rows) - first_sample)
        for first_unit in range(0, n_units, WORD * _BLOCKS):
            some = min(WORD * _BLOCKS, n_units - first_unit)
            start, n_octets = (first + first_unit) // 8, (some + 7) // 8
            _load(source, rows[first_sample : first_sample + n_samples], start, n_octets, tile)
            for s in range(n_samples, WORD):
                tile[s, :] = 0
            n_blocks = (some + WORD - 1) // WORD
            transpose_bits(tile, min(_BLOCKS, (n_blocks + _LANES - 1) // _LANES * _LANES))
            for b in range(n_blocks):
                for u in range(min(WORD, some - WORD * b)):
                    words[first_unit + WORD * b + u, first_sample // WORD] = tile[u, b]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def spread_bits(words: Array, bits: Array) -> None:
    """The reverse of :func:`gather_bits`, to rows 0, 1, ...   words (units, n) uint64; bits (batch, width) uint8"""
    n_units, batch = words.shape[0], bits.shape[0]
    tile = np.zeros((WORD, _BLOCKS), np.uint64)
    for first_sample in range(0, batch, WORD):
        for first_unit in range(0, n_units, WORD * _BLOCKS):
            some = min(WORD * _BLOCKS, n_units - first_unit)
            tile[:] = 0
            for unit in range(some):
                tile[unit % WORD, unit // WORD] = words[first_unit + unit, first_sample // WORD]
            transpose_bits(tile, _BLOCKS)
            start, n_octets = first_unit // 8, (some + 7) // 8
            for s in range(min(WORD, batch - first_sample)):
                octets = bits[first_sample + s]
                for k in range(n_octets):
                    octets[start + k] = np.uint8(tile[s, k // 8] >> np.uint64(8 * (k % 8)) & np.uint64(0xFF))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def pack_words(values: Array, level: float, states_only: bool, words: Array) -> bool:
    """words = values > float32(level); False, and some words undefined, where a value is wrong.

    values (units, batch) float, compared as in :func:`modelpar.data.gather_dense.threshold`
    words (units, batch / 64 rounded up) uint64; ``states_only``: values may only be 0 and 1
    """
    batch = values.shape[1]
    above = np.float32(level)
    for u in range(values.shape[0]):
        for start in range(0, batch, WORD):
            row = values[u, start : min(start + WORD, batch)]
            word, wrong = np.uint64(0), False
            for s in range(len(row)):
                word |= np.uint64(row[s] > above) << np.uint64(s)
                wrong |= (row[s] != 0) & (row[s] != 1)
            if wrong & states_only:
                return False
            words[u, start // WORD] = word
    return True


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def pick_bits(source: Array, units: Array, bits: Array) -> None:
    """bits = the units ``units`` of all rows   source (n, width), bits (n, units / 8 rounded up) uint8; units int64"""
    for row in range(len(source)):
        octets, target = source[row], bits[row]
        target[:] = 0
        for i in range(len(units)):
            bit = octets[units[i] >> 3] >> np.uint8(units[i] & 7) & np.uint8(1)
            target[i >> 3] |= bit << np.uint8(i & 7)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def choose_values(words: Array, zeros: Array, ones: Array, out: Array) -> None:
    """out = where(bit, ones, zeros)

    words (units, batch / 64 rounded up) uint64; zeros, ones (units,) of out's type; out (units, batch)
    """
    batch = out.shape[1]
    for u in range(out.shape[0]):
        zero, one = zeros[u], ones[u]
        for start in range(0, batch, WORD):
            word = words[u, start // WORD]
            target = out[u, start : min(start + WORD, batch)]
            for s in range(len(target)):
                target[s] = one if (word >> np.uint64(s)) & np.uint64(1) else zero
