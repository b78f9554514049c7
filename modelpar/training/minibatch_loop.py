"""The minibatches of one stage of training, from its position on, with its clock and running sums."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modelpar import faults
from modelpar.data import Minibatches
from modelpar.data.feed import Feed
from modelpar.errors import SpecError
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed
from modelpar.model.network import DeepBeliefNetwork
from modelpar.records import Record, recorded_layer
from modelpar.sync import Share, Sync
from modelpar.training.state import Position, Sum, TrainingRun
from modelpar.weights.dense import Scratch

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Minibatch:
    """This replica's part of one minibatch."""

    v: Activations  # (n_visible_owned, batch), an array of which is used again by the next minibatch
    v_spread: Packed | None  # the same as the weights need it, where it is read from the data
    samples: IntArray  # (batch,) positions in the training split
    first_draw: int  # global sample counter of the first of them: samples that training had seen before
    n_all: int  # samples of the minibatch over all replicas
    update: int  # number of its update in the stage, from 0
    offset: int  # of the first of them in the complete minibatch
    share: int = 0  # which of ``n_shares`` of the update it is, where replicas take these at their own pace
    n_shares: int = 1

    @property
    def n_mine(self) -> int:
        return len(self.samples)


class MinibatchLoop:
    """One stage: ``epochs`` passes over ``feed``, shuffled by (seed, ``shuffle``, epoch) alike at every grid, samples
    drawn in proportion to their weights where they have some.

    n_updates   updates of the stage, in place of ``epochs``, where it is not 0: the last pass ends where they do
    packed   states come packed where the feed has them
    sums     what ``count`` adds up over an epoch, by name: as it is at the beginning
    spread   a feed of the units that the weights need, in their order, of which the owned ones are taken

    The position of ``run`` is the only thing that it changes.  The clock runs from the beginning
    of a minibatch to its end, so scores, and what the caller does with a record, are not training time.
    """

    def __init__(
        self, network: DeepBeliefNetwork, run: TrainingRun, feed: Feed, *, epochs: int, batch_size: int, stage: str,
        shuffle: int, packed: bool = False, spread: Feed | None = None, sums: Mapping[str, Sum] | None = None,
        n_updates: int = 0,
    ) -> None:  # fmt: skip
        self._packed, self._spread = packed and feed.binary, spread
        self.network, self.run, self.feed, self.epochs, self.stage = network, run, feed, epochs, stage
        self.batches = Minibatches(feed.n_samples, batch_size, network.spec.seed, feed.weights)
        self._batch_size, self._shuffle, self._n_updates = batch_size, shuffle << 24, n_updates
        self._sums = {**(sums or {}), "samples": Sum(0.0)}
        self._v = Scratch()
        check_position(self.position, stage, feed.n_samples, batch_size)
        self.position.n_samples, self.position.batch_size = feed.n_samples, batch_size

    @property
    def position(self) -> Position:
        return self.run.position

    @property
    def n_done(self) -> int:
        """Updates done so far."""
        return self.position.epoch * self.batches.n_steps + self.position.step

    @property
    def n_updates(self) -> int:
        """Updates of the whole stage."""
        return self._n_updates or self.batches.n_steps * self.epochs

    @property
    def unfinished(self) -> bool:
        return self.n_done < self.n_updates if self.batches.n_steps else self.position.epoch < self.epochs

    @property
    def will_go_on(self) -> bool:
        """Whether there is another epoch after this one, all of whose minibatches are done."""
        return (self.position.epoch + 1) * self.batches.n_steps < self.n_updates

    @property
    def progress(self) -> float | None:
        """The part of the stage's updates that are done, up to 1 at the last; None where it is counted in epochs."""
        return min(1.0, self.n_done / max(1, self._n_updates - 1)) if self._n_updates else None

    def segments(self, sync: Sync, rate: Callable[[], float], every: int = 0) -> Iterator[Iterator[Minibatch]]:
        """The rest of the current epoch, from one moment at which all replicas stand at the same step to the next.

        A segment is this replica's minibatches, one after the other: call ``count`` for each when its update is done,
        and ``synchronise`` when a segment is done.

        rate    gives the learning rate of the next steps
        every   a moment also after so many steps of the stage, 0 for none
        """
        position = self.position
        # a replica may come to the end of an epoch without a minibatch of its own
        position.sums = {**self._sums, **position.sums}
        while position.step < self._last_step:
            self.run.checks.begin_segment(sync, self.n_done)
            if sync.alike:
                self.run.keep()
            self._started = time.perf_counter()
            length = sync.steps_together(self.n_done)
            if every:
                length = min(length, every - self.n_done % every)
            self._first, self._stop = position.step, min(position.step + length, self._last_step)
            yield self._minibatches(sync, rate)

    @property
    def _last_step(self) -> int:
        """Minibatches of the current epoch."""
        return min(self.batches.n_steps, self.n_updates - self.position.epoch * self.batches.n_steps)

    def _minibatches(self, sync: Sync, rate: Callable[[], float]) -> Iterator[Minibatch]:
        for share in sync.shares(self._first, self._stop, self.n_done, rate()):
            self.run.checks.begin_share(sync)
            batch = self._minibatch(share)
            yield batch if sync.in_step else replace(batch, share=share.part, n_shares=share.n_parts)
        self._stop = sync.reached

    def _minibatch(self, share: Share) -> Minibatch:
        position = self.position
        layer = recorded_layer(self.stage, position.layer)
        self.network.traffic.status.begin_step(self.stage, layer, position.epoch + 1, share.step + 1)
        indices = self.batches.indices(self._shuffle + position.epoch, share.step)
        # a short minibatch is cut where a full one is: a replica's samples lie at the same places in all of them
        full = self.batches.slice_of(self._batch_size, share.part, share.n_parts)
        mine = slice(min(full.start, len(indices)), min(full.stop, len(indices)))
        seen = position.epoch * self.feed.n_samples + share.step * self._batch_size
        v, v_spread = self._read(indices[mine], seen + mine.start)
        update = position.epoch * self.batches.n_steps + share.step
        return Minibatch(v, v_spread, indices[mine], seen + mine.start, len(indices), update, mine.start)

    def _read(self, samples: IntArray, first_draw: int) -> tuple[Activations, Packed | None]:
        faults.at("read data")
        if self._packed and self._spread is not None:
            spread = self._spread.states(samples, first_draw)
            own = self.network.rbms[0].weights.owned_in_spread
            return Packed(spread.words[own], spread.batch), spread
        if self._packed:
            return self.feed.states(samples, first_draw), None
        v = self._v.buffer(self.feed.n_units, len(samples), self.network.dtype)
        self.feed.fill(samples, first_draw, v)
        return v, None

    def count(self, batch: Minibatch, **sums: float) -> None:
        """The update of ``batch`` is done: add to the epoch's sums."""
        faults.at("step")
        position = self.position
        for name, value in {**sums, "samples": batch.n_mine}.items():
            position.sums[name] = position.sums[name]._replace(value=position.sums[name].value + value)

    def synchronise(self) -> Record:
        """The segment is done on all replicas: advance the position.  Collective over the grid."""
        position = self.position
        self.run.checks.end_segment()
        samples = min(self._stop * self._batch_size, self.feed.n_samples) - self._first * self._batch_size
        position.step = self._stop
        position.seconds += time.perf_counter() - self._started
        return replace(self._record("step", position.epoch + 1, samples, {}), n_updates=self._stop - self._first)

    @property
    def n_before(self) -> int:
        """Updates done before the last segment."""
        return self.n_done - (self._stop - self._first)

    def end_epoch(self, measures: dict[str, float]) -> Record:
        """All minibatches of the epoch are done: begin the next."""
        position = self.position
        samples = min(position.step * self._batch_size, self.feed.n_samples)
        position.epoch, position.step, position.sums = position.epoch + 1, 0, {}
        return self._record("epoch", position.epoch, samples, measures)

    def _record(self, kind: str, epoch: int, samples: int, measures: dict[str, float]) -> Record:
        layer = recorded_layer(self.stage, self.position.layer)
        done = min(self.n_done, self.n_updates)
        return Record(kind, self.stage, layer, epoch, done, self.n_updates, samples, self.position.seconds, measures)


def check_position(position: Position, stage: str, n_samples: int, batch_size: int) -> None:
    """Raise SpecError where training stands in the middle of a stage that these minibatches do not continue.

    n_samples   of the training split; batch_size: of the minibatches of ``stage``
    """
    begun = position.epoch > 0 or position.step > 0
    if begun and position.n_samples not in (0, n_samples):
        raise SpecError(
            f"training stands in epoch {position.epoch + 1} over {position.n_samples} samples, but the data have "
            f"{n_samples}; go on with the same data, --test-fraction and --validation-fraction"
        )
    if position.step and position.batch_size not in (0, batch_size):
        name = "--batch-size" if stage == "pretrain" else "--finetune-batch-size"
        raise SpecError(
            f"training stands in the middle of an epoch with minibatches of {position.batch_size}, but {name} "
            f"is {batch_size}; go on with {name} {position.batch_size}"
        )
