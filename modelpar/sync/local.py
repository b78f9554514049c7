"""Replicas that take steps of their own, and average their parameters every so many of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.spec import SyncSpec
from modelpar.sync.reduction import BUCKET, Reduction
from modelpar.sync.work import Salvage, Share, Work

Array = npt.NDArray[Any]


class LocalSGD:
    """Local SGD (Stich 2019): each replica takes its own steps, and every ``period`` steps parameters are averaged.

    The velocities are averaged with them (Yu, Jin and Yang 2019, algorithm 1), so that the replicas are alike after
    every average, and a run that goes on from there does what the first one would have done.

    The proximal step of an L1 penalty follows every step of a replica, and where an average follows too, it comes after
    that: a mean of replicas has few of their zeros.

    With an outer momentum the mean change since the last average is the gradient of an outer step with Nesterov
    momentum (DiLoCo: Douillard et al. 2023, algorithm 1): v = m v + change; parameters += r (change + m v).
    """

    in_step, rests = True, False

    def __init__(self, replica_comm: MPI.Comm, traffic: Traffic, spec: SyncSpec) -> None:
        self.comm, self.traffic, self.spec = replica_comm, traffic, spec
        self.reduction = Reduction(MPI.COMM_SELF, traffic, own_mean=True)
        self.reached = 0
        self._work: Work
        self._since = 0  # steps since the last average
        self._open: tuple[float, int] | None = None  # rate and number of a step that is not ended: it may end a period
        self._start: dict[str, Array] = {}  # parameters after the last average, where an outer step needs them

    @property
    def _has_outer_step(self) -> bool:
        return self.spec.outer_momentum > 0 or self.spec.outer_rate != 1.0

    @property
    def alike(self) -> bool:
        return self._since == 0

    def begin(self, work: Work) -> None:
        work.make_alike(self.comm, self.traffic)
        self._work, self._since, self._open = work, 0, None
        if self._has_outer_step:
            for name, parameters in work.parts.items():
                self._start[name] = parameters.flat.copy()
                if name not in work.outer:
                    work.outer[name] = parameters.like(rows=False)

    def steps_together(self, done: int) -> int:
        return 1

    def shares(self, first: int, stop: int, done: int, rate: float) -> Iterator[Share]:
        self.reached = stop
        for step in range(first, stop):
            self._end_step()
            yield Share(step, self.comm.rank, self.comm.size)
            self._since += 1
            update = done + step - first + 1
            self._open = rate, update
            if update % self.spec.period == 0:
                self.settle()

    def _end_step(self) -> None:
        if self._open is not None:
            self._work.end_step(*self._open)
            self._open = None

    def settle(self) -> None:
        """Average now, and begin a new period; nothing to do right after an average."""
        if self._since == 0:
            return
        self._since = 0
        for name, parameters in self._work.parts.items():
            self._average(parameters.flat)
            self._average(self._work.velocity[name].flat)
            if self._has_outer_step:
                self._outer_step(name, parameters.flat)
        if self._work.average is not None:
            self._work.average.meet(self.comm, self.traffic)
        self._work.refresh()
        self._end_step()
        for name, start in self._start.items():
            start[:] = self._work.parts[name].flat

    def _average(self, values: Array) -> None:
        size = self.comm.size
        for start in range(0, values.size, BUCKET):
            piece = values[start : start + BUCKET]
            with self.traffic.status.waiting("average"):
                self.comm.Allreduce(MPI.IN_PLACE, piece)
            self.traffic.add_allreduce("replica", piece, size, "average")
        if size > 1:
            values /= values.dtype.type(size)

    def _outer_step(self, name: str, mean: Array) -> None:
        start, velocity = self._start[name], self._work.outer[name].flat
        momentum, rate = (mean.dtype.type(x) for x in (self.spec.outer_momentum, self.spec.outer_rate))
        change = mean - start
        velocity *= momentum
        velocity += change
        np.add(start, rate * (change + momentum * velocity), out=mean)

    def salvage(self) -> Salvage | None:
        return None

    def end(self) -> None:
        """Nothing to free."""
