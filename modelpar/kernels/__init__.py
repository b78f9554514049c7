"""Local arithmetic of one rank: dense products, the passes after them, the update, and the generator of draws."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelpar.kernels import backprop, dense, epilogue, philox, reductions, threads, update

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
    epilogue.sigmoid_sample_panel(x, bias, *consecutive, x)
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
