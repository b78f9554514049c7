"""Sweeps of Gibbs sampling as one piece, where nothing is exchanged in between.

Chains do not touch each other, so each thread takes some of them through all sweeps, a block at a time whose states
and sums stay in the caches, and no thread waits for another between the layers.  Where there are too few chains for
that, each thread has units instead, and all meet after each layer, without a return to Python.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.atomics import meet
from modelpar.kernels.llvm.vectors import LANES, compiled
from modelpar.kernels.products import dispatch
from modelpar.kernels.products.draw import call_sample_units, entry_of_sample_units
from modelpar.kernels.products.site_draw import call_sample_sites, entry_of_sample_sites
from modelpar.kernels.products.subset_sums import (
    FORMS,
    LISTS,
    NO_INTEGERS,
    PANEL,
    TILES,
    codes_of,
    entry,
    fixed_point_scale,
    integers_of,
    lists_of,
)
from modelpar.kernels.products.tiles import bits_in_tiles
from modelpar.kernels.sampling import philox
from modelpar.kernels.states import WORD, Packed
from modelpar.machine.compilation import njit

if TYPE_CHECKING:
    from modelpar.streams import SweepStreams

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

BLOCK = 512  # chains at a time


@njit(cache=True, nogil=True)
def sampled_side(  # type: ignore[no-untyped-def]
    loop, kernel, form, W, integers, up, scale, words, batch, bias, start, stop, draw, means, states, planes, targets,
    categories,
):  # fmt: skip
    """Rows ``start .. stop - 1`` of the states (units, words) of one side, drawn given those of the other, ``words``;
    the rest as in ``sample_units``, or, of categorical sites, as in ``sample_sites``."""
    codes, offsets, active = np.empty((0, 0), np.uint16), np.empty((0, 0), np.int64), np.empty(0, np.int32)
    if form == LISTS:
        offsets, active = lists_of(words, batch)
    elif form == TILES:
        codes = bits_in_tiles(words, batch, up and len(integers) == 0)  # limbs that are prepared are the first operand
    else:
        codes = codes_of(words)
    wanted, n_in = (means, states, planes, targets), words.shape[0]
    if categories:
        call_sample_sites(
            loop,
            (kernel, W, integers, up, n_in, scale, codes, offsets, active, batch, bias, start, stop, draw, wanted,
             categories),
        )  # fmt: skip
    else:
        call_sample_units(
            loop,
            (kernel, W, integers, up, n_in, scale, codes, offsets, active, batch, bias, start, stop, draw, wanted),
        )


@njit(cache=True, nogil=True)
def sweep(  # type: ignore[no-untyped-def]
    loops,
    categories,
    kernels,
    forms,
    W,
    integers,
    scales,
    biases,
    units,
    hidden,
    visible,
    first,
    tags,
    keys,
    sweeps,
    samples,
    means,
    planes,
    targets,
    start,
    stop,
    batch,
    rows,
    crew,
):
    """Take the chains of the words ``start .. stop - 1`` through their sweeps, up to the last visible states.

    loops             (down, up) ``entry_of_sample_units``, or, where visible units are sites, ``entry_of_sample_sites``
    categories        of those sites; 0: visible units are none
    kernels, forms, integers, scales   (down, up); biases, units: (visible, hidden)
    hidden            (n_hidden, words) uint64, where the chains are; visible (n_visible, words): where they end
    tags              of the first draws of both sides, and the step from sweep to sweep
    samples, means, planes, targets   empty arrays
    rows              (first, last + 1, ...) of the visible and of the hidden units that this thread samples
    crew              (threads that share these chains, address of the int64 where they meet): those of more than one
                      write to ``hidden`` and ``visible`` after each side; one alone leaves ``hidden`` as it is
    """
    alone = crew[0] == 1
    block = BLOCK // WORD if alone else stop - start
    met = 0
    for low in range(start, stop, block):
        high = min(low + block, stop)
        n = min(batch, high * WORD) - low * WORD
        h, v = hidden, visible
        if alone:
            h = hidden[:, low:high].copy()
            v = np.zeros((visible.shape[0], high - low), np.uint64)
        for half in range(2 * sweeps - 1):  # one call for both directions, which are not constants: it compiles once
            side, k = half & 1, half >> 1
            given, drawn = (v, h) if side else (h, v)
            draw = (first + low * WORD, samples, units[side], tags[side] + tags[2] * k, keys, np.float32(0))
            sampled_side(
                loops[side], kernels[side], forms[side], W, integers[side], side == 1, scales[side], given, n,
                biases[side], rows[2 * side], rows[2 * side + 1], draw, means, drawn, planes, targets,
                0 if side else categories,
            )  # fmt: skip
            if not alone and half < 2 * sweeps - 2:
                met += 1
                meet(crew[1], met * crew[0])
        if alone:
            for i in range(visible.shape[0]):
                for w in range(high - low):
                    visible[i, low + w] = v[i, w]


def visible_after(
    W: Array, biases: tuple[Array, Array], ids: tuple[IntArray, IntArray], h: Packed, sweeps: int,
    streams: SweepStreams, first: int, *, integer_sums: bool = False, rooms: tuple[int, int] | None = None,
    categories: int = 0,
) -> Packed | None:  # fmt: skip
    """Visible states after ``sweeps`` sweeps from hidden states h; None where our own kernels are not the fastest.

    The same bits as side after side gives them, by products and samplers, where sums are integers.

    W            (n_visible, n_hidden) float32
    biases, ids  (of the visible units, of the hidden ones)
    streams      of the draws
    first        counter of the draws of the first chain; the others follow
    integer_sums   as in :class:`modelpar.kernels.products.product.Product`
    rooms        units that the scales of sums over the visible and the hidden units are for, default: so many units
    categories   so many visible units in a row are a site, of which one is 1; 0: they are Bernoulli units
    """
    if W.dtype != np.float32 or not compiled() or h.batch == 0 or not all(len(b) for b in biases):
        return None
    n_visible, n_hidden = W.shape
    # of visible units no state is known yet, but their density is
    usual = (1 << max(1, WORD // categories if categories else WORD // 2)) - 1
    middle = Packed(np.full((n_visible, 1, 1), usual, np.uint64), WORD)
    chosen = (
        dispatch.choose_for(h, n_visible, h.batch, up=False, integer_sums=integer_sums),
        dispatch.choose_for(middle, n_hidden, h.batch, up=True, integer_sums=integer_sums),
    )
    if "blas" in chosen:
        return None
    n_words = h.words.shape[2]
    v = Packed(np.zeros((n_visible, 1, n_words), np.uint64), h.batch)
    tag, key0, key1 = streams.visible.words
    tags = tag, streams.hidden.words[0], streams.step
    units = tuple(philox.kernel_units(of_side, n) for of_side, n in zip(ids, W.shape, strict=True))
    no_samples, no_means = np.empty(0, np.int64), np.empty((0, 0), np.float32)
    no_planes, no_targets = np.empty((0, 0, 0), np.uint64), np.empty((0, 0), np.uint64)
    loops = entry_of_sample_sites() if categories else entry_of_sample_units(), entry_of_sample_units()
    kernels, forms = (entry(chosen[0]), entry(chosen[1])), (FORMS[chosen[0]], FORMS[chosen[1]])
    up, down = rooms or W.shape
    scales = fixed_point_scale(down), fixed_point_scale(up)
    integers = NO_INTEGERS, NO_INTEGERS
    if sweeps > 1:  # the weights do not change meanwhile
        integers = integers_of(W, chosen[0], False, down), integers_of(W, chosen[1], True, up)
    together = _threads_together(h.batch, W.shape, sweeps)
    # threads that share chains change the hidden states as they go
    rows, out = h.rows.copy() if together > 1 else np.ascontiguousarray(h.rows), v.rows
    counter = np.zeros(1, np.int64)

    def work(start: int, stop: int, own: tuple[int, ...]) -> None:
        sweep(
            loops, categories, kernels, forms, W, integers, scales, biases, units, rows, out, first, tags, (key0, key1),
            sweeps, no_samples, no_means, no_planes, no_targets, start, stop, h.batch, own,
            (together, counter.ctypes.data),
        )  # fmt: skip

    if together > 1:
        of_visible = math.lcm(LANES, categories or 1)  # whole sites
        bounds = _bounds(n_visible, together, of_visible), _bounds(n_hidden, together, PANEL)
        threads.side_by_side(
            together,
            lambda i: work(0, n_words, (*bounds[0][i : i + 2], *bounds[1][i : i + 2])),
        )
    else:
        few = h.batch < threads.get_threads() * BLOCK
        threads.split(n_words, n_words if few else 1, lambda a, b: work(a, b, (0, n_visible, 0, n_hidden)))
    return v


def _threads_together(batch: int, shape: tuple[int, int], sweeps: int) -> int:
    """The threads that share all chains and divide the units: 1 where each has chains enough for itself.

    What is made of the weights for a product costs as much as some hundred chains, and fewer threads do it when
    each has units of its own.  Each needs twice the work that is worth waking it: what reads and changes the weights
    afterwards finds half of them in the cache of another core.
    """
    n = threads.get_threads()
    if batch >= n * BLOCK:
        return 1
    n_worth = int(sweeps * _nanoseconds(batch, shape) / (2 * threads.WAKING))
    return max(1, min(n, n_worth, *(-(-units // PANEL) for units in shape)))


def _nanoseconds(batch: int, shape: tuple[int, int]) -> float:
    """Nanoseconds of a sweep, about, on a core of 2024."""
    n_visible, n_hidden = shape
    return 2 * n_visible * n_hidden * (0.15 + 0.002 * batch) + 1.2 * (n_visible + n_hidden) * batch


def _bounds(n_units: int, n: int, align: int) -> list[int]:
    """Where the units of each of ``n`` threads begin, and the end: multiples of ``align`` in between."""
    return [min(round(n_units * i / n / align) * align, n_units) for i in range(n)] + [n_units]
