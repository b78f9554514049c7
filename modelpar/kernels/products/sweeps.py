"""Sweeps of Gibbs sampling as one piece, where nothing is exchanged in between.

Chains do not touch each other, so each thread takes some of them through all sweeps, a block at a time whose states
and sums stay in the caches, and no thread waits for another between the layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import dispatch
from modelpar.kernels.products.draw import sample_units
from modelpar.kernels.products.subset_sums import KERNELS, LISTS, codes_of, fixed_point_scale, lists_of
from modelpar.kernels.sampling import philox
from modelpar.kernels.states import WORD, Packed
from modelpar.machine.compilation import njit

if TYPE_CHECKING:
    from modelpar.streams import Stream

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

BLOCK = 512  # chains at a time


@njit(cache=True, nogil=True)
def sampled_side(kernel, W, up, scale, words, batch, bias, draw, means, states, planes, targets):  # type: ignore[no-untyped-def]
    """states (units, words) of one side drawn given those of the other, ``words``; the rest as in ``sample_units``."""
    codes, offsets, active = np.empty((0, 0), np.uint16), np.empty((0, 0), np.int64), np.empty(0, np.int32)
    if kernel == LISTS:
        offsets, active = lists_of(words, batch)
    else:
        codes = codes_of(words)
    wanted = (means, states, planes, targets)
    sample_units(kernel, W, up, words.shape[0], scale, codes, offsets, active, batch, bias, 0, len(bias), draw, wanted)


@njit(cache=True, nogil=True)
def sweep(  # type: ignore[no-untyped-def]
    kernels,
    W,
    scales,
    biases,
    units,
    hidden,
    visible,
    first,
    tag,
    keys,
    sweeps,
    samples,
    means,
    planes,
    targets,
    start,
    stop,
    batch,
):
    """Take the chains of the words ``start .. stop - 1`` through their sweeps, up to the last visible states.

    kernels, scales   (down, up); biases, units: (visible, hidden)
    hidden            (n_hidden, words) uint64, where the chains are; visible (n_visible, words): where they end
    tag               of the draws before the first sweep, whose sides have the next two
    samples, means, planes, targets   empty arrays
    """
    block = BLOCK // WORD
    for low in range(start, stop, block):
        high = min(low + block, stop)
        n = min(batch, high * WORD) - low * WORD
        h = hidden[:, low:high].copy()
        v = np.zeros((visible.shape[0], high - low), np.uint64)
        here = first + low * WORD
        for k in range(1, sweeps + 1):
            draw = (here, samples, units[0], tag + 2 * k - 1, keys, np.float32(0))
            sampled_side(kernels[0], W, False, scales[0], h, n, biases[0], draw, means, v, planes, targets)
            if k < sweeps:
                draw = (here, samples, units[1], tag + 2 * k, keys, np.float32(0))
                sampled_side(kernels[1], W, True, scales[1], v, n, biases[1], draw, means, h, planes, targets)
        for i in range(visible.shape[0]):
            for w in range(high - low):
                visible[i, low + w] = v[i, w]


def visible_after(
    W: Array, biases: tuple[Array, Array], ids: tuple[IntArray, IntArray], h: Packed, sweeps: int, stream: Stream,
    first: int, *, integer_sums: bool = False,
) -> Packed | None:  # fmt: skip
    """Visible states after ``sweeps`` sweeps from hidden states h; None where our own kernels are not the fastest.

    The same bits as side after side gives them, by products and samplers, where sums are integers.

    W            (n_visible, n_hidden) float32
    biases, ids  (of the visible units, of the hidden ones)
    stream       of the draws; the visible and the hidden side of sweep k have its repeat and 2 k - 1, 2 k
    first        counter of the draws of the first chain; the others follow
    integer_sums   as in :class:`modelpar.kernels.products.product.Product`
    """
    if W.dtype != np.float32 or not compiled() or h.batch == 0 or not all(len(b) for b in biases):
        return None
    n_visible, n_hidden = W.shape
    middle = Packed(np.full((n_visible, 1, 1), 0xFFFFFFFF, np.uint64), WORD)  # of visible units no state is known yet
    chosen = (
        dispatch.choose_for(h, n_visible, h.batch, up=False, integer_sums=integer_sums),
        dispatch.choose_for(middle, n_hidden, h.batch, up=True, integer_sums=integer_sums),
    )
    if "blas" in chosen:
        return None
    v = Packed(np.zeros((n_visible, 1, h.words.shape[2]), np.uint64), h.batch)
    tag, key0, key1 = stream.words
    units = tuple(philox.kernel_units(of_side, n) for of_side, n in zip(ids, W.shape, strict=True))
    no_samples, no_means = np.empty(0, np.int64), np.empty((0, 0), np.float32)
    no_planes, no_targets = np.empty((0, 0, 0), np.uint64), np.empty((0, 0), np.uint64)
    numbers = KERNELS[chosen[0]], KERNELS[chosen[1]]
    scales = fixed_point_scale(n_hidden), fixed_point_scale(n_visible)
    rows, out = np.ascontiguousarray(h.rows), v.rows

    def work(start: int, stop: int) -> None:
        sweep(
            numbers, W, scales, biases, units, rows, out, first, tag, (key0, key1), sweeps, no_samples, no_means,
            no_planes, no_targets, start, stop, h.batch,
        )  # fmt: skip

    threads.split(h.words.shape[2], 1, work)
    return v
