"""What a strategy is told: the parameters of one stage of training, and what one replica takes of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]


class Share(NamedTuple):
    """Part ``part`` of ``n_parts`` of the minibatch of one step of an epoch."""

    step: int
    part: int
    n_parts: int


@dataclass(frozen=True)
class Stage:
    """What is trained, and stays the same object to the end of the stage.

    parts      this shard's parameters by name
    updates    the velocity of each part
    outer      the outer momentum of each part, made where a strategy has one
    squares    the sums of squared gradients of each part, made where a strategy has them
    refresh    makes all blocks of weights agree after ``parts`` were changed; collective over the shards
    done       steps of the stage that were done before
    """

    parts: dict[str, Parameters]
    updates: dict[str, Parameters]
    outer: dict[str, Parameters]
    squares: dict[str, Parameters]
    refresh: Callable[[], None]
    done: int = 0

    @property
    def fresh(self) -> bool:
        return self.done == 0


@dataclass(frozen=True)
class Salvage:
    """What one rank has of a shard's parameters when another rank was lost while replicas were at their own pace.

    base      (n,) all parameters of the stage, as last fetched, with this replica's own pushes
    version   pushes of all replicas at that fetch
    hosted    (first element, elements) of the part that this rank hosts
    steps     whole steps that have been handed out since the replicas parted
    slices    where each part lies in ``base``
    """

    base: Array
    version: int
    hosted: tuple[int, Array]
    steps: int
    slices: dict[str, slice]
