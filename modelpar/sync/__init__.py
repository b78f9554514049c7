"""Strategies that keep replicas together, one per file, with the same few methods; the loop never asks which it has.

A stage of training is a run of steps, one global minibatch each.  A strategy says what is summed, with whom, and when.
``shares`` tells a replica which parts of which minibatches are its own, moves what has to move before and after each of
them, and takes what follows a step, the proximal step of a penalty and the average; ``reduction`` is what the optimizer
sums in a step; ``settle`` leaves the same parameters and averages, and velocities of the same meaning, on every
replica, so that a checkpoint made there goes on under any strategy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.spec import SyncSpec
from modelpar.sync.allreduce import AllreduceSync
from modelpar.sync.average import Average
from modelpar.sync.local import LocalSGD
from modelpar.sync.reduction import PendingSum, Reduction
from modelpar.sync.server import ParameterServer
from modelpar.sync.work import Salvage, Share, Work
from modelpar.sync.work_queue import check_bound

__all__ = [
    "AllreduceSync", "Average", "LocalSGD", "ParameterServer", "PendingSum", "Reduction", "Salvage", "Share", "Sync",
    "Work", "check_bound", "strategy",
]  # fmt: skip


class Sync(Protocol):
    """A strategy.

    in_step     whether all replicas take every step at the same time, so that it may be collective over them
    alike       whether all replicas have the same parameters now
    rests       whether parameters stay as they are from the end of ``shares`` to the first step of the next ones
    reduction   over whom the next step adds up, and which fraction of it is this replica's
    reached     the step to which the latest ``shares`` came: ``stop``, or before it where a rank was asked to end
    """

    reached: int

    @property
    def in_step(self) -> bool: ...
    @property
    def alike(self) -> bool: ...
    @property
    def rests(self) -> bool: ...
    @property
    def reduction(self) -> Reduction: ...

    def begin(self, work: Work) -> None:
        """Make the replicas equal before the first step.  Collective over the grid."""

    def steps_together(self, done: int) -> int:
        """Steps from ``done`` to the next moment at which all replicas stand at the same step."""

    def shares(self, first: int, stop: int, done: int, rate: float) -> Iterator[Share]:
        """This replica's work in the steps ``first .. stop - 1`` of an epoch, the next of a stage of which ``done``
        were done.  Afterwards all of them up to ``reached`` are done, on all replicas.  Collective over the grid.

        rate   learning rate of these steps
        """

    def settle(self) -> None:
        """Leave the same parameters and averages on every replica, before a score or a save.

        Collective over the grid.
        """

    def salvage(self) -> Salvage | None:
        """This rank's parameters after another one was lost, where replicas were at their own pace; else None."""

    def end(self) -> None:
        """Free the strategy's windows and threads.  Collective over the grid."""


def strategy(spec: SyncSpec, grid: Grid, traffic: Traffic, staleness: Counter[int]) -> Sync:
    """The strategy that was asked for.   staleness: counts the updates of each staleness that this replica pushes"""
    if spec.sync == "local":
        return LocalSGD(grid.replica_comm, traffic, spec)
    if spec.sync == "server":
        return ParameterServer(grid, traffic, spec, staleness)
    return AllreduceSync(grid.replica_comm, traffic, overlap=grid.replicas_far)
