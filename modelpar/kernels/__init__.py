"""Local arithmetic of one rank: products, the passes after them, statistics, updates, and the generator of draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from modelpar.kernels import backprop, reductions, threads
from modelpar.kernels.digest import digest
from modelpar.kernels.llvm.lookup import compiled
from modelpar.kernels.products import dense, dispatch, draw
from modelpar.kernels.products.product import Sampler
from modelpar.kernels.products.subset_sums import codes_of, fine, lists_of
from modelpar.kernels.sampling import epilogue, philox
from modelpar.kernels.states import Packed, pack
from modelpar.kernels.statistics import update
from modelpar.kernels.statistics.learning import Counts, SoftCounts, update_from
from modelpar.kernels.statistics.probability_counts import add_steps
from modelpar.streams import Purpose, Stream

__all__ = ["backprop", "dense", "epilogue", "philox", "reductions", "threads", "update", "warm_up"]


def warm_up(dtype: npt.DTypeLike) -> None:
    """Compile every kernel for ``dtype`` (float32 or float64), or load it from numba's cache.

    Afterwards no call with C-contiguous writable arrays of this type compiles, so training time excludes compilation.
    """
    x = np.zeros((1, 4), dtype)
    bias = np.zeros(1, dtype)
    units = np.zeros(1, np.int64)
    consecutive = (0, np.empty(0, np.int64), units, 0, 0, 0)
    epilogue.sigmoid_panel(x, bias)
    epilogue.bias_panel(x, bias)
    philox.uniform_rows(*consecutive, x)
    philox.bernoulli_rows(x, *consecutive, x)
    philox.gaussian_rows(x, *consecutive, x)
    philox.permutation_keys(0, 0, 0, 1, np.zeros(1, np.uint64))
    update.update_panel(bias, bias.copy(), bias.dtype.type(0.0))
    dense.matmul(x[:, :1], bias[None, :], np.zeros((1, 1), dtype))
    reductions.row_sums(x, bias)
    reductions.squared_error(x, x)
    backprop.sigmoid_gradient(x, x, 1.0)
    backprop.keep_or_drop(x, x, 0.5)
    backprop.column_squares(x, np.zeros(4, dtype))
    backprop.scale_columns(x, np.ones(4, dtype))
    digest(x, [0], range(4))
    if compiled():
        _warm_up_packed(dtype)


def _warm_up_packed(dtype: npt.DTypeLike) -> None:
    """The kernels on packed states."""
    W, bias = np.zeros((1, 1), dtype), np.zeros(1, dtype)
    ids = np.zeros(1, np.int64)
    states, values = pack(np.zeros((1, 4))), pack(np.zeros((1, 4)), 2)
    states.sums()
    Counts((states, values), (states, values)).learn(W, W.copy(), 0.0, 0.0, 0.0)
    Counts(Counts.nothing_of((states, values)), (states, values)).add_to(W, 0.0)
    for kind in (np.int8, np.int16, np.int32):
        counts = np.zeros((1, 1), kind)
        Counts((states, values), (states, values)).fill(counts)
        update_from(counts, W, W.copy(), 0.0, 0.0, 0.0)
    update_from(np.zeros((1, 1)), W, W.copy(), 0.0, 0.0, 0.0)  # exact gradients
    if W.dtype != np.float32:
        return
    p = np.zeros((1, 4), np.float32)
    soft = SoftCounts((states, p), (states, p), 4)
    soft.learn(W, W.copy(), 0.0, 0.0, 0.0)
    soft.fill(np.zeros((1, 1), np.int32))
    add_steps(p, np.float32(1), np.zeros(1, np.int64))
    stream = Stream(0, 0, Purpose.HIDDEN)
    choices: tuple[int | npt.NDArray[np.int64], ...] = (0, np.arange(4))
    for samples in choices:
        sampler = Sampler(bias, ids, stream, samples)
        for way, up in product([name for name in dispatch.available() if name != "blas"], (True, False)):
            _products(way, W, states, up=up, sampler=sampler)
        sampler.of_sums(np.zeros((1, 4), np.int32), 1)
        sampler.of_sums(np.zeros((1, 4), np.float32), 1)


def _products(way: str, W: npt.NDArray[np.float32], states: Packed, *, up: bool, sampler: Sampler) -> None:
    sums = np.zeros((1, 4), np.int32)
    arguments = (dispatch.WAYS[way], W, up, 1, fine(1), codes_of(states.rows), *lists_of(states.rows, 4), 4)
    draw.incoming_sums(*arguments, 0, 1, sums)
    sampler.drawn(1, 4, lambda a, b, keys, out: int(draw.sample_units(*arguments, a, b, sampler.bias, *keys, *out)))
