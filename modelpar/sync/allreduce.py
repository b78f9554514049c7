"""Replicas that take every step together: what each finds is summed over all of them."""

from __future__ import annotations

from collections.abc import Iterator

from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.sync.progress import Progress
from modelpar.sync.reduction import Reduction
from modelpar.sync.work import Salvage, Share, Work


class AllreduceSync:
    """Every replica adds its samples' part; the sum is the step of one replica with all the samples.

    overlap   let sums travel while the next ones are made: a layer's velocity while the layer below is taken back, some
              rows of counts while the next rows are counted.  A thread enters MPI meanwhile, so that they do travel.
    """

    in_step = alike = rests = True

    def __init__(self, replica_comm: MPI.Comm, traffic: Traffic, *, overlap: bool = False) -> None:
        self.reduction = Reduction(replica_comm, traffic, overlap=overlap)
        self._progress: Progress | None = None
        self.reached = 0
        self._work: Work

    def begin(self, work: Work) -> None:
        self._work = work
        reduction = self.reduction
        work.make_alike(reduction.comm, reduction.traffic)
        if reduction.overlaps and self._progress is None:
            self._progress = Progress(reduction.comm)

    def steps_together(self, done: int) -> int:
        return 1

    def shares(self, first: int, stop: int, done: int, rate: float) -> Iterator[Share]:
        self.reached = stop
        for step in range(first, stop):
            yield Share(step, self.reduction.comm.rank, self.reduction.size)
            self._work.end_step(rate, done + step - first + 1)

    def settle(self) -> None:
        """Nothing to do: the replicas have never parted."""

    def salvage(self) -> Salvage | None:
        return None

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
