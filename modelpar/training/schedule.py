"""Step sizes over the epochs of a stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelpar.spec import FineTuneSpec, TrainingSpec


@dataclass(frozen=True)
class StepSize:
    """The coefficients of one epoch: velocity = momentum x velocity + rate x (gradient - decay x W); W += velocity.

    The momentum form is Hinton (2010), section 9.1; the decay is the gradient of an L2 penalty and so keeps the rate.
    """

    rate: float
    momentum: float
    decay: float


def step_size(
    spec: TrainingSpec | FineTuneSpec, base_rate: float, epoch: int, progress: float | None = None
) -> StepSize:
    """Return the coefficients of ``epoch`` (from 0) out of ``spec.epochs``.

    Rates fall from ``base_rate`` to ``base_rate * final_rate``.

    progress   part of the updates that are done, 0 to 1, where a stage is counted in updates; None: in epochs
    """
    if progress is None:
        progress = epoch / (spec.epochs - 1) if spec.epochs > 1 else 0.0
    low = spec.final_rate
    factor = {
        "constant": lambda: 1.0,
        "linear": lambda: 1.0 + (low - 1.0) * progress,
        "cosine": lambda: low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress)),
        "exponential": lambda: max(low, 1e-12) ** progress,
    }[spec.schedule]()
    momentum = spec.lasting_momentum
    if epoch < spec.momentum_epochs and spec.initial_momentum is not None:
        momentum = spec.initial_momentum
    return StepSize(base_rate * factor, momentum, spec.weight_decay)
