"""What trainers tell servers, and what servers make of it."""

from __future__ import annotations

import pytest

from modelpar.comm.status import Status
from modelpar.errors import ModelparError, SpecError
from modelpar.sync import server_loop
from modelpar.sync.server_loop import close_arrays, dismiss, hosts, open_arrays, serve


class Column:
    """The communicator of a shard: what is sent on it, and what is there to be received."""

    def __init__(self, size, *messages):
        self.size, self.sent, self.messages = size, [], list(messages)

    def send(self, message, to, tag):
        self.sent.append((to, message[0]))

    def Iprobe(self, source, tag):
        return source == 0

    def recv(self, source, tag):
        return self.messages.pop(0)


class Ranks:
    """A grid of ``n_replicas`` and the servers of a shard."""

    tolerant, is_server, n_shards = False, True, 1

    def __init__(self, n_replicas, n_servers, *messages, replica=0):
        self.n_replicas, self.n_servers, self.replica = n_replicas, n_servers, replica
        self.column_comm = Column(n_replicas + n_servers, *messages)
        self.status = Status()

    def check_ranks(self):
        raise AssertionError("there was a message")


class Arrays:
    made = []  # noqa: RUF012

    def __init__(self, comm, *description):
        self.description, self.freed = description[:5], False
        Arrays.made.append(self)

    def free(self):
        self.freed = True


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(server_loop, "SharedArrays", Arrays)
    monkeypatch.setattr(Arrays, "made", [])
    return Arrays


@pytest.mark.parametrize(("replicas", "servers", "expected"), [(3, 0, [0, 1, 2]), (3, 1, [3]), (2, 2, [2, 3])])
def test_servers_host_where_there_are_any(replicas, servers, expected):
    assert hosts(Ranks(replicas, servers)) == expected


@pytest.mark.parametrize("replica", [0, 1])
def test_the_first_replica_tells_every_server(made, replica):
    grid = Ranks(2, 3, replica=replica)
    close_arrays(grid, open_arrays(grid, 7, "float32", 1, 4))
    dismiss(grid)
    verbs = [(server, verb) for verb in ("open", "close", "end") for server in (2, 3, 4)]
    assert grid.column_comm.sent == (verbs if replica == 0 else [])
    assert made.made[0].freed


def test_a_server_holds_its_windows_until_it_is_told(made):
    description = ([1], 7, "<f4", 1, 4)
    serve(Ranks(1, 1, ("open", description), ("close", None), ("open", description), ("close", None), ("end", None)))
    assert [arrays.description for arrays in made.made] == [description, description]
    assert all(arrays.freed for arrays in made.made)


def test_a_server_ends_as_the_others_do():
    with pytest.raises(SpecError, match="wrong"):
        serve(Ranks(1, 1, ("end", (SpecError, "wrong"))))


@pytest.mark.parametrize(("error", "kind"), [(SpecError("x"), SpecError), (OSError("x"), ModelparError)])
def test_what_servers_are_told_to_raise(error, kind):
    grid, heard = Ranks(1, 1), []
    grid.column_comm.send = lambda message, to, tag: heard.append(message)
    dismiss(grid, error)
    assert heard == [("end", (kind, "x"))]
