"""The average of a stage's parameters over its last updates, which scores and samples better than the last of them.

Swersky, Chen, Marlin and de Freitas (2010), section 4.3: with rates that do not vanish, parameters move around an
optimum, and their average is nearer to it.  The average here forgets exponentially, over about ``horizon`` updates.

Averages are linear.  So replicas that take steps of their own average their own parameters, and where they meet the
mean of their averages is the average of their means.  Where each goes at its own pace, what is averaged are the
parameters after all shares of minibatches, in the order in which these were handed out: a replica takes in those after
its own shares, and its average weighs as much at a meeting as these do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.exchange import Traffic
from modelpar.kernels.statistics.update import approach
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]
Parts = dict[str, Parameters]


class Average:
    """This replica's average of the parameters of each part, in ``values`` by the names of the parts.

    weight   of this replica's average among those of all replicas, which count alike where they have met
    """

    def __init__(self, values: Parts, horizon: int) -> None:
        self.values, self.horizon, self.weight = values, horizon, 1.0
        self._n_shares, self._last = 1, 0

    def add(self, parts: Parts, update: int) -> None:
        """Take in the parameters after ``update``, counted from 1, which every replica has taken."""
        self._add(parts, 1.0 / min(update, self.horizon))

    def part(self, parts: Parts, done: int, n_shares: int) -> None:
        """Replicas go their own ways after ``done`` updates, each of which is divided into ``n_shares``."""
        for name in parts.keys() - self.values.keys():
            self._begin(name, parts[name])
        self._n_shares, self._last = n_shares, done * n_shares

    def add_share(self, parts: Parts, number: int) -> None:
        """Take in the parameters after share ``number`` of the stage, counted from 1, which this replica has taken."""
        self._forget(number)
        part = self._n_shares / min(number, self.horizon * self._n_shares)
        self.weight += part
        self._add(parts, part / self.weight)

    def meet(self, replica_comm: MPI.Comm, traffic: Traffic, number: int | None = None) -> None:
        """Make the mean by weights of all replicas' averages the average of each.  Collective over the replicas.

        number   shares of the stage that have been taken, where replicas went at their own pace
        """
        if number is not None:
            self._forget(number)
        total = np.array([self.weight])
        _sum(replica_comm, traffic, total)
        for parameters in self.values.values():
            parameters.flat *= parameters.flat.dtype.type(self.weight / total[0])
            _sum(replica_comm, traffic, parameters.flat)
        self.weight, self._n_shares = 1.0, 1

    def _forget(self, number: int) -> None:
        self.weight *= kept(self._last, number, self.horizon * self._n_shares)
        self._last = number

    def _begin(self, name: str, parameters: Parameters) -> None:
        self.values[name] = parameters.like(rows=False)
        self.values[name].flat[:] = parameters.flat

    def _add(self, parts: Parts, part: float) -> None:
        for name, parameters in parts.items():
            if name in self.values:
                approach(self.values[name].flat, parameters.flat, part)
            else:
                self._begin(name, parameters)


def _sum(replica_comm: MPI.Comm, traffic: Traffic, values: Array) -> None:
    with traffic.status.waiting("average"):
        messages.allreduce(replica_comm, values)
    traffic.add_allreduce("replica", values, replica_comm.size, "average")


def kept(before: int, after: int, horizon: int) -> float:
    """The part of an average of ``before`` values that is left in it when it has taken in ``after`` of them.

    Value k has entered with the weight 1 / min(k, horizon).
    """
    early = min(before, horizon) / min(after, horizon) if after else 1.0
    late = max(after, horizon) - max(before, horizon)
    return float(early * np.power(1.0 - 1.0 / horizon, late))
