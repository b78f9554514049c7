"""Peers of ``bench cd1`` and ``pcd``: the same step in NumPy, PyTorch and others, measured in turn with the engine.

Every peer runs in a process of its own, so that neither its idle pools of threads nor its memory slow the engine down::

    names = available(names_of("all", ranks=2))
    with ExitStack() as stack:
        sgemm = stack.enter_context(sgemm_pair())
        sides = [stack.enter_context(peer(name, (256, 784, 4096), threads=2)) for name in names]
        outcome = race(engine_round, sides, rounds=7, seconds=0.5, sgemm=sgemm)

Importing this package loads neither NumPy nor any of the peers.
"""

from __future__ import annotations

from modelpar.bench.peers.kinds import KINDS, NAMES, WORDS, WORDS_OF, available, missing, names_of
from modelpar.bench.peers.process import Peer, PeerError, peer, sgemm_pair
from modelpar.bench.peers.race import LEAST_RATIO, race

__all__ = [
    "KINDS", "LEAST_RATIO", "NAMES", "WORDS", "WORDS_OF", "Peer", "PeerError", "available", "missing", "names_of",
    "peer", "race", "sgemm_pair",
]  # fmt: skip
