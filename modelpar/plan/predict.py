"""The time of an update on a grid, by parts, from its pieces and a machine.

Shards compute on their own between two exchanges, and an exchange begins when its last member is there: the slowest
shard's time counts from one to the next, and what the others spend is waiting.  Nor does any rank take the same time in
every step, and of n ranks the slowest counts: with a coefficient of variation s, 1 + s z(n) times the mean, where z is
the mean of the largest of n standard normal numbers (Blom 1958).

An exchange within a node, or between nodes that have one rank each, takes what was measured of its verb, where it was;
all others follow from messages (``collectives``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from modelpar.plan.collectives import Placement, seconds
from modelpar.plan.machine import Curve, Machine, of_members
from modelpar.plan.steps import PARTS, Compute, Move, Step

WAITING = "waiting"
CALL = 1.5e-5  # seconds of Python around an exchange, which what was measured of verbs has in it
_OTHER_KINDS = {"bits": ("integers", "floats"), "integers": ("floats", "bits"), "floats": ("integers", "bits")}


@dataclass(frozen=True)
class Prediction:
    """Seconds of an update.

    parts   of a rank on average, by what it does: ``PARTS``, an exchange as ``gather shard``, and waiting for others;
            their sum is ``seconds``
    """

    seconds: float
    parts: Mapping[str, float]


def predict(step: Step, placement: Placement, machine: Machine, mpi: str = "mpich") -> Prediction:
    """The time of one update of all ranks of a grid."""
    n_replicas, n_shards = placement.nodes.shape
    parts = dict.fromkeys(PARTS, 0.0)
    clock = np.zeros(n_shards)  # of each shard since the last exchange of all shards
    since = np.zeros(n_shards)  # computed since the last exchange of any kind
    total = 0.0
    hidden: list[tuple[int, float]] = []  # (Computes until it is needed, seconds left of an exchange)
    for piece in step:
        if isinstance(piece, Compute):
            clock += piece.seconds
            since += piece.seconds
            parts[piece.part] += float(piece.seconds.mean())
            passed = float(piece.seconds.max(initial=0))
            hidden = [(n - 1, max(0.0, left - passed)) for n, left in hidden]
            clock += max((left for n, left in hidden if n == 0), default=0.0)
            hidden = [(n, left) for n, left in hidden if n > 0]
            continue
        members = n_shards if piece.axis == "shard" else n_replicas
        clock += since * machine.scatter * largest_of(members)
        since[:] = 0
        name, took = f"{piece.verb} {piece.axis}", _seconds(piece, placement, machine, mpi)
        if piece.behind:
            hidden.append((piece.behind, took))
            continue
        if piece.axis == "shard":
            total += float(clock.max(initial=0)) + took
            clock[:] = 0
        else:
            clock += took
        parts[name] = parts.get(name, 0.0) + took
    total += float(clock.max(initial=0)) + max((left for _, left in hidden), default=0.0)
    return Prediction(total, {**parts, WAITING: max(0.0, total - sum(parts.values()))})


def largest_of(n: int) -> float:
    """The mean of the largest of ``n`` standard normal numbers, about (Blom 1958)."""
    return 0.0 if n < 2 else float(ndtri((n - 0.375) / (n + 0.25)))


def _seconds(move: Move, placement: Placement, machine: Machine, mpi: str) -> float:
    """Of one exchange, as measured where all its members are on one node, or no node has more than one rank."""
    nodes = placement.nodes if move.axis == "shard" else placement.nodes.T
    members = nodes.shape[1]
    if members == 1:
        return 0.0
    within, between = bool((nodes == nodes[:, :1]).all()), len(np.unique(nodes)) == nodes.size
    if within or between:
        curve = _curve(move, members, machine.verbs, between=between)
        if curve is not None:
            return curve.at(float(np.max(move.received)))
    return CALL + seconds(move, placement, machine, mpi)


def _curve(move: Move, members: int, verbs: Mapping[str, Curve], *, between: bool) -> Curve | None:
    verb = "allreduce" if move.verb == "average" else move.verb
    kinds = (move.kind, *_OTHER_KINDS[move.kind])
    names = (of_members(f"{verb} {kind}", members, between=between) for kind in kinds)
    return next((verbs[name] for name in names if name in verbs), None)
