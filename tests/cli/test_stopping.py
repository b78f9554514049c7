"""SIGTERM and SIGUSR1: a checkpoint at the next step, status 4, and nothing lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from mpi4py import MPI

from modelpar import faults
from modelpar.cli import stopping
from modelpar.cli.stopping import Stopping
from modelpar.comm.status import Status
from modelpar.errors import STOPPED, StoppedError
from tests import jobs

pytestmark = pytest.mark.jobs
ROOT = Path(__file__).parents[2]
LIMIT = 240.0
EXACT = ["--layers", "64-20-12", "--threads", "1", "--no-pictures", "--no-score", "--epochs", "2", "--finetune-epochs",
         "2", "--exact"]  # fmt: skip
SERVER = ["--layers", "64-20", "--threads", "1", "--no-pictures", "--no-score", "--epochs", "9999", "--pretrain-only",
          "--replicas", "2", "--sync", "server"]  # fmt: skip


def noted(status: Status) -> bool:
    deadline = time.monotonic() + 30
    while not status.stop and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(status.stop)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_is_found_at_a_step(number: int) -> None:
    before, status = signal.getsignal(number), Status()
    with Stopping(MPI.COMM_SELF) as stop:
        stop.watch(status, lambda: None)
        with stop.steps("the end"):
            assert not stop.is_due(MPI.COMM_SELF, alike=True)
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # as a launcher passes on what its ranks got as well: no second one
            assert noted(status)
            stop._every = 1
            assert stop.is_due(MPI.COMM_SELF, alike=True)
        with pytest.raises(StoppedError, match="the end") as raised:
            stop.has_trained(MPI.COMM_SELF)
        assert signal.Signals(number).name in str(raised.value)
    assert signal.getsignal(number) == signal.SIG_IGN  # until the process ends, which it is about to
    signal.signal(number, before)


def test_a_signal_that_comes_while_the_ranks_look_is_not_forgotten() -> None:
    status, stop = Status(), Stopping(MPI.COMM_SELF)
    stop.watch(status, lambda: None)

    class Late:
        """A communicator in whose sum a signal arrives."""

        def Allreduce(self, *_: object) -> None:
            status.stop = signal.SIGTERM

    assert not stop.is_due(Late(), alike=True)  # type: ignore[arg-type]
    assert status.stop == signal.SIGTERM


def test_steps_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit the interval; only where replicas are alike, unless that takes long."""
    now = 0.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    monkeypatch.setattr(stopping, "INTERVAL", 8 / 128)
    stop, looks = Stopping(MPI.COMM_SELF), []
    stop._status.stop = 1
    for step in range(200):
        now += 1 / 128
        if stop.is_due(MPI.COMM_SELF, alike=step < 100):
            looks.append(step)
    assert looks == [*range(0, 100, 8), 96 + 80]


def train(n: int, words: list[str], run: Path, fault: str = "") -> jobs.Outcome:
    command = [sys.executable, "-m", "modelpar", "train", *words, "--run-dir", run]
    env = {faults.VARIABLE: fault} if fault else {}
    return jobs.run_on_ranks(n, command, limit=LIMIT, PYTHONPATH=str(ROOT), **env)


def stopped(outcome: jobs.Outcome) -> None:
    assert outcome.returncode == STOPPED, outcome.output
    assert outcome.output.count("modelpar: stopped: SIGTERM was received; all is saved in") == 1, outcome.output
    assert "error:" not in outcome.output
    assert not jobs.alive(outcome.tag)


def test_the_next_grid_counts_anew_and_keeps_a_note() -> None:
    """Ranks may be a step apart when one is lost: the others would look in different steps, and wait for ever."""
    stopper = Stopping(MPI.COMM_SELF)
    for _ in range(3):  # steps that take no time: the next look is 10 steps away
        assert not stopper.is_due(MPI.COMM_SELF, alike=True)
    first, second = Status(), Status()
    stopper.watch(first, lambda: None)
    first.stop = signal.SIGTERM
    assert stopper.is_due(MPI.COMM_SELF, alike=True)
    stopper.watch(second, lambda: None)
    assert stopper.is_due(MPI.COMM_SELF, alike=True)
    assert second.stop == signal.SIGTERM


@pytest.mark.jobs
@pytest.mark.slow
def test_a_run_that_was_stopped_twice_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """In pre-training by a signal to one of two ranks, in fine-tuning on one."""
    train(2, [*EXACT, "--model-shards", "2"], tmp_path / "undisturbed").check()
    run, one = tmp_path / "run", [*EXACT, "--model-shards", "1", "--resume", "--max-restarts", "1"]
    stopped(train(2, [*EXACT, "--model-shards", "2"], run, "1:step:term:5"))
    assert list((run / "checkpoints").glob("step-*.safetensors"))
    stopped(train(1, one, run, "0:step:term:75"))
    assert (run / "pretrained.safetensors").exists()
    train(1, one, run).check()  # the restart before was not counted
    for name in ("pretrained.safetensors", "model.safetensors", "digests.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name


@pytest.mark.jobs
@pytest.mark.slow
def test_replicas_at_their_own_pace_stop_within_an_epoch(tmp_path: Path) -> None:
    stopped(train(2, SERVER, tmp_path, "1:step:term:3"))
    (saved,) = (tmp_path / "checkpoints").glob("step-*.safetensors")
    assert int(saved.stem.removeprefix("step-")) % 23  # minibatches of an epoch
