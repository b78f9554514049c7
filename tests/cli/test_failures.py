"""A rank that stops or is killed: the job ends, says why, and can be taken up again on fewer ranks."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import jobs

pytestmark = [pytest.mark.jobs, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LIMIT = 240.0  # seconds of one job, compilation of the kernels included
KILLED = 10.0  # seconds in which a job must end when a rank was killed
STALL, GRACE, MARGIN = 8.0, 2.0, 10.0  # --stall-timeout; until answers are in; for a launcher on few cores
RANK = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")
SMALL = ["--layers", "64-20-12", "--threads", "1", "--no-pictures", "--no-score", "--checkpoint-every", "20"]
ENDLESS = [*SMALL, "--epochs", "1000000"]
EXACT = [*SMALL, "--exact", "--epochs", "30", "--pretrain-only"]


class Job:
    """``modelpar train`` on several ranks, each of which can be sent a signal."""

    def __init__(self, n: int, words: list[str | Path], run: Path) -> None:
        self.run, self.tag = run, uuid.uuid4().hex
        command = [*jobs.launcher(), "-n", n, sys.executable, "-m", "modelpar", "train", *words, "--run-dir", run]
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the job has ended
        self.process = subprocess.Popen(
            [str(word) for word in command], env=jobs.environment(PYTHONPATH=str(ROOT), **{jobs.TAG: self.tag}),
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def wait_for_checkpoints(self, n: int) -> None:
        deadline = time.monotonic() + LIMIT
        while len(list(self.run.glob("checkpoints/step-*.safetensors"))) < n:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def signal(self, rank: int, number: int) -> psutil.Process:
        """Send a signal to one rank."""
        for process in jobs.alive(self.tag):
            environment = process.environ()
            if "modelpar" in process.cmdline() and any(environment.get(name) == str(rank) for name in RANK):
                process.send_signal(number)
                return process
        pytest.fail(f"rank {rank} is not there: {self.output()}")

    def status(self, limit: float) -> int:
        """The exit status; fails where the job does not end within ``limit`` seconds."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the job had not ended after {limit} s: {self.output()}")

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()


@pytest.fixture
def start() -> Iterator[Callable[..., Job]]:
    """``start(n, words, run)`` -> Job, whose processes all end with the test."""
    started: list[Job] = []

    def start(n: int, words: list[str | Path], run: Path) -> Job:
        started.append(Job(n, words, run))
        return started[-1]

    yield start
    for job in started:
        jobs.end_all(job.process, job.tag)


def gone(tag: str) -> bool:
    """Whether nothing of a job is left soon after its launcher has ended, which need not wait for what it kills."""
    deadline = time.monotonic() + MARGIN
    while jobs.alive(tag) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not jobs.alive(tag)


def again(n: int, words: list[str | Path], run: Path) -> jobs.Outcome:
    command = [sys.executable, "-m", "modelpar", "train", "--resume", *words, "--run-dir", run]
    return jobs.run_on_ranks(n, command, limit=LIMIT, PYTHONPATH=str(ROOT))


def grid(replicas: int, shards: int) -> list[str]:
    return ["--replicas", str(replicas), "--model-shards", str(shards)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 3])
@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (1, 4)], ids="{0[0]}x{0[1]}".format)
def test_a_stopped_rank_is_named(
    shape: tuple[int, int], victim: int, start: Callable[..., Job], tmp_path: Path
) -> None:
    job = start(4, [*ENDLESS, *grid(*shape), "--stall-timeout", str(STALL)], tmp_path / "run")
    job.wait_for_checkpoints(2)
    job.signal(victim, signal.SIGSTOP)
    status = job.status(STALL + GRACE + MARGIN)
    printed = job.output()
    assert status == 3, printed
    assert printed.count("modelpar: error: no step for 8 s") == 1, printed
    lines = [line.strip() for line in printed.splitlines()]
    told_of = [next(line for line in lines if line.startswith(f"rank {rank} (replica")) for rank in range(4)]
    assert [rank for rank in range(4) if told_of[rank].endswith("no answer")] == [victim], printed
    assert [line for line in lines if line.startswith("suspect: ")] == [
        f"suspect: rank {victim}: no answer, so stopped, dead, or cut off from the others"
    ]
    for rank in {0, 1, 2, 3} - {victim}:
        assert "RBM 0, epoch" in told_of[rank], printed
        assert "waits in" in told_of[rank], printed
    assert "Traceback" not in printed
    assert gone(job.tag)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 3])
def test_a_killed_rank_is_named(victim: int, start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(4, [*ENDLESS, *grid(2, 2)], tmp_path / "run")
    job.wait_for_checkpoints(2)
    process = job.signal(victim, signal.SIGKILL)
    status = job.status(KILLED)
    printed = job.output()
    assert status not in (0, 2, 3), printed
    ranks = (job.run / "ranks.txt").read_text().splitlines()
    assert len(ranks) == 4
    assert ranks[victim].startswith(
        f"rank {victim} (replica {victim // 2}, shard {victim % 2}, process {process.pid} on"
    )
    assert (
        printed.count(f"{ranks[victim]} was killed; ") + printed.count(f"rank {victim} with PID {process.pid} on") == 1
    ), printed
    assert printed.count("modelpar: error") <= 1, printed
    assert "Traceback" not in printed
    assert gone(job.tag)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_fewer_ranks(start: Callable[..., Job], tmp_path: Path) -> None:
    """To the same bytes, in exact mode, as if nothing had happened."""
    job = start(4, [*EXACT, *grid(2, 2)], tmp_path / "killed")
    job.wait_for_checkpoints(2)
    job.signal(2, signal.SIGKILL)
    assert job.status(KILLED) not in (0, 2, 3)
    # as if it had been writing one
    (job.run / "checkpoints" / "step-00000999.safetensors.partial").write_bytes(b"half")
    undisturbed = start(2, [*EXACT, *grid(1, 2)], tmp_path / "undisturbed")
    assert undisturbed.status(LIMIT) == 0, undisturbed.output()
    wanted = (tmp_path / "undisturbed" / "model.safetensors").read_bytes()
    for shards in (2, 1):
        run = tmp_path / f"shards-{shards}"
        shutil.copytree(job.run, run)
        printed = again(shards, ["--max-restarts", "1"], run).check().output
        assert "going on from" in printed
        assert (run / "model.safetensors").read_bytes() == wanted
        assert not list(run.rglob("*.partial"))
        assert (run / "restarts").read_text() == "1\n"
    refused = again(1, ["--max-restarts", "0"], job.run)
    assert refused.returncode == 2, refused.output
    assert refused.output.count("modelpar: error: the run in") == 1, refused.output


def test_a_signal_to_the_launcher_stops_the_run(start: Callable[..., Job], tmp_path: Path) -> None:
    """Both launchers pass SIGUSR1 on; Open MPI ends the ranks itself after SIGTERM."""
    job = start(2, [*ENDLESS, *grid(2, 1)], tmp_path / "run")
    job.wait_for_checkpoints(1)
    job.process.send_signal(signal.SIGUSR1)
    assert job.status(KILLED) == 4, job.output()
    assert job.output().count("modelpar: stopped: SIGUSR1 was received") == 1, job.output()
    assert gone(job.tag)


def test_a_loop_begins_with_the_first_start(tmp_path: Path) -> None:
    few = [*SMALL, "--epochs", "1", "--finetune-epochs", "1", "--max-restarts", "3"]
    again(2, few, tmp_path / "run").check()
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert "this run has finished" in again(2, few, tmp_path / "run").check().output
    assert not (tmp_path / "run" / "restarts").exists()
    mistake = again(2, [*few, "--layers", "63-20"], tmp_path / "other")
    assert mistake.returncode == 2, mistake.output
    assert not (tmp_path / "other").exists()
