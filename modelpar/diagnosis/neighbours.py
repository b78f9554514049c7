"""Adversarial accuracy: whether samples and data have their nearest neighbours in their own set.

Yale, Dash, Dutta, Guyon, Pavao and Bennett (2020), "Generation and evaluation of privacy preserving synthetic health
data", Neurocomputing 416, equation 1; of RBMs in Decelle, Furtlehner and Seoane (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.data.minibatches import Minibatches
from modelpar.kernels.products.dense import matmul
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, unpack

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

UNITS = 4096  # that are unpacked at a time
FAR = np.inf


@dataclass(frozen=True)
class AdversarialAccuracy:
    """How often the nearest neighbour is in one's own set; one half where both sets are of one distribution.

    truth       of the data: near 1 where samples stay away from some of the data, below 1/2 where they copy them
    synthetic   of the samples: near 1 where they are unlike the data, below 1/2 where they are copies of data
    distances   of nearest neighbours, (n,) each: ``truth_truth``, ``truth_synthetic``, ``synthetic_truth``,
                ``synthetic_synthetic``; squared, which for states is the Hamming distance
    """

    truth: float
    synthetic: float
    n: int
    distances: dict[str, Doubles]


def adversarial_accuracy(
    truth: Activations, synthetic: Activations, shard_comm: MPI.Comm, replica_comm: MPI.Comm
) -> AdversarialAccuracy:
    """Of two sets of as many samples each, (n_owned, samples of this replica).

    Where both nearest neighbours are equally far, which is common among states, one half is counted: so sets from one
    distribution have 1/2 even if it has few states.

    A rank holds both sets of its own units, and a replica its rows of the distances.  Collective over the grid.
    Raises ValueError where the sets are not of the same size, or have less than two samples.
    """
    t, s = _all_samples(truth, replica_comm), _all_samples(synthetic, replica_comm)
    n = t.shape[1]
    if n != s.shape[1] or n < 2:
        raise ValueError(
            f"there are {n} and {s.shape[1]} samples, but two sets of the same size, 2 or more, are needed"
        )
    mine = Minibatches.slice_of(n, replica_comm.rank, replica_comm.size)
    names = {"truth_truth": (t, t), "truth_synthetic": (t, s), "synthetic_truth": (s, t), "synthetic_synthetic": (s, s)}
    distances = {}
    for name, (a, b) in names.items():
        squares = squared_distances(a[:, mine], b, shard_comm)
        if a is b:
            squares[np.arange(squares.shape[0]), np.arange(mine.start, mine.stop)] = FAR
        nearest = np.concatenate(replica_comm.allgather(squares.min(axis=1)))
        distances[name] = np.asarray(shard_comm.bcast(nearest))  # a sum of real values may differ in a last bit
    return AdversarialAccuracy(
        _part(distances["truth_synthetic"], distances["truth_truth"]),
        _part(distances["synthetic_truth"], distances["synthetic_synthetic"]),
        n, distances,
    )  # fmt: skip


def squared_distances(a: Array, b: Array, shard_comm: MPI.Comm) -> Doubles:
    """|a_i - b_j|^2 of samples of owned values (n_owned, n_a) and (n_owned, n_b), (n_a, n_b); of states their Hamming
    distance, exactly.  Collective over the shards."""
    n_units = a.shape[0]
    exact = np.dtype(np.float32) if a.dtype.kind in "bu" else np.dtype(np.float64)
    total = np.zeros((a.shape[1], b.shape[1]))
    for start in range(0, n_units, UNITS):
        x, y = (np.ascontiguousarray(z[start : start + UNITS], dtype=exact) for z in (a, b))
        products = np.empty(total.shape, exact)
        matmul(x.T, y, products)
        total += (x**2).sum(axis=0)[:, None] + (y**2).sum(axis=0)[None, :] - 2.0 * products
    if shard_comm.size > 1:
        shard_comm.Allreduce(MPI.IN_PLACE, total)
    return np.maximum(total, 0.0)


def _all_samples(v: Activations, replica_comm: MPI.Comm) -> Array:
    """The samples of all replicas, (n_owned, n): bytes of states, or real values.  Collective."""
    pieces = replica_comm.allgather(v)
    return np.concatenate([unpack(x, np.uint8) if isinstance(x, Packed) else x for x in pieces], axis=1)


def _part(other: Doubles, own: Doubles) -> float:
    return float((other > own).mean() + 0.5 * (other == own).mean())
