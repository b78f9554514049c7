"""``modelpar soak``: trainings that are killed and resumed, for minutes, and a process that must not grow meanwhile."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mpi4py import MPI

from modelpar.cli.progress import size_text, summary_table
from modelpar.cli.soak_job import Launcher
from modelpar.cli.soak_lifetimes import Lifetimes
from modelpar.cli.soak_round import DIFFERENT, INCOMPLETE, KINDS, LEFT, LOST, STORIES, UNREADABLE, Outcome, Rounds
from modelpar.cli.terminal import make_console
from modelpar.comm.grid import Grid
from modelpar.errors import ModelparError, SpecError

MOST_KILLS = 4  # of one run
LIVES = 3  # lifetimes after each round


def soak(comm: MPI.Comm, *, minutes: float, seed: int, as_json: bool) -> int:
    """Play rounds until the time is over, at least one; the exit status: 0 where all held, 1 where not.

    Raises SpecError, on every rank, where there are several: each job has ranks of its own.
    """
    if comm.size > 1:
        raise SpecError(f"modelpar soak starts ranks itself, but {comm.size} were started; call it without mpiexec")
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="modelpar-soak-"))
    stream = sys.stderr if as_json else sys.stdout
    keep = False
    try:
        report = Soak(folder, seed, lambda line: print(line, file=stream, flush=True)).run(began + 60 * minutes)
        keep = not report["holds"]
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    report = {"minutes": minutes, "seed": seed, "seconds": round(time.monotonic() - began, 1), **report}
    if as_json:
        print(json.dumps(report, indent=1), flush=True)
    else:
        _show(report)
    return 0 if report["holds"] else 1


class Soak:
    """Rounds of killed trainings, lifetimes in this process between them, and the count of both."""

    def __init__(self, folder: Path, seed: int, say: Any) -> None:
        self.folder, self.chance, self.say = folder, random.Random(seed), say
        self.launcher = Launcher()
        self.lifetimes = Lifetimes(folder / "lifetimes")
        self.outcomes: list[Outcome] = []
        self.failures: list[str] = []  # of what is not a round

    def run(self, until: float) -> dict[str, Any]:
        """Until that time of the monotonic clock, at least one round; what ``--json`` prints."""
        launcher = self.launcher
        if launcher.max_ranks == 1:
            self.say("no mpiexec of this MPI was found: all jobs have one rank")
        else:
            self.say(f"{launcher.mpi or 'an unknown MPI'}, settings: {', '.join(launcher.settings)}")
        with Grid(MPI.COMM_SELF) as grid:
            rounds = Rounds(launcher, self.folder, self.chance, grid)
            while not self.outcomes or time.monotonic() < until:
                try:
                    self._round(rounds)
                except ModelparError as error:  # an uninterrupted run that fails: nothing can be compared
                    self.failures.append(str(error))
                    self.say(f"failed: {error}")
                    break
                self._live()
        return self._report()

    def _round(self, rounds: Rounds) -> None:
        stories = [story for story in STORIES if self.launcher.max_ranks is None or (1, 1) in story.grids]
        story = stories[len(self.outcomes) % len(stories)]
        shapes = [shape for shape in story.grids if self.launcher.max_ranks is None or shape == (1, 1)]
        moments = rounds.moments(story, self.chance.randint(1, MOST_KILLS))
        outcome = rounds.play(story, moments, lambda: self.chance.choice(shapes), vary=True)
        self.outcomes.append(outcome)
        self.say(f"{len(self.outcomes):4}  {outcome.line()}")

    def _live(self) -> None:
        """Lifetimes; what they raise is told once."""
        try:
            self.lifetimes.live(LIVES)
        except Exception as error:  # MPI's among them, where it has no more communicators
            text = f"lifetime {self.lifetimes.n + 1} failed: {type(error).__name__}: {error}"
            if not self.failures:
                self.say(text)
                self.failures.append(text)

    def _report(self) -> dict[str, Any]:
        counts = {kind: sum(outcome.count(kind) for outcome in self.outcomes) for kind in KINDS}
        problems = [f"{outcome.story}: {kind}: {text}" for outcome in self.outcomes for kind, text in outcome.problems]
        problems += [*self.lifetimes.problems(), *self.failures]
        return {
            "holds": not problems,
            "rounds": len(self.outcomes),
            "kills": sum(outcome.kills for outcome in self.outcomes),
            "resumes": sum(outcome.resumes for outcome in self.outcomes),
            "differences": counts[DIFFERENT] + self.lifetimes.n_different,
            "unreadable": counts[UNREADABLE],
            "lost": counts[LOST],
            "incomplete": counts[INCOMPLETE],
            "leftovers": counts[LEFT] + len(self.lifetimes.left),
            "lifetimes": self.lifetimes.n,
            **self.lifetimes.growth(),
            "starts": dict(Counter(start for outcome in self.outcomes for start in outcome.starts)),
            "mpi": self.launcher.mpi,
            "settings": list(self.launcher.settings),
            "problems": problems,
            "kept": [outcome.kept for outcome in self.outcomes if outcome.kept],
        }


def _show(report: dict[str, Any]) -> None:
    """The table, and a line for each problem."""
    names = ("rounds", "kills", "resumes", "differences", "unreadable", "lost", "incomplete", "leftovers", "lifetimes")
    shown: dict[str, object] = {name: f"{report[name]:,}" for name in names}
    shown["memory growth"] = size_text(report["memory_growth"]) if report["memory_growth"] > 0 else "none"
    shown["descriptors, threads"] = f"{report['descriptor_growth']:+d}, {report['thread_growth']:+d}"
    shown["result"] = "all holds" if report["holds"] else f"{len(report['problems'])} problem(s)"
    console = make_console()
    console.print(summary_table(shown, f"Soak of {report['seconds'] / 60:.1f} minutes, seed {report['seed']}"))
    for problem in report["problems"]:
        console.print(f"problem: {problem}", markup=False, soft_wrap=True)
    for kept in report["kept"]:
        console.print(f"kept to be looked at: {kept}", markup=False, soft_wrap=True)
