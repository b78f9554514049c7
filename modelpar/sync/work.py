"""The work of a strategy: the parameters of one stage of training, and one replica's part of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.exchange import Traffic
from modelpar.sync.average import Average
from modelpar.weights.parameters import Parameters
from modelpar.weights.penalties import Penalties

Array = npt.NDArray[Any]


class Share(NamedTuple):
    """Part ``part`` of ``n_parts`` of the minibatch of one step of an epoch."""

    step: int
    part: int
    n_parts: int


@dataclass(frozen=True)
class Work:
    """The parameters in training, which stay the same objects to the end of the stage.

    parts      this shard's parameters by name
    velocity   that of each part
    outer      the outer momentum of each part, made where a strategy has one
    squares    the sums of squared gradients of each part, made where a strategy has them
    refresh    makes all blocks of weights agree after ``parts`` were changed; collective over the shards
    done       steps of the stage that were done before
    penalties  on the weights, whose proximal steps a strategy takes
    average    of the parameters over the last steps, which a strategy takes them into; None for none
    """

    parts: dict[str, Parameters]
    velocity: dict[str, Parameters]
    outer: dict[str, Parameters]
    squares: dict[str, Parameters]
    refresh: Callable[[], None]
    done: int = 0
    penalties: Penalties = field(default_factory=Penalties)
    average: Average | None = None

    @property
    def fresh(self) -> bool:
        return self.done == 0

    def end_step(self, rate: float, update: int) -> None:
        """What follows the change of parameters by a step: the proximal step, and the average.

        rate   learning rate of the step; update: its number in the stage, counted from 1

        Collective over the shards.
        """
        for name, parameters in self.parts.items() if self.penalties else ():
            self.penalties.take(name, parameters, rate)
        if self.average is not None:
            self.average.add(self.parts, update)

    def make_alike(self, replica_comm: MPI.Comm, traffic: Traffic) -> None:
        """Give all replicas the first one's parameters where the stage begins: processors of other kinds may differ in
        a last bit.  Collective over the replicas."""
        for parameters in self.parts.values() if self.fresh else ():
            for values in (parameters.flat, parameters.rows):
                if values is not None:
                    with traffic.status.waiting("broadcast"):
                        messages.bcast(replica_comm, values)
                    traffic.add("replica", "broadcast", values, values.nbytes if replica_comm.rank else 0)


@dataclass(frozen=True)
class Salvage:
    """The parameters of a shard that one rank has when another rank was lost while replicas were at their own pace.

    base      (n,) all parameters of the stage, as last fetched, with this replica's own pushes
    version   pushes of all replicas at that fetch
    hosted    (first element, elements) of the part that this rank hosts
    steps     complete steps that have been handed out since the replicas parted
    slices    where each part lies in ``base``
    weight    of this replica's average of parameters, where there is one, among those of all
    """

    base: Array
    version: int
    hosted: tuple[int, Array]
    steps: int
    slices: dict[str, slice]
    weight: float = 1.0
