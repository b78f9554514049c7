"""How replicas stay together: one file per strategy, all behind the same few verbs; the loop never asks which it has.

A stage of training is a run of steps, one global minibatch each.  ``shares`` tells a replica which parts of which
minibatches are its own, and moves what has to move before and after each of them; ``learn`` and ``step`` change the
parameters; ``settle`` leaves the same parameters, and velocities of the same meaning, on every replica, so that a
checkpoint made there goes on under any strategy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.spec import SyncSpec
from modelpar.sync.allreduce import AllreduceSync
from modelpar.sync.local import LocalSGD
from modelpar.sync.server import ParameterServer
from modelpar.sync.stage import Salvage, Share, Stage
from modelpar.sync.work_queue import check_bound
from modelpar.training.schedule import StepSize
from modelpar.weights.parameters import Parameters
from modelpar.weights.statistics import ExactGradient, Statistics

__all__ = [
    "AllreduceSync", "LocalSGD", "ParameterServer", "Salvage", "Share", "Stage", "Sync", "check_bound", "strategy",
]  # fmt: skip


class Sync(Protocol):
    """A strategy.

    momentum_share   how much of the old velocity this replica puts into an update
    in_step          whether all replicas take every step at the same time, so that it may be collective over them
    alike            whether all replicas have the same parameters now
    """

    @property
    def momentum_share(self) -> float: ...
    @property
    def in_step(self) -> bool: ...
    @property
    def alike(self) -> bool: ...

    def divisor(self, n_samples: int, n_all_samples: int) -> int:
        """By what sums over this replica's ``n_samples`` of a minibatch of ``n_all_samples`` are divided."""

    def begin(self, stage: Stage) -> None:
        """Make the replicas equal before the first step.  Collective over the grid."""

    def steps_together(self, done: int) -> int:
        """Steps from ``done`` to the next moment at which all replicas stand at the same step."""

    def shares(self, first: int, stop: int, done: int) -> Iterator[Share]:
        """What this replica does of the steps ``first .. stop - 1`` of an epoch, the next of a stage of which ``done``
        were done.  Afterwards all of them are done, on all replicas.  Collective over the grid."""

    def learn(
        self,
        parameters: Parameters,
        velocity: Parameters,
        statistics: Statistics | ExactGradient,
        size: StepSize,
        n_samples: int,
    ) -> None:
        """One step from this replica's statistics of ``n_samples``: velocity = momentum * velocity + rate * (their
        mean - decay * W); parameters += velocity.  Collective over the replicas where ``in_step``."""

    def ready(self, update: Parameters) -> None:
        """This replica's update is complete: it may begin to travel before ``step`` is called with it."""

    def step(self, parameters: Parameters, update: Parameters, size: StepSize) -> None:
        """Turn this replica's update, the velocity into which its gradients were added, into a change of the
        parameters: ``update -= rate * decay * W`` on the weights, then ``parameters += update``.  Collective over the
        replicas where ``in_step``."""

    def settle(self) -> None:
        """Leave the same parameters on every replica; called before a score or a save.  Collective over the grid."""

    def salvage(self) -> Salvage | None:
        """What this rank still has when another one was lost, where replicas were at their own pace; else None."""

    def end(self) -> None:
        """Give back what the strategy holds.  Collective over the grid."""


def strategy(spec: SyncSpec, grid: Grid, traffic: Traffic, staleness: Counter[int]) -> Sync:
    """The strategy that was asked for.   staleness: counts the updates of each staleness that this replica pushes"""
    if spec.sync == "local":
        return LocalSGD(grid.replica_comm, traffic, spec)
    if spec.sync == "server":
        return ParameterServer(grid, traffic, spec, staleness)
    return AllreduceSync(grid.replica_comm, traffic, overlap=grid.replicas_far)
