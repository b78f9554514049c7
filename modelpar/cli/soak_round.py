"""One round of ``modelpar soak``: a training that is killed, resumed elsewhere, and compared with one that was not.

Most trainings are exact, so that every grid, layout and setting of MPI must leave the same bytes.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modelpar import checkpoint
from modelpar.cli.run_directory import SUMMARY
from modelpar.cli.soak_job import DEFAULT, Launcher, Process, job
from modelpar.comm.grid import Grid
from modelpar.errors import ModelparError
from modelpar.training import digests

Shape = tuple[int, int]  # replicas, model shards

GRIDS: tuple[Shape, ...] = ((1, 1), (1, 2), (2, 1), (2, 2))
LAYOUTS = ("auto", "column", "row", "dual")
PARTITIONERS = ("block", "strided", "random")
LIMIT = 300.0  # seconds until a job counts as hanging; the first ones compile kernels
POLL = 0.002  # seconds between two looks at a run directory
MODEL, PRETRAINED = "model.safetensors", "pretrained.safetensors"
COMPARED = (MODEL, PRETRAINED, digests.NAME)
OF_MPI = ("ompi.", "prte.", "pmix", "openmpi", "ucx", "mpich")  # names of temporary files that killed ranks may leave
# What can be wrong, as the report counts it.
UNREADABLE, LOST, INCOMPLETE, DIFFERENT, LEFT = "unreadable", "lost", "incomplete", "different", "left over"
KINDS = (UNREADABLE, LOST, INCOMPLETE, DIFFERENT, LEFT)
_STEP = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class Story:
    """A training, and the grids at which it leaves the same bytes.

    repeatable   False: replicas go at their own pace, so that a run must only come to its end
    placed       whether layouts and partitioners may change too
    """

    name: str
    options: str  # of ``modelpar train``
    grids: tuple[Shape, ...] = GRIDS
    repeatable: bool = True
    placed: bool = True

    def words(self, run: Path) -> list[str]:
        """The command's words without those of a grid; the same for the first start and all others."""
        own = ["--threads", "1", "--resume", "--max-restarts", "1000", "--run-dir", str(run)]
        return ["train", *self.options.split(), *own]


_DRAWN = "--no-score --checkpoint-every 1 --keep 2 --epochs 5 --finetune-epochs 3"
_SMALL = f"{_DRAWN} --no-pictures"
_EXACT = f"--exact {_SMALL}"
STORIES = (
    Story("two RBMs", f"--exact {_DRAWN} --layers 64-32-16"),  # with pictures, so that its end takes a second or two
    Story("tempered chains, averages", f"{_EXACT} --layers 64-32 --chains 40 --chain-method pt --chain-temperatures 4 "
          "--average 20"),
    Story("local connections", f"{_EXACT} --layers 64-36 --connections local:3/1 --keep-trajectory", placed=False),
    # not exact, which needs replicas that take every step together: the same bytes at the same grid only
    Story("Local SGD", f"{_SMALL} --layers 64-32 --sync local --period 5", grids=((2, 1),), placed=False),
    Story("parameter server", f"{_SMALL} --layers 64-32 --sync server --meet-every 5", grids=((2, 1), (2, 2)),
          repeatable=False),
)  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """When a job is killed: ``seconds`` after its start, or after a file has appeared.

    updates   wait for the checkpoint after so many updates, or a later one, and at least for a new one
    ending    wait for the model; after the summary it is too late
    """

    seconds: float
    updates: int | None = None
    ending: bool = False

    def __str__(self) -> str:
        after = "the model" if self.ending else "the start" if self.updates is None else f"update {self.updates}"
        return f"{self.seconds:.2f} s after {after}"


@dataclass
class Reference:
    """What an uninterrupted run has left."""

    files: dict[str, bytes]
    names: set[str]
    n_updates: int
    seconds: float  # of the whole job
    update: float  # of these for one update, with its checkpoint
    ending: float  # of these from the model to the summary


@dataclass
class Outcome:
    """What came of one round."""

    story: str
    well: str = "the same bytes"  # what is said where nothing is wrong
    starts: list[str] = field(default_factory=list)  # grids and settings, in their order
    kills: int = 0
    resumes: int = 0
    moments: list[Moment] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[tuple[str, str]] = field(default_factory=list)  # kind, one line
    kept: str | None = None  # the run directory, where something was wrong

    def count(self, kind: str) -> int:
        """Problems of one kind."""
        return sum(kind == other for other, _ in self.problems)

    def line(self) -> str:
        """For the terminal."""
        end = "; ".join(f"{kind}: {text}" for kind, text in self.problems) or self.well
        return f"{self.story}: {' > '.join(self.starts)}; {self.kills} kill(s), {self.seconds:.1f} s; {end}"


class Rounds:
    """Plays rounds in a folder of its own, and remembers the uninterrupted runs.

    grid    of this process alone, for reading checkpoints
    """

    def __init__(self, launcher: Launcher, folder: Path, chance: random.Random, grid: Grid) -> None:
        self.launcher, self.folder, self.chance, self.grid = launcher, folder, chance, grid
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._references: dict[str, Reference] = {}
        self._n = 0

    def reference(self, story: Story) -> Reference:
        """The uninterrupted run of a story, made when it is first asked for.  Raises ModelparError where it fails."""
        known = self._references.get(story.name)
        if known is not None:
            return known
        run, shape = self._new_run(), story.grids[0]
        with self._start(story, run, shape) as process:
            _wait_for(process, lambda: newest(run) > 0, LIMIT)
            first = time.monotonic()
            _wait_for(process, lambda: (run / MODEL).exists(), LIMIT)
            there = time.monotonic()
            _wait_for(process, lambda: (run / SUMMARY).exists(), LIMIT)
            summed_up = time.monotonic()
            status, _ = process.wait(LIMIT)
            ended = time.monotonic()
            if status != 0:
                raise ModelparError(f"the uninterrupted run of {story.name!r} {_how(status)}: {process.last_words()}")
        files = {name: (run / name).read_bytes() for name in COMPARED if (run / name).exists()}
        n = newest(run)
        seconds = ended - process.started
        made = Reference(files, _names(run), n, seconds, (there - first) / max(n, 1), summed_up - there)
        shutil.rmtree(run)
        self._references[story.name] = made
        return made

    def moments(self, story: Story, n: int, *, starting: float = 0.1, ending: float = 0.2) -> list[Moment]:
        """So many random ones in the order of a run: mostly during updates, and in the given parts of the cases before
        the first or when the model is there."""
        reference, chance = self.reference(story), self.chance
        kinds = chance.choices(("start", "update", "end"), (starting, 1 - starting - ending, ending), k=n)
        targets = sorted(chance.randint(1, max(1, reference.n_updates - 1)) for _ in range(kinds.count("update")))
        return [
            *(Moment(chance.uniform(0, reference.seconds / 2)) for _ in range(kinds.count("start"))),
            *(Moment(chance.uniform(0, 2 * reference.update), updates=target) for target in targets),
            *(Moment(chance.uniform(0, reference.ending), ending=True) for _ in range(kinds.count("end"))),
        ]

    def play(self, story: Story, moments: Iterable[Moment], shapes: Callable[[], Shape], *, vary: bool) -> Outcome:
        """Start, kill at each moment and resume, then let the run come to its end, and compare.

        shapes   the grid of the next start
        vary     other layouts, partitioners and settings of MPI too

        The run directory stays where something was wrong.
        """
        reference, run, outcome = self.reference(story), self._new_run(), Outcome(story.name)
        if not story.repeatable:
            outcome.well = "complete"
        began = time.monotonic()
        for moment in moments:
            if not self._kill(story, run, moment, shapes(), outcome, vary=vary):
                break  # it has ended before
        if self._finish(story, run, shapes(), outcome, vary=vary):
            self._compare(story, run, reference, outcome)
        self._look_for_leftovers(run, reference, outcome)
        outcome.seconds = time.monotonic() - began
        if outcome.problems:
            outcome.kept = str(run)
        else:
            shutil.rmtree(run)
        return outcome

    # -- parts of a round --------------------------------------------------------------------------------------------

    def _start(
        self, story: Story, run: Path, shape: Shape, outcome: Outcome | None = None, *, vary: bool = False
    ) -> Process:
        words, setting = [], DEFAULT
        if vary:
            setting = self.chance.choice(list(self.launcher.settings))
            if story.placed:
                words = ["--layout", self.chance.choice(LAYOUTS), "--partitioner", self.chance.choice(PARTITIONERS)]
        if outcome is not None:
            how = [word for word in (*words[1::2], setting) if word not in ("auto", "block", DEFAULT)]
            outcome.starts.append(f"{shape[0]}x{shape[1]}" + (f" ({', '.join(how)})" if how else ""))
            outcome.resumes += len(outcome.starts) > 1
        words += ["--replicas", str(shape[0]), "--model-shards", str(shape[1])]
        return job(self.launcher, shape[0] * shape[1], [*story.words(run), *words], self.temporary, setting)

    def _kill(self, story: Story, run: Path, moment: Moment, shape: Shape, outcome: Outcome, *, vary: bool) -> bool:
        """Start, and kill at that moment; False where the job has ended before.  Notes what is wrong afterwards."""
        with self._start(story, run, shape, outcome, vary=vary) as process:
            if moment.ending:
                _wait_for(process, lambda: (run / MODEL).exists(), LIMIT)
            elif moment.updates is not None:
                wanted = max(moment.updates, newest(run) + 1)
                _wait_for(process, lambda: newest(run) >= wanted or (run / MODEL).exists(), LIMIT)
            time.sleep(moment.seconds)
            had, had_model = newest(run), (run / MODEL).exists()
            if not process.runs or (moment.ending and (run / SUMMARY).exists()):
                return False
            process.kill()
        outcome.kills += 1
        outcome.moments.append(moment)
        has = newest(run)
        if has < had or (had_model and not (run / MODEL).exists()):
            outcome.problems.append((LOST, f"update {had} was saved, but {has} is the newest ({moment})"))
        for path in checkpoints(run):
            try:
                checkpoint.load(path, self.grid)
            except ModelparError as error:
                outcome.problems.append((UNREADABLE, f"{error} ({moment})"))
        return True

    def _finish(self, story: Story, run: Path, shape: Shape, outcome: Outcome, *, vary: bool) -> bool:
        """Resume, and let it come to its end; whether it did."""
        with self._start(story, run, shape, outcome, vary=vary) as process:
            status, _ = process.wait(LIMIT)
            if status != 0:
                outcome.problems.append((INCOMPLETE, f"the resumed job {_how(status)}: {process.last_words()}"))
        return status == 0

    def _compare(self, story: Story, run: Path, reference: Reference, outcome: Outcome) -> None:
        """Note files that differ from those of the uninterrupted run, or are not there."""
        for name, expected in reference.files.items():
            if story.repeatable and (run / name).exists() and (run / name).read_bytes() != expected:
                outcome.problems.append((DIFFERENT, f"{name} is not that of the uninterrupted run"))
        killed = f" (killed {outcome.moments[-1]})" if outcome.moments else ""
        missing = sorted(reference.names - _names(run))
        outcome.problems += [(INCOMPLETE, f"the run came to its end without {name}{killed}") for name in missing]

    def _look_for_leftovers(self, run: Path, reference: Reference, outcome: Outcome) -> None:
        """Note files that the uninterrupted run does not have; remove temporary ones."""
        outcome.problems += [(LEFT, name) for name in sorted(_names(run) - reference.names)]
        for path in self.temporary.iterdir():
            if not path.name.startswith(OF_MPI):
                outcome.problems.append((LEFT, f"{path.name} among the temporary files"))
            _remove(path)

    def _new_run(self) -> Path:
        self._n += 1
        return self.folder / f"run-{self._n}"


def checkpoints(run: Path) -> list[Path]:
    """Every checkpoint of a run that has its name already."""
    return sorted(path for path in run.rglob("*.safetensors") if path.is_file())


def newest(run: Path) -> int:
    """The most updates that a checkpoint of a run has in its name; 0 where there is none."""
    numbers = (_STEP.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*.safetensors"))
    return max((int(matched[1]) for matched in numbers if matched), default=0)


def _names(run: Path) -> set[str]:
    """The files of a run, without the count of its restarts; those of steps are one name."""
    names = (path.relative_to(run).as_posix() for path in run.rglob("*") if not path.is_dir())
    return {_STEP.sub("step", name) for name in names} - {"restarts"}


def _wait_for(process: Process, condition: Callable[[], bool], limit: float) -> None:
    """Until ``condition`` holds, the process has ended, or ``limit`` seconds are over."""
    deadline = time.monotonic() + limit
    while not condition() and process.runs and time.monotonic() < deadline:
        time.sleep(POLL)


def _how(status: int | None) -> str:
    return f"did not end within {LIMIT:.0f} s" if status is None else f"ended with status {status}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
