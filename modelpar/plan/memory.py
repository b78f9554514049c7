"""The memory that a network takes, estimated from its spec before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from modelpar.ownership.build_connections import expected_counts
from modelpar.ownership.layout import AUTO, AutoContext, layout_words
from modelpar.spec import NetworkSpec, TrainingSpec

LIBRARIES = 215 << 20  # of a rank: Python, NumPy, SciPy, MPI, and kernels that were compiled before
BYTES_OF_LISTS = 12  # a listed connection: its hidden unit, its place and (shared by maps) its visible unit
BYTES_TO_LOOK_UP = 64  # of a connection, while the lists are made,
MOST_LOOKED_UP = 1 << 22  # of which so many are looked up at a time


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


def memory_by_kind(
    spec: NetworkSpec, layout: Sequence[str], training: TrainingSpec, *, n_shards: int, n_replicas: int = 1,
    keep_best: bool = False, sync: str = "allreduce",
) -> dict[str, int]:  # fmt: skip
    """Bytes of the largest shard in pre-training, by what they are for.

    layout   column, row, dual or sparse, of each RBM's matrix

    weights, second blocks   of all RBMs, in a dual layout
    velocities               of the RBM that has most: one is trained after another
    lists                    of connections that are not complete
    statistics               counts that travel between replicas
    activations              of a minibatch: sums, states, values
    replicas                 what a strategy keeps beside: a server's parameters, as fetched and hosted, and a change
    best                     the best parameters so far, with early stopping
    libraries                Python and all that it loads
    Data are not among them: their rows stay in a file, or are shared by the ranks of a node.
    """
    itemsize, samples = np.dtype(spec.dtype).itemsize, -(-training.batch_size // n_replicas)
    samples = max(samples, -(-training.n_chains // n_replicas))
    pairs = list(pairwise(spec.layers))
    first, second, listed, counted, active = [], [], 0, [], []
    for i, ((lower, upper), word, n) in enumerate(zip(pairs, layout, expected_counts(spec), strict=True)):
        mine = -(-lower // n_shards), -(-upper // n_shards)
        if n is not None:
            both_ends = n * (1 + _cut(spec.patterns[i].kind, n_shards))
            first.append(math.ceil(both_ends / n_shards))
            second.append(0)
            listed += first[-1]
        else:
            first.append(mine[0] * upper if word == "row" else lower * mine[1])
            second.append(mine[0] * upper if word == "dual" else 0)
        counted.append(max(first[-1], second[-1]))
        active.append(_activations(lower, upper, mine, word, samples, training.planes, itemsize))
    trained = [a + b for a, b in zip(first, second, strict=True)]
    largest = training.batch_size * ((1 << training.planes) - 1)
    bytes_of_count = 4 if not training.planes or largest > 32767 else 2 if largest > 127 else 1
    # integers travel in a buffer of their own: of listed connections in one of floats besides
    counts = max(counted) * bytes_of_count if n_replicas > 1 and sync == "allreduce" else 0
    beside = {"server": 3, "local": 0}.get(sync, 0) if n_replicas > 1 else 0
    output = spec.layers[-1] * spec.classes
    found = {
        "weights": (sum(first) + output) * itemsize,
        "second blocks": sum(second) * itemsize,
        "velocities": max(max(trained), sum(first) + output if spec.classes else 0) * itemsize,
        "lists": listed * BYTES_OF_LISTS + min(listed, MOST_LOOKED_UP) * BYTES_TO_LOOK_UP,
        "statistics": counts,
        "activations": max(active),
        "replicas": beside * max(first) * itemsize,
        "best": (sum(first) + output) * itemsize * keep_best,
        "libraries": LIBRARIES,
    }
    return {kind: int(n) for kind, n in found.items() if n}


def _cut(kind: str, n_shards: int) -> float:
    """The part of the connections that have their ends on two shards, and are held by both.

    Of owners by chance all but one in ``n_shards``; of fields that tiles divide, those across their borders: so many
    of an image of some thousand pixels, and fewer of larger ones.
    """
    by_chance = 1 - 1 / n_shards
    return min(by_chance, 0.07 * n_shards) if kind == "local" and n_shards > 1 else by_chance


def _activations(
    lower: int, upper: int, mine: tuple[int, int], word: str, samples: int, planes: int, itemsize: int
) -> int:
    """Bytes of a minibatch's activations in an update of one RBM."""
    words = 8 * -(-samples // 64)
    states = (3 * lower + (2 + 2 * max(planes, 1)) * upper) * words
    sums = 4 * samples * (lower + mine[0] if word == "column" else upper + mine[1] if word == "row" else 0)
    # probabilities of both phases; and in float64, with what comes before it, while gradients are centred
    reals = (
        0 if planes else samples * (2 * itemsize * (mine[1] + (upper if word in ("row", "dual") else 0)) + 24 * mine[1])
    )
    return states + (sums if mine[0] < lower else 0) + reals
