"""What a strategy is told of a stage."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.comm.exchange import Traffic
from modelpar.sync import Work
from modelpar.weights.parameters import Parameters


class Replica:
    """A communicator on which the first replica's values are all ``value``."""

    size = 2

    def __init__(self, rank, value):
        self.rank, self.value = rank, value

    def Bcast(self, values, root=0):
        assert root == 0
        if self.rank:
            np.asarray(values)[:] = self.value


def work_of(parameters, done):
    return Work({"rbm.0": parameters}, {}, {}, {}, lambda: None, done)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("done", [0, 3])
def test_replicas_begin_a_stage_alike(rank, done):
    """All blocks, from the first replica; in the middle of a stage they are alike, and velocities would not be."""
    parameters, traffic = Parameters((3, 2), 3, 2, np.float32, (1, 4)), Traffic()
    parameters.flat[:] = parameters.rows[:] = rank
    work_of(parameters, done).make_alike(Replica(rank, 7.0), traffic)
    expected = 7.0 if rank and not done else rank
    assert (parameters.flat == expected).all()
    assert (parameters.rows == expected).all()
    received = parameters.flat.nbytes + parameters.rows.nbytes if rank and not done else 0
    assert traffic.upkeep["replica", "broadcast", "floats"] == received
