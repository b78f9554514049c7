"""Steps of training replayed over any number of ranks: who computes, who sends, who waits, and for what.

Every rank has a clock.  Computing moves it on by the rank's seconds times a factor drawn anew each time, lognormal with
the machine's scatter.  A collective is its messages (``plan.collectives``), round by round through the devices of the
nodes (``plan.queues``): a rank begins a round when it has what the round before brings it, and a long message waits
until its receiver is there.  So nothing is assumed to be a barrier, and delays travel as far as messages carry them: a
late rank holds up all of a ring, but only its neighbours of a halo, and theirs one exchange later.

What ranks do besides computing is told apart by replaying the same steps three times: with every rank's seconds the
mean of all ranks (what is left is exchange), with each its own (more: imbalance), and with scatter (more: scatter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelpar.plan.collectives import ADD, Placement, all_rounds
from modelpar.plan.machine import Machine
from modelpar.plan.queues import EAGER, Queues
from modelpar.plan.rounds import FloatArray
from modelpar.plan.steps import Compute, Move, Step


@dataclass(frozen=True)
class Simulated:
    """Seconds of a step, in the mean over the steps that were measured.   The parts add up to ``step``.

    compute    the mean rank's
    exchange   what messages take where all ranks compute equally long
    imbalance  waiting for ranks that have more to compute in every step
    scatter    waiting for ranks that take longer this time
    range      (shortest, longest) of the steps
    moves      by (verb, axis): the mean rank's seconds from entering the verb until it returns, waiting for others
               included
    """

    step: float
    compute: float
    exchange: float
    imbalance: float
    scatter: float
    range: tuple[float, float]
    moves: dict[tuple[str, str], float]

    @property
    def parts(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("compute", "exchange", "imbalance", "scatter")}


class Replay:
    """Ranks with clocks, and the devices between them.

    clocks  (ranks,) seconds; after ``run`` when each rank has finished
    """

    def __init__(self, machine: Machine, placement: Placement, mpi: str = "mpich", add: float = ADD) -> None:
        self.machine, self.placement, self.mpi, self.add = machine, placement, mpi, add
        nodes = placement.node_of_rank()
        self.n_ranks = placement.nodes.size
        self.clocks = np.zeros(len(nodes))  # servers have clocks too, which nothing moves
        self.queues = Queues(machine, nodes)
        self.moves: dict[tuple[str, str], float] = {}

    def run(self, step: Step, scatter: float, rng: np.random.Generator) -> None:
        """One step of all ranks."""
        behind: list[tuple[int, FloatArray]] = []  # (Computes until it is needed, when it is there)
        for piece in step:
            if isinstance(piece, Compute):
                self._compute(piece, scatter, rng)
                for left, arrived in behind:
                    if left == 1:
                        np.maximum(self.clocks, arrived, out=self.clocks)
                behind = [(left - 1, arrived) for left, arrived in behind if left > 1]
            elif piece.behind:
                behind.append((piece.behind, self._moved(piece)))
            else:
                before = self.clocks
                self.clocks = self._moved(piece)
                key = piece.verb, piece.axis
                spent = float((self.clocks - before)[: self.n_ranks].mean())
                self.moves[key] = self.moves.get(key, 0.0) + spent
        for _, arrived in behind:
            np.maximum(self.clocks, arrived, out=self.clocks)

    def _compute(self, piece: Compute, scatter: float, rng: np.random.Generator) -> None:
        seconds = np.broadcast_to(piece.seconds, self.placement.nodes.shape).reshape(-1)
        if scatter:  # lognormal with mean 1 and this coefficient of variation
            variance = np.log1p(scatter**2)
            seconds = seconds * rng.lognormal(-variance / 2, np.sqrt(variance), len(seconds))
        self.clocks = self.clocks.copy()
        self.clocks[: self.n_ranks] += seconds

    def _moved(self, move: Move) -> FloatArray:
        """The clocks after a move."""
        clocks, served = self.clocks.copy(), move.verb in ("fetch", "push")
        for source, target, n_bytes, pieces, adds in all_rounds(move, self.placement, self.mpi):
            full = n_bytes > 0
            if not full.all():
                if not full.any():
                    continue
                source, target, n_bytes = source[full], target[full], n_bytes[full]
                pieces = pieces if isinstance(pieces, float) else pieces[full]
            ready = clocks[source]
            if served:  # windows: whoever fetches or pushes acts alone, at its own clock
                worker = target if move.verb == "fetch" else source
                ready = clocks[worker]
            elif move.verb != "halo" and n_bytes.max() > EAGER:  # a halo's receives are posted before
                ready = np.where(n_bytes > EAGER, np.maximum(ready, clocks[target]), ready)
            left, arrived = self.queues.deliver(source, target, n_bytes, pieces, ready)
            if served:
                np.maximum.at(clocks, worker, arrived)
                continue
            np.maximum.at(clocks, source, left)
            np.maximum.at(clocks, target, arrived)
            if adds:
                np.add.at(clocks, target, self.add * n_bytes)
        return clocks


def cycle_of(step: Step, period: int, verbs: Sequence[str] = ("average",)) -> list[Step]:
    """Steps as they are taken, from one in which each has its share of what happens every ``period`` steps."""
    if period == 1:
        return [step]
    seldom = [isinstance(piece, Move) and piece.verb in verbs for piece in step]
    usual = tuple(piece for piece, rare in zip(step, seldom, strict=True) if not rare)
    last = tuple(
        replace(piece, received=piece.received * period) if isinstance(piece, Move) and rare else piece
        for piece, rare in zip(step, seldom, strict=True)
    )
    return [usual] * (period - 1) + [last]


def simulate(
    steps: Sequence[Step], machine: Machine, placement: Placement, *, mpi: str = "mpich", repeats: int = 3,
    warm_up: int = 1, seed: int = 0, add: float = ADD,
) -> Simulated:  # fmt: skip
    """The mean step of a cycle of ``steps``, which are taken one after the other: one; or with an average at the end.

    repeats, warm_up   of the cycle: those that are measured, after those that are not
    add                seconds to add a byte that has come to one that is there
    Raises ModelparError where the collectives of ``mpi`` are not known.
    """
    computes = [piece for step in steps for piece in step if isinstance(piece, Compute)]
    compute = sum(float(piece.seconds.mean()) for piece in computes) / len(steps)

    def replayed(steps: Sequence[Step], scatter: float) -> _Replayed:
        replay, rng = Replay(machine, placement, mpi, add), np.random.default_rng(seed)
        return _replayed(replay, steps, scatter, rng, repeats if scatter else 1, warm_up)

    balanced = [tuple(_balanced(piece) if isinstance(piece, Compute) else piece for piece in step) for step in steps]
    last = replayed(balanced, 0.0)
    even = uneven = last[0]
    if any(np.ptp(piece.seconds) > 0 for piece in computes):
        last = replayed(steps, 0.0)
        uneven = last[0]
    if machine.scatter:
        last = replayed(steps, machine.scatter)
    mean, times, moves = last
    span = float(times.min()), float(times.max())
    return Simulated(mean, compute, even - compute, uneven - even, mean - uneven, span, moves)


def _balanced(piece: Compute) -> Compute:
    return replace(piece, seconds=np.full_like(piece.seconds, piece.seconds.mean()))


_Replayed = tuple[float, FloatArray, dict[tuple[str, str], float]]


def _replayed(
    replay: Replay, steps: Sequence[Step], scatter: float, rng: np.random.Generator, repeats: int, warm_up: int
) -> _Replayed:
    """(mean seconds of a step, (repeats,) of each cycle, seconds of the moves of a step).

    A cycle's seconds are those of the mean rank: where ranks wait for each other they are those of all.
    """
    times: list[float] = []
    for cycle in range(warm_up + repeats):
        if cycle == warm_up:
            replay.moves.clear()
        before = replay.clocks
        for step in steps:
            replay.run(step, scatter, rng)
        times.append(float((replay.clocks - before)[: replay.n_ranks].mean()) / len(steps))
    measured = np.array(times[warm_up:])
    return float(measured.mean()), measured, {key: x / repeats / len(steps) for key, x in replay.moves.items()}
