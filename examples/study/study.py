"""The experiments of the 2014 study, made again: time and speed-up over cores, and time to more than 90 % on MNIST.

    python examples/study/study.py iterations    how many iterations each strategy needs at 1 to 32 partitions (minutes)
    python examples/study/study.py iterations --whole 800     the same where partitions get smaller as they get more
    python examples/study/study.py check         the same with real ranks, at 2 and 4
    python examples/study/study.py curves        accuracy over samples, each strategy and grid, with real ranks
    python examples/study/study.py goal          seconds to 90 % on 1 and 2 cores
    python examples/study/study.py times         seconds of an iteration: 1 and 2 ranks, near and on two hosts (root)
    python examples/study/study.py report        tables and pictures from the results of all of these

Results are JSON files in ``--results``; a command replaces its own.  The machine should be quiet for ``times`` and
``goal``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

STRATEGIES = ("allreduce", "local", "server")
PARTITIONS = (1, 2, 4, 8, 16, 32)
RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
BATCH = 50
GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (3, 1))  # replicas x model shards

# strategy, nodes, batch, layers: fitted to, and held out
MEASURED = [
    (strategy, nodes, batch, layers)
    for strategy in STRATEGIES
    for nodes in (1, 2)
    for batch, layers in ((50, (784, 500, 10)), (200, (784, 500, 10)), (50, (784, 1000, 10)), (400, (784, 250, 10)))
]
HELD_OUT = [
    (strategy, nodes, batch, layers)
    for strategy in STRATEGIES
    for nodes in (1, 2)
    for batch, layers in ((100, (784, 500, 10)), (100, (784, 800, 10)))
]
ALONE = [
    ("allreduce", 0, batch, layers)
    for batch, layers in (
        (25, (784, 500, 10)), (50, (784, 500, 10)), (200, (784, 500, 10)), (50, (784, 1000, 10)), (400, (784, 250, 10)),
    )
]  # fmt: skip


def iterations(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Best over the rates of the median over seeds, for each strategy and number of partitions."""
    from mpi4py import MPI
    from replicas import Runner, Setting

    from modelpar import DataSpec, open_dataset

    dataset = open_dataset(DataSpec(data=options.data), MPI.COMM_SELF)
    runners = [Runner(dataset, seed) for seed in range(1, options.seeds + 1)]
    found = []
    for strategy in STRATEGIES:
        for replicas in options.partitions:
            batch = options.whole // replicas if options.whole else options.batch
            for rate in options.rates:
                needed = [
                    runner.iterations_to_goal(
                        Setting(strategy, replicas, batch, rate, seed),
                        options.limit,
                        every=options.every,
                        goal=options.goal,
                    )
                    for seed, runner in enumerate(runners)
                ]
                row = {
                    "strategy": strategy,
                    "replicas": replicas,
                    "batch": batch,
                    "rate": rate,
                    "needed": needed,
                }
                found.append(row)
                print(row, flush=True)
    return found


def on_ranks(n: int, words: list[str], *, hosts: int = 1) -> dict[str, Any]:
    """The result of ``real.py`` on n ranks, on one host or on two.  Raises RuntimeError where there is none."""
    command = [sys.executable, str(HERE / "real.py"), *words]
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    env |= {"OPENBLAS_NUM_THREADS": "1"}
    if hosts == 2:
        command = [sys.executable, str(HERE.parent / "hosts.py"), "--rate", "1gbit", "--", *command]
    else:
        command = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(n), *command]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise RuntimeError(f"{' '.join(command)} gave no result:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def goal_words(sync: str, rate: float, options: argparse.Namespace) -> list[str]:
    return ["goal", "--data", options.data, "--sync", sync, "--rate", str(rate), "--batch", str(options.batch),
            "--until", str(options.goal), "--every", str(options.every)]  # fmt: skip


def check(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Iterations that real ranks need, at rates at which the replicas in turn were measured too."""
    found = []
    for strategy in STRATEGIES:
        for n in options.ranks:
            for rate in (0.2, 0.4):
                row = on_ranks(n, goal_words(strategy, rate, options))
                found.append({name: row[name] for name in ("sync", "ranks", "rate", "batch", "iterations")})
                print(found[-1], flush=True)
    return found


def curves(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Accuracy over samples of each strategy and grid, at the same global minibatch and rate."""
    found = []
    for strategy in STRATEGIES:
        for replicas, shards in options.grids:
            words = ["goal", "--data", options.data, "--sync", strategy, "--rate", "0.2", "--shards", str(shards),
                     "--batch", str(96 // replicas), "--epochs", str(options.epochs), "--every", "125"]  # fmt: skip
            row = on_ranks(replicas * shards, words)
            found.append({"strategy": strategy, "replicas": replicas, "shards": shards, "curve": row["curve"]})
            print(strategy, replicas, shards, row["curve"][-1], flush=True)
    return found


def goal(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of fine-tuning to the goal, and of the whole, on 1 and 2 cores."""
    found = []
    for n in (1, 2):
        for strategy in STRATEGIES:
            words = goal_words(strategy, 0.2 * n if strategy != "local" else 0.4, options)
            rows = [on_ranks(n, words) for _ in range(options.repeats)]
            row = sorted(rows, key=lambda row: row["seconds"])[len(rows) // 2]
            found.append({name: row[name] for name in ("sync", "ranks", "iterations", "seconds", "wall")})
            print(found[-1], flush=True)
    return found


def times(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Seconds of an iteration of every configuration: the least of some repeats, each a median."""
    from model import Point, as_json

    wanted = {
        "fitted": ALONE + MEASURED,
        "held out": [("allreduce", 0, 100, (784, 500, 10)), ("allreduce", 0, 100, (784, 800, 10)), *HELD_OUT],
    }
    best: dict[Any, float] = {}
    for _ in range(options.repeats):
        for points in wanted.values():
            for strategy, nodes, batch, layers in points:
                hidden = "-".join(map(str, layers[1:-1]))
                words = ["times", "--data", str(options.scratch), "--sync", strategy, "--batch", str(batch), "--hidden",
                         hidden, "--epochs", "6"]  # fmt: skip
                seconds = on_ranks(1 if nodes == 0 else 2, words, hosts=max(nodes, 1))["seconds"]
                key = strategy, nodes, batch, layers
                best[key] = min(best.get(key, seconds), seconds)
                print(key, f"{seconds * 1e3:.2f} ms", flush=True)
    return {
        name: [
            as_json(Point(s, max(nodes, 1), 2 if nodes == 1 else 1, b, layers, best[s, nodes, b, layers]))
            for s, nodes, b, layers in points
        ]
        for name, points in wanted.items()
    }


def as_grid(text: str) -> tuple[int, int]:
    replicas, shards = map(int, text.split("x"))
    return replicas, shards


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["iterations", "check", "curves", "goal", "times", "report"])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--pictures", type=Path, default=HERE.parent.parent / "docs" / "figures")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--goal", type=float, default=0.9, help="test accuracy that is to be exceeded")
    parser.add_argument("--batch", type=int, default=BATCH, help="samples of a replica in an iteration")
    parser.add_argument(
        "--whole", type=int, default=0, help="samples of an iteration over all replicas; 0: --batch each"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=800, help="iterations after which a run has failed")
    parser.add_argument("--every", type=int, default=5, help="iterations between looks at the accuracy")
    parser.add_argument("--partitions", type=int, nargs="+", default=PARTITIONS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--ranks", type=int, nargs="+", default=(2, 4))
    parser.add_argument("--grids", type=as_grid, nargs="+", default=GRIDS, help="of the curves: REPLICASxSHARDS")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"), help="a folder that every rank sees")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.what == "report":
        import report

        print(report.write(options.results, options.pictures))
        return 0
    found = globals()[options.what](options)
    path = options.results / f"{options.what}{'-whole' if options.whole else ''}.json"
    path.write_text(json.dumps(found, indent=0) + "\n")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
