"""Names of unfinished files: each process has its own, and clears away what dead ones left.

Modules: modelpar/files/processes
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelpar.files import processes
from modelpar.files.outputs import Output
from modelpar.files.partials import clear, completed_name, is_at_work, partial_path
from modelpar.files.processes import Process

LEAVE = (
    "import os, sys\n"
    "from modelpar.files.outputs import Output\n"
    "output = Output(sys.argv[1])\n"
    "output.open()\n"
    "os._exit(0)\n"
)


def test_names_are_unique_and_tell_what_they_become(tmp_path: Path) -> None:
    for name in ("model.safetensors", "a.partial", "ä" * 120, "b\udcff", "." * 3 + "x", "l" * 255):
        first, second = partial_path(tmp_path / name), partial_path(tmp_path / name)
        assert first != second
        first.touch()  # the file system takes it
        complete = completed_name(first.name)
        assert complete is not None
        assert os.fsencode(name).startswith(os.fsencode(complete))
        assert complete == name or len(os.fsencode(name)) > 200
        assert is_at_work(first.name)
    assert completed_name("model.safetensors") is None
    assert completed_name("model.safetensors.partial") == "model.safetensors"  # of earlier versions


def test_what_the_dead_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    subprocess.run([sys.executable, "-c", LEAVE, target], check=True, timeout=60, cwd=Path(__file__).parents[2])
    [left] = tmp_path.iterdir()
    assert completed_name(left.name) == target.name
    assert not is_at_work(left.name)
    mine, other = partial_path(target), partial_path(tmp_path / "other.safetensors")
    far = left.with_name(left.name.replace(Process.this().place, "0" * 8))  # of another host
    theirs = [mine, other, far, tmp_path / "model.safetensors.partial", tmp_path / "model.safetensors.notes.partial"]
    for path in theirs:
        path.touch()
    clear(target)
    assert sorted(tmp_path.iterdir()) == sorted(theirs)


def test_two_writers_publish_one_file_or_the_other(tmp_path: Path) -> None:
    """Not a mixture, whoever begins and ends first."""
    first, second = Output(tmp_path / "file"), Output(tmp_path / "file")
    first.open()
    first.partial.write_text("first, and long")
    second.open()
    second.partial.write_text("second")
    first.finish()
    assert (tmp_path / "file").read_text() == "first, and long"
    second.finish()
    assert (tmp_path / "file").read_text() == "second"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_is_known_by_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    me = Process.this()
    assert me.runs is True
    assert Process.from_dict(me.as_dict()) == me
    if me.started:
        assert replace(me, started=me.started + 1).runs is False  # its number was given to another one since
    assert replace(me, number=2**22 + 5).runs is False
    assert replace(me, host="other", boot="other").runs is None
    if me.boot:
        assert replace(me, boot="before").runs is False  # the host was started again
        assert replace(me, space="pid:[1]").runs is None  # a container
    monkeypatch.setattr(processes, "_started", lambda number: None)
    monkeypatch.setattr(processes.Path, "exists", lambda path: False)  # no /proc
    assert replace(me, started=0).runs is True
    assert replace(me, number=2**22 + 5).runs is False
