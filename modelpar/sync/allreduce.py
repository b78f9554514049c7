"""Replicas that take every step together: the update is summed over them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.exchange import Traffic
from modelpar.kernels.statistics.learning import Counts, update_from
from modelpar.kernels.statistics.update import apply_update
from modelpar.sync.progress import Progress
from modelpar.sync.stage import Salvage, Share, Stage
from modelpar.training.schedule import StepSize
from modelpar.weights.parameters import Parameters
from modelpar.weights.statistics import ExactGradient, Statistics

Array = npt.NDArray[Any]

BUCKET = 1 << 22  # elements of one all-reduce: bounds what MPI allocates inside, and the sum is applied while in cache

PIECES = 8  # of a block's counts that travel one by one: few enough that each is worth a message


class AllreduceSync:
    """Every replica adds its samples' share; the sum is the step of one replica with all the samples.

    Statistics in whole numbers are summed as such, in the smallest type that holds every possible sum, and each
    replica then makes the same step of them.  Of real values the sum is the velocity itself: the old one is the same on
    all replicas, so only the first one puts it in, and no division, which would round, is needed to undo copies.

    overlap   let sums travel while the next ones are made: a layer's update while the layer below is taken back, some
              rows of counts while the next rows are counted.  A thread enters MPI meanwhile, so that they do travel.
    """

    def __init__(self, replica_comm: MPI.Comm, traffic: Traffic, *, overlap: bool = False) -> None:
        self.comm, self.traffic, self._overlap = replica_comm, traffic, overlap
        self._progress: Progress | None = None
        self._travelling: dict[int, list[MPI.Request]] = {}  # by the identity of the update
        self.momentum_share = 1.0 if replica_comm.rank == 0 else 0.0
        self._counts: Array = np.empty(0, np.int32)

    in_step = alike = True

    def divisor(self, n_samples: int, n_all_samples: int) -> int:
        return n_all_samples

    def begin(self, stage: Stage) -> None:
        """Give all replicas the first one's parameters: processors of other kinds may differ in a last bit."""
        for parameters in stage.parts.values() if stage.fresh else ():
            for values in (parameters.flat, parameters.rows):
                if values is not None:
                    with self.traffic.status.waiting("broadcast"):
                        messages.bcast(self.comm, values)
                    self.traffic.add("replica", "broadcast", values, values.nbytes if self.comm.rank else 0)
        if self._overlap and self.comm.size > 1 and self._progress is None:
            self._progress = Progress(self.comm)

    def steps_together(self, done: int) -> int:
        return 1

    def shares(self, first: int, stop: int, done: int) -> Iterator[Share]:
        for step in range(first, stop):
            yield Share(step, self.comm.rank, self.comm.size)

    def learn(
        self,
        parameters: Parameters,
        velocity: Parameters,
        statistics: Statistics | ExactGradient,
        size: StepSize,
        n_samples: int,
    ) -> None:
        gain, shrink = size.rate / self.divisor(n_samples, statistics.n_samples), size.rate * size.decay
        if not statistics.whole:
            assert isinstance(statistics, Statistics)
            carry = size.momentum * self.momentum_share
            counts = statistics.add_data_to(velocity, carry, gain) if statistics.mixed else []
            if counts and self.comm.size == 1:  # no other replica waits for a velocity of real values
                for count, W, V in zip(counts, parameters.blocks, velocity.blocks, strict=True):
                    count.learn(W, V, 1.0, gain * count.unit, shrink)
                parameters.b += velocity.b
                parameters.c += velocity.c
                return
            for count, V in zip(counts, velocity.blocks, strict=False):
                count.add_to(V, gain * count.unit)
            if not counts:
                statistics.add_to(velocity, carry, gain)
            self.step(parameters, velocity, size)
            return
        blocks = statistics.blocks()
        for block, W, V in zip(blocks, parameters.blocks, velocity.blocks, strict=False):  # gradients are of one block
            if self.comm.size == 1:
                block.learn(W, V, size.momentum, gain * block.unit, shrink)  # counted and learned in one pass
            elif self._overlap and isinstance(block, Counts):
                self._learn_in_pieces(block, statistics, W, V, size.momentum, gain * block.unit, shrink)
            else:
                update_from(self._summed(block, statistics), W, V, size.momentum, gain * block.unit, shrink)
        units = 1.0, blocks[0].unit
        for bias, old, sums, unit in zip(
            (parameters.b, parameters.c), (velocity.b, velocity.c), statistics.sums(), units, strict=True
        ):
            self._allreduce(sums)
            old *= old.dtype.type(size.momentum)
            old += old.dtype.type(gain * unit) * sums.astype(old.dtype)
            bias += old

    def _learn_in_pieces(
        self, block: Counts, statistics: Statistics | ExactGradient, W: Array, V: Array, carry: float, gain: float,
        shrink: float,
    ) -> None:  # fmt: skip
        """As ``update_from`` of ``_summed``, but some rows travel while the next ones are counted."""
        counts = self._room(block, statistics)
        rows = max(1, min(-(-len(counts) // PIECES), BUCKET * len(counts) // max(1, counts.size)))
        before: tuple[int, int, MPI.Request] | None = None
        for start, stop in block.fill_in_pieces(counts, rows):
            piece = counts[start:stop].reshape(-1)
            self._count(piece)
            request = self.comm.Iallreduce(MPI.IN_PLACE, piece)
            if before is not None:
                self._learn_piece(before, counts, W, V, carry, gain, shrink)
            before = start, stop, request
        if before is not None:
            self._learn_piece(before, counts, W, V, carry, gain, shrink)

    def _learn_piece(
        self, piece: tuple[int, int, MPI.Request], counts: Array, W: Array, V: Array, *scalars: float
    ) -> None:
        start, stop, request = piece
        with self.traffic.status.waiting("allreduce"):
            request.Wait()
        update_from(counts[start:stop], W[start:stop], V[start:stop], *scalars)

    def _summed(self, block: Any, statistics: Statistics | ExactGradient) -> Array:
        """Counts of a block of weights (rows, columns), over all replicas."""
        counts = self._room(block, statistics)
        block.fill(counts)
        flat = counts.reshape(-1)
        for start in range(0, flat.size, BUCKET):
            self._allreduce(flat[start : start + BUCKET])
        return counts

    def _room(self, block: Any, statistics: Statistics | ExactGradient) -> Array:
        """(rows, columns) of the smallest type that holds a block's sums over all replicas."""
        dtype: np.dtype[Any] = np.dtype(np.int32)
        if isinstance(block, Counts):
            largest = block.largest(statistics.planes, statistics.n_samples)
            dtype = next(np.dtype(t) for t in (np.int8, np.int16, np.int32) if largest <= np.iinfo(t).max)
        elif isinstance(block, ExactGradient):
            dtype = block.W.dtype
        n = math.prod(block.shape)
        if self._counts.size < n or self._counts.dtype != dtype:
            self._counts = np.empty(n, dtype)
        return self._counts[:n].reshape(block.shape)

    def _allreduce(self, values: Array) -> None:
        with self.traffic.status.waiting("allreduce"):
            messages.allreduce(self.comm, values)
        self._count(values)

    def _count(self, values: Array) -> None:
        self.traffic.add_allreduce("replica", values, self.comm.size)

    def ready(self, update: Parameters) -> None:
        if self._overlap and self.comm.size > 1:
            pieces = [update.flat[start : start + BUCKET] for start in range(0, update.flat.size, BUCKET)]
            self._travelling[id(update)] = [self.comm.Iallreduce(MPI.IN_PLACE, piece) for piece in pieces]

    def step(self, parameters: Parameters, update: Parameters, size: StepSize) -> None:
        shrink = size.rate * size.decay
        flat, weights = parameters.flat, parameters.n_weights
        requests = self._travelling.pop(id(update), None)
        for i, start in enumerate(range(0, flat.size, BUCKET)):
            stop = min(start + BUCKET, flat.size)
            if requests is None:
                self._allreduce(update.flat[start:stop])
            else:
                with self.traffic.status.waiting("allreduce"):
                    requests[i].Wait()
                self._count(update.flat[start:stop])
            biases = min(max(start, weights), stop)  # only weights decay
            apply_update(flat[start:biases], update.flat[start:biases], shrink)
            apply_update(flat[biases:stop], update.flat[biases:stop], 0.0)
        if parameters.rows is not None and update.rows is not None:  # the second block of a dual layout
            self._allreduce(update.rows)
            apply_update(parameters.rows.reshape(-1), update.rows.reshape(-1), shrink)

    def settle(self) -> None:
        """Nothing to do: the replicas have never parted."""

    def salvage(self) -> Salvage | None:
        return None

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
