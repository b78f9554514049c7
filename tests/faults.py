"""Let one rank fail at every place, in every way, and see how the job ends.

    python -m tests.faults                      1, 2 and 4 ranks under this interpreter's MPI: a table
    python -m tests.faults --ranks 2 --place step --kind bug

Each job is one line: the seconds from the fault to the end of the launcher, the exit status, how many messages there
were, and what is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from modelpar import faults
from tests import jobs

ROOT = Path(__file__).parents[1]
LIMIT = 5.0  # seconds from the fault to the end of the job

# Exit status by the kind of fault; None where it is the launcher's.  A hang is the watchdog's.
EXPECTED = {
    "error": 2, "bug": 1, "disk": 2, "memory": 2, "exit": 7, "interrupt": 130, "term": 4, "kill": None,
}  # fmt: skip
UNHANDLED = ("import", "leave")  # places outside of the run, where a signal ends the process
EARLY = (  # places before the first step, where there is nothing to save
    "grid", "open data", "place units", "compile", "make network", "begin directory", "read checkpoint",
)  # fmt: skip
DRAWN = ("draw", "draw curves")  # places at which what fails is no more than a picture,
HARMLESS = ("error", "bug", "disk", "memory")  # in these ways
SAID = ("modelpar: error", "modelpar: unexpected", "modelpar: stopped")  # beginnings of lines
ON_FIRST = DRAWN  # places that only rank 0 comes to
SMALL = ["--layers", "64-12-8", "--epochs", "1", "--threads", "1", "--checkpoint-every", "20"]
TUNED = ["--finetune-epochs", "1"]


@dataclass(frozen=True)
class Case:
    """One rank of ``n`` fails at a place in some way."""

    n: int
    rank: int
    place: str
    kind: str

    def __str__(self) -> str:
        return f"{self.place.replace(' ', '-')}-{self.kind}-{self.rank}of{self.n}"

    @property
    def expected(self) -> int | None:
        """The exit status; None where it is the launcher's."""
        if self.kind == "term" and self.place in UNHANDLED:
            return None
        return 143 if self.kind == "term" and self.place in EARLY else EXPECTED[self.kind]

    @property
    def goes_on(self) -> bool:
        return self.place in DRAWN and self.kind in HARMLESS


@dataclass(frozen=True)
class Result:
    seconds: float  # from the fault to the end of the job
    status: int | None
    n_messages: int
    output: str
    wrong: str  # what is not as it should be, but for the seconds; also what the next start leaves
    tag: str


def cases(n: int) -> list[Case]:
    """Every place with every kind, of the first and of the last rank by turns."""
    return [
        Case(n, 0 if (i + j) % 2 or place in ON_FIRST else n - 1, place, kind)
        for i, place in enumerate(faults.PLACES)
        for j, kind in enumerate(EXPECTED)
    ]


def few_cases(n: int) -> list[Case]:
    """Every other place with a kind of its own, such that all kinds occur, and a picture that fails."""
    kinds = [*EXPECTED][1:] + [*EXPECTED][:2]
    return [
        Case(n, 0 if i % 2 or place in ON_FIRST else n - 1, place, kind)
        for i, (place, kind) in enumerate(zip(faults.PLACES[1::2], kinds, strict=True))
    ]


def words_of(case: Case, run: Path, *, bare: bool = False) -> list[str]:
    shape = {1: (1, 1), 2: (1, 2), 3: (3, 1), 4: (2, 2)}[case.n]
    grid = ["--replicas", str(shape[0]), "--model-shards", str(shape[1])]
    return ["train", *SMALL, *([] if bare else TUNED), *grid, "--run-dir", str(run)]


def run_case(case: Case, folder: Path, *, limit: float) -> Result:
    run, moment = folder / "run", folder / "moment"
    words = words_of(case, run)
    if case.place == "place units":
        words += ["--partitioner", "strided"]
    if case.place == "read checkpoint":
        words = [*words_of(case, run, bare=True), "--pretrain-only"]
        jobs.run_on_ranks(case.n, command(words), limit=limit, PYTHONPATH=str(ROOT)).check()
        words += ["--resume", "--epochs", "2"]
    env = {faults.VARIABLE: f"{case.rank}:{case.place}:{case.kind}", faults.NOTE: str(moment)}
    outcome = jobs.run_on_ranks(case.n, command(words), limit=limit, PYTHONPATH=str(ROOT), **env)
    seconds = outcome.ended - moment.stat().st_mtime if moment.exists() else float("nan")
    said = [line for line in outcome.output.splitlines() if line.startswith(SAID)]
    wrong = []
    if not moment.exists():
        wrong.append("the fault did not happen")
    if outcome.returncode is None:
        wrong.append("it hung")
    elif case.goes_on:
        said = [line for line in outcome.output.splitlines() if line.startswith("warning: no pictures")]
        if outcome.returncode or not (run / "summary.json").exists():
            wrong.append(f"status {outcome.returncode}, though only a picture failed")
    elif case.expected is None:
        if outcome.returncode == 0:
            wrong.append("status 0")
    elif outcome.returncode != case.expected:
        wrong.append(f"status {outcome.returncode}, not {case.expected}")
    if len(said) != 1 and case.expected is not None:
        wrong.append(f"{len(said)} messages")
    if len(said) > 1 or outcome.output.count("Traceback") > (case.kind == "bug" and not case.goes_on):
        wrong.append("said more than once, or with a traceback")
    if not case.goes_on and outcome.returncode == 0:
        wrong.append("ended well")
    if leftovers(run):  # of a process that was killed; whoever writes there next removes them
        again = words if "--resume" in words else [*words, "--resume"]
        jobs.run_on_ranks(case.n, command(again), limit=limit, PYTHONPATH=str(ROOT))
        wrong += [f"{path.name} is left after the next start" for path in leftovers(run)]
    return Result(seconds, outcome.returncode, len(said), outcome.output, "; ".join(wrong), outcome.tag)


def leftovers(run: Path) -> list[Path]:
    return sorted(run.rglob("*.partial"))


def command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "modelpar", *words]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks")
    parser.add_argument("--place", choices=faults.PLACES)
    parser.add_argument("--kind", choices=EXPECTED)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th of the cases")
    parser.add_argument("--show", action="store_true", help="what a job printed, where something is wrong")
    asked = parser.parse_args()
    n_wrong = n_late = n_jobs = 0
    longest = 0.0
    for n in map(int, asked.ranks.split(",")):
        for case in cases(n)[:: asked.every]:
            if asked.place not in (None, case.place) or asked.kind not in (None, case.kind):
                continue
            with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
                result = run_case(case, Path(folder), limit=120.0)
            saves = case.expected == 4  # which takes as long as it takes
            late = not case.goes_on and not saves and not result.seconds <= LIMIT
            wrong = "; ".join(text for text in (result.wrong, f"later than {LIMIT:g} s" if late else "") if text)
            n_jobs, n_wrong, n_late = n_jobs + 1, n_wrong + bool(result.wrong), n_late + late
            longest = longest if case.goes_on or saves else max(longest, result.seconds)
            print(f"{case!s:36} {result.seconds:5.1f} s  status {result.status}  messages {result.n_messages}  {wrong}",
                  flush=True)  # fmt: skip
            if wrong and asked.show:
                print(result.output)
    print(f"{n_jobs} jobs: {n_wrong} wrong, {n_late} later than {LIMIT:g} s; the longest took {longest:.1f} s")
    return 1 if n_wrong or n_late else 0


if __name__ == "__main__":
    sys.exit(main())
