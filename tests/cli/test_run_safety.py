"""A run directory that somebody else works in, or has made: one job at a time, and no file outside it is touched.

Modules: modelpar/cli/run_lock, modelpar/cli/config_file
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import run, run_lock
from modelpar.cli.run_directory import NAMES, RunDirectory
from modelpar.cli.run_lock import RunLock
from modelpar.errors import SpecError

pytestmark = pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning")

WORDS = [
    "--layers", "64-6", "--batch-size", "720", "--epochs", "1", "--pretrain-only", "--checkpoint-every", "1",
    "--keep-trajectory", "--threads", "1", "--no-score", "--digests",
]  # fmt: skip

Train = Callable[..., tuple[int, str]]


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str]) -> Train:
    """``train(folder, words)`` -> (status, standard error)"""

    def started(folder: Path, *words: str | Path) -> tuple[int, str]:
        capfd.readouterr()
        status = run(MPI.COMM_SELF, ["train", *map(str, words), "--run-dir", str(folder)])
        return status, capfd.readouterr().err

    return started


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(MPI.COMM_SELF, ["train", *WORDS, "--run-dir", str(folder)]) == 0
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


# -- one job at a time -------------------------------------------------------------------------------------------------


def test_a_second_job_ends_with_one_line(
    finished: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    before, lock = contents(tmp_path), RunLock()
    lock.take(MPI.COMM_SELF, tmp_path / "run")
    lock.take(MPI.COMM_SELF, tmp_path / "run")  # it has it
    for words in (["--resume"], ["--resume", "--max-restarts", "3"], [*WORDS, "--overwrite"]):
        status, err = train(tmp_path / "run", *words)
        assert status == 2
        assert err.startswith(f"modelpar: error: the run directory {tmp_path / 'run'} is in use: by process ")
        assert f"process {os.getpid()} on " in err
        assert err.count("\n") == 1
    assert contents(tmp_path) == before
    lock.close()
    assert train(tmp_path / "run", "--resume") == (0, "")
    assert not (tmp_path / "run" / "lock").exists()


def test_the_lock_is_given_back_after_a_mistake(finished: Path, train: Train, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    assert train(tmp_path / "run", "--resume", "--layers", "64-7")[0] == 2
    assert not (tmp_path / "run" / "lock").exists()


def test_two_that_begin_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found an empty directory."""
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    first, second = (RunDirectory(MPI.COMM_SELF, tmp_path / "run") for _ in range(2))
    for directory in (first, second):
        directory.check(resume=False, overwrite=False)
    first.prepare(resume=False, overwrite=False)
    with pytest.raises(SpecError, match="is in use"):
        second.prepare(resume=False, overwrite=False)
    first.write_config("[network]\n")
    first.close()
    with pytest.raises(SpecError, match="holds a run already"):
        second.prepare(resume=False, overwrite=False)
    second.close()


def test_a_finished_run_that_cannot_be_written_is_told_of(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The lock is for those who write."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(run_lock.FileLock, "take", refuse)
    assert run(MPI.COMM_SELF, ["train", "--resume", "--run-dir", str(finished)]) == 0
    assert "this run has finished" in capfd.readouterr().out
    assert run(MPI.COMM_SELF, ["train", *WORDS, "--overwrite", "--run-dir", str(finished)]) == 2
    assert "cannot be written (Read-only file system); choose another" in capfd.readouterr().err


# -- no link is followed -----------------------------------------------------------------------------------------------


def test_no_link_of_a_strangers_run_leads_out_of_it(finished: Path, train: Train, tmp_path: Path) -> None:
    """Every name that a run writes is a link to a file of the user, and so are those that are half written."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for folder in (tmp_path / "new", tmp_path / "run"):
        shutil.copytree(finished, folder)
        steps = [f"checkpoints/step-0000000{i}.safetensors" for i in range(5)]
        kept = [f"trajectory/rbm-0-update-000000000{i}.safetensors" for i in range(4)]
        names = [*(NAMES if folder.name == "new" else ["ranks.txt", "summary.json", "filters.png"])]
        for name in [*names, *([*steps, *kept] if folder.name == "new" else [steps[0], steps[3], kept[2]])]:
            for end in ("", ".partial"):
                path, target = folder / (name + end), mine / f"{folder.name}-{Path(name).name}{end}"
                target.write_bytes(b"mine")
                path.unlink(missing_ok=True)
                path.symlink_to(target)
    before = contents(mine)
    assert train(tmp_path / "new", *WORDS, "--overwrite") == (0, "")
    status, err = train(tmp_path / "run", "--resume", "--epochs", "2")
    assert status == 0, err
    assert contents(mine) == before
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["checkpoints", "trajectory", "lock"])
def test_folders_and_the_lock_are_no_links(name: str, finished: Path, train: Train, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    mine = tmp_path / "mine"
    shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    shutil.copytree(finished / "checkpoints", mine)
    (tmp_path / "run" / name).symlink_to(mine)
    before = contents(mine)
    for words in ([*WORDS, "--overwrite"], ["--resume", "--epochs", "2"]):
        status, err = train(tmp_path / "run", *words)
        assert (status, err.count("\n"), "symbolic link" in err) == (2, 1, True), err
    assert contents(mine) == before


def test_a_run_on_private_data_is_private(train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.save(tmp_path / "x.npy", (rng.random((60, 64)) < 0.3).astype(np.uint8))
    (tmp_path / "x.npy").chmod(0o600)
    words = ["--data", tmp_path / "x.npy", *WORDS, "--binarise", "0.5", "--scale", "1"]
    assert train(tmp_path / "run", *words)[0] == 0
    assert train(tmp_path / "run", "--resume", "--epochs", "2")[0] == 0
    exported = tmp_path / "out.npz"
    assert run(MPI.COMM_SELF, ["export", str(tmp_path / "run"), str(exported)]) == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in (*files, exported):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "zeroes", "cut off", "gone"])
def test_options_that_are_lost_are_not_the_defaults(damage: str, finished: Path, train: Train, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    own = tmp_path / "run" / "config.toml"
    whole = own.read_bytes()
    (tmp_path / "copy.toml").write_bytes(whole)
    short = whole[: whole.index(b"[sync]")]
    own.write_bytes({"empty": b"", "zeroes": bytes(len(whole)), "cut off": short, "gone": b""}[damage])
    if damage == "gone":
        own.unlink()
    before = contents(tmp_path)
    status, err = train(tmp_path / "run", "--resume", "--epochs", "2")
    assert (status, err.count("\n"), "--config FILE" in err, str(tmp_path / "run") in err) == (2, 1, True, True), err
    assert contents(tmp_path) == before
    status, err = train(tmp_path / "run", "--resume", "--config", tmp_path / "copy.toml")
    assert (status, err) == (0, "")


def test_a_configuration_of_another_hand_needs_no_last_line(finished: Path, train: Train, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    own = tmp_path / "run" / "config.toml"
    own.write_text("".join(line for line in own.read_text().splitlines(keepends=True) if not line.startswith("#")))
    assert train(tmp_path / "run", "--resume") == (0, "")
