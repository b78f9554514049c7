"""``python -m tests.fuzz --cases 200000``: many damaged files, in processes of their own, and what came of them.

Each process may take a bounded amount of memory and has a time for each case; one that crashes or hangs is replaced,
and its case is kept.  An interruption ends it with the report of what was done.  Exit status 1 where any case did what
it may not.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz import harness

BATCH = 2000  # cases of a process
SILENCE = 180.0  # seconds without a case after which a process hangs: one may compile, on a machine that is busy
WARM = 2  # cases of each reader that are not timed: they compile, import and build what they damage


def main() -> int:
    """Run the cases that are asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="how many [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the first of them [default: %(default)s]")
    parser.add_argument("--readers", default="", metavar="NAME,...", help="only those whose names contain one of these")
    parser.add_argument("--processes", type=int, default=1, help="at a time [default: %(default)s]")
    parser.add_argument("--keep", type=Path, help="folder for the files of faults [default: a temporary one]")
    parser.add_argument("--list", action="store_true", help="names of all readers")
    parser.add_argument("--worker", nargs=4, metavar=("NAMES", "SEED", "CASES", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        names, seed, n, file = options.worker
        return _work(names.split(","), int(seed), int(n), Path(file))
    asked = [word for word in options.readers.split(",") if word]
    names = [name for name in harness.readers() if not asked or any(word in name for word in asked)]
    if options.list or not names:
        print(*harness.readers(), sep="\n")
        return 0 if options.list else 2
    keep = options.keep or Path(tempfile.mkdtemp(prefix="modelpar-fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    return _report(_Run(names, options.seed, options.cases, options.processes, keep))


class _Run:
    """Batches in processes; a new process begins after the case at which another has died."""

    def __init__(self, names: list[str], seed: int, n: int, processes: int, keep: Path) -> None:
        self.names, self.keep, self.n = names, keep, n
        self.pieces = [(seed, first, min(BATCH, n - first)) for first in range(0, n, BATCH)]
        self.faults: list[dict[str, Any]] = []
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.seconds = -time.monotonic()
        running: list[_Child] = []
        try:
            while self.pieces or running:
                while self.pieces and len(running) < processes:
                    running.append(_Child(names, *self.pieces.pop(0)))
                time.sleep(0.2)
                for child in running[:]:
                    if child.ended():
                        running.remove(child)
                        self._collect(child)
        except KeyboardInterrupt:  # what was done until then is reported
            for child in running:
                child.process.kill()
                child.process.wait()
                child.n = len(child.lines())  # the others are not missed
                self._collect(child)
        self.seconds += time.monotonic()

    def _collect(self, child: _Child) -> None:
        lines = child.lines()
        for line in lines:
            self.done[line["name"]] += 1
            self.refused[line["name"]] += line["refused"]
            self.slowest[line["name"]] = max(self.slowest.get(line["name"], 0.0), line["seconds"])
            if line["fault"]:
                self._keep(line)
        if child.n and not child.is_warm():  # nothing of it can be done, and the errors say why
            self._keep({"name": "all", "seed": child.seed, "fault": f"no case was begun: {child.errors()}"})
        elif (left := child.n - len(lines)) > 0:  # it died, or was ended: the case after the last is the reason
            name, seed = list(harness.seeds_of(self.names, child.seed, child.first + child.n))[child.first + len(lines)]
            why = "hangs" if child.killed else f"ended the process ({child.process.returncode})"
            self._keep({"name": name, "seed": seed, "fault": f"{why}: {child.errors()}"})
            self.done[name] += 1
            if left > 1:
                self.pieces.insert(0, (child.seed, child.first + len(lines) + 1, left - 1))
        child.remove()

    def _keep(self, line: dict[str, Any]) -> None:
        """Note a fault, and write its file again, to be looked at."""
        self.faults.append(line)
        folder = self.keep / f"{line['name'].replace('/', '-')}-{line['seed']}"
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(Exception):  # a fault of no case has no file
            harness.readers()[line["name"]].write(folder / "file", harness.random_of(line["name"], line["seed"]))
        print(f"FAULT {line['name']} --seed {line['seed']}: {line['fault']}", flush=True)


class _Child:
    """A process that does a batch and writes a line for each case."""

    def __init__(self, names: list[str], seed: int, first: int, n: int) -> None:
        self.seed, self.first, self.n, self.killed = seed, first, n, False
        self.folder = Path(tempfile.mkdtemp(prefix="modelpar-fuzz-"))
        words = ["--worker", ",".join(names), str(seed), f"{first + n}", str(self.folder / "lines")]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "TMPDIR": str(self.folder), "FUZZ_FIRST": str(first)}
        with open(self.folder / "errors", "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz", *words], stdout=errors, stderr=errors, stdin=subprocess.DEVNULL,
                env=environment, cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self.changed = (time.monotonic(), 0)

    def ended(self) -> bool:
        """Whether the process has ended; one that is silent for too long is."""
        if self.process.poll() is not None:
            return True
        size = (self.folder / "lines").stat().st_size if (self.folder / "lines").exists() else 0
        if size != self.changed[1]:
            self.changed = (time.monotonic(), size)
        patience = SILENCE if size else 5 * SILENCE  # it compiles first
        if time.monotonic() - self.changed[0] > patience:
            self.killed = True
            self.process.send_signal(signal.SIGABRT)  # faulthandler shows where it stands
            time.sleep(1)
            self.process.kill()
            self.process.wait()
        return self.killed

    def lines(self) -> list[dict[str, Any]]:
        try:
            written = (self.folder / "lines").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in map(json.loads, written) if line]

    def is_warm(self) -> bool:
        """Whether all was compiled, and the cases begun."""
        return (self.folder / "lines").exists() and (self.folder / "lines").stat().st_size > 0

    def errors(self) -> str:
        """Where it stood, as faulthandler tells, or else the last that it wrote."""
        text = (self.folder / "errors").read_text(errors="replace")
        _, crash, trace = text.rpartition("Fatal Python error")
        return (crash + trace)[:1500] if crash else text[-1500:]

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _work(names: list[str], seed: int, stop: int, file: Path) -> int:
    """The cases of one process.  The file gets an empty line when all is compiled, then one for each case."""
    faulthandler.enable()
    os.environ["MODELPAR_NO_CACHE"] = "1"
    first, known = int(os.environ["FUZZ_FIRST"]), harness.readers()
    room = Path(tempfile.mkdtemp(prefix="case-"))

    def one(name: str, number: int) -> harness.Outcome:
        folder = Path(tempfile.mkdtemp(dir=room))
        os.chdir(folder)
        try:
            return harness.run(known[name], number, folder)
        finally:
            os.chdir(room)
            shutil.rmtree(folder, ignore_errors=True)

    chosen = list(harness.seeds_of(names, seed, stop))[first:]
    with open(file, "w", encoding="utf-8") as lines:
        for name in dict.fromkeys(name for name, _ in chosen):
            for number in range(WARM):
                one(name, -1 - number)
        before = harness.peak()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * harness.MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        lines.write("{}\n")
        lines.flush()
        for name, number in chosen:
            outcome = one(name, number)
            if outcome.seconds > harness.SECONDS and not outcome.fault:
                outcome = one(name, number)  # it may have compiled something
                if outcome.seconds > harness.SECONDS:
                    outcome.fault = outcome.fault or f"took {outcome.seconds:.1f} s"
            after = harness.peak()
            if after - before > harness.MEMORY:
                outcome.fault = outcome.fault or f"took {(after - before) >> 20} MiB"
            before = max(before, after)
            told = {"name": name, "seed": number, "seconds": round(outcome.seconds, 3)}
            lines.write(json.dumps({**told, "fault": outcome.fault, "refused": outcome.refused}) + "\n")
            lines.flush()
    return 0


def _report(run: _Run) -> int:
    print(f"{'reader':<40} {'cases':>8} {'refused':>8} {'slowest':>8}  faults")
    wrong = Counter(line["name"] for line in run.faults)
    for name in run.names:
        slowest = f"{run.slowest.get(name, 0.0):.2f} s"
        print(f"{name:<40} {run.done[name]:>8} {run.refused[name]:>8} {slowest:>8}  {wrong[name] or ''}")
    print(f"{sum(run.done.values())} cases in {run.seconds:.0f} s, {len(run.faults)} faults", end="")
    print(f", whose files are in {run.keep}" if run.faults else "")
    return 1 if run.faults else 0


if __name__ == "__main__":
    sys.exit(main())
