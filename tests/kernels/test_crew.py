"""Threads that look for work before they sleep: every task is done once, whoever waits and however long."""

from __future__ import annotations

import threading

import numba
import numpy as np
import pytest

from modelpar.kernels import crew, threads
from modelpar.kernels.crew import Bell, Crew

jit = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="threads look at counters in compiled code")
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(params=[1, crew.LOOKS], ids=["asleep", "looking"])
def looks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often threads look at a counter before they sleep."""
    monkeypatch.setattr(crew, "LOOKS", request.param)
    return int(request.param)


@jit
@pytest.mark.parametrize("n", [1, 2, 4])
def test_all_work_at_the_same_time_round_after_round(n: int, looks: int) -> None:
    """Each waits for all others, so that none may be left out; and every round has results of its own."""
    own, done = Crew("test"), np.zeros((400, n), np.int64)
    for k in range(len(done)):
        together = threading.Barrier(n)

        def task(i: int, k: int = k, together: threading.Barrier = together) -> None:
            if k % 40 == 0:
                together.wait(30)
            done[k, i] += k + i

        own.side_by_side(n, task)
        assert np.array_equal(done[k], k + np.arange(n))


@jit
def test_one_who_waits_for_a_bell_goes_on_when_it_has_rung(looks: int) -> None:
    bell, heard = Bell(), list[int]()

    def wait() -> None:
        for n in range(1, 301):
            bell.wait(n)
            heard.append(n)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    for _ in range(300):
        bell.ring()
    waiting.join(30)
    assert heard == list(range(1, 301))


@jit
@pytest.mark.parametrize("where", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_an_exception_is_raised_when_all_are_done(where: tuple[int, ...], looks: int) -> None:
    """And only by the call in which it was raised."""
    own, done = Crew("test"), list[int]()

    def task(i: int) -> None:
        if i in where:
            raise ZeroDivisionError(f"in {i}")
        done.append(i)

    for _ in range(3):
        done.clear()
        with pytest.raises(ZeroDivisionError, match=f"in [{min(where)}{max(where)}]"):
            own.side_by_side(3, task)
        assert sorted(done) == [i for i in range(3) if i not in where]
        own.side_by_side(3, done.append)


@jit
@pytest.mark.parametrize("where", ["before a task", "in the wait"])
def test_an_interrupt_leaves_nothing_to_later_calls(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    found = list[int]()
    threads.side_by_side(3, found.append)
    there = threads._crew
    assert there is not None
    with monkeypatch.context() as patch:
        if where == "before a task":
            patch.setattr(there._workers[1], "do", interrupted)
        else:
            patch.setattr(there._done, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            threads.side_by_side(3, lambda i: None)
    for _ in range(3):
        found.clear()
        threads.side_by_side(3, found.append)
        assert sorted(found) == [0, 1, 2]


def test_several_threads_may_ask_at_the_same_time() -> None:
    """One has the crew, the others a pool; a task that asks itself is served too."""
    wrong = list[str]()

    def ask(caller: int) -> None:
        for k in range(100):
            found = np.zeros(3, np.int64)

            def task(i: int, found: np.ndarray = found, k: int = k) -> None:
                if i == 0 and k % 20 == 0:
                    threads.side_by_side(2, lambda j: None)
                found[i] += caller + k + i

            threads.side_by_side(3, task)
            if not np.array_equal(found, caller + k + np.arange(3)):
                wrong.append(f"{caller}, round {k}: {found}")

    callers = [threading.Thread(target=ask, args=(100 * i,), daemon=True) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []
