"""The ranks of one training run: those that are left go on when one is lost."""

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

from modelpar.cli.grid_choice import ChosenGrid
from modelpar.comm.grid import Grid, grid_shape
from modelpar.errors import ModelparError
from modelpar.training.recovery import SurvivorState, regroup, survivor_state

if TYPE_CHECKING:
    from modelpar.cli.train import Attempt

NOTICE = 0.5  # seconds in which MPI reports a lost rank at the latest


@dataclass(frozen=True)
class Crew:
    """The ranks that train, and the state that they bring from an earlier grid.

    comm      all of them, replica by replica, then servers
    world     the group in which ranks are named
    survivor  this rank's part of the network, where one was trained before
    run_dir   the directory that training has begun in
    message   what happened, for people; empty where no rank was lost
    layout    of each RBM's matrix, where the planner has chosen it with the grid
    """

    comm: MPI.Comm
    world: MPI.Group
    model_shards: int | None
    replicas: int | None
    servers: int
    survivor: SurvivorState | None = None
    run_dir: Path | None = None
    message: str = ""
    layout: tuple[str, ...] | None = None

    @classmethod
    def of(cls, comm: MPI.Comm, chosen: ChosenGrid, servers: int) -> Crew:
        return cls(comm, comm.group, chosen.model_shards, chosen.replicas, servers, layout=chosen.layout)

    @property
    def has_lost(self) -> bool:
        return bool(self.message)

    @property
    def has_begun(self) -> bool:
        """Whether this crew has begun a run directory."""
        return self.run_dir is not None

    def _has_lost(self, error: Exception) -> bool:
        """Whether ``error`` is due to a lost rank: an error of MPI, or of the data of a broken collective."""
        deadline = time.monotonic() + NOTICE
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
        """The crew that goes on after ``error``; a rank whose replica is incomplete ends here.

        Collective over the ranks that are left.  Raises the error where none was lost, or where MPI does not tolerate
        that; ModelparError where no replica is complete.
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
        # where some ranks had no network yet, none brings one
        states = left.comm.allgather((survivor is not None, session.directory.path if session else None))
        run_dir = next((path for _, path in states if path is not None), None)
        if not all(has for has, _ in states[: left.comm.size - left.servers]):
            survivor = None
        if left.comm.rank == 0:  # rank 0 prints, and it may be another process now
            sys.stdout = sys.__stdout__
        idle = f", and rank {_listed(left.idle)}, of the same replica, stops" if left.idle else ""
        message = f"rank {_listed(left.lost)} was lost{idle}; going on with {left.replicas} replica(s)"
        return Crew(
            left.comm, self.world, n_shards, left.replicas, left.servers, survivor, run_dir or self.run_dir, message
        )


@contextlib.contextmanager
def ends_by_itself(crew: Crew, *, always: bool = False) -> Iterator[None]:
    """Where a rank was lost, ranks cannot agree on an end by their communicator: print a mistake and end here.

    always   even where none was lost before
    """
    try:
        yield
    except ModelparError as error:
        if not crew.has_lost and not always:
            raise
        if crew.comm.rank == 0 or always:
            print(f"modelpar: error: {error}", file=sys.stderr, flush=True)
        leave(error.exit_status)


def leave(status: int) -> NoReturn:
    """End this process without MPI_Finalize, which would wait for ranks that were lost."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
