"""How the wish of one rank to end reaches the rank that hands out tickets, while replicas go at their own pace.

A rank that was asked to end (``Status.stop``) tells the shard of its replica that speaks for it, and a server tells the
first replica.  Elsewhere all ranks come to a record after every step, and agree there.
"""

from __future__ import annotations

from mpi4py import MPI

from modelpar.comm.grid import Grid

TAG = 72


class StopNotes:
    """The notes that this rank sends and receives in one segment of steps."""

    def __init__(self, grid: Grid) -> None:
        self._grid, self._told = grid, False
        self._sent: list[MPI.Request] = []

    def begin_segment(self) -> None:
        self._told = False

    def heard(self) -> bool:
        """Whether this rank is to hand out no more steps than are begun; true once in a segment.  Not collective."""
        grid = self._grid
        if grid.n_servers and grid.replica == 0:
            self._receive(grid.column_comm)
        if grid.shard == 0:
            self._receive(grid.shard_comm)
        if self._told or not grid.status.stop:
            return False
        self._told = True
        if grid.shard == 0:
            return True
        self._send(grid.shard_comm)
        return False

    def tell_first_replica(self) -> None:
        """Of a server that was asked to end, once."""
        if self._grid.status.stop and not self._told:
            self._told = True
            self._send(self._grid.column_comm)

    def _send(self, comm: MPI.Comm) -> None:
        self._sent.append(comm.isend(self._grid.status.stop, 0, TAG))

    def _receive(self, comm: MPI.Comm) -> None:
        while comm.Iprobe(tag=TAG):
            self._grid.status.stop = comm.recv(tag=TAG)
