"""A limit on the length of an update of weights.

Where the update of W, its velocity after momentum and decay, has an L2 norm above the limit, all of it is scaled back
to that norm: its direction stays (Pascanu, Mikolov and Bengio 2013, algorithm 1, there of the gradient).  Squares are
added up as integers, relative to the largest one, so the norm is the same at every grid.
"""

from __future__ import annotations

import math

import numpy as np
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.kernels.statistics.update import SQUARE_STEPS, largest, shorten, sum_of_squares
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import StepWeights


def clip(
    parameters: Parameters, velocity: Parameters, weights: StepWeights, limit: float, shard_comm: MPI.Comm,
    traffic: Traffic,
) -> None:  # fmt: skip
    """Scale back the velocity of the weights, which was added to them already, where its norm is above ``limit``.

    Collective over the shards.
    """
    own = weights.counted_here(velocity.W).reshape(-1)
    most = largest(own)
    with traffic.status.waiting("allreduce"):
        most = shard_comm.allreduce(most, MPI.MAX)
        if not 0 < most < math.inf:  # the check for infinities stops such a run
            return
        total = np.array([sum_of_squares(own, most)], np.int64)
        shard_comm.Allreduce(MPI.IN_PLACE, total)
    for _ in range(2):
        traffic.add_allreduce("shard", total, shard_comm.size)
    norm = most * math.sqrt(float(total[0]) / SQUARE_STEPS)
    if norm > limit:
        for W, V in zip(parameters.blocks, velocity.blocks, strict=True):
            shorten(W, V, limit / norm)
