"""Kill a whole training job at a random moment, again and again, and see that each run comes to the same end.

    python -m tests.cut_runs --ranks 2 --times 40
    python -m tests.cut_runs --ranks 2 --times 20 --at-the-end        within the last second

Every process of the job gets SIGKILL.  Then all that is left must be whole (``modelpar verify``), and the run, resumed,
must end with the bytes of one that was left alone.  Each kill is one line: the moment, what was there, what is wrong.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from modelpar.checkpoint.verify import HEALTHY
from modelpar.cli.verify import verdicts_of
from tests import jobs
from tests.kills import Job

EXACT = [
    "--exact", "--layers", "64-40-20", "--batch-size", "64", "--epochs", "2", "--finetune-epochs", "0",
    "--checkpoint-every", "1", "--keep", "3", "--no-score",
]  # fmt: skip
SAME = ("model.safetensors", "pretrained.safetensors", "filters.png", "reconstructions.png", "samples.png")
KILLS_OF_ONE_RUN = 6  # at most, one after another; the last start is left alone


def kill(job: Job) -> None:
    """Every process of a job, the launcher included, at once."""
    for process in jobs.alive(job.tag):
        process.send_signal(signal.SIGKILL)
    job.finish(30)


def damage(run: Path) -> str:
    """What of the files of a run that was killed is not whole; a summary that is missing yet is no damage."""
    bad = [verdict for verdict in verdicts_of(run) if verdict.status != HEALTHY] if list(run.glob("*.*")) else []
    return "; ".join(
        f"{Path(verdict.path).name}: {verdict.reasons[0]}"
        for verdict in bad
        if "makes up for it" not in verdict.reasons[0]
    )


def wrong_end(run: Path, alone: Path) -> str:
    """How the end of a run differs from that of one that was left alone."""
    wrong = [name for name in SAME if not _same(run / name, alone / name)]
    if not (run / "summary.json").exists():
        wrong.append("no summary")
    if left := [path.name for path in run.rglob("*.partial")] + [path.name for path in run.glob("lock")]:
        wrong.append(f"{left} left")
    return ", ".join(wrong)


def _same(first: Path, second: Path) -> bool:
    return first.exists() == second.exists() and (not first.exists() or first.read_bytes() == second.read_bytes())


def one(n: int, words: list[str], run: Path, alone: Path, chance: random.Random, span: tuple[float, float]) -> str:
    """Kill a run once or more after it has begun, then let it end; what is wrong, empty for nothing."""
    first = True
    for _ in range(chance.randint(1, KILLS_OF_ONE_RUN)):
        moment = chance.uniform(*span) if first else chance.uniform(0, span[1])
        job = Job(n, [*words, "--run-dir", str(run), "--resume", "--max-restarts", "99"], tolerant=False)
        job.wait_for(run / "ranks.txt" if first else run / "lock")
        time.sleep(moment)
        first = False
        if job.process.poll() is not None:
            job.finish(30)
            break
        kill(job)
        there = len(list(run.glob("checkpoints/step-*.safetensors")))
        print(f"  killed after {moment:.2f} s, with {there} checkpoints and "
              f"{sum(1 for _ in run.rglob('*.partial'))} unfinished files", flush=True)  # fmt: skip
        if bad := damage(run):
            return bad
    job = Job(n, [*words, "--run-dir", str(run), "--resume", "--max-restarts", "99"], tolerant=False)
    status, output = job.finish()
    return f"status {status}: {output}" if status != 0 else damage(run) or wrong_end(run, alone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--times", type=int, default=20, help="runs, each of which is killed up to 6 times")
    parser.add_argument("--at-the-end", action="store_true", help="kill within the last second of the first start")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("rest", nargs="*", help="options of modelpar train in place of a small exact run, behind --")
    options = parser.parse_args()
    words, chance, failed = options.rest or EXACT, random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "alone"
        job = Job(options.ranks, [*words, "--run-dir", str(alone)], tolerant=False)
        job.wait_for(alone / "ranks.txt")
        began = time.monotonic()
        status, output = job.finish()
        length = time.monotonic() - began
        if status != 0:
            print(output)
            return 1
        print(f"{options.ranks} ranks, left alone: {length:.1f} s", flush=True)
        span = (max(0.0, length - 1.5), length) if options.at_the_end else (0.0, length)
        for i in range(options.times):
            run = Path(folder) / f"run-{i}"
            if wrong := one(options.ranks, words, run, alone, chance, span):
                failed += 1
            print(f"run {i}: {wrong or 'as it should be'}", flush=True)
    print(f"{failed} of {options.times} did not come to the right end")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
