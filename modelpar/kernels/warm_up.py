"""Compilation of kernels before a run: a list of tasks that can be distributed over the ranks of a node.

A task calls kernels with arrays of a few elements, which compiles them or loads them from the cache.  Tasks of the
first round share almost no kernels; tasks of the second use those that the first has left in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import backprop, reductions, threads
from modelpar.kernels.digest import digest
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import bfloat16, bounds, dense, dispatch, draw, subset_sums, sweeps
from modelpar.kernels.products.product import Sampler
from modelpar.kernels.products.site_draw import entry_of_sample_sites
from modelpar.kernels.products.tiles import self_test
from modelpar.kernels.sampling import epilogue, philox, rectified, softplus
from modelpar.kernels.states import over_samples, over_units, pack
from modelpar.kernels.statistics import counts, shrinkage, update
from modelpar.kernels.statistics.learning import (
    ENTRIES,
    Counts,
    ProbabilityCounts,
    accumulate,
    kernel_of,
    update_from,
)
from modelpar.kernels.statistics.probability_counts import add_steps
from modelpar.kernels.statistics.sites import centre_sites
from modelpar.streams import Purpose, Stream, SweepStreams

# Kernels that only some runs need.
KINDS = (
    "sampled",
    "counts",
    "counts of one phase",
    "single bits",
    "summed counts",
    "probabilities",
    "tuning",
    "norms",
    "digests",
    "exact",
    "panels that draw",
    "sweeps",
    "phases apart",
    "centred",
    "averages",
    "L1",
    "penalties of units",
    "sites",
    "rectified",
    "likelihoods",
    "clipping",
    "standardised",
    "tempered",
    "bfloat16",
)


_COSTS = {"tiles": 3.6, "registers": 3.0, "tables": 2.5, "lists": 2.8}  # of products by each kernel, in seconds


@dataclass(frozen=True)
class Task:
    """Kernels that are compiled together."""

    name: str
    cost: float  # approximate seconds of compilation
    run: Callable[[], object]
    round: int = 0


def tasks(dtype: npt.DTypeLike, kinds: Collection[str] = KINDS) -> list[Task]:
    """Return all tasks of a run of these kinds, with weights of ``dtype`` (float32 or float64)."""
    x = np.zeros((1, 4), dtype)
    bias = np.zeros(1, dtype)
    units = np.zeros(1, np.int64)
    consecutive = (0, np.empty(0, np.int64), units, 0, 0, 0)
    chosen = [
        Task("sigmoid", 1.4, lambda: (epilogue.sigmoid_panel(x, bias), epilogue.bias_panel(x, bias))),
        Task("draws", 1.6, lambda: philox.uniform_rows(*consecutive, x)),
        Task("normal draws", 2.3, lambda: philox.gaussian_rows(x, *consecutive, x)),
        Task("order", 0.3, lambda: philox.permutation_keys(0, 0, 0, 1, np.zeros(1, np.uint64))),
        Task("bounds of sums", 1.0, lambda: bounds.signed_sums(x)),
        Task("updates", 0.2, lambda: update.update_panel(bias, bias.copy(), bias.dtype.type(0.0))),
        Task("sums", 0.4, lambda: (reductions.row_sums(x, bias), reductions.squared_error(x, x))),
        Task("BLAS", 0.0, lambda: dense.matmul(x[:, :1], bias[None, :], np.zeros((1, 1), dtype))),
    ]
    if threads.get_threads() > 1:
        chosen.append(Task("threads", 0.3, lambda: threads.side_by_side(2, lambda i: None)))
    if "averages" in kinds:
        chosen.append(Task("averages", 0.2, lambda: update.approach_span(bias, bias.copy(), bias.dtype.type(0))))
    if "L1" in kinds:
        chosen.append(Task("L1", 0.2, lambda: update.shrink_span(bias.copy(), bias.dtype.type(0))))
    if "penalties of units" in kinds:
        chosen.append(Task("penalties of units", 1.0, lambda: shrinkage.warm_up(dtype)))
    if "sites" in kinds:
        chosen.append(Task("categorical sites", 2.2, lambda: _sites(np.dtype(dtype))))
    if "rectified" in kinds:
        chosen.append(Task("rectified units", 4.0, lambda: _rectified(x, units)))
    if "rectified" in kinds and "likelihoods" in kinds:
        of_both = [x, np.zeros((1, 1))]  # integrals without inputs are of float64
        chosen.append(Task("likelihoods of rectified units", 0.8, lambda: [
            rectified.cumulant_sums(inputs, np.ones((1, 4))) for inputs in of_both
        ]))  # fmt: skip
    if "clipping" in kinds:
        copy = bias.copy()
        chosen.append(Task("clipping", 0.6, lambda: (update.largest_span(bias), update.squares_span(copy + 1, 1.0),
                                                     update.shorten_span(bias, copy, bias.dtype.type(1)))))  # fmt: skip
    if "likelihoods" in kinds:
        one, none = x.dtype.type(1), x.dtype.type(0)
        chosen += [
            Task("likelihoods", 1.0, lambda: softplus.add_differences(x, None, none, one, 0, 4, np.zeros(4))),
            Task("likelihoods in float64", 1.5, lambda: softplus.softplus_sums(np.zeros((1, 1)))),
        ]
    if "likelihoods" in kinds and "exact" in kinds:
        rounded = softplus.add_rounded_differences
        chosen.append(Task("exact likelihoods", 0.7, lambda: (
            rounded(x, None, one, one, 0, 4, np.zeros(4)), rounded(np.zeros((1, 1)), None, 0.0, 1.0, 0, 1, np.zeros(1))
        )))  # fmt: skip
    if "tempered" in kinds:
        chosen.append(Task("swaps", 1.0, lambda: _swaps(x)))
    if "tuning" in kinds:
        chosen.append(Task("gradients", 0.5, lambda: (backprop.sigmoid_gradient(x, x, 1.0),
                                                      backprop.keep_or_drop(x, x, 0.5))))  # fmt: skip
    if "norms" in kinds:
        row, ones = np.zeros(4, dtype), np.ones(4, dtype)
        chosen.append(Task("norms", 0.4, lambda: (backprop.column_squares(x, row), backprop.scale_columns(x, ones))))
    if "digests" in kinds:
        chosen.append(Task("digests", 0.3, lambda: digest(x, [0], range(4))))
    if "bfloat16" in kinds and x.dtype == np.float32:
        chosen.append(Task("products in bfloat16", 2.6, lambda: bfloat16.matmul(x.T, x, np.zeros((4, 4), dtype))))
    if "panels that draw" in kinds:  # used by tests and ``draws``, not by training
        chosen.append(Task("panels that draw", 0.6, lambda: philox.bernoulli_rows(x, *consecutive, x), round=1))
    return [*chosen, *(_packed_tasks(np.dtype(dtype), kinds) if compiled() else [])]


def _sites(dtype: np.dtype[Any]) -> None:
    centre_sites(np.zeros((2, 1), dtype), 2)
    if dtype == np.float32:
        sampler = Sampler(np.zeros(2, dtype), np.arange(2), Stream(0, 0, Purpose.VISIBLE), 0, categories=2)
        for kind in (np.int32, np.float32):
            sampler.of_sums(np.zeros((2, 4), kind), 2)


def _rectified(x: npt.NDArray[Any], units: npt.NDArray[np.int64]) -> None:
    sides, stream = np.ones((1, 4)), Stream(0, 0, Purpose.HIDDEN)
    rectified.draw_values(x, sides, philox.draw_of(stream, units, 0, *x.shape))
    rectified.means_of(x, sides)
    rectified.moments_of(x, sides)


def _swaps(x: npt.NDArray[Any]) -> None:
    softplus.fixed_softplus_sums(x, 1.0)
    softplus.lies_below(np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.bool_))
    philox.uniform_rows(0, np.empty(0, np.int64), np.zeros(1, np.int64), 0, 0, 0, np.zeros((1, 4)))
    over_units(pack(np.zeros((1, 4))), np.zeros(1))


def _packed_tasks(dtype: np.dtype[Any], kinds: Collection[str]) -> list[Task]:
    """Return the tasks of kernels on packed states."""
    W, bias = np.zeros((1, 1), dtype), np.zeros(1, dtype)
    states, values = pack(np.zeros((1, 4))), pack(np.zeros((1, 4)), 2)
    pairs = (states, values), (states, values)

    def summed() -> None:
        for kind in (np.int8, np.int16, np.int32):
            sums = np.zeros((1, 1), kind)
            Counts(*pairs).fill(sums)
            update_from(sums, W, W.copy(), 0.0, 0.0, 0.0)

    def centred() -> None:
        update.subtract_outer_rows(W.copy(), W.dtype.type(0), *[bias] * 4, 0, 1)
        over_units(states, np.zeros(1))
        over_samples(states, np.zeros(4))

    def standardised() -> None:
        update.scale_outer_rows(W.copy(), bias, bias, 0, 1)
        update_from(W.copy(), W, W.copy(), 0.0, 0.0, 0.0)
        added()
        summed()

    def added() -> None:
        for kind in (np.int8, np.int16, np.int32):
            accumulate(np.zeros((1, 1), kind), W.copy(), 0.0, 0.0)

    chosen = [Task("sums of states", 0.4, lambda: (states.sums(), states.density()))]
    if "centred" in kinds:
        chosen.append(Task("centred gradients", 0.8, centred))
    if "standardised" in kinds:
        chosen.append(Task("standardised gradients", 1.5, standardised))
    if "phases apart" in kinds:
        chosen.append(Task("statistics of phases apart", 0.6, added))
    if "counts of one phase" in kinds:  # grey values in the data's phase, states in the model's
        empty = Counts.empty_like(pairs[0])
        chosen.append(Task("statistics of the model", 1.5, lambda: Counts(empty, pairs[1]).add_to(W, 0.0)))
    if "counts" in kinds:
        chosen.append(Task("statistics", 2.0, lambda: Counts(*pairs).learn(W, W.copy(), 0.0, 0.0, 0.0)))
    if "single bits" in kinds and kernel_of(1) != kernel_of(2):  # with tiles, values of more bits are counted otherwise
        single = ENTRIES[kernel_of(1)]
        chosen.append(Task("statistics of single bits", 1.0, lambda: (single(), counts.by_vectors(values.words))))
    if "summed counts" in kinds:
        chosen.append(Task("statistics of replicas", 3.5, summed))
    if "exact" in kinds:
        gradient = np.zeros((1, 1))
        chosen.append(Task("exact gradients", 0.5, lambda: update_from(gradient, W, W.copy(), 0.0, 0.0, 0.0)))
    if dtype != np.float32:
        return chosen
    p = np.zeros((1, 4), np.float32)

    def probabilities() -> None:
        counted = ProbabilityCounts((states, p), (states, p), 4)
        counted.learn(W, W.copy(), 0.0, 0.0, 0.0)
        counted.fill(np.zeros((1, 1), np.int32))
        add_steps(p, np.float32(1), np.zeros(1, np.int64))

    def samplers() -> list[Sampler]:
        stream, ids = Stream(0, 0, Purpose.HIDDEN), np.zeros(1, np.int64)
        sample_ids: tuple[int | npt.NDArray[np.int64], ...] = (0, np.arange(4))
        return [Sampler(bias, ids, stream, samples) for samples in sample_ids]

    kernels = [name for name in dispatch.candidates() if name != "blas"]

    any_kernel = kernels[-1] if kernels else "lists"

    def by(kernel: str) -> tuple[Any, ...]:
        return subset_sums.operands(kernel, W, states, True, 1)

    def products(kernel: str) -> Callable[[], object]:
        return lambda: (by(kernel), kernel == "tiles" and self_test())

    def sampled_products() -> None:
        for sampler in samplers():
            sampler.drawn(1, 4, draw.sample_units, (*by(any_kernel), sampler.bias))

    def sampled(kind: Any) -> None:
        for sampler in samplers():
            sampler.of_sums(np.zeros((1, 4), kind), 1)

    chosen += [
        *(Task(f"products by {name}", _COSTS[name], products(name)) for name in kernels),
        Task("products", 1.0, lambda: draw.incoming_sums(*by(any_kernel), 0, 1, np.zeros((1, 4), np.int32)), round=1),
        Task("states of means", 4.1, lambda: sampled(np.float32)),
    ]
    if "sampled" in kinds:
        chosen.append(Task("states of sums", 2.5, lambda: sampled(np.int32), round=1))
        chosen.append(Task("states of products", 3.0, sampled_products, round=1))
    if "sweeps" in kinds:
        sides = (bias, bias), (np.zeros(1, np.int64), np.zeros(1, np.int64))
        streams = SweepStreams.of_purpose(0, 0, Purpose.CHAIN)

        def swept() -> None:  # sums in integers leave no choice of the BLAS, which would compile nothing
            sweeps.visible_after(W, *sides, states, 2, streams, 0, integer_sums=True)
            for kernel in kernels:
                subset_sums.integers_of(W, kernel, True, 1)

        chosen.append(Task("sweeps", 5.0, swept, round=1))
        if "sites" in kinds:
            chosen.append(Task("sweeps of sites", 4.0, entry_of_sample_sites, round=1))
    if "probabilities" in kinds:
        chosen.append(Task("statistics of probabilities", 5.5, probabilities, round=1))
    return chosen


def warm_up(dtype: npt.DTypeLike) -> None:
    """Compile every kernel for ``dtype`` (float32 or float64), or load it from the cache.

    Afterwards no call with C-contiguous writable arrays of this type compiles.
    """
    for task in tasks(dtype):
        task.run()


def distribute(todo: list[Task], n: int) -> list[list[Task]]:
    """Return the tasks of one round, distributed over ``n`` workers so that all end at about the same time."""
    parts: list[list[Task]] = [[] for _ in range(n)]
    for task in sorted(todo, key=lambda task: -task.cost):
        min(parts, key=lambda part: sum(task.cost for task in part)).append(task)
    return parts
