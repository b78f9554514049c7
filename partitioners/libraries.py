"""What libraries by others can take: weights and seeds of 32 bits."""

from __future__ import annotations

import numpy as np

from partitioners.arguments import MOST
from partitioners.graph import IntArray


def weights_for_library(weights: IntArray) -> IntArray:
    """(n_units,) weights of at least 1 whose sum fits 32 bits, in the same proportions where they are too heavy."""
    found = np.maximum(weights, 1)
    heaviest = MOST - len(found)
    total = sum(found.tolist()) if found.sum(dtype=np.float64) > heaviest else 0
    if total <= heaviest:
        return found
    return np.maximum(found // -(-total // heaviest), 1)


def seed_for_library(seed: int) -> int:
    """A seed of 31 bits; small ones stay as they are."""
    return seed % (MOST + 1)
