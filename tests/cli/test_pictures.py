"""A run is worth more than its pictures and its printing: what fails there is a line, and the run goes on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import pictures
from modelpar.cli.progress import TrainingProgress
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.terminal import Unfailing, plain_console
from modelpar.comm.grid import Grid
from modelpar.data import open_dataset
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "filters.png"), MemoryError(), ValueError("x")]
)
def test_what_fails_while_drawing_is_said(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    said: list[str] = []
    monkeypatch.setattr(pictures, "save_tiles", fail)
    monkeypatch.setattr(pictures, "save_curves", fail)
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec((64, 5)), grid)
        directory = RunDirectory(MPI.COMM_SELF, tmp_path)
        pictures.draw_network(network, open_dataset("digits"), directory, said.append)
        pictures.draw_curves([], directory, said.append)
    reason = "filters.png: No space left on device" if isinstance(error, OSError) else str(error) or "MemoryError"
    assert said == [f"warning: no pictures, or not all: {reason}"] * 2
    assert not list(tmp_path.iterdir())


def test_a_matplotlib_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was built for another NumPy raises more than ImportError."""

    def broken() -> bool:
        raise AttributeError("_ARRAY_API not found")

    said: list[str] = []
    monkeypatch.setattr(pictures, "have_matplotlib", broken)
    assert not pictures.can_draw(MPI.COMM_SELF, said.append)
    assert said == ["warning: no pictures, or not all: _ARRAY_API not found"]


class Closed(io.StringIO):
    """A pipe whose reader has gone, or a disk that is full."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_printing_that_fails_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = plain_console(width=80)
    console.file = Closed()
    with TrainingProgress(console) as progress:
        for _ in range(3):
            progress.say("a line")
            console.print(np.ones(3))
    printed = capsys.readouterr()
    assert printed.err.count("modelpar: warning: what is printed is lost (Broken pipe); the run goes on") == 1
    assert printed.out == ""


def test_printing_that_works_is_as_it_was() -> None:
    file = io.StringIO()
    unfailing = Unfailing(file)
    assert unfailing.write("ä\n") == 2
    unfailing.flush()
    assert (file.getvalue(), unfailing.isatty()) == ("ä\n", False)
