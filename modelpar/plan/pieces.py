"""The pieces of an update: computing on every shard, and exchanges with their bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# of the calls of a step: what an exchange in it takes longer than when it is repeated alone, on a node and between them
NEAR, FAR = 0.04, 0.13
PARTS = ("products", "sampling", "statistics", "update", "calls")


@dataclass(frozen=True)
class Compute:
    """Work of every shard; all replicas have the same, but in a simulation of what was measured of each."""

    part: str  # one of PARTS
    seconds: FloatArray  # (n_shards,), or (n_replicas, n_shards)


@dataclass(frozen=True)
class Move:
    """An exchange along one axis of the grid.

    verb      as ``Traffic`` has them: gather, reduce, halo, allreduce, average, fetch, push
    kind      bits, integers, floats
    received  (n_shards,) bytes that a rank of each shard receives, or pushes; the average over updates and replicas of
              what does not happen in each update, or differs between replicas
    pairs     of a halo: CSR (n_shards, n_shards), bytes from the row's shard to the column's
    behind    how many Computes pass, from where it is started, until somebody needs it
    """

    verb: str
    axis: str
    kind: str
    received: FloatArray
    pairs: Any = None
    behind: int = 0


Piece = Compute | Move
Step = tuple[Piece, ...]


def with_calls(pieces: Sequence[Piece], call: float, n_shards: int, far: Collection[str] = ()) -> Step:
    """The pieces after what no size changes: ``call`` seconds, and a part of them for each exchange.

    far   axes along which ranks are on several nodes
    """
    of_exchanges = sum(FAR if piece.axis in far else NEAR for piece in pieces if isinstance(piece, Move))
    return Compute("calls", np.full(n_shards, call * (1 + of_exchanges))), *pieces


def received(step: Step) -> dict[str, dict[str, dict[str, float]]]:
    """Bytes of one replica's ranks together, ``{axis: {verb: {kind: bytes}}}`` as ``Traffic`` nests them."""
    nested: dict[str, dict[str, dict[str, float]]] = {"shard": {}, "replica": {}}
    for piece in step:
        if isinstance(piece, Move) and piece.received.sum():
            kinds = nested[piece.axis].setdefault(piece.verb, {})
            kinds[piece.kind] = kinds.get(piece.kind, 0.0) + float(piece.received.sum())
    return nested
