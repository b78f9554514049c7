"""Singular values of the weights of an RBM: the modes that it has learnt (Decelle, Fissore and Furtlehner 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from modelpar.kernels.products.dense import matmul
from modelpar.model.rbm import RBM

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

LARGEST_MATRIX = 1 << 25  # weights that are put together on one rank
LARGEST_SIDE = 4096  # of the smaller side
AT_MOST = 500  # singular values


def singular_values(rbm: RBM, n_visible: int, n_hidden: int, at_most: int = AT_MOST) -> Doubles | None:
    """The largest singular values of W, descending, on every rank; None of a matrix that is too large.

    W is put together on the first shard, and they are the roots of the eigenvalues of W^T W or W W^T in float64, so
    those below 1e-8 of the largest are lost in rounding.  Collective over the grid.
    """
    side = min(n_visible, n_hidden)
    if n_visible * n_hidden > LARGEST_MATRIX or side > LARGEST_SIDE:
        return None
    values: Doubles | None = None
    ids = rbm.weights.matrix_ids
    pieces = rbm.shard_comm.gather((np.ix_(*ids), rbm.W) if ids is not None else rbm.weights.entries(rbm.W))
    if pieces is not None and rbm.replica_comm.rank == 0:
        W = np.zeros((n_visible, n_hidden))
        for piece in pieces:
            W[piece[:-1] if ids is None else piece[0]] = piece[-1]
        if n_visible < n_hidden:
            W = np.ascontiguousarray(W.T)
        gram = np.empty((side, side))
        matmul(W.T, W, gram)
        last = side - 1
        squares = linalg.eigh(gram, eigvals_only=True, subset_by_index=(max(0, side - at_most), last))
        values = np.sqrt(np.maximum(squares[::-1], 0.0))
    values = rbm.shard_comm.bcast(values)
    return np.asarray(rbm.replica_comm.bcast(values))


def effective_rank(values: Doubles) -> float:
    """Participation ratio (sum s^2)^2 / sum s^4: how many modes carry the weights; 0 without weights."""
    squares = values**2
    total = float((squares**2).sum())
    return float(squares.sum()) ** 2 / total if total > 0 else 0.0
