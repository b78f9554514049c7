"""The memory that a network takes, estimated from its spec before anything is allocated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from modelpar.ownership.build_connections import expected_counts
from modelpar.ownership.layout import AUTO, AutoContext, layout_words
from modelpar.spec import NetworkSpec

BYTES_OF_LISTS = 12  # a listed connection: its hidden unit, its place and (shared by maps) its visible unit


def samples_at_once(spec: NetworkSpec) -> int:
    """So many that the activations of the widest layer take at most 32 MiB in float32, between 1 and 1024."""
    return max(1, min(1024, (8 << 20) // max(spec.layers)))


def memory_bytes(spec: NetworkSpec, n_shards: int, batch_size: int, *, keep_best: bool = False) -> int:
    """The peak memory of the largest shard in training, estimated before anything is allocated.

    Weights of all layers, the velocities of the layers trained at once, the best weights so far with early stopping
    (``keep_best``), and the activations of a minibatch, or of what is propagated at once.  Where ``auto`` takes a dual
    layout, ``resolve`` has seen to it that the second blocks fit.  Raises LayoutError for a layout that is not known.
    """
    sizes = (*spec.layers, spec.classes) if spec.classes else spec.layers
    itemsize = np.dtype(spec.dtype).itemsize
    blocks = []
    for word, (lower, upper) in zip(layout_words(spec.layout, len(sizes) - 1), pairwise(sizes), strict=True):
        columns, rows = lower * -(-upper // n_shards), -(-lower // n_shards) * upper
        layout = AutoContext().choose(lower, upper) if word == AUTO else word
        blocks.append({"column": columns, "row": rows, "dual": columns + rows}[layout])
    listed = 0
    for i, n in enumerate(expected_counts(spec)):
        if n is not None:
            blocks[i] = -(-n // n_shards)
            listed += blocks[i]
    velocities = sum(blocks) if spec.classes else max(blocks)
    activations = 4 * max(sizes) * max(batch_size, samples_at_once(spec))
    return (sum(blocks) * (2 if keep_best else 1) + velocities + activations) * itemsize + listed * BYTES_OF_LISTS
