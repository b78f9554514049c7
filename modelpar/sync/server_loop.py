"""The loop of a server rank, which hosts its part of the windows and enters MPI so that nobody waits for it.

The first replica's rank of the same shard tells it when windows are made and given back.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.comm.grid import Grid
from modelpar.errors import ModelparError
from modelpar.sync.stop_notes import StopNotes
from modelpar.sync.windows import SharedArrays

TAG = 71
NAP = 0.0003  # seconds between two probes: a request from another node waits half of that on average


def hosts(grid: Grid) -> list[int]:
    """Ranks of ``grid.column_comm`` that host the parameters of this shard."""
    n = grid.n_replicas
    return list(range(n, grid.column_comm.size)) if grid.n_servers else list(range(n))


def open_arrays(grid: Grid, n: int, dtype: npt.DTypeLike, n_vectors: int, n_counters: int) -> SharedArrays:
    """Windows on the ranks of this shard that host them.  Collective over the grid."""
    description = (hosts(grid), n, np.dtype(dtype).str, n_vectors, n_counters)
    _tell(grid, ("open", description))
    return _arrays(grid, *description)


def _arrays(grid: Grid, hosts: list[int], n: int, dtype: str, n_vectors: int, n_counters: int) -> SharedArrays:
    check_ranks = grid.check_ranks if grid.tolerant and not grid.is_server else None
    return SharedArrays(grid.column_comm, hosts, n, dtype, n_vectors, n_counters, check_ranks, grid.n_shards - 1)


def close_arrays(grid: Grid, arrays: SharedArrays) -> None:
    """Collective over the grid."""
    _tell(grid, ("close", None))
    arrays.free()


def dismiss(grid: Grid, error: Exception | None = None) -> None:
    """Let the servers go; they raise ``error`` as the ranks of the grid do.  Collective over the grid."""
    kind = type(error) if isinstance(error, ModelparError) else ModelparError
    _tell(grid, ("end", None if error is None else (kind, str(error))))


def _tell(grid: Grid, message: tuple[str, Any]) -> None:
    if grid.replica == 0:
        for server in range(grid.n_replicas, grid.column_comm.size):
            grid.column_comm.send(message, server, TAG)


def serve(grid: Grid) -> None:
    """Serve until the grid has finished.  Called by the ranks for which ``grid.is_server``.

    Raises what the ranks of the grid end with, where that is a ModelparError.
    """
    comm, arrays, notes = grid.column_comm, None, StopNotes(grid)
    while True:
        while not comm.Iprobe(0, TAG):
            grid.check_ranks()
            notes.tell_first_replica()
            time.sleep(NAP)
        verb, message = comm.recv(source=0, tag=TAG)
        if verb == "open":
            arrays = _arrays(grid, *message)
        elif verb == "close" and arrays is not None:
            arrays.free()
            arrays = None
        elif verb == "end":
            if message is not None:
                kind, text = message
                raise kind(text)
            return
