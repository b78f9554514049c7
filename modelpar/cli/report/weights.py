"""Histograms and spectra of the weights in a checkpoint, read by one process, piece by piece."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy import linalg

from modelpar.checkpoint import files
from modelpar.checkpoint.header import Header
from modelpar.errors import CheckpointError
from modelpar.kernels.products.dense import matmul

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

MOST_BINS = 81  # of a histogram, with zero in the midst of one; fewer where weights are few
AT_MOST = 1 << 21  # weights of an RBM that are looked at, evenly over its rows
MOST_WORK = 1.5e9  # multiplications of the spectrum of a matrix: a second of one core, about


@dataclass(frozen=True)
class Weights:
    """Of one RBM or the output layer.

    centres, counts   the histogram of the weights that were looked at, ``n_seen`` of ``n``
    spectrum          singular values, descending; None where the matrix is listed, not finite, or too large
    without_spectrum  why there is none
    """

    name: str
    shape: tuple[int, ...]
    n: int
    n_seen: int
    largest: float
    rms: float
    n_zero: int
    centres: Doubles
    counts: npt.NDArray[np.int64]
    spectrum: Doubles | None
    without_spectrum: str = ""


def read_weights(path: Path) -> list[Weights]:
    """Those of every part of the network of a checkpoint.  Not collective.

    Raises CheckpointError where it cannot be read; values are not compared with their checksums.
    """
    header = files.read_header(path, MPI.COMM_SELF)
    indices = sorted(int(name.split(".")[1]) for name in header.tensors if _is_of_rbm(name))
    names = [(f"RBM {i}", f"rbm.{i}.W") for i in indices]
    if "output.W" in header.tensors:
        names.append(("output layer", "output.W"))
    try:
        return [_weights(name, _mapped(header, tensor)) for name, tensor in names]
    except (OSError, ValueError) as error:  # it was removed, or became shorter, meanwhile
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _is_of_rbm(name: str) -> bool:
    words = name.split(".")
    return len(words) == 3 and words[0] == "rbm" and words[1].isdecimal() and words[2] == "W"


def _mapped(header: Header, name: str) -> Array:
    dtype, shape, start, stop = header.tensors[name]
    if start == stop:
        return np.empty(shape, dtype)
    return np.memmap(header.path, dtype, "r", start, shape)


def _weights(name: str, W: Array) -> Weights:
    every = -(-W.size // AT_MOST) if W.size else 1
    looked_at = W[::every].reshape(-1)
    flat = np.asarray(looked_at[:: -(-looked_at.size // (2 * AT_MOST)) or 1], np.float64)
    finite = flat[np.isfinite(flat)]
    largest = float(np.abs(finite).max(initial=0.0)) if len(finite) == len(flat) else math.inf
    n_bins = min(MOST_BINS, 2 * round(len(finite) ** (1 / 3)) + 1)
    counts, edges = np.histogram(finite, n_bins, range=_range(finite))
    spectrum, why = _spectrum(W, math.isfinite(largest))
    return Weights(
        name, W.shape, W.size, len(flat), largest, float(np.sqrt((finite**2).mean())) if len(finite) else 0.0,
        int((finite == 0).sum()), (edges[:-1] + edges[1:]) / 2, counts, spectrum, why,
    )  # fmt: skip


def _range(values: Doubles) -> tuple[float, float]:
    most = float(np.abs(values).max(initial=0.0)) or 1.0
    return -most, most


def _spectrum(W: Array, finite: bool) -> tuple[Doubles | None, str]:
    """Roots of the eigenvalues of W^T W or W W^T; those below 1e-8 of the largest are lost in rounding."""
    if W.ndim != 2:
        return None, "its connections are listed"
    if not finite:
        return None, "it has weights that are not finite"
    side, other = sorted(W.shape)
    if not side or side * side * (other + 1.5 * side) > MOST_WORK:
        return None, "it is too large for a page; modelpar diagnose has it" if side else "it has no weights"
    M = np.asarray(W if W.shape[1] == side else W.T, np.float64, order="C")
    gram = np.empty((side, side))
    matmul(M.T, M, gram)
    squares = linalg.eigvalsh(gram)[::-1]
    values = np.sqrt(np.maximum(squares, 0.0))
    return values[values > 1e-7 * values[0]] if values[0] > 0 else values[:0], ""
