"""The division of work among replicas that go at their own pace: tickets, versions, and a bound on staleness.

Shard 0 of every replica speaks for it, with counters in the window of shard 0, and tells the replica's other shards:
so all shards of a replica fetch and push at the same steps.

TICKET    the next part of a minibatch to be handed out
VERSION   pushes so far, of all replicas
LIMIT     tickets of a segment that was cut short; 0 of all others
BASE + r  replica r: the version on which its oldest gradient that is not yet pushed was, or will be, computed
OWN + r   replica r: its own pushes since that version was fetched
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from modelpar.comm.grid import Grid
from modelpar.errors import SpecError
from modelpar.spec import SyncSpec
from modelpar.sync.windows import SharedArrays

TICKET, VERSION, LIMIT, BASE = 0, 1, 2, 3
STOPPED = 1 << 40  # added to the ticket counter when a segment is cut short: more than there are tickets
LOST = -1  # for a ticket or a version: a rank was lost
FINISHED = 1 << 62  # base of a replica that pushes no more: nobody waits for it; and more than any ticket
NAP = 0.0002  # seconds between two checks of a replica that waits for others


@dataclass
class _Fetch:
    """A fetch of the parameters: the version then, and this replica's own pushes since."""

    version: int = 0
    own_pushes: int = 0


class Tickets:
    """A replica's tickets, pushes and fetches.  Methods are collective over its shards."""

    def __init__(self, grid: Grid, arrays: SharedArrays, spec: SyncSpec) -> None:
        self.grid, self._arrays, self._spec = grid, arrays, spec
        self._n, self._me = grid.n_replicas, grid.replica
        self.last = 0  # the last ticket
        self.pending = 0  # steps since the last push
        self._base = self._fetched = _Fetch()
        self.bound = None if spec.max_staleness is None else int(spec.max_staleness)

    @staticmethod
    def n_counters(n_replicas: int) -> int:
        return BASE + 2 * n_replicas

    @property
    def _speaks(self) -> bool:
        return self.grid.shard == 0

    def _told(self, value: int) -> int:
        """The speaker's value, on all shards; nobody goes on before the speaker has come here.

        Raises MPI.Exception, on all shards, where the speaker has found that a rank was lost.
        """
        shared_value = int(self.grid.shard_comm.bcast(value))
        if shared_value == LOST:
            raise MPI.Exception(MPI.ERR_PROC_FAILED)
        return shared_value

    @property
    def fetched(self) -> int:
        """The version that was fetched last."""
        return self._fetched.version

    def reset(self) -> None:
        """Begin a segment with the first ticket; the first replica's speaker does.  A barrier must follow."""
        if self._me == 0 and self._speaks:
            self._arrays.set_counters(TICKET, [0])
            self._arrays.set_counters(LIMIT, [0])
            version = self._arrays.counter(VERSION)
            self._arrays.set_counters(BASE, [version] * self._n + [0] * self._n)
        self.pending = self.last = 0

    def take(self) -> int:
        """The next ticket; FINISHED where the segment was cut short before it.

        Raises MPI.Exception on all shards where a rank was lost.
        """
        ticket = 0
        if self._speaks:
            ticket = LOST if self._has_lost() else self._next()
        self.last = self._told(ticket)
        return self.last

    def _next(self) -> int:
        ticket = self._arrays.add_to_counter(TICKET, 1)
        if ticket < STOPPED:
            return ticket
        while not (limit := self._arrays.counter(LIMIT)):  # who has cut the segment short is about to say where
            if self._has_lost():
                return LOST
            time.sleep(NAP)
        return ticket % STOPPED if ticket % STOPPED < limit else FINISHED

    def cut_short(self, n_tickets: int) -> None:
        """Hand out the rest of the steps that are begun, of which there is one at least, and no more.

        n_tickets   of the whole segment

        The speaker alone calls it.  Several may, each once: the first one counts.
        """
        before = self._arrays.add_to_counter(TICKET, STOPPED)
        if before < STOPPED:
            steps = max(1, -(-before // self._n))
            self._arrays.set_counters(LIMIT, [min(steps * self._n, n_tickets)])

    def n_tickets(self, whole: int) -> int:
        """Tickets of the segment, all of which are handed out: ``whole``, or fewer where it was cut short."""
        return self._told(self._arrays.counter(LIMIT) if self._speaks else 0) or whole

    def _has_lost(self) -> bool:
        """Whether a rank was lost: asked between two steps, where nothing is half done."""
        try:
            self.grid.check_ranks()
        except MPI.Exception:
            return True
        return False

    def note_step(self) -> None:
        self.pending += 1

    def note_fetch(self) -> None:
        """Called before the parameters are read, so that what they lack is counted and not what they have."""
        if self._speaks:
            self._fetched = _Fetch(self._arrays.counter(VERSION))
            if not self.pending:
                self._base = self._fetched
                self._publish()
        self._told(0)

    def claim_push(self) -> int:
        """Count one more push, when the bound on staleness allows it; returns the staleness of this one."""
        staleness = 0
        if self._speaks and (version := self._claim()) == LOST:
            staleness = LOST
        elif self._speaks:
            staleness = version - self._base.version - self._base.own_pushes
            for fetch in {id(fetch): fetch for fetch in (self._base, self._fetched)}.values():
                fetch.own_pushes += 1
            self._base = self._fetched  # gradients to come are computed on it, or on a later one
            self._publish()
        self.pending = 0
        return self._told(staleness)

    def _publish(self) -> None:
        # the larger number of own pushes last: who reads in between takes this replica for staler, and waits
        self._arrays.set_counters(BASE + self._n + self._me, [0])
        self._arrays.set_counters(BASE + self._me, [self._base.version])
        self._arrays.set_counters(BASE + self._n + self._me, [self._base.own_pushes])

    def _claim(self) -> int:
        """The version before this push; LOST where a rank was lost."""
        if self.bound is None or self._n == 1:
            return self._arrays.add_to_counter(VERSION, 1)
        while True:
            counters = self._arrays.counters()
            version = int(counters[VERSION])
            # any push in between makes the exchange fail, and the check is repeated
            if self._may_push(counters) and self._arrays.replace_counter(VERSION, version, version + 1):
                return version
            if self._has_lost():
                return LOST
            time.sleep(NAP)

    def _may_push(self, counters: np.ndarray) -> bool:
        """Whether another push leaves capacity for all that those who fetched earlier are still owed.

        Only who fetched later than q waits for q, so the one that fetched first never waits and there is no deadlock;
        and as each of those who fetched before q can push only so often before it fetches again, q's staleness stays
        within the bound.
        """
        version, bases, own = counters[VERSION], counters[BASE : BASE + self._n], counters[BASE + self._n :]
        assert self.bound is not None
        mine = (int(bases[self._me]), self._me)
        for q in range(self._n):
            if (int(bases[q]), q) >= mine:
                continue
            earlier = sum((int(bases[r]), r) < (int(bases[q]), q) for r in range(self._n))
            missed = int(version - bases[q] - own[q])
            if missed + 1 + earlier * self._spec.pushes_between_fetches() > self.bound:
                return False
        return True

    def finish(self) -> None:
        """This replica pushes no more in this segment."""
        if self._speaks:
            self._arrays.set_counters(BASE + self._me, [FINISHED])


def check_bound(spec: SyncSpec, n_replicas: int) -> None:
    """Raise SpecError where the bound on staleness is smaller than replicas at the same pace must have."""
    least = (n_replicas - 1) * spec.pushes_between_fetches()
    if spec.max_staleness is not None and spec.max_staleness < least:
        raise SpecError(
            f"--max-staleness is {spec.max_staleness}, but {n_replicas} replicas that push up to "
            f"{spec.pushes_between_fetches()} time(s) between fetches miss {least} updates of each other even at the "
            f"same pace; use at least {least}, or --sync allreduce"
        )
