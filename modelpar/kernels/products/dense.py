"""Products of dense matrices through SciPy's BLAS, without copies.

NumPy and SciPy each bring their own BLAS with its own threads, and the idle pool of one spins while the other computes
(half the speed on two threads).  So every product of the engine goes through SciPy's BLAS: call :func:`matmul`, not
``@`` or ``np.dot``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dgemm, sgemm

FloatArray = npt.NDArray[Any]

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)


def matmul(a: FloatArray, b: FloatArray, out: FloatArray, alpha: float = 1.0, beta: float = 0.0) -> None:
    """``out = alpha * a @ b + beta * out`` for a (m, k), b (k, n), out (m, n).

    ``out`` is C-contiguous; ``a`` and ``b`` are C-contiguous or transposes of C-contiguous arrays; all have one type,
    float32 or float64.  Sizes may be zero.  With ``beta`` 0 the old ``out`` is not read, so it may hold NaN.

    Raises ValueError where shapes or types do not match, or where an array would have to be copied.
    """
    m, k, n_out = check(a, b, out)
    dtype = out.dtype
    if m == 0 or n_out == 0:
        return
    if k == 0:
        if beta == 0.0:
            out.fill(0.0)
        else:
            out *= beta
        return
    # BLAS is column-major and reads a C-contiguous (r, c) array as its (c, r) transpose, so it computes
    # out.T = b.T @ a.T.  Arrays with one row or column are contiguous in both orders.
    left, left_transposed = _as_columns(b, "b")
    right, right_transposed = _as_columns(a, "a")
    gemm = sgemm if dtype == _FLOAT32 else dgemm
    gemm(alpha, left, right, beta, out.T, left_transposed, right_transposed, 1)


def check(a: FloatArray, b: FloatArray, out: FloatArray) -> tuple[int, int, int]:
    """Return (m, k, n) of a product (m, k) @ (k, n).  Raises ValueError where types, shapes or ``out`` do not fit."""
    if a.ndim != 2 or b.ndim != 2 or out.ndim != 2:
        raise ValueError(f"matrices are needed, but came with shapes {a.shape} @ {b.shape} -> {out.shape}")
    (m, k), (m_out, n_out) = a.shape, out.shape
    if b.shape != (k, n_out) or m != m_out:
        raise ValueError(f"shapes do not fit: {a.shape} @ {b.shape} -> {out.shape}")
    dtype = out.dtype
    if a.dtype != dtype or b.dtype != dtype or (dtype != _FLOAT32 and dtype != _FLOAT64):
        raise ValueError(f"types do not fit: {a.dtype} @ {b.dtype} -> {dtype}; all must be float32, or all float64")
    if not out.flags.carray:
        raise ValueError("out would be copied: it must be C-contiguous, aligned and writable")
    return m, k, n_out


def _as_columns(x: FloatArray, name: str) -> tuple[FloatArray, int]:
    """Return an F-contiguous view of x, and whether BLAS must transpose it to get x.T."""
    flags = x.flags
    if not flags.aligned:
        raise ValueError(f"{name} would be copied: it is not aligned")
    if flags.c_contiguous:
        return x.T, 0
    if flags.f_contiguous:
        return x, 1
    raise ValueError(
        f"{name} would be copied: strides {x.strides} of shape {x.shape} are neither C-contiguous nor its transpose"
    )
