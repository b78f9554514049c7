"""Statistics of states and probabilities in integers, and the update of the weights from them.

``C[i, j] = sum over samples of v0[i] p0[j] - v1[i] p1[j]`` with states v and probabilities p that count as the nearest
multiple of ``1 / scale``.  It is the product of ``kernels.products.subset_sums`` with samples as incoming units: the
"weights" are the probabilities, and the codes consist of the bits of a unit's samples.
"""

from __future__ import annotations

import numpy as np

from modelpar.kernels.llvm.counts import transpose_16
from modelpar.kernels.llvm.subset_sums import HAS_LOOKUP
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products.aligned import aligned_int32, pad
from modelpar.kernels.products.subset_sums import (
    BLOCK,
    CODE_BITS,
    PANEL,
    entry,
    sum_panel,
)
from modelpar.kernels.statistics.update import update_block
from modelpar.machine.compilation import njit


def entry_of_kernel() -> int:
    """Return the address of the fastest kernel for these products that any processor like this has."""
    return entry("registers" if HAS_LOOKUP else "tables")


def fraction_bits(n_samples: int) -> int:
    """Return the bits of a probability's fraction, at most 22, with which counts of ``n_samples`` fit in int32."""
    return min(22, 30 - max(n_samples, 1).bit_length())


@njit(cache=True, nogil=True)
def codes_of_samples(words, batch):  # type: ignore[no-untyped-def]
    """Bits of 15 samples of a unit as one code: words (units, n) uint64 -> (chunks, pad(units)) uint16"""
    n_units, n = words.shape
    n_chunks = (batch + CODE_BITS - 1) // CODE_BITS
    width = (n_units + 2 * LANES - 1) // (2 * LANES) * (2 * LANES)
    raw = np.zeros(n_chunks * width + 32, np.uint16)
    skip = (-address(raw) % 64) // 2
    codes = raw[skip : skip + n_chunks * width].reshape(n_chunks, width)
    mask = np.uint64((1 << CODE_BITS) - 1)
    for chunk in range(n_chunks):
        w, shift = chunk * CODE_BITS >> 6, np.uint64(chunk * CODE_BITS & 63)
        row = codes[chunk]
        straddles = (chunk * CODE_BITS & 63) + CODE_BITS > 64 and w + 1 < n
        for i in range(n_units):
            bits = words[i, w] >> shift
            if straddles:
                bits |= words[i, w + 1] << (np.uint64(64) - shift)
            row[i] = np.uint16(bits & mask)
    return codes


@njit(cache=True, nogil=True)
def count_panel(kernel, codes0, p0, codes1, p1, n_visible, first, n_units, scale, weights, sums):  # type: ignore[no-untyped-def]
    """sums (PANEL, pad(n_visible)) int32 = columns ``first .. first + n_units - 1`` of C, transposed"""
    no_lists, no_units, none = np.zeros((1, 1), np.int64), np.zeros(0, np.int32), np.zeros((0, 0), np.int32)
    up = n_units < 0  # not a constant: numba would compile sum_panel again for it
    sums[:] = 0
    n0, n1 = p0.shape[1], p1.shape[1]
    sum_panel(kernel, p0, none, up, n0, first, n_units, scale, codes0, no_lists, no_units, n_visible, weights, sums)
    sum_panel(kernel, p1, none, up, n1, first, n_units, -scale, codes1, no_lists, no_units, n_visible, weights, sums)


@njit(cache=True, nogil=True)
def transpose_columns(sums, i, counts):  # type: ignore[no-untyped-def]
    """counts (LANES, PANEL) = columns ``i .. i + 15`` of sums; both 64-byte aligned"""
    source, target = address(sums) + 4 * i, address(counts)
    for u in range(0, PANEL, LANES):
        transpose_16(source + u * sums.strides[0], sums.strides[0], target + 4 * u, counts.strides[0])


@njit(cache=True, nogil=True)
def count_and_update(kernel, W, V, codes0, p0, codes1, p1, scale, carry, gain, shrink, start, stop):  # type: ignore[no-untyped-def]
    """Update columns ``start .. stop - 1`` of W and V (visible, hidden), as ``counts.count_and_update`` does rows."""
    n_visible = W.shape[0]
    weights = aligned_int32(PANEL * BLOCK)
    sums = aligned_int32(PANEL * pad(n_visible)).reshape(PANEL, pad(n_visible))
    counts = aligned_int32(LANES * PANEL).reshape(LANES, PANEL)
    for first in range(start, stop, PANEL):
        last = min(first + PANEL, stop)
        count_panel(kernel, codes0, p0, codes1, p1, n_visible, first, last - first, scale, weights, sums)
        for i in range(0, n_visible, LANES):
            transpose_columns(sums, i, counts)
            update_block(W, V, counts, i, min(LANES, n_visible - i), first, last, carry, gain, shrink)


@njit(cache=True, nogil=True)
def count_block(kernel, codes0, p0, codes1, p1, scale, start, stop, out):  # type: ignore[no-untyped-def]
    """Columns ``start .. stop - 1`` of out (visible, hidden) int32 = C"""
    n_visible = out.shape[0]
    weights = aligned_int32(PANEL * BLOCK)
    sums = aligned_int32(PANEL * pad(n_visible)).reshape(PANEL, pad(n_visible))
    for first in range(start, stop, PANEL):
        last = min(first + PANEL, stop)
        count_panel(kernel, codes0, p0, codes1, p1, n_visible, first, last - first, scale, weights, sums)
        for i in range(n_visible):
            for u in range(last - first):
                out[i, first + u] = sums[u, i]


@njit(cache=True, nogil=True)
def add_steps(p, scale, sums):  # type: ignore[no-untyped-def]
    """sums (units,) += p (units, batch) in fixed point, over the samples; fraction_bits keeps a sum within int32"""
    for i in range(p.shape[0]):
        row, total = p[i], np.int32(0)
        for s in range(len(row)):
            total += np.int32(np.rint(row[s] * scale))
        sums[i] += total
