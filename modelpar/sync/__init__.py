"""How replicas stay together: one file per strategy, behind ``step`` and ``settle``."""

from __future__ import annotations

from typing import Protocol

from modelpar.parameters import Parameters
from modelpar.sync.allreduce import AllreduceSync

__all__ = ["AllreduceSync", "Sync"]


class Sync(Protocol):
    """A strategy.  An update arrives as the optimizer's velocity, into which this replica's statistics were added.

    momentum_share   how much of the old velocity this replica puts into its update
    divisor          by what the sums over this replica's samples are divided
    """

    momentum_share: float

    def divisor(self, n_samples: int, n_all_samples: int) -> int: ...

    def begin(self, parameters: Parameters) -> None:
        """Make the replicas equal before the first step.  Collective."""

    def step(self, parameters: Parameters, update: Parameters, shrink: float) -> None:
        """Turn this replica's update into a change of the parameters: ``update -= shrink * W`` on the weights, then
        ``parameters += update``.  Collective over the replicas."""

    def settle(self, parameters: Parameters) -> None:
        """Leave the same parameters on every replica; called before a score or a save.  Collective."""
