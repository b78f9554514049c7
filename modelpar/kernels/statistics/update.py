"""Updates of parameters in one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.machine.compilation import njit

GRAIN = 1 << 16  # parameters for which one more thread is worth waking


@njit(cache=True, nogil=True)
def update_panel(parameters, velocity, decay):  # type: ignore[no-untyped-def]
    """velocity -= decay * parameters; parameters += velocity      both (n,), decay a scalar of their type"""
    for i in range(len(parameters)):
        step = velocity[i] - decay * parameters[i]
        velocity[i] = step
        parameters[i] += step


@njit(cache=True, nogil=True)
def update_row(W, V, counts, carry, gain, shrink):  # type: ignore[no-untyped-def]
    """V = carry * V + gain * counts; V -= shrink * W; W += V      W, V (n,) of one type, counts (at least n,)"""
    for j in range(len(W)):
        velocity = carry * V[j] + gain * W.dtype.type(counts[j])
        velocity -= shrink * W[j]
        V[j] = velocity
        W[j] += velocity


def apply_update(parameters: npt.NDArray[Any], velocity: npt.NDArray[Any], decay: float) -> None:
    """``velocity -= decay * parameters; parameters += velocity``, both (n,) in place.

    Raises ValueError where they differ in shape or type.
    """
    if parameters.shape != velocity.shape or parameters.dtype != velocity.dtype or parameters.ndim != 1:
        raise ValueError(
            f"parameters are {parameters.dtype} {parameters.shape} and velocity is {velocity.dtype} {velocity.shape},"
            " but both must be the same 1-D shape and type"
        )
    scalar = parameters.dtype.type(decay)

    def work(start: int, stop: int) -> None:
        update_panel(parameters[start:stop], velocity[start:stop], scalar)

    threads.split(len(parameters), GRAIN, work)
