"""What ranks must bring alike: which values count as alike, and what is said of those that do not.

The ranks are threads here, over a communicator that has nothing but an ``allgather``.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse

from modelpar.collective.agreement import agree
from modelpar.errors import DataError, DisagreementError, ModelparError, raise_together
from modelpar.ownership.connections import Local
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import TrainingSpec


class Comm:
    """One of ``size`` ranks, which are threads of this process."""

    def __init__(self, rank, size, shared, barrier):
        self.rank, self.size, self.shared, self.barrier = rank, size, shared, barrier

    def allgather(self, mine):
        self.shared[self.rank] = mine
        self.barrier.wait(timeout=20)
        told = list(self.shared)
        self.barrier.wait(timeout=20)
        return told


def on_ranks(*works):
    """What each rank's work, called with its communicator, raises; None where nothing."""
    n = len(works)
    shared, barrier = [None] * n, threading.Barrier(n)

    def outcome(rank):
        try:
            works[rank](Comm(rank, n, shared, barrier))
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(outcome, range(n)))


def compare(*values, name="x"):
    """The one message that all ranks raise; empty where these values, one for each rank, are alike."""
    errors = on_ranks(*(lambda comm, value=value: agree(comm, "call", **{name: value}) for value in values))
    assert len({str(error) for error in errors}) == 1, "all ranks raise the same"
    if errors[0] is None:
        return ""
    assert all(isinstance(error, DisagreementError) and isinstance(error, ValueError) for error in errors)
    assert "\n" not in str(errors[0])
    return str(errors[0])


X = np.arange(600.0).reshape(20, 30)
SPARSE = scipy.sparse.random(20, 30, 0.2, random_state=0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (3, np.uint8(3)),
        (0, 0.0),
        (0.5, Fraction(1, 2)),
        (True, np.True_),
        (float("nan"), np.float32("nan")),
        ((256, 128), [256, np.int64(128)]),
        ((256, 128), np.array([256, 128])),
        (list(range(40)), np.arange(40)),
        (X, np.asfortranarray(X)),
        (X, X.astype(">f8")),
        (np.repeat(X, 2, axis=1)[:, ::2], X),
        (SPARSE.tocsr(), SPARSE.tocsc()),
        (np.array(["a", "b"]), np.array(["a", "b"], dtype="<U9")),
        (TrainingSpec(epochs=2), TrainingSpec(epochs=np.int8(2))),
        (NetworkLayout.blocks((4, 3), 2), NetworkLayout.from_owners([[0, 0, 1, 1], [0, 0, 1]], 2)),
        (None, None),
        (threading.Lock(), threading.Lock()),  # nothing that could be compared
    ],
)
def test_values_that_are_alike(one, other):
    assert compare(one, other, one) == ""


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (3, 4, "x is 3 on ranks 0 and 2, but 4 on rank 1"),
        (1, True, "x is 1 on ranks 0 and 2, but True on rank 1"),
        ("a", "b", "x is 'a' on ranks 0 and 2, but 'b' on rank 1"),
        ("a" * 200, "a" * 199 + "b", "x"),
        (None, 3, "x is None on ranks 0 and 2, but 3 on rank 1"),
        ((256, 128), (256,), "x is (256, 128) on ranks 0 and 2, but (256) on rank 1"),
        (X, X[:7], "x is float64 20 x 30 on ranks 0 and 2, but float64 7 x 30 on rank 1"),
        (X, X.astype(np.float32), "float32 20 x 30 on rank 1"),
        (X, X.reshape(30, 20), "float64 30 x 20 on rank 1"),
        (X, X[::-1], "the values of x (float64 20 x 30) on rank 0 are not those on rank 1"),
        (X, -X, "the values of x (float64 20 x 30)"),
        (X, np.where(X == 599, 600, X), "the values of x (float64 20 x 30)"),
        (SPARSE, SPARSE * 2, "the values of x (a sparse matrix of float64 20 x 30)"),
        (SPARSE.tocsr(), SPARSE.toarray(), "x is a sparse matrix of float64 20 x 30 on ranks 0 and 2"),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "the values of x (objects 2)"),
        (["--epochs", "1"], ["--epochs", "2"], "x[1] is '1' on ranks 0 and 2, but '2' on rank 1"),
        (["a"], ["a", "b"], "x[1] is missing on ranks 0 and 2, but 'b' on rank 1"),
        ({"k": X}, {"k": X + 1}, "the values of x.k (float64 20 x 30)"),
        (TrainingSpec(epochs=2), TrainingSpec(epochs=3), "x.epochs is 2 on ranks 0 and 2, but 3 on rank 1"),
        (TrainingSpec(), None, "x"),
        (NetworkLayout.blocks((4, 3), 2), NetworkLayout.from_owners([[0, 1, 0, 1], [0, 0, 1]], 2), "x.layers[0]"),
        (Local(1, 5, 5, 1, 3), Local(1, 5, 5, 1, 2), "x.field is 3 on ranks 0 and 2, but 2 on rank 1"),
    ],
)
def test_values_that_differ(one, other, told):
    message = compare(one, other, one)
    assert told in message
    assert message.startswith("call: arguments differ between the ranks: ")
    assert message.endswith("; every rank must bring the same")


def test_several_things_that_differ():
    errors = on_ranks(*(lambda comm, n=n: agree(comm, "fit", X=X, epochs=n, seed=n + 1) for n in (1, 1, 2, 3, 2)))
    assert len({str(error) for error in errors}) == 1
    assert "epochs is 1 on ranks 0 and 1, but 2 on ranks 2 and 4, 3 on rank 3 (seed too)" in str(errors[0])


def test_mapped_files_are_sampled(tmp_path):
    big = np.zeros((3000, 200))
    for name, changed in (("a", -1), ("b", None)):
        if changed is not None:
            big[changed, -1] = 1
        np.save(tmp_path / f"{name}.npy", big)
        big[-1, -1] = 0
    one, other = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab")
    assert compare(one, one) == ""
    assert "the values of x" in compare(one, other)
    assert "the values of x" in compare(one[:, ::-1], other)


def test_different_calls():
    errors = on_ranks(lambda comm: agree(comm, "evaluate"), lambda comm: agree(comm, "save", path="x"))
    assert {str(error) for error in errors} == {
        "the ranks make different calls: evaluate on rank 0, but save on rank 1; every rank must make the same calls "
        "in the same order"
    }


@pytest.mark.parametrize("error", [None, DataError("a file is missing")])
def test_a_rank_in_the_middle_of_another_call(error):
    errors = on_ranks(lambda comm: agree(comm, "save"), lambda comm: raise_together(comm, error))
    assert all(isinstance(error, ModelparError) for error in errors)
    assert all("save" in str(error) for error in errors)


def test_one_rank_alone_compares_nothing():
    class Alone:
        size = 1

    agree(Alone(), "call", x=object())


def test_a_grid_of_two_communicators():
    """2 replicas of 2 shards: what must be alike in a replica only may differ between them."""

    def work(rank, seed, samples):
        def run(comm):
            class Axis:
                size = 2

                def __init__(self, members):
                    self.members = members

                def allgather(self, mine):
                    told = comm.allgather(mine)
                    return [told[member] for member in self.members]

            shards = Axis([rank - rank % 2, rank - rank % 2 + 1])
            replicas = Axis([rank % 2, rank % 2 + 2])
            agree((shards, replicas), "score", seed=seed, in_replica={"samples": samples})

        return run

    assert on_ranks(*(work(rank, 1, rank // 2) for rank in range(4))) == [None] * 4
    told = {str(error) for error in on_ranks(*(work(rank, int(rank == 1), 0) for rank in range(4)))}
    assert len(told) == 1
    assert "seed is 0 on ranks 0, 2 and 3, but 1 on rank 1" in told.pop()
    told = {str(error) for error in on_ranks(*(work(rank, 1, rank // 3) for rank in range(4)))}
    assert len(told) == 1
    assert "samples is 0 on rank 2, but 1 on rank 3" in told.pop()
