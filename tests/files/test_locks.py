"""Locks: one holder at a time, stale ones are taken over where that is certain, and no other file is touched."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelpar.files import locks
from modelpar.files.locks import FileLock, ForeignFileError, HeldError, Holder
from modelpar.files.processes import Process

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from modelpar.files.locks import FileLock\n"
    "held = FileLock.take(Path(sys.argv[1]))\n"
    "print('held', flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.fixture(params=["kernel", "none", "local"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system whose locks all hosts see, one without locks, and one that keeps them to the host."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "none":
        monkeypatch.setattr(fcntl, "flock", refuse)
        monkeypatch.setattr(locks, "SETTLING", 0.0)
    monkeypatch.setattr(locks, "shares_locks", lambda folder: request.param == "kernel")
    return str(request.param)


def leave(folder: Path, holder: Holder) -> None:
    """A lock as a holder that was killed leaves it."""
    (folder / locks.NAME).write_bytes(holder.as_bytes())


def test_one_holder_at_a_time(kind: str, tmp_path: Path) -> None:
    first = FileLock.take(tmp_path)
    with pytest.raises(HeldError) as caught:
        FileLock.take(tmp_path)
    assert caught.value.holder == first.holder
    assert str(first.holder).startswith(f"process {os.getpid()} on {first.holder.process.host}, since 20")
    first.release()
    first.release()
    assert not list(tmp_path.iterdir())
    FileLock.take(tmp_path).release()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match="held") as caught:
            FileLock.take(tmp_path)
        process.kill()
    assert caught.value.holder is not None
    assert caught.value.holder.process.number == process.pid
    assert (tmp_path / locks.NAME).exists()
    FileLock.take(tmp_path).release()


def test_stale_locks_are_taken_over_where_that_is_certain(kind: str, tmp_path: Path) -> None:
    here = Holder.now("key")
    dead, far = Process.this().as_dict() | {"number": 2**22 + 5}, {"host": "far", "boot": "b", "space": "s"}
    leave(tmp_path, replace(here, process=Process.from_dict(dead)))
    FileLock.take(tmp_path).release()
    other = replace(here, process=replace(here.process, **far))
    leave(tmp_path, other)
    if kind == "kernel":  # it says that the other host does not hold it
        FileLock.take(tmp_path).release()
    else:
        with pytest.raises(HeldError) as caught:
            FileLock.take(tmp_path)
        assert caught.value.holder == other
        FileLock.take(tmp_path, predecessor="key").release()


def test_a_job_that_slurm_has_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "shares_locks", lambda folder: False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    before = Holder.now("key")
    far = replace(before, process=replace(before.process, host="far", boot="b"))
    leave(tmp_path, far)
    with pytest.raises(HeldError):  # another step of the same job
        FileLock.take(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    FileLock.take(tmp_path).release()
    leave(tmp_path, replace(far, job="13"))
    with pytest.raises(HeldError):
        FileLock.take(tmp_path)


@pytest.mark.parametrize(
    "content", [b"the user's own", b"{}", b"[1]", b'{"process": 3}', b"x" * 5000, b"\xff", b"9" * 900]
)
def test_no_other_file_is_taken(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(ForeignFileError):
        FileLock.take(tmp_path)
    assert (tmp_path / "lock").read_bytes() == content


def test_neither_links_nor_pipes_nor_folders(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    for make in (
        lambda path: path.symlink_to("mine"), lambda path: path.symlink_to("new"), os.mkfifo, lambda path: path.mkdir()
    ):  # fmt: skip
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        make(folder / "lock")
        with pytest.raises(ForeignFileError):
            FileLock.take(folder)
    assert (tmp_path / "mine").read_bytes() == b""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [
        ("ext4", "rw", True), ("nfs4", "rw,vers=4.2,local_lock=none", True), ("nfs", "rw,nolock", False),
        ("nfs", "rw,local_lock=all", False), ("lustre", "rw,flock", True), ("lustre", "rw,localflock", False),
        ("fuse.sshfs", "rw", False), ("9p", "rw", False), ("gpfs", "rw", True),
    ],
)  # fmt: skip
def test_which_file_systems_share_locks(kind: str, options: str, shared: bool) -> None:
    assert locks._shares_locks(kind, set(options.split(","))) is shared
