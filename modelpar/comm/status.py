"""The state of this rank: its step, its phase, and the verb in which it waits; read by another thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class Status:
    """Written by the thread that trains, a few attributes at a time; any other thread may read it, without a lock.
    Only ``stop`` is written by another one.

    beat    grows with every verb, step and phase: as long as it grows, this rank moves
    steady  whether what this rank does may last: it counts as moving as long as its process runs
    verb    in which this rank waits for others: gather, reduce, allreduce, ...; empty while it computes
    since   when it began to wait, by ``time.monotonic``
    stop    the signal by which this rank was asked to end at the next step; 0 where it was not

    Verbs are not nested: the inner one would end the outer one.
    """

    def __init__(self) -> None:
        self.beat = 0
        self.stage, self.layer, self.epoch, self.step = "", -1, 0, 0
        self.doing, self.steady = "starting", False
        self.verb, self.since = "", time.monotonic()
        self.stop = 0
        self._waiting = _Waiting(self)  # one for all waits: this is entered several times in every step

    def waiting(self, verb: str) -> _Waiting:
        """A block in which this rank waits for others in ``verb``.  Costs about a third of a microsecond."""
        self.verb, self.since = verb, time.monotonic()
        return self._waiting

    @contextmanager
    def phase(self, doing: str, *, steady: bool = False) -> Iterator[None]:
        """A block in which this rank does not train: scoring, saving, opening data, ..."""
        before = self.doing, self.steady
        self.doing, self.steady = doing, steady
        self.beat += 1
        try:
            yield
        finally:
            self.doing, self.steady = before
            self.beat += 1

    def begin_step(self, stage: str, layer: int, epoch: int, step: int) -> None:
        """This rank is in a step of training, both counted from 1; the one before it is done."""
        self.stage, self.layer, self.epoch, self.step, self.doing = stage, layer, epoch, step, "training"
        self.beat += 1

    def describe(self) -> str:
        """``RBM 0, epoch 2, step 17, training: waits in gather for 10.2 s``"""
        verb, since = self.verb, self.since
        step = ""
        if self.stage:
            name = f"RBM {self.layer}" if self.stage == "pretrain" else "fine-tuning"
            step = f"{name}, epoch {self.epoch}, step {self.step}, "
        wait = f"waits in {verb} for {time.monotonic() - since:.1f} s" if verb else "waits in none of the verbs"
        return f"{step}{self.doing}: {wait}"


class _Waiting:
    """The end of a wait is a beat."""

    __slots__ = ("_status",)

    def __init__(self, status: Status) -> None:
        self._status = status

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.verb = ""
        self._status.beat += 1
