"""Local arithmetic of one rank: products, the passes after them, statistics, updates, and the generator of draws."""

from __future__ import annotations

import numpy.typing as npt

from modelpar.kernels import backprop, reductions, threads
from modelpar.kernels.products import dense
from modelpar.kernels.sampling import epilogue, philox
from modelpar.kernels.statistics import update
from modelpar.kernels.warming import tasks

__all__ = ["backprop", "dense", "epilogue", "philox", "reductions", "threads", "update", "warm_up"]


def warm_up(dtype: npt.DTypeLike) -> None:
    """Compile every kernel for ``dtype`` (float32 or float64), or load it from the cache.

    Afterwards no call with C-contiguous writable arrays of this type compiles, so training time excludes compilation.
    """
    for task in tasks(dtype):
        task.run()
