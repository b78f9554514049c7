"""One flat buffer for a shard's parameters, with named views."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class Parameters:
    """``flat`` holds W, b and c one after the other; W (rows, columns), b (n_b,) and c (n_c,) are views of it.

    Collectives and the optimizer see one contiguous vector; the RBM sees its weights and biases.
    """

    def __init__(self, shape: tuple[int, int], n_b: int, n_c: int, dtype: npt.DTypeLike) -> None:
        self.n_weights = shape[0] * shape[1]
        self.flat: Array = np.zeros(self.n_weights + n_b + n_c, dtype)
        self.W = self.flat[: self.n_weights].reshape(shape)
        self.b, self.c = np.split(self.flat[self.n_weights :], [n_b])

    def like(self) -> Parameters:
        """Zeros of the same shapes."""
        return Parameters((self.W.shape[0], self.W.shape[1]), len(self.b), len(self.c), self.flat.dtype)
