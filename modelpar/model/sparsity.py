"""The sparsity penalty of hidden units (Hinton 2010, section 11)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.kernels.reductions import row_sums
from modelpar.spec import TrainingSpec

Array = npt.NDArray[Any]

DECAY = 0.9  # of the running mean activation


class Owner(Protocol):
    """What is needed of an RBM."""

    mean_activation: Array
    replica_comm: MPI.Comm
    traffic: Traffic


def shift(rbm: Owner, p0: Array | None, spec: TrainingSpec, n_samples: int, in_step: bool) -> Array:
    """(n_hidden_owned, 1) that moves each unit's mean activation towards the target.

    Added to the data's hidden statistics it reaches W and c alike.   p0   hidden probabilities given the data
    Collective over the replicas where they are in step.
    """
    assert p0 is not None  # it was asked for
    sums = np.empty_like(rbm.mean_activation)
    row_sums(p0, sums)
    if in_step:
        with rbm.traffic.status.waiting("allreduce"):
            rbm.replica_comm.Allreduce(MPI.IN_PLACE, sums)
        rbm.traffic.add_allreduce("replica", sums, rbm.replica_comm.size)
    keep = sums.dtype.type(DECAY)
    rbm.mean_activation *= keep
    rbm.mean_activation += (1 - keep) * sums / sums.dtype.type(max(n_samples, 1))
    change = spec.sparsity_cost * (spec.sparsity_target - rbm.mean_activation)
    return np.asarray(change[:, None], dtype=p0.dtype)
