"""Ranks on cores of their own: ``--bind``.

A rank that is bound runs on as many cores as it has threads, one processor of each, next to each other; so do all of
its threads, whoever starts them afterwards.  The system still chooses which thread runs on which of them.

This module loads neither NumPy nor MPI.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelpar.comm.cores import Placement, own_cores
from modelpar.comm.topology import Core, cores_of
from modelpar.errors import SpecError

if TYPE_CHECKING:
    from mpi4py import MPI

BINDINGS = ("none", "core", "auto")


def bind(node: MPI.Comm, placement: Placement, how: str) -> tuple[int, ...]:
    """Bind this rank, and return the processors that it is bound to; nothing where it is not.

    node   the ranks of the node, each with its placement; all bring the same ``how``, one of BINDINGS
    how    ``none``; ``core``; ``auto``: as ``core`` where there are cores enough, else as ``none``

    Ranks that their launcher has bound, each to its own processors, stay as they are.  Collective over ``node``.
    Raises SpecError, on every rank of the node, for ``core`` where there are too few cores, or no way to bind.
    """
    if how == "none":
        return ()
    given = node.allgather((sorted(own_cores()), placement.threads, placement.cores))
    masks, threads, cores = zip(*given, strict=True)
    if not hasattr(os, "sched_setaffinity"):
        if how == "core":
            raise SpecError("--bind core is not possible on this system; use --bind none")
        return ()
    if any(mask != masks[0] for mask in masks):
        return tuple(masks[node.rank])
    chosen = shares(cores_of(masks[0]), threads)
    if chosen is None or placement.ranks > node.size or sum(threads) > min(cores):
        if how == "core":
            raise SpecError(
                f"--bind core needs a core for each of {sum(threads)} threads ({placement.ranks} rank(s)), but this "
                f"node has {min(cores)} core(s) for them; use fewer ranks or --threads, or --bind auto"
            )
        return ()
    mine = chosen[node.rank]
    os.sched_setaffinity(0, mine)
    return mine


def shares(cores: Sequence[Core], threads: Sequence[int]) -> list[tuple[int, ...]] | None:
    """The processors of each rank, one of each of so many cores; None where there are too few cores."""
    if sum(threads) > len(cores):
        return None
    first = [min(core) for core in cores]
    starts = [sum(threads[:rank]) for rank in range(len(threads))]
    return [tuple(first[start : start + n]) for start, n in zip(starts, threads, strict=True)]
