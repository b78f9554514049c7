"""The sums over replicas in a step, and the fraction of a step that each replica takes, as an optimizer needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.exchange import Traffic

Array = npt.NDArray[Any]

BUCKET = 1 << 22  # elements of one all-reduce: bounds what MPI allocates inside, and the sum is applied while in cache


class Means(NamedTuple):
    """What the sums of a step are divided by, and how much of the step it is: rate * part * (data - model).

    samples, chains   of which the data's and the model's phase are the means
    """

    samples: int
    chains: int
    part: float = 1.0


@dataclass(frozen=True)
class Reduction:
    """Sums over the replicas of ``comm``, which take a step together: of one's own where each takes its own steps.

    own_mean   a step is the mean over this replica's samples, and over its chains; else over those of the whole
               minibatch
    n_shares   shares of a minibatch whose steps add up to one, so that each has this fraction of the decay, and of the
               limit on an update
    momentum   whether a step goes on with the velocity of the one before
    overlap    sums travel while the next ones are made, where there are other replicas
    """

    comm: MPI.Comm
    traffic: Traffic
    own_mean: bool = False
    n_shares: int = 1
    momentum: bool = True
    overlap: bool = False

    @property
    def size(self) -> int:
        """Replicas whose values are added up; 1 where nobody waits for a sum."""
        return int(self.comm.size)

    @property
    def is_first(self) -> bool:
        """Whether what all replicas have alike enters a sum here: once, for no division then has to undo copies."""
        return bool(self.comm.rank == 0)

    @property
    def overlaps(self) -> bool:
        return self.overlap and self.size > 1

    def means(self, mine: tuple[int, int], of_all: tuple[int, int]) -> Means:
        """The means of a step.

        mine, of_all   (samples, chains) of this replica, and of the minibatch and the model's phase over all replicas

        A replica by itself compares the mean over its samples with that over its chains, with equal weights and even
        where it has an uneven share: without samples it takes no step.  Shares of a minibatch count by their samples.
        """
        if not self.own_mean and self.n_shares == 1:
            return Means(*of_all)
        samples, chains = mine
        part = float(samples > 0) if self.own_mean else samples / of_all[0]
        return Means(max(samples, 1), max(chains, 1), part)

    def sum(self, values: Array) -> None:
        """Add up in place.  Collective over ``comm``."""
        with self.traffic.status.waiting("allreduce"):
            messages.allreduce(self.comm, values)
        self.traffic.add_allreduce("replica", values, self.size)

    def share(self, values: Array) -> None:
        """Give all replicas the first one's values, in place.  Collective over ``comm``."""
        if self.size > 1:
            with self.traffic.status.waiting("broadcast"):
                messages.bcast(self.comm, values)
            self.traffic.add("replica", "broadcast", values, values.nbytes if self.comm.rank else 0)

    def begin(self, values: Array) -> PendingSum:
        """Add up in place, done when ``wait`` of the result returns; until then ``values`` are not to be touched.

        values   one-dimensional, ``BUCKET`` elements at most.  Collective over ``comm``, and so is ``wait``: in the
                 same order on all ranks.
        """
        request = self.comm.Iallreduce(MPI.IN_PLACE, values) if self.overlaps else None
        return PendingSum(self, values, request)


@dataclass(frozen=True)
class PendingSum:
    """A sum that travels, or, where nothing overlaps, that is made when it is waited for."""

    reduction: Reduction
    values: Array
    request: MPI.Request | None

    def wait(self) -> None:
        """Return when the sum is there."""
        if self.request is None:
            self.reduction.sum(self.values)
            return
        with self.reduction.traffic.status.waiting("allreduce"):
            self.request.Wait()
        self.reduction.traffic.add_allreduce("replica", self.values, self.reduction.size)
