"""The counter-based generator Philox4x32-10, as numba loops over rows of units.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3: ten rounds of two
32 x 32 -> 64 bit products turn a 128-bit counter and a 64-bit key into four random words.  No state: a word depends
on counter and key alone.

One counter serves four consecutive samples of one unit.  All 32-bit values are stored in uint64, where a product needs
no widening and the loop over counters vectorises; numba would widen uint32 at every operation anyway.  The loops write
the words of complete counters to a scratch row with margins, so a batch may begin and end at any sample.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelpar.kernels.sampling.elementary import cos_sin_of_turn, log
from modelpar.machine.compilation import njit

if TYPE_CHECKING:
    from modelpar.streams import Stream

IntArray = npt.NDArray[np.int64]

CHUNK = 1024  # samples of one unit per scratch row: 4 KiB, which stays in the first-level cache
MARGIN = 4  # words of the first counter before the first requested sample
SCRATCH = MARGIN + CHUNK + 64  # a scratch row, with space for the rest of the last group of counters
PAIRS = CHUNK // 2 + 64  # pairs of words for as many normal draws, and for the last group of counters
_LANES = 8  # counters are generated in groups of this many, which fill a vector register of 512 bits

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_TOP_24 = np.uint32(8)
_UNIT_24 = np.float32(2.0**-24)
_UNIT_32 = 2.0**-32

_NO_SAMPLES = np.empty(0, np.int64)


class Draw(NamedTuple):
    """One draw of every unit in every sample of a minibatch, as compiled loops take it; see :func:`draw_of`."""

    first: int  # the first of consecutive sample ids
    samples: IntArray  # (batch,) explicit sample ids; empty where they are consecutive
    units: IntArray  # (units,) global ids
    tag: int  # the last word of the counters
    keys: tuple[int, int]  # the two words of the key
    levels: Any  # float32: the largest value of the k-bit statistic, 2^k - 1; 0 for none


def draw_of(
    stream: Stream, unit_ids: IntArray, samples: int | IntArray, n_units: int, n_samples: int, planes: int = 0
) -> Draw:
    """Return the draw of a stream for these units and samples, and for a statistic of ``planes`` bits.

    Raises ValueError where there are not ``n_units`` unit ids and ``n_samples`` sample ids.
    """
    first, ids = kernel_samples(samples, n_samples)
    tag, key0, key1 = stream.words
    return Draw(first, ids, kernel_units(unit_ids, n_units), tag, (key0, key1), np.float32((1 << planes) - 1))


@njit(cache=True, nogil=True, forceinline=True)
def _round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """One round of Philox4x32: words and keys are uint64 below 2^32."""
    p0 = _M0 * c0
    p1 = _M1 * c2
    return (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW


@njit(cache=True, nogil=True, forceinline=True)
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Philox4x32-10: the four words of a counter and a key; everything is uint64 below 2^32."""
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
    for _ in range(9):
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def fill_words(first_block, unit, tag, key0, key1, words, n_blocks):  # type: ignore[no-untyped-def]
    """Words of ``n_blocks`` consecutive counters of one unit: words (at least 4 n_blocks,) uint32."""
    k0 = np.uint64(key0)
    k1 = np.uint64(key1)
    c2 = np.uint64(unit)
    c3 = np.uint64(tag)
    first = np.uint64(first_block)
    for g in range(n_blocks):
        block = first + np.uint64(g)
        w0, w1, w2, w3 = philox(block & _LOW, block >> _HALF, c2, c3, k0, k1)
        words[4 * g] = np.uint32(w0)
        words[4 * g + 1] = np.uint32(w1)
        words[4 * g + 2] = np.uint32(w2)
        words[4 * g + 3] = np.uint32(w3)


@njit(cache=True, nogil=True)
def fill_words_at(samples, unit, tag, key0, key1, words):  # type: ignore[no-untyped-def]
    """Words of explicit sample ids: samples (n,) int64, words (at least n,) uint32."""
    k0 = np.uint64(key0)
    k1 = np.uint64(key1)
    c2 = np.uint64(unit)
    c3 = np.uint64(tag)
    for j in range(len(samples)):
        sample = np.uint64(samples[j])
        block = sample >> np.uint64(2)
        w0, w1, w2, w3 = philox(block & _LOW, block >> _HALF, c2, c3, k0, k1)
        odd = (sample & np.uint64(1)) != np.uint64(0)
        low = w1 if odd else w0
        high = w3 if odd else w2
        words[j] = np.uint32(high if (sample & np.uint64(2)) != np.uint64(0) else low)


@njit(cache=True, nogil=True)
def row_words(first, samples, start, n, unit, tag, key0, key1, words, at):  # type: ignore[no-untyped-def]
    """words[at : at + n] = words of samples ``start .. start + n - 1`` of a batch, for one unit.

    ``samples`` holds explicit ids; where it is empty the ids are ``first, first + 1, ...``.  ``words`` has MARGIN
    elements before ``at``, which are kept, and a group of counters after ``at + n``, which are overwritten.
    """
    if len(samples) > 0:
        fill_words_at(samples[start : start + n], unit, tag, key0, key1, words[at : at + n])
        return
    begin = first + start
    skip = begin % 4
    n_blocks = (skip + n + 3) // 4
    padded = (n_blocks + _LANES - 1) // _LANES * _LANES  # a few unused counters are faster than a scalar remainder
    w0, w1, w2 = words[at - 3], words[at - 2], words[at - 1]  # overwritten by the words of the counter before ``begin``
    fill_words(begin // 4, unit, tag, key0, key1, words[at - skip :], padded)
    words[at - 3], words[at - 2], words[at - 1] = w0, w1, w2


@njit(cache=True, nogil=True)
def uniform_rows(first, samples, units, tag, key0, key1, out):  # type: ignore[no-untyped-def]
    """out (units, batch) = the upper 24 bits of each word times 2^-24."""
    words = np.empty(SCRATCH, np.uint32)
    n_samples = out.shape[1]
    for i in range(out.shape[0]):
        for start in range(0, n_samples, CHUNK):
            n = min(CHUNK, n_samples - start)
            row_words(first, samples, start, n, units[i], tag, key0, key1, words, MARGIN)
            drawn = words[MARGIN : MARGIN + n]
            row = out[i, start : start + n]
            for j in range(n):
                row[j] = np.float32(np.int32(drawn[j] >> _TOP_24)) * _UNIT_24


@njit(cache=True, nogil=True)
def bernoulli_rows(p, first, samples, units, tag, key0, key1, out):  # type: ignore[no-untyped-def]
    """out (units, batch) = 1 where the uniform draw is below p, else 0 (also where p is NaN)."""
    words = np.empty(SCRATCH, np.uint32)
    n_samples = out.shape[1]
    for i in range(out.shape[0]):
        for start in range(0, n_samples, CHUNK):
            n = min(CHUNK, n_samples - start)
            row_words(first, samples, start, n, units[i], tag, key0, key1, words, MARGIN)
            compare(p[i, start : start + n], words[MARGIN : MARGIN + n], out[i, start : start + n])


@njit(cache=True, nogil=True)
def compare(p, drawn, states):  # type: ignore[no-untyped-def]
    """states = 1 where the draw is below p: all three (n,)."""
    for j in range(len(states)):
        u = np.float32(np.int32(drawn[j] >> _TOP_24)) * _UNIT_24
        states[j] = np.float32(1.0) if u < p[j] else np.float32(0.0)


@njit(cache=True, nogil=True)
def fill_pairs(first_block, unit, tag, key0, key1, radii, angles, n_blocks):  # type: ignore[no-untyped-def]
    """Words 0 and 2 (radii) and words 1 and 3 (angles) of ``n_blocks`` consecutive counters of one unit: uint32."""
    k0 = np.uint64(key0)
    k1 = np.uint64(key1)
    c2 = np.uint64(unit)
    c3 = np.uint64(tag)
    first = np.uint64(first_block)
    for g in range(n_blocks):
        block = first + np.uint64(g)
        w0, w1, w2, w3 = philox(block & _LOW, block >> _HALF, c2, c3, k0, k1)
        radii[2 * g] = np.uint32(w0)
        radii[2 * g + 1] = np.uint32(w2)
        angles[2 * g] = np.uint32(w1)
        angles[2 * g + 1] = np.uint32(w3)


@njit(cache=True, nogil=True)
def fill_pairs_at(samples, unit, tag, key0, key1, radii, angles):  # type: ignore[no-untyped-def]
    """The pair of words of each of explicit sample ids: samples (n,) int64; radii, angles (at least n,) uint32."""
    k0 = np.uint64(key0)
    k1 = np.uint64(key1)
    c2 = np.uint64(unit)
    c3 = np.uint64(tag)
    for j in range(len(samples)):
        sample = np.uint64(samples[j])
        block = sample >> np.uint64(2)
        w0, w1, w2, w3 = philox(block & _LOW, block >> _HALF, c2, c3, k0, k1)
        second = (sample & np.uint64(2)) != np.uint64(0)
        radii[j] = np.uint32(w2 if second else w0)
        angles[j] = np.uint32(w3 if second else w1)


@njit(cache=True, nogil=True, error_model="numpy")
def box_muller(radii, angles, evens, odds):  # type: ignore[no-untyped-def]
    """Two normal draws of each pair of words: radii, angles (n,) uint32; evens, odds (at least n,) float64."""
    for k in range(len(radii)):
        radius = math.sqrt(-2.0 * log((np.float64(radii[k]) + 1.0) * _UNIT_32))
        cosine, sine = cos_sin_of_turn(angles[k])
        evens[k] = radius * cosine
        odds[k] = radius * sine


@njit(cache=True, nogil=True)
def gaussian_rows(mean, first, samples, units, tag, key0, key1, out):  # type: ignore[no-untyped-def]
    """out (units, batch) = mean + N(0, 1) by Box and Muller (1958) from pairs of words of one counter.

    Words 0 and 1 of a counter give the draws of its samples 0 and 1, words 2 and 3 those of 2 and 3, so a sample
    reads only its own counter.  Computed in float64, and rounded once: |draw| <= sqrt(64 ln 2) = 6.66.
    """
    radii = np.empty(PAIRS, np.uint32)
    angles = np.empty(PAIRS, np.uint32)
    normals = np.empty((2, PAIRS), np.float64)
    n_samples = out.shape[1]
    for i in range(out.shape[0]):
        if len(samples) > 0:
            for start in range(0, n_samples, PAIRS):
                n = min(PAIRS, n_samples - start)
                ids = samples[start : start + n]
                fill_pairs_at(ids, units[i], tag, key0, key1, radii, angles)
                box_muller(radii[:n], angles[:n], normals[0], normals[1])
                row, centre = out[i, start : start + n], mean[i, start : start + n]
                for j in range(n):
                    draw = normals[1, j] if ids[j] & 1 else normals[0, j]
                    row[j] = np.float64(centre[j]) + draw
            continue
        for start in range(0, n_samples, CHUNK):
            n = min(CHUNK, n_samples - start)
            begin = first + start
            skip = begin % 4
            n_blocks = ((skip + n + 3) // 4 + _LANES - 1) // _LANES * _LANES
            fill_pairs(begin // 4, units[i], tag, key0, key1, radii, angles, n_blocks)
            n_pairs = 2 * n_blocks
            box_muller(radii[:n_pairs], angles[:n_pairs], normals[0], normals[1])
            row, centre = out[i, start : start + n], mean[i, start : start + n]
            for j in range(n):
                at = skip + j
                row[j] = np.float64(centre[j]) + normals[at & 1, at >> 1]


@njit(cache=True, nogil=True)
def permutation_keys(epoch, key0, key1, index_bits, keys):  # type: ignore[no-untyped-def]
    """keys (n,) uint64 = random upper bits, and the index in the lower ``index_bits``.

    The last word of the counters has all bits of layer and purpose set, unlike that of any draw of a unit.
    """
    k0 = np.uint64(key0)
    k1 = np.uint64(key1)
    c2 = np.uint64(epoch)
    c3 = np.uint64(0xFFFF0000)
    low_bits = (np.uint64(1) << np.uint64(index_bits)) - np.uint64(1)
    for i in range(len(keys)):
        index = np.uint64(i)
        w0, w1, _w2, _w3 = philox(index & _LOW, index >> _HALF, c2, c3, k0, k1)
        random = (w0 << _HALF) | w1
        keys[i] = (random & ~low_bits) | index


def kernel_samples(samples: int | IntArray, n_samples: int) -> tuple[int, IntArray]:
    """Return samples as kernels take them: the first id, and explicit ids (empty where they are consecutive)."""
    if isinstance(samples, np.ndarray):
        if samples.shape != (n_samples,):
            raise ValueError(f"sample ids have shape {samples.shape}, but the batch holds {n_samples} samples")
        return 0, _plain_ids(samples)
    if samples < 0:
        raise ValueError(f"the first sample id is {samples}, but must be at least 0")
    return int(samples), _NO_SAMPLES


def kernel_units(unit_ids: IntArray, n_units: int) -> IntArray:
    """Return unit ids as kernels take them."""
    if unit_ids.shape != (n_units,):
        raise ValueError(f"unit ids have shape {unit_ids.shape}, but the array holds {n_units} units")
    return _plain_ids(unit_ids)


def _plain_ids(ids: IntArray) -> IntArray:
    """Return ids as contiguous writable int64: for any other kind of array kernels would be compiled again."""
    flags = ids.flags
    if ids.dtype == np.int64 and flags.c_contiguous and flags.writeable:
        return ids
    return np.array(ids, dtype=np.int64, order="C")
