"""A limit on the length of an update of weights.

Where the update of W, its velocity after momentum and decay, has an L2 norm above the limit, all of it is scaled back
to that norm: its direction stays (Pascanu, Mikolov and Bengio 2013, algorithm 1, there of the gradient).  Squares are
added up as integers, relative to the largest one, so the norm is the same at every grid.

A share of a step, where each replica pushes its own at its own pace, has its fraction of the limit: so the updates of
the shares of a step are never longer together, and one replica alone does what it does without a server.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
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
    most = float(_reduced(np.array([largest(own)]), MPI.MAX, shard_comm, traffic))
    if not 0 < most < math.inf:  # the check for infinities stops such a run
        return
    total = _reduced(np.array([sum_of_squares(own, most)], np.int64), MPI.SUM, shard_comm, traffic)
    norm = most * math.sqrt(float(total) / SQUARE_STEPS)
    if norm > limit:
        for W, V in zip(parameters.blocks, velocity.blocks, strict=True):
            shorten(W, V, limit / norm)


def _reduced(value: npt.NDArray[Any], op: MPI.Op, shard_comm: MPI.Comm, traffic: Traffic) -> Any:
    """A value (1,) of each shard, summed or the largest of all."""
    with traffic.status.waiting("allreduce"):
        shard_comm.Allreduce(MPI.IN_PLACE, value, op)
    traffic.add_allreduce("shard", value, shard_comm.size)
    return value[0]
