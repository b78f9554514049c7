"""Tickets, versions and the bound on staleness, of several replicas in one process."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.errors import SpecError
from modelpar.spec import SyncSpec
from modelpar.sync.work_queue import FINISHED, Tickets, check_bound


class Counters:
    """The counters of ``SharedArrays``, in plain memory."""

    def __init__(self, n):
        self.values = np.zeros(n, np.int64)

    def add_to_counter(self, counter, amount):
        before = int(self.values[counter])
        self.values[counter] += amount
        return before

    def counter(self, counter):
        return int(self.values[counter])

    def counters(self):
        return self.values.copy()

    def set_counters(self, first, values):
        self.values[first : first + len(values)] = values

    def replace_counter(self, counter, expected, new):
        if self.values[counter] != expected:
            return False
        self.values[counter] = new
        return True


class Ranks:
    """A replica of one shard."""

    shard, shard_comm = 0, MPI.COMM_SELF

    def __init__(self, n_replicas, replica, lost=False):
        self.n_replicas, self.replica, self.lost = n_replicas, replica, lost

    def check_ranks(self):
        if self.lost:
            raise MPI.Exception(MPI.ERR_OTHER)


def queues(n, spec):
    """One queue for each replica over the same counters, ready for a segment."""
    counters = Counters(Tickets.n_counters(n))
    made = [Tickets(Ranks(n, replica), counters, spec) for replica in range(n)]
    for queue in made:
        queue.reset()
    return made


def test_every_ticket_is_handed_out_once():
    queues_of_three = queues(3, SyncSpec("server"))
    rng = np.random.default_rng(0)
    taken = [queues_of_three[i].take() for i in rng.integers(0, 3, 50)]
    assert taken == list(range(50))


@pytest.mark.parametrize("taken", range(13))
def test_a_segment_that_is_cut_short_ends_after_a_step(taken):
    """All parts of the steps that are begun, and of one at least, are handed out, once each; two may cut it short."""
    made = queues(3, SyncSpec("server"))
    before = [made[i % 3].take() for i in range(taken)]
    made[1].cut_short(12)
    made[0].cut_short(12)
    after = [made[i % 3].take() for i in range(12)]
    limit = min(12, max(3, -(-taken // 3) * 3))
    assert before + [ticket for ticket in after if ticket < 12] == list(range(max(limit, taken)))
    assert after[-1] == FINISHED
    assert [queue.n_tickets(12) for queue in made] == [limit] * 3
    made[0].reset()
    assert made[2].take() == 0
    assert made[2].n_tickets(12) == 12


@pytest.mark.parametrize("max_staleness", [None, 4, 9])
def test_staleness_is_what_others_have_pushed_since(max_staleness):
    """Three replicas in a random order, against a log; with a bound, those that may not push yet are passed over."""
    n, rng = 3, np.random.default_rng(1)
    made = queues(n, SyncSpec("server", fetch_every=2, max_staleness=max_staleness))
    pushed, fetched, since, pending = [], [0] * n, [0] * n, [False] * n
    for queue in made:
        queue.note_fetch()
    worst = held = 0
    for _ in range(400):
        i = int(rng.choice(n, p=[0.7, 0.2, 0.1]))
        queue = made[i]
        if not pending[i]:
            if since[i] == 2:
                fetched[i], since[i] = len(pushed), 0
                queue.note_fetch()
            queue.note_step()
            since[i], pending[i] = since[i] + 1, True
        if max_staleness is not None and not queue._may_push(queue._arrays.counters()):
            held += 1
            continue
        staleness = queue.claim_push()
        assert staleness == sum(who != i for who in pushed[fetched[i] :])
        pushed.append(i)
        pending[i] = False
        worst = max(worst, staleness)
    if max_staleness is None:
        assert worst > 9
    else:
        assert worst <= max_staleness
        assert held


def test_nobody_waits_for_who_has_finished():
    first, second = queues(2, SyncSpec("server", max_staleness=1))
    for queue in (first, second):
        queue.note_fetch()
    second.note_step()
    second.claim_push()
    assert not second._may_push(second._arrays.counters())
    first.finish()
    assert second._may_push(second._arrays.counters())


def test_a_lost_rank_ends_the_queue():
    counters = Counters(Tickets.n_counters(1))
    queue = Tickets(Ranks(1, 0, lost=True), counters, SyncSpec("server"))
    with pytest.raises(MPI.Exception):
        queue.take()
    assert counters.counter(0) == 0


@pytest.mark.parametrize(("bound", "replicas", "pace", "least"), [(1, 3, (1, 1), 2), (3, 3, (2, 1), 4)])
def test_a_bound_that_replicas_at_the_same_pace_exceed(bound, replicas, pace, least):
    spec = SyncSpec("server", max_staleness=bound, fetch_every=pace[0], push_every=pace[1])
    with pytest.raises(SpecError, match=f"use at least {least}"):
        check_bound(spec, replicas)
    check_bound(SyncSpec("server", max_staleness=least, fetch_every=pace[0], push_every=pace[1]), replicas)
    check_bound(SyncSpec("server", fetch_every=pace[0], push_every=pace[1]), replicas)
