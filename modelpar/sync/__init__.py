"""How replicas stay together: one file per strategy, behind ``learn``, ``step`` and ``settle``."""

from __future__ import annotations

from typing import Protocol

from modelpar.learning import ExactGradient, Statistics
from modelpar.optimizer import StepSize
from modelpar.parameters import Parameters
from modelpar.sync.allreduce import AllreduceSync

__all__ = ["AllreduceSync", "Sync"]


class Sync(Protocol):
    """A strategy.

    momentum_share   how much of the old velocity this replica puts into an update
    divisor          by what the sums over this replica's samples are divided
    """

    momentum_share: float

    def divisor(self, n_samples: int, n_all_samples: int) -> int: ...

    def begin(self, parameters: Parameters) -> None:
        """Make the replicas equal before the first step.  Collective."""

    def learn(
        self,
        parameters: Parameters,
        velocity: Parameters,
        statistics: Statistics | ExactGradient,
        size: StepSize,
        n_samples: int,
    ) -> None:
        """One step from this replica's statistics of ``n_samples``: velocity = momentum * velocity + rate * (their
        mean - decay * W); parameters += velocity.  Collective over the replicas."""

    def step(self, parameters: Parameters, update: Parameters, shrink: float) -> None:
        """Turn this replica's update, the velocity into which its gradients were added, into a change of the
        parameters: ``update -= shrink * W`` on the weights, then ``parameters += update``.  Collective."""

    def settle(self, parameters: Parameters) -> None:
        """Leave the same parameters on every replica; called before a score or a save.  Collective."""
