"""Kill a rank of a training run at a random moment, again and again, and see what becomes of the run.

    python -m tests.kills --grid 4x1 --sync server --times 20          Open MPI: the others go on
    python -m tests.kills --grid 2x2 --how killed --times 20           the job ends, and is resumed on one rank
    python -m tests.kills --grid 2x2 --how stopped --times 20          the watchdog ends the job, and names the rank
    python -m tests.kills --how job --times 200 --ends 40              the whole job, launcher and all, on any MPI

A grid is replicas x model shards.  Each run is one line: the moment, the rank, how the run ended, and its accuracy.

``--how job`` kills every process of a job at once, while it writes a checkpoint after every update: at 1, 2 and 4
ranks, with checkpoints of a few KB and of 300 MB, ``--times`` in all; and ``--ends`` times when the model is there
already, but pictures and summary are not.  Runs are resumed, at the same ranks, until they are complete, and compared
with uninterrupted ones.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
from mpi4py import MPI

from modelpar.cli.soak_job import Launcher
from modelpar.cli.soak_round import DIFFERENT, INCOMPLETE, KINDS, LEFT, LOST, UNREADABLE, Outcome, Rounds, Shape, Story
from modelpar.comm.grid import Grid
from tests import jobs

LIMIT = 90.0  # seconds until a run counts as hanging
STALL = 3  # seconds without a step until the watchdog ends a job
RANK = "OMPI_COMM_WORLD_RANK"

RANKS: tuple[Shape, ...] = ((1, 1), (1, 2), (2, 2))  # of --how job: 1, 2 and 4
KILLS_OF_A_RUN = 5  # a run is started so many times before it may end
SAVING = "--exact --no-score --checkpoint-every 1 --keep 2"
SIZES = {
    "small": f"{SAVING} --no-pictures --layers 64-32-16 --epochs 5 --finetune-epochs 3",
    # 37.7 million weights, and as many velocities
    "300 MB": f"{SAVING} --no-pictures --data patterns:64 --layers 4096-9200 --updates 6 --pretrain-only",
}
ENDING = f"{SAVING} --layers 64-32-16 --epochs 1 --finetune-epochs 1"  # with pictures: they come after the model


def command(n: int, tolerant: bool, words: list[str]) -> list[str]:
    """``words`` of ``modelpar train`` on ``n`` ranks."""
    ft = ["--with-ft", "ulfm"] if tolerant else []
    return [*jobs.launcher(), *ft, "-n", str(n), sys.executable, "-m", "modelpar", "train", "--threads", "1", *words]


def rank_processes(tag: str) -> dict[int, psutil.Process]:
    """The ranks of the job with this tag that are running."""
    result = {}
    for process in jobs.alive(tag):
        try:
            rank = process.environ().get(RANK) or process.environ().get("PMI_RANK")
            if rank is not None and "modelpar" in process.cmdline():
                result[int(rank)] = process
        except psutil.Error:
            continue
    return result


class Job:
    """A training run on ``n`` ranks that a rank of can be sent a signal."""

    def __init__(self, n: int, words: list[str], *, tolerant: bool) -> None:
        self.tag = uuid.uuid4().hex
        self.started = time.monotonic()
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the job has ended
        self.process = subprocess.Popen(
            command(n, tolerant, words), env=jobs.environment(**{jobs.TAG: self.tag}), stdin=subprocess.DEVNULL,
            stdout=self.output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.n = n

    def wait_for(self, path: Path, limit: float = 90) -> None:
        """Until a file is there: metrics.jsonl, when training begins."""
        deadline = time.monotonic() + limit
        while not path.exists() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    def signal(self, rank: int, number: int = signal.SIGKILL) -> bool:
        """Send a signal to one rank; whether it was there to get it."""
        process = rank_processes(self.tag).get(rank)
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.Error:
            return False
        return True

    def finish(self, limit: float = LIMIT) -> tuple[int | None, str]:
        """(exit status, None where it hung; all that was printed)"""
        try:
            status: int | None = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
            if os.environ.get("MODELPAR_TEST_STACKS"):
                for rank, process in rank_processes(self.tag).items():
                    print(f"-- rank {rank}")
                    subprocess.run(["py-spy", "dump", "--pid", str(process.pid)])
        jobs.end_all(self.process, self.tag)
        self.output.seek(0)
        return status, self.output.read()


def accuracy(run: Path) -> float | None:
    path = run / "summary.json"
    return json.loads(path.read_text())["test_accuracy"] if path.exists() else None


def one(
    n: int, words: list[str], run: Path, moment: float, victim: int, *, tolerant: bool = True,
    number: int = signal.SIGKILL,
) -> dict:  # fmt: skip
    """Send ``victim`` a signal ``moment`` seconds after training has begun."""
    job = Job(n, [*words, "--run-dir", str(run)], tolerant=tolerant)
    job.wait_for(run / "metrics.jsonl")
    time.sleep(moment)
    hit = job.signal(victim, number)
    killed = time.monotonic()
    status, output = job.finish()
    return {
        "moment": moment, "rank": victim, "hit": hit, "status": status, "seconds": time.monotonic() - killed,
        "accuracy": accuracy(run), "output": output,
    }  # fmt: skip


def ends(n: int, words: list[str], run: Path, moment: float, victim: int, how: str) -> dict:
    """As ``one``, where the job is to end: ``wrong`` says what is not as it should be, once it was resumed."""
    more = ["--checkpoint-every", "200", "--stall-timeout", str(STALL if how == "stopped" else 0)]
    number = signal.SIGSTOP if how == "stopped" else signal.SIGKILL
    result = one(n, [*words, *more], run, moment, victim, tolerant=False, number=number)
    if not result["hit"]:
        return result
    wrong, output = [], result["output"]
    if how == "stopped":
        if result["status"] != 3:
            wrong.append(f"exit status {result['status']}, not 3")
        if output.count(f"suspect: rank {victim}:") != 1:
            wrong.append("the watchdog does not name it once")
    else:
        if result["status"] in (0, None) or result["seconds"] > 10:
            wrong.append(f"status {result['status']} after {result['seconds']:.1f} s")
        if f"rank {victim}" not in output:
            wrong.append("the rank is not named")
    again = Job(1, [*words[:2], "--model-shards", "1", "--resume", "--run-dir", str(run)], tolerant=False)
    status, printed = again.finish()
    result["accuracy"] = accuracy(run)
    if status != 0:
        wrong.append("it is not resumed")
        output += printed
    return {**result, "output": output, "wrong": "; ".join(wrong)}


def series(times: int, ends: int, seed: int) -> int:
    """Kill whole jobs (``--how job``); the exit status."""
    launcher, chance, status = Launcher(), random.Random(seed), 0
    with tempfile.TemporaryDirectory() as name, Grid(MPI.COMM_SELF) as grid:
        rounds = Rounds(launcher, Path(name), chance, grid)
        cells = [(size, shape, False) for size in SIZES for shape in RANKS] if times else []
        wanted = [times // len(cells) + (i < times % len(cells)) for i in range(len(cells))]
        last = [("end", shape, True) for shape in RANKS] if ends else []
        wanted += [ends // len(last) + (i < ends % len(last)) for i in range(len(last))]
        for (size, shape, ending), n in zip(cells + last, wanted, strict=True):
            label = f"{size}, {shape[0] * shape[1]} rank(s)"
            story = Story(label, ENDING if ending else SIZES[size], grids=(shape,))
            outcomes = list[Outcome]()
            while (left := n - sum(outcome.kills for outcome in outcomes)) > 0:
                moments = rounds.moments(story, 1 if ending else min(left, KILLS_OF_A_RUN), ending=float(ending))
                outcomes.append(rounds.play(story, moments, lambda shape=shape: shape, vary=False))  # type: ignore[misc]
                print(f"  {outcomes[-1].line()}", flush=True)
            counts = {kind: sum(outcome.count(kind) for outcome in outcomes) for kind in KINDS}
            status = status or int(any(counts.values()))
            seconds = sum(outcome.seconds for outcome in outcomes)
            told = ", ".join(f"{counts[kind]} {kind}" for kind in (UNREADABLE, LOST, INCOMPLETE, DIFFERENT, LEFT))
            print(f"{label}: {n} kills of {len(outcomes)} runs in {seconds:.0f} s: {told}", flush=True)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="4x1", help="replicas x model shards")
    parser.add_argument("--how", choices=["lost", "killed", "stopped", "job"], default="lost",
                        help="what becomes of a rank, or of the job")  # fmt: skip
    parser.add_argument("--sync", default="allreduce")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--ends", type=int, default=0, help="of --how job: kills after the model is there")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", type=float, help="seconds of training in which a rank is killed [all]")
    parser.add_argument("--show", action="store_true", help="print what a run printed that did not end well")
    parser.add_argument("rest", nargs="*", help="further options of modelpar train, behind --")
    options = parser.parse_args()
    if options.how == "job":
        return series(options.times, options.ends, options.seed)
    replicas, shards = map(int, options.grid.split("x"))
    words = ["--sync", options.sync, "--model-shards", str(shards), "--replicas", str(replicas), *options.rest]
    n, chance, worst = replicas * shards, random.Random(options.seed), 0.0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        job = Job(n, [*words, "--run-dir", str(undisturbed)], tolerant=options.how == "lost")
        job.wait_for(undisturbed / "metrics.jsonl")
        began = time.monotonic()
        status, output = job.finish()
        if status != 0:
            print(output)
            return 1
        length = time.monotonic() - began
        base = accuracy(undisturbed)
        assert base is not None
        print(f"{options.grid} {options.sync}: undisturbed {base:.2%} in {length:.1f} s of training", flush=True)
        killed = tried = wrong = 0
        while killed < options.times:
            moment, victim = chance.uniform(0, options.within or length), chance.randrange(n)
            tried += 1
            run = Path(folder) / f"run-{tried}"
            if options.how == "lost":
                result = one(n, words, run, moment, victim)
            else:
                result = ends(n, words, run, moment, victim, options.how)
            if not result["hit"]:  # it was through before
                continue
            killed += 1
            got = result["accuracy"]
            worst = max(worst, abs(got - base)) if got is not None else float("inf")
            print(
                f"{killed:3}  rank {victim} after {moment:6.2f} s: status {result['status']} after "
                f"{result['seconds']:.1f} s, accuracy {'none' if got is None else f'{got:.2%}'} "
                f"{result.get('wrong', '')}",
                flush=True,
            )
            wrong += bool(result.get("wrong"))
            if options.show and (
                result.get("wrong") or (options.how == "lost" and result["status"] != 0) or got is None
            ):
                print(result["output"], flush=True)
    print(f"largest difference {worst:.2%}; {wrong} of {killed} did not end as they should")
    return 0 if worst <= 0.01 and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
