"""One flat buffer for a shard's parameters, with named views."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

_PAGE = 4096  # bytes


def _zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """As ``np.zeros``, from the beginning of a page on.

    Large arrays of NumPy's begin 16 bytes later: each vector of weights would lie in two lines of the caches, and parts
    of rows in more pages than they need.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + _PAGE, np.uint8)
    skip = -memory.ctypes.data % _PAGE
    return memory[skip : skip + n_bytes].view(dtype).reshape(shape)


class Parameters:
    """``flat`` stores W, b, c and what units have besides, one after the other; W (rows, columns), b (n_b,), c (n_c,),
    potential (n_potential, n_c) of hidden units and precision (0 or 1, n_b) of visible ones are views of it.

    Of connections that are listed W is a vector, (connections,).  Collectives and the optimizer see one contiguous
    vector; the RBM sees its weights and biases.  A dual layout has a second block of the same matrix, ``rows`` (rows,
    columns) of shape ``rows_shape``, which is not part of ``flat``.
    """

    def __init__(
        self, shape: tuple[int, ...], n_b: int, n_c: int, dtype: npt.DTypeLike,
        rows_shape: tuple[int, int] | None = None, n_potential: int = 0, n_precision: int = 0,
    ) -> None:  # fmt: skip
        """n_potential   parameters of a hidden unit besides its bias (:mod:`modelpar.units.hidden`)
        n_precision   1 where visible units have precisions (:mod:`modelpar.model.gaussian_visible`), else 0
        """
        self.n_weights = math.prod(shape)
        n_values = self.n_weights + (1 + n_precision) * n_b + (1 + n_potential) * n_c
        self.flat: Array = _zeros((n_values,), dtype)
        self.W = self.flat[: self.n_weights].reshape(shape)
        ends = np.cumsum([n_b, n_c, n_potential * n_c])
        self.b, self.c, potential, precision = np.split(self.flat[self.n_weights :], ends)
        self.potential, self.precision = potential.reshape(n_potential, n_c), precision.reshape(n_precision, n_b)
        self.rows: Array | None = None if rows_shape is None else _zeros(rows_shape, dtype)

    def like(self, *, rows: bool = True) -> Parameters:
        """Zeros of the same shapes; ``rows=False`` leaves out the second block of a dual layout."""
        shape = None if self.rows is None or not rows else (self.rows.shape[0], self.rows.shape[1])
        beside = len(self.potential), len(self.precision)
        return Parameters(self.W.shape, len(self.b), len(self.c), self.flat.dtype, shape, *beside)

    def copy_from(self, other: Parameters) -> None:
        """Take the values of parameters of the same shapes, of the second block where both have one."""
        self.flat[:] = other.flat
        if self.rows is not None and other.rows is not None:
            self.rows[:] = other.rows

    @property
    def has_copies(self) -> bool:
        """Whether a weight may be stored more than once: in two blocks, or, of listed connections, on two shards."""
        return self.rows is not None or self.W.ndim == 1

    @property
    def blocks(self) -> list[Array]:
        """The blocks of weights: W, and rows where there are any."""
        return [self.W] if self.rows is None else [self.W, self.rows]
