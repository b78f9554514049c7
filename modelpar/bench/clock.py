"""The time of calls with some threads, in one rank, in several, or in several threads of a process at once.

Works are measured in turn, round after round, and of each the median of the faster half counts: what disturbs a machine
for a moment slows no work in particular.  Long ones are measured one after another, a few times each, and of two
readings the mean counts.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from mpi4py import MPI

from modelpar.bench.works import Case
from modelpar.comm.cores import limited
from modelpar.kernels import threads as pool

ROUNDS = 5
LEAST = 1e-3  # seconds that are worth a reading of the clock
LONG = 3e-3  # seconds of a call of which FEW rounds are enough: it evens out by itself what disturbs a machine
FEW, FEW_UPDATES = 2, 3  # the second of whole updates
COLD = 10  # times as long a first call may take, at most, as those after it
SINGLE, LEAST_SINGLE = 16, 6  # calls for their scatter, and the fewest
SCATTER = 0.1  # seconds that more than the fewest may take
UNDISTURBED = 0.9  # of its time that a process must have had for what it measured to be kept


class Clock:
    """Measures cases with so many threads, in so many threads or ranks at the same time.

    scatter   relative deviations of updates from each other
    spent     seconds of the processor and of the clock, of one thread alone: other programs make them differ
    """

    def __init__(self, n_threads: int, at_once: int, comm: MPI.Comm) -> None:
        self.n_threads, self.at_once, self.comm = n_threads, at_once, comm
        self.scatter: list[float] = []
        self.spent = [0.0, 0.0]

    def median_of(self, cases: list[Case], least: float | None = None) -> list[float]:
        """Seconds of one call of each.  Collective over the ranks that compute at once.

        Of one thread that other programs disturb, seconds of the processor, times as many of the clock as it had for
        each: which of the readings was disturbed is chance.

        least   seconds of a reading
        """
        before = list(self.spent)
        with limited(self.n_threads, self.n_threads):
            times: list[list[float]] = [[] for _ in cases]
            of_processor: list[list[float]] = [[] for _ in cases]

            def read(i: int, calls: int) -> None:
                if self.comm.size > 1:
                    self.comm.Barrier()
                started, worked = time.perf_counter(), time.thread_time()
                for _ in range(calls):
                    cases[i].run()
                passed, worked = time.perf_counter() - started, time.thread_time() - worked
                times[i].append(passed / calls)
                of_processor[i].append(worked / calls)
                if self.n_threads == 1:
                    self.spent[0] += worked
                    self.spent[1] += passed

            in_turn = []
            for i, case in enumerate(cases):
                calls, rounds = self.comm.bcast(self._amount(case, least))
                if rounds == ROUNDS:
                    in_turn.append((i, calls))
                for _ in range(rounds % ROUNDS):  # one after another, with what it leaves in the caches
                    read(i, calls)
            for _ in range(ROUNDS):
                for i, calls in in_turn:
                    read(i, calls)
        worked, passed = (now - then for now, then in zip(self.spent, before, strict=True))
        disturbed = 0 < worked < UNDISTURBED * passed  # 0: of several threads, or by a clock that is too coarse
        slower = passed / worked if disturbed else 1.0
        result = [_of_faster_half(found) * slower for found in (of_processor if disturbed else times)]
        return self.comm.allreduce(np.array(result)).__truediv__(self.comm.size).tolist()  # type: ignore[no-any-return]

    def scatter_of(self, case: Case) -> None:
        """Let ``scatter`` know of the calls of a case one by one: by quartiles, which a rare delay does not move."""
        times: list[float] = []
        with limited(self.n_threads, self.n_threads):
            while len(times) < LEAST_SINGLE or (len(times) < SINGLE and sum(times) < SCATTER):
                started = time.perf_counter()
                case.run()
                times.append(time.perf_counter() - started)
        low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
        self.scatter.append(float((high - low) / 1.349 / max(middle, 1e-12)))

    def _amount(self, case: Case, least: float | None = None) -> tuple[int, int]:
        """(calls that are worth a reading, readings)"""
        seconds = 0.0
        for _ in range(2):  # the first call warms everything up
            if seconds > COLD * LONG:
                break
            started = time.perf_counter()
            case.run()
            seconds = max(time.perf_counter() - started, 1e-7)
        calls = max(1, math.ceil((LEAST if least is None else least) / seconds))
        few = FEW if least is None else FEW_UPDATES
        return calls, min(few, ROUNDS) if seconds > LONG else ROUNDS

    def seconds_of(self, make: Callable[[], list[Case]]) -> list[tuple[Case, float]]:
        """Of all cases that ``make`` makes, each time with operands of their own for those that compute at once.

        The cases of the result are without theirs: they would be kept as long as the result.
        """
        if self.at_once == 1:
            cases = make()
            return _without_operands(cases, self.median_of(cases))
        others = [make() for _ in range(self.at_once)]
        found: list[list[float]] = [[] for _ in others]
        gate = threading.Barrier(self.at_once)
        clocks: list[_Gated] = []
        for _ in others:
            clocks.append(_Gated(self.n_threads, gate, clocks[0] if clocks else None))

        errors: list[BaseException] = []

        def measure(i: int) -> None:
            try:
                with pool.limited(self.n_threads):
                    found[i] = clocks[i].median_of(others[i])
            except threading.BrokenBarrierError:  # another one has failed
                pass
            except BaseException as error:
                errors.append(error)
                gate.abort()

        beside = [threading.Thread(target=measure, args=(i,)) for i in range(self.at_once)]
        for thread in beside:
            thread.start()
        for thread in beside:
            thread.join()
        if errors:
            raise errors[0]
        return _without_operands(others[0], np.mean(found, axis=0).tolist())


class _Gated(Clock):
    """One thread of several that measure the same cases at the same time."""

    def __init__(self, n_threads: int, gate: threading.Barrier, first: _Gated | None) -> None:
        super().__init__(n_threads, 1, MPI.COMM_SELF)
        self._gate, self._first = gate, first or self
        self._amounts: list[tuple[int, int]] = []

    def median_of(self, cases: list[Case], least: float | None = None) -> list[float]:
        times: list[list[float]] = [[] for _ in cases]

        def read(i: int, calls: int) -> None:
            self._gate.wait()
            started = time.perf_counter()
            for _ in range(calls):
                cases[i].run()
            times[i].append((time.perf_counter() - started) / calls)

        in_turn = []
        for i, case in enumerate(cases):
            self._amounts.append(self._amount(case, least))
            self._gate.wait()
            calls, rounds = self._first._amounts[i]  # one for all, or some would wait for ever
            if rounds == ROUNDS:
                in_turn.append((i, calls))
            for _ in range(rounds % ROUNDS):
                read(i, calls)
        for _ in range(ROUNDS):
            for i, calls in in_turn:
                read(i, calls)
        return [_of_faster_half(found) for found in times]


def _without_operands(cases: list[Case], seconds: list[float]) -> list[tuple[Case, float]]:
    return [(replace(case, run=_nothing), value) for case, value in zip(cases, seconds, strict=True)]


def _nothing() -> None:
    pass


def _of_faster_half(found: list[float]) -> float:
    return statistics.median(sorted(found)[: len(found) // 2 + 1])
