"""Statistics of states and probabilities in whole numbers, and the update of the weights from them.

``C[i, j] = sum over samples of v0[i] p0[j] - v1[i] p1[j]`` with states v and probabilities p that count as the nearest
multiple of ``1 / scale``.  It is the product of ``kernels.products.subset_sums`` with samples for incoming units: the
"weights" are the probabilities, and the bits of a unit's samples make up the codes.
"""

from __future__ import annotations

import numpy as np

from modelpar.kernels.llvm.counts import transpose_16
from modelpar.kernels.llvm.lookup import HAS_LOOKUP, LANES
from modelpar.kernels.products.subset_sums import BLOCK, CHUNK, PANEL, REGISTERS, TABLES, aligned_int32, pad, sum_panel
from modelpar.kernels.statistics.counts import update_row
from modelpar.machine.compilation import njit

WAY = REGISTERS if HAS_LOOKUP else TABLES


def fine_bits(n_samples: int) -> int:
    """Bits of a probability's fraction such that the counts of ``n_samples`` fit int32, at most 22."""
    return min(22, 30 - max(n_samples, 1).bit_length())


@njit(cache=True, nogil=True)
def codes_of_samples(words, batch):  # type: ignore[no-untyped-def]
    """Bits of 15 samples of a unit in one number: words (units, n) uint64 -> (chunks, pad(units)) uint16"""
    n_units, n = words.shape
    n_chunks = (batch + CHUNK - 1) // CHUNK
    width = (n_units + 2 * LANES - 1) // (2 * LANES) * (2 * LANES)
    raw = np.zeros(n_chunks * width + 32, np.uint16)
    skip = (-raw.ctypes.data % 64) // 2
    codes = raw[skip : skip + n_chunks * width].reshape(n_chunks, width)
    mask = np.uint64((1 << CHUNK) - 1)
    for chunk in range(n_chunks):
        w, shift = chunk * CHUNK >> 6, np.uint64(chunk * CHUNK & 63)
        row = codes[chunk]
        straddles = (chunk * CHUNK & 63) + CHUNK > 64 and w + 1 < n
        for i in range(n_units):
            bits = words[i, w] >> shift
            if straddles:
                bits |= words[i, w + 1] << (np.uint64(64) - shift)
            row[i] = np.uint16(bits & mask)
    return codes


@njit(cache=True, nogil=True)
def count_panel(codes0, p0, codes1, p1, n_visible, first, n_units, scale, weights, sums):  # type: ignore[no-untyped-def]
    """sums (PANEL, pad(n_visible)) int32 = columns ``first .. first + n_units - 1`` of C, transposed"""
    nowhere, none = np.zeros((1, 1), np.int64), np.zeros(0, np.int32)
    way, up = np.int64(WAY), n_units < 0  # no constants: numba would compile the sums for these once more
    sums[:] = 0
    batch0, batch1 = p0.shape[1], p1.shape[1]
    sum_panel(way, p0, up, batch0, first, n_units, scale, codes0, nowhere, none, n_visible, weights, sums)
    sum_panel(way, p1, up, batch1, first, n_units, -scale, codes1, nowhere, none, n_visible, weights, sums)


@njit(cache=True, nogil=True)
def _turned(sums, i, counts):  # type: ignore[no-untyped-def]
    """counts (LANES, PANEL) = columns ``i .. i + 15`` of sums; both 64-byte aligned"""
    source, target = sums.ctypes.data + 4 * i, counts.ctypes.data
    for u in range(0, PANEL, LANES):
        transpose_16(source + u * sums.strides[0], sums.strides[0], target + 4 * u, counts.strides[0])


@njit(cache=True, nogil=True)
def count_and_update(W, V, codes0, p0, codes1, p1, scale, carry, gain, shrink, start, stop):  # type: ignore[no-untyped-def]
    """Columns ``start .. stop - 1`` of W and V (visible, hidden), as ``counts.count_and_update``; gain is for C."""
    n_visible = W.shape[0]
    weights = aligned_int32(PANEL * BLOCK)
    sums = aligned_int32(PANEL * pad(n_visible)).reshape(PANEL, pad(n_visible))
    counts = aligned_int32(LANES * PANEL).reshape(LANES, PANEL)
    for first in range(start, stop, PANEL):
        last = min(first + PANEL, stop)
        count_panel(codes0, p0, codes1, p1, n_visible, first, last - first, scale, weights, sums)
        for i in range(0, n_visible, LANES):
            _turned(sums, i, counts)
            for r in range(min(LANES, n_visible - i)):
                update_row(W[i + r, first:last], V[i + r, first:last], counts[r, : last - first], carry, gain, shrink)


@njit(cache=True, nogil=True)
def count_block(codes0, p0, codes1, p1, scale, start, stop, out):  # type: ignore[no-untyped-def]
    """Columns ``start .. stop - 1`` of out (visible, hidden) int32 = C"""
    n_visible = out.shape[0]
    weights = aligned_int32(PANEL * BLOCK)
    sums = aligned_int32(PANEL * pad(n_visible)).reshape(PANEL, pad(n_visible))
    for first in range(start, stop, PANEL):
        last = min(first + PANEL, stop)
        count_panel(codes0, p0, codes1, p1, n_visible, first, last - first, scale, weights, sums)
        for i in range(n_visible):
            for u in range(last - first):
                out[i, first + u] = sums[u, i]


@njit(cache=True, nogil=True)
def add_steps(p, scale, sums):  # type: ignore[no-untyped-def]
    """sums (units,) += p (units, batch) in whole steps, over the samples; fine_bits keeps a sum within int32"""
    for i in range(p.shape[0]):
        row, total = p[i], np.int32(0)
        for s in range(len(row)):
            total += np.int32(np.rint(row[s] * scale))
        sums[i] += total
