"""An asynchronous parameter server: each replica goes at its own pace against parameters that all of them change.

Downpour SGD (Dean et al. 2012, section 4.1; Algorithm 4 of the study): a replica fetches the parameters every so many
of its steps and pushes what its own steps changed every so many.  The parameters of a shard, and Adagrad's state, live
in windows spread over server ranks or over the replicas themselves, so nobody stores more of the model than a shard.

Work is handed out by tickets: a ticket is one replica's part of a minibatch, and who is faster takes more of them.  So
replicas come to the end of a segment of steps within one ticket of each other, whatever their speeds.

Between two synchronisations each replica's velocity is its own part of the sum over all replicas: a step divides its
gradients by the samples of the whole minibatch, as with an all-reduce, and the parts of R replicas add up to one step.
The same learning rate fits, and without staleness the sum of all updates is that of an all-reduce.

Proximal steps of an L1 penalty do not add up: several replicas that each take a weight to zero would push it past.  So
the servers hold parameters without those of this segment, and whoever fetches takes them for all shares that have been
handed out, as in dual averaging (Xiao 2010).  Where the replicas meet, all take those of all shares, alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.spec import SyncSpec
from modelpar.sync.progress import Progress, spans_nodes
from modelpar.sync.reduction import BUCKET, Reduction
from modelpar.sync.server_loop import close_arrays, open_arrays
from modelpar.sync.stop_notes import StopNotes
from modelpar.sync.windows import SharedArrays
from modelpar.sync.work import Salvage, Share, Work
from modelpar.sync.work_queue import Tickets, check_bound
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]

TINY = 1e-8  # below the square root of Adagrad (Duchi, Hazan and Singer 2011)


class ParameterServer:
    """Asynchronous replicas.  See the module.

    staleness   counts this replica's pushes by their staleness: the pushes of others since the fetch on which the
                oldest gradient in the push was computed
    """

    rests = False

    def __init__(self, grid: Grid, traffic: Traffic, spec: SyncSpec, staleness: Counter[int]) -> None:
        self.grid, self.traffic, self.spec, self.staleness = grid, traffic, spec, staleness
        self._together = Reduction(grid.replica_comm, traffic)
        # Adagrad's gradients are pushed as they are found
        self._own = Reduction(MPI.COMM_SELF, traffic, n_shares=grid.n_replicas, momentum=not spec.adagrad)
        self._apart = False  # whether the replicas go at their own pace now
        self._work: Work
        self._arrays: SharedArrays | None = None
        self._progress: Progress | None = None
        self._tickets: Tickets
        self._notes = StopNotes(grid)
        self._length = 0  # steps of this segment
        self.reached = 0
        self._rate = 0.0  # learning rate of this segment

    # -- what the loop asks ------------------------------------------------------------------------------------------

    @property
    def in_step(self) -> bool:
        return not self._apart

    @property
    def alike(self) -> bool:
        return not self._apart

    @property
    def reduction(self) -> Reduction:
        return self._own if self._apart else self._together

    def begin(self, work: Work) -> None:
        check_bound(self.spec, self.grid.n_replicas)
        work.make_alike(self.grid.replica_comm, self.traffic)
        self._work, self._apart = work, False
        self._slices: dict[str, slice] = {}
        n = 0
        for name, parameters in work.parts.items():
            self._slices[name] = slice(n, n + parameters.flat.size)
            n += parameters.flat.size
            if self.spec.adagrad and name not in work.squares:
                work.squares[name] = parameters.like(rows=False)
        dtype = next(iter(work.parts.values())).flat.dtype
        self._base, self._change = np.zeros(n, dtype), np.zeros(n, dtype)  # as fetched; what is pushed
        n_counters = Tickets.n_counters(self.grid.n_replicas)
        self._arrays = open_arrays(self.grid, n, dtype, 2 if self.spec.adagrad else 1, n_counters)
        self._tickets = Tickets(self.grid, self._arrays, self.spec)
        apart = not self._arrays.shared or spans_nodes(self.grid.replica_comm)
        if not self.grid.n_servers and apart:  # servers enter MPI all the time
            self._progress = Progress(self.grid.replica_comm)

    def steps_together(self, done: int) -> int:
        if done < self.spec.warm_start:
            return 1
        every = self.spec.meet_every
        return every - done % every if every else 1 << 62

    def shares(self, first: int, stop: int, done: int, rate: float) -> Iterator[Share]:
        n_parts, self.reached = self.grid.n_replicas, stop
        if done < self.spec.warm_start:
            for step in range(first, stop):
                yield Share(step, self.grid.replica, n_parts)
                self._work.end_step(rate, done + step - first + 1)
            return
        self._length, self._rate = stop - first, rate
        self._part(done)
        steps = 0  # of this replica in this segment
        while (ticket := self._ticket()) < self._length * n_parts:
            if steps and steps % self.spec.fetch_every == 0:
                self._fetch()
            step, part = divmod(ticket, n_parts)
            yield Share(first + step, part, n_parts)
            steps += 1
            if self._work.average is not None:
                self._work.average.add_share(self._work.parts, done * n_parts + ticket + 1)
            self._tickets.note_step()
            if steps % self.spec.push_every == 0:
                self._push()
        if self._tickets.pending:
            self._push()
        self._tickets.finish()
        self._wait_for_all()
        self._length = self._tickets.n_tickets(self._length * n_parts) // n_parts
        self.reached = first + self._length
        self._synchronise(done + self._length)

    def _ticket(self) -> int:
        if self._notes.heard():
            self._tickets.cut_short(self._length * self.grid.n_replicas)
        with self.traffic.status.waiting("next ticket"):
            return self._tickets.take()

    # -- at one's own pace -------------------------------------------------------------------------------------------

    def _part(self, done: int) -> None:
        """Give the servers what all replicas have, and every replica its part of the velocities.

        done   steps of the stage before
        """
        assert self._arrays is not None
        if self.grid.replica == 0:
            self._gathered(self._base, self._work.parts)
            self._arrays.write(0, self._base)
            self._count("push", self._base)
            if self.spec.adagrad:
                self._gathered(self._change, self._work.squares)
                self._arrays.write(1, self._change)
                self._count("push", self._change)
        self._tickets.reset()
        self._notes.begin_segment()
        for velocity in self._work.velocity.values():
            for values in (velocity.flat, velocity.rows):
                if values is not None:
                    values /= values.dtype.type(self.grid.n_replicas)
        if self._work.average is not None:
            self._work.average.part(self._work.parts, done, self.grid.n_replicas)
        self._wait_for_all()
        self._apart = True
        self._fetch(keep_own=False)

    def _synchronise(self, done: int) -> None:
        """All have pushed: take what it came to, and add the parts of the velocities up again.

        done   steps of the stage, these included
        """
        self._apart = False
        self._fetch(keep_own=False)
        if self.spec.adagrad:
            assert self._arrays is not None
            self._arrays.read(1, self._change)
            self._count("fetch", self._change)
            self._scattered(self._change, self._work.squares)
        for velocity in self._work.velocity.values():
            for start in range(0, velocity.flat.size, BUCKET):
                piece = velocity.flat[start : start + BUCKET]
                self.grid.replica_comm.Allreduce(MPI.IN_PLACE, piece)
                self.traffic.add_allreduce("replica", piece, self.grid.n_replicas)
        if self._work.average is not None:
            self._work.average.meet(self.grid.replica_comm, self.traffic, done * self.grid.n_replicas)
        self._work.refresh()
        self._wait_for_all()  # before anybody writes again

    def _wait_for_all(self) -> None:
        with self.traffic.status.waiting("meeting"):
            self.grid.replica_comm.Barrier()

    def _fetch(self, *, keep_own: bool = True) -> None:
        """parameters = the servers', and on top of them what this replica has changed and not pushed."""
        assert self._arrays is not None
        with self.traffic.status.waiting("fetch"):
            self._read(keep_own=keep_own)
        self._count("fetch", self._base)
        if self._apart:
            self._refresh()

    def _refresh(self) -> None:
        """Make copies of weights agree, which is not a change for this replica to push."""
        if all(parameters.W.ndim > 1 for parameters in self._work.parts.values()):  # a matrix is stored once
            self._work.refresh()
            return
        before, after = np.empty_like(self._base), np.empty_like(self._base)
        self._gathered(before, self._work.parts)
        self._work.refresh()
        self._gathered(after, self._work.parts)
        self._base += after - before

    def _read(self, *, keep_own: bool) -> None:
        assert self._arrays is not None
        self._tickets.note_fetch()
        keep_own = keep_own and self._tickets.pending > 0
        if keep_own:
            self._gathered(self._change, self._work.parts)
            self._change -= self._base
        self._arrays.read(0, self._base)
        squares = None
        if self.spec.adagrad and self._work.penalties:
            squares = np.empty_like(self._base)
            self._arrays.read(1, squares)
            self._count("fetch", squares)
        self._shrink(self._base, squares)
        if keep_own:
            self._change += self._base
        self._scattered(self._change if keep_own else self._base, self._work.parts)

    def _shrink(self, values: Array, squares: Array | None, *, alone: bool = False) -> None:
        """The proximal step of all shares that have been handed out since the replicas parted, up to the present one.

        values    of all parameters; squares: those of Adagrad, which divide what an L1 penalty takes as they do
                  gradients (Duchi, Hazan and Singer 2011, section 1.3), None without
        alone     without the other shards, by what was found with them last

        Collective over the shards where not ``alone``.
        """
        penalties, rate = self._work.penalties, self._rate * self._shares_done / self.grid.n_replicas
        for name, parameters in self._work.parts.items() if penalties and rate else ():
            start = self._slices[name].start
            weights = slice(start, start + parameters.n_weights)
            if squares is None:
                penalties.step(name, [values[weights].reshape(parameters.W.shape)], rate, alone=alone)
            else:
                limit = rate * penalties.l1 / (np.sqrt(squares[weights]) + squares.dtype.type(TINY))
                values[weights] -= np.clip(values[weights], -limit, limit)

    @property
    def _shares_done(self) -> int:
        """Shares of this segment that were handed out before the present one."""
        return min(self._tickets.last, self._length * self.grid.n_replicas)

    def _push(self) -> None:
        """Add to the servers' parameters what this replica's steps have changed since its last push."""
        assert self._arrays is not None
        with self.traffic.status.waiting("turn to push"):
            staleness = self._tickets.claim_push()
        self.staleness[staleness] += 1
        self._gathered(self._change, self._work.parts)
        self._change -= self._base
        if self.spec.adagrad:
            self._adapt(self._change)
        if self.spec.scale_by_staleness:
            self._change *= self._change.dtype.type(1 / (1 + staleness))
        with self.traffic.status.waiting("push"):
            self._arrays.add(0, self._change)
        self._count("push", self._change)
        self._base += self._change
        if self.spec.adagrad or self.spec.scale_by_staleness:  # go on from what was pushed, not from what was meant
            self._scattered(self._base, self._work.parts)
            self._refresh()

    def _adapt(self, change: Array) -> None:
        """change = rate * g / sqrt(sum of all g^2 pushed so far), g = change / rate (Duchi, Hazan and Singer 2011)."""
        assert self._arrays is not None
        rate = change.dtype.type(self._rate)
        if rate == 0:
            return
        change /= rate
        squares, before = change * change, np.empty_like(change)
        self._arrays.add_and_read(1, squares, before)
        self._count("push", squares)
        self._count("fetch", before)
        before += squares
        np.sqrt(before, out=before)
        before += before.dtype.type(TINY)
        change /= before
        change *= rate

    def _gathered(self, out: Array, parts: dict[str, Parameters]) -> None:
        for name, parameters in parts.items():
            out[self._slices[name]] = parameters.flat

    def _scattered(self, values: Array, parts: dict[str, Parameters]) -> None:
        for name, parameters in parts.items():
            parameters.flat[:] = values[self._slices[name]]

    def _count(self, verb: str, values: Array) -> None:
        """Count the bytes that others host as sent or received."""
        assert self._arrays is not None
        own = self._arrays.hosted(0)[1].nbytes
        self.traffic.add("replica", verb, values, values.nbytes - own)

    def settle(self) -> None:
        """Nothing to do: records are made where the replicas have met."""

    def salvage(self) -> Salvage | None:
        if not self._apart or self._arrays is None:
            return None
        start, hosted = self._arrays.hosted(0)
        mine, values, squares = slice(start, start + len(hosted)), self._base.copy(), None
        values[mine] = hosted
        if self.spec.adagrad:
            squares = np.ones_like(values)
            squares[mine] = self._arrays.hosted(1)[1]
        self._shrink(values, squares, alone=True)
        steps = self._shares_done // self.grid.n_replicas
        average = self._work.average
        weight = 1.0 if average is None else average.weight
        return Salvage(self._base, self._tickets.fetched, (start, values[mine].copy()), steps, self._slices, weight)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._arrays is not None:
            close_arrays(self.grid, self._arrays)
            self._arrays = None
