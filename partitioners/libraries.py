"""Arguments for other libraries: weights and seeds of 32 bits."""

from __future__ import annotations

import numpy as np

from partitioners.arguments import MOST
from partitioners.graph import IntArray


def weights_for_library(weights: IntArray) -> IntArray:
    """(n_units,) weights of at least 1 whose sum fits 32 bits; scaled down where they are too heavy."""
    positive = np.maximum(weights, 1)
    heaviest = MOST - len(positive)
    total = sum(positive.tolist()) if positive.sum(dtype=np.float64) > heaviest else 0
    if total <= heaviest:
        return positive
    return np.maximum(positive // -(-total // heaviest), 1)


def seed_for_library(seed: int) -> int:
    """A seed of 31 bits; small ones are not changed."""
    return seed % (MOST + 1)
