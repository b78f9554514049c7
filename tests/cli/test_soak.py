"""``modelpar soak``: that what is wrong is found, told and counted, and one round from end to end.

Modules: modelpar/cli/soak_job, modelpar/cli/soak_lifetimes, modelpar/cli/soak_round
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mpi4py import MPI

from modelpar.cli import run, soak
from modelpar.cli.soak_job import Launcher, Process
from modelpar.cli.soak_lifetimes import MOST_GROWTH, Lifetimes
from modelpar.cli.soak_round import (
    DIFFERENT,
    INCOMPLETE,
    LEFT,
    STORIES,
    Moment,
    Outcome,
    Reference,
    Rounds,
    newest,
)
from modelpar.comm.grid import Grid
from modelpar.errors import SpecError


class OneRank(Launcher):
    """As where no ``mpiexec`` is found."""

    def __init__(self) -> None:
        self.mpi, self.command, self.settings = "", [], {"default": {}}


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    with Grid(MPI.COMM_SELF) as grid:
        yield Rounds(OneRank(), tmp_path, random.Random(1), grid)


def run_with(folder: Path, **files: str) -> Path:
    """A run directory with these files, of which ``__`` is a folder and ``_`` a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_what_differs_is_found(rounds: Rounds, tmp_path: Path) -> None:
    files = {"model_safetensors": "a", "digests_jsonl": "b", "checkpoints__step-00000003_safetensors": "c"}
    first = run_with(tmp_path / "first", **files, summary_json="{}")
    names = {"model.safetensors", "digests.jsonl", "checkpoints/step", "summary.json"}
    reference = Reference({"model.safetensors": b"a", "digests.jsonl": b"b"}, names, 3, 1.0, 0.1, 0.1)
    good, bad = Outcome("good"), Outcome("bad")
    rounds._compare(STORIES[0], first, reference, good)
    rounds._look_for_leftovers(first, reference, good)
    assert good.problems == []
    assert newest(first) == 3

    second = run_with(tmp_path / "second", **{**files, "model_safetensors": "x", "model_safetensors_partial": "y"})
    (rounds.temporary / "modelpar-left").touch()
    (rounds.temporary / "ompi.host.0").mkdir()  # MPI's own, which its killed ranks cannot remove
    rounds._compare(STORIES[0], second, reference, bad)
    rounds._look_for_leftovers(second, reference, bad)
    assert [kind for kind, _ in bad.problems] == [DIFFERENT, INCOMPLETE, LEFT, LEFT]
    assert not list(rounds.temporary.iterdir())
    assert "summary.json" in bad.line()


def test_moments_come_in_the_order_of_a_run(rounds: Rounds) -> None:
    story = STORIES[0]
    rounds._references[story.name] = Reference({}, set(), 50, 4.0, 0.01, 1.5)
    moments = rounds.moments(story, 40)
    updates = [moment.updates for moment in moments if moment.updates is not None]
    assert len(moments) == 40
    assert updates == sorted(updates)
    assert set(updates) <= set(range(1, 50))
    kinds = [(moment.ending, moment.updates is not None) for moment in moments]
    assert kinds == sorted(kinds)
    assert str(Moment(0.5, updates=7)) == "0.50 s after update 7"


def test_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """A grandchild in a session of its own too."""
    note = tmp_path / "note"
    inner = f"import time; open({str(note)!r}, 'w').close(); time.sleep(60)"
    outer = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {inner!r}], start_new_session=True); time.sleep(60)"
    )
    with Process([sys.executable, "-c", outer], dict(os.environ)) as process:
        deadline = time.monotonic() + 60
        while not note.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(process.alive()) == 2
        assert process.kill() == 2
        assert process.alive() == []
        assert not process.runs


def test_growth_is_told(tmp_path: Path) -> None:
    lifetimes = Lifetimes(tmp_path / "lifetimes")
    lifetimes.memory, lifetimes.descriptors, lifetimes.threads = [0] * 9, [7] * 9, [2] * 9
    assert lifetimes.problems() == []
    lifetimes.memory, lifetimes.descriptors = [*[0] * 5, *[MOST_GROWTH + 1] * 4], [*[7] * 5, *[8] * 4]
    (lifetimes.folder / "left").touch()
    assert [problem.partition(" in ")[0] for problem in lifetimes.problems()] == [
        "memory has grown by 16.0 MiB", "1 more descriptor(s) after 0 lifetimes", "left was left behind",
    ]  # fmt: skip


def test_lifetimes_are_alike(tmp_path: Path) -> None:
    lifetimes = Lifetimes(tmp_path / "lifetimes")
    lifetimes.live(7)
    assert (lifetimes.n, len(lifetimes.memory), lifetimes.n_different, lifetimes.left) == (7, 2, 0, [])


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_wrong_ends_in_status_1(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def play(*_: Any, **__: Any) -> Outcome:
        return Outcome("a story", kills=2, resumes=3, problems=[(DIFFERENT, "model.safetensors")], kept="run-1")

    monkeypatch.setattr(soak, "Launcher", OneRank)
    monkeypatch.setattr(soak, "LIVES", 0)
    monkeypatch.setattr(soak.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    monkeypatch.setattr(Rounds, "moments", lambda *_: [])
    monkeypatch.setattr(Rounds, "play", play)
    assert run(MPI.COMM_SELF, ["soak", "--minutes", "0", *(["--json"] if as_json else [])]) == 1
    out, err = capfd.readouterr()
    if as_json:
        report = json.loads(out)
        wanted = {"holds": False, "rounds": 1, "kills": 2, "resumes": 3, "differences": 1, "kept": ["run-1"]}
        assert {name: report[name] for name in wanted} == wanted
        assert "model.safetensors" in err
    else:
        assert "problem: a story: different: model.safetensors" in out
        assert err == ""


def test_several_ranks_are_refused() -> None:
    with pytest.raises(SpecError, match="call it without mpiexec"):
        soak.soak(SimpleNamespace(size=2), minutes=1, seed=1, as_json=False)  # type: ignore[arg-type]


@pytest.mark.slow  # three jobs
def test_a_round(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(soak, "Launcher", OneRank)
    monkeypatch.setattr(soak, "MOST_KILLS", 1)
    assert run(MPI.COMM_SELF, ["soak", "--minutes", "0", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["holds"], report["rounds"], report["kills"], report["lifetimes"]) == (True, 1, 1, 3)
