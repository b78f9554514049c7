"""The ranks of one training run, and what becomes of them when one is lost."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mpi4py import MPI

from modelpar.cli.options import GridSpec
from modelpar.comm.grid import Grid, grid_shape
from modelpar.errors import ModelparError
from modelpar.training.recovery import SurvivorState, regroup, survivor_state

if TYPE_CHECKING:
    from modelpar.cli.train import Attempt

MISTAKE = 2
NEWS = 0.5  # seconds that the news of a lost rank takes at most


@dataclass(frozen=True)
class Crew:
    """Those that train, and what they have brought with them.

    comm      all of them, replica by replica, then servers
    world     the group in which ranks are named
    survivor  what this rank has of the network, where one was trained before
    run_dir   the directory that training has begun in
    told      what happened, for people
    """

    comm: MPI.Comm
    world: MPI.Group
    model_shards: int | None
    replicas: int | None
    servers: int
    survivor: SurvivorState | None = None
    run_dir: Path | None = None
    told: str = ""

    @classmethod
    def of(cls, comm: MPI.Comm, asked: GridSpec) -> Crew:
        return cls(comm, comm.group, asked.model_shards, asked.replicas, asked.servers)

    @property
    def has_lost(self) -> bool:
        return bool(self.told)

    @property
    def has_begun(self) -> bool:
        """Whether there is a run directory of its own."""
        return self.run_dir is not None

    def _has_lost(self, error: Exception) -> bool:
        """Whether ``error`` comes of a lost rank: of MPI's own, or of what a broken collective has handed over."""
        deadline = time.monotonic() + NEWS
        while not isinstance(error, MPI.Exception):
            try:
                self.comm.Iprobe()
            except MPI.Exception:
                return True
            if self.comm.Is_revoked():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def without_lost(self, error: Exception, attempt: Attempt) -> Crew:
        """Those that go on after ``error``; a rank that does not, because its replica is gone, ends here.

        Collective over the ranks that are left.  Raises the error where none was lost, or where MPI does not live
        with that; ModelparError where no replica is whole.
        """
        if not Grid.tolerant or not self._has_lost(error):
            raise error
        grid, session = attempt.grid, attempt.session
        survivor = None
        if session is not None and session.snapshots is not None:
            survivor = survivor_state(session.network, session.snapshots)
        if grid is not None:
            grid.abandon()
        n_shards, _ = grid_shape(self.comm.size - self.servers, self.model_shards, self.replicas, self.servers)
        with ends_by_itself(self, always=True):
            left = regroup(self.comm, grid, n_shards, self.world)
        if left.comm == MPI.COMM_NULL:
            leave(0)
        # a rank that was not so far goes back with the others to where all of them were
        together = left.comm.allgather((survivor is not None, session.directory.path if session else None))
        run_dir = next((path for _, path in together if path is not None), None)
        if not all(has for has, _ in together[: left.comm.size - left.servers]):
            survivor = None
        if left.comm.rank == 0:  # the one that speaks may be new
            sys.stdout = sys.__stdout__
        idle = f", and rank {_listed(left.idle)}, of the same replica, stops" if left.idle else ""
        told = f"rank {_listed(left.lost)} was lost{idle}; going on with {left.replicas} replica(s)"
        return Crew(
            left.comm, self.world, n_shards, left.replicas, left.servers, survivor, run_dir or self.run_dir, told
        )


@contextlib.contextmanager
def ends_by_itself(crew: Crew, *, always: bool = False) -> Iterator[None]:
    """Where a rank was lost, its communicator is no longer there to agree on an end: a mistake is told and ended here.

    always   even where none was lost before
    """
    try:
        yield
    except ModelparError as error:
        if not crew.has_lost and not always:
            raise
        if crew.comm.rank == 0 or always:
            print(f"modelpar: error: {error}", file=sys.stderr, flush=True)
        leave(MISTAKE)


def leave(status: int) -> NoReturn:
    """End this process without ending MPI, which would wait for ranks that were lost."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
