"""Models that are kept from the course of pre-training: which, at which updates, and what becomes of them.

A run of 64-8-5 has 4 updates an epoch, and here 2 epochs: the schedule is 0 1 2 3 4 6 7, and 8 is the last one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import Grid, load
from modelpar.cli import run
from modelpar.cli.trajectory import models_of, next_update
from modelpar.errors import CheckpointError

pytestmark = [pytest.mark.jobs, pytest.mark.slow]

SMALL = ["train", "--layers", "64-8-5", "--batch-size", "400", "--pretrain-only", "--no-pictures", "--no-score",
         "--threads", "1", "--epochs", "2"]  # fmt: skip
ALL = [0, 1, 2, 3, 4, 6, 7, 8]
LIMIT = 120  # seconds


def start(*words: str | Path) -> int:
    return run(MPI.COMM_SELF, [str(word) for word in words])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its trajectory and a checkpoint of every update."""
    path = tmp_path_factory.mktemp("kept") / "run"
    assert start(*SMALL, "--keep-trajectory", "--checkpoint-every", 1, "--keep", 99, "--run-dir", path) == 0
    return path


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def updates(path: Path, rbm: int) -> list[int]:
    return [model.update for model in models_of(path, MPI.COMM_SELF, rbm)]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((path / "trajectory").iterdir())}


def test_the_schedule() -> None:
    last, due = -1, []
    while last < 1000:
        due.append(last := next_update(last))
    assert due == [
        0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100, 133, 178, 237, 316, 422, 562, 750, 1000,
    ]  # fmt: skip
    assert next_update(560) == 562
    assert next_update(562) == 750


def test_models_of_the_schedule_are_those_of_the_run(kept: Path) -> None:
    assert updates(kept, 0) == updates(kept, 1) == ALL
    files = contents(kept)
    assert list(files) == [f"rbm-{rbm}-update-{update:010d}.safetensors" for rbm in (0, 1) for update in ALL]
    for rbm in (0, 1):
        for update in (1, 2, 3, 6, 7):  # not those between two epochs, where a position has two names
            step = kept / "checkpoints" / f"step-{8 * rbm + update:08d}.safetensors"
            assert files[f"rbm-{rbm}-update-{update:010d}.safetensors"] == step.read_bytes()
    with Grid(MPI.COMM_SELF) as grid:
        first, end, pretrained = (
            load(path, grid).rbms
            for path in (*(models_of(kept, grid.comm, 0)[i].path for i in (0, -1)), kept / "pretrained.safetensors")
        )
        assert np.array_equal(end[0].W, pretrained[0].W)
        assert not first[0].c.any()
        assert len(set(first[0].b.tolist())) > 10  # the log-odds of the data
        last = load(models_of(kept, grid.comm)[-1].path, grid).rbms[1]
        assert np.array_equal(last.W, pretrained[1].W)


@pytest.mark.parametrize("done", [2, 4, 5, 8, 11, 16])
def test_a_run_that_was_cut_off_has_the_same_files_in_the_end(copied: Path, done: int) -> None:
    """Whatever it had kept after the checkpoint that it goes on from, and a file that was not finished."""
    before = contents(copied)
    for name in ("model.safetensors", "pretrained.safetensors", "summary.json"):
        (copied / name).unlink()
    for step in (copied / "checkpoints").iterdir():
        if int(step.stem.removeprefix("step-")) > done:
            step.unlink()
    for rbm, update, path in models_of(copied, MPI.COMM_SELF):
        if 8 * rbm + update > done:
            path.write_bytes(b"another")
    for name in ("rbm-0-update-0000000123.safetensors", "rbm-1-update-0000000006.safetensors.partial"):
        if done < 8 or name.endswith(".partial"):
            (copied / "trajectory" / name).write_bytes(b"half")
    assert start("train", "--resume", "--run-dir", copied) == 0
    assert contents(copied) == before


def test_more_epochs_go_on_with_it(copied: Path, tmp_path: Path) -> None:
    """As a run that was longer from the start: what was the last model is one no more."""
    single = ["--layers", "64-8", "--keep-trajectory"]
    assert start(*SMALL, *single, "--checkpoint-every", 4, "--run-dir", tmp_path / "short") == 0
    assert start("train", "--resume", "--epochs", 3, "--run-dir", tmp_path / "short") == 0
    assert start(*SMALL, *single, "--epochs", 3, "--run-dir", tmp_path / "long") == 0
    assert updates(tmp_path / "long", 0) == [0, 1, 2, 3, 4, 6, 7, 10, 12]
    assert contents(tmp_path / "short") == contents(tmp_path / "long")


def test_a_run_without_it_removes_what_is_not_its_own(copied: Path) -> None:
    mine = copied / "trajectory" / "notes.txt"
    mine.write_text("the user's")
    assert start(*SMALL, "--overwrite", "--run-dir", copied) == 0
    assert [file.name for file in mine.parent.iterdir()] == ["notes.txt"]
    mine.unlink()
    assert start(*SMALL, "--overwrite", "--run-dir", copied) == 0
    assert not mine.parent.exists()
    with pytest.raises(CheckpointError, match="keeps no trajectory; train it with --keep-trajectory"):
        models_of(copied, MPI.COMM_SELF)


def test_models_of_other_networks_are_refused(copied: Path, kept: Path, tmp_path: Path) -> None:
    assert start(*SMALL, "--layers", "64-9-5", "--keep-trajectory", "--run-dir", tmp_path / "other") == 0
    name = "trajectory/rbm-1-update-0000000002.safetensors"
    shutil.copy(tmp_path / "other" / name, copied / name)
    with pytest.raises(CheckpointError, match=r"0002.safetensors has --layers 64-9-5, but .*0.safetensors has 64-8-5"):
        models_of(copied, MPI.COMM_SELF)
    assert updates(copied, 0) == ALL
    with pytest.raises(CheckpointError, match="no trajectory of RBM 2"):
        models_of(kept / "model.safetensors", MPI.COMM_SELF, 2)
    with pytest.raises(CheckpointError, match="does not exist"):
        models_of(copied / "nowhere", MPI.COMM_SELF)


def test_replicas_apart_and_other_grids(on_ranks, tmp_path: Path) -> None:
    """Where replicas are apart, models are kept when they meet next; in exact mode every grid keeps the same bytes."""
    command = [sys.executable, "-m", "modelpar", *SMALL, "--keep-trajectory"]
    local = ["--sync", "local", "--period", "3", "--replicas", "2", "--run-dir", tmp_path / "local"]
    on_ranks(2, [*command, *local], limit=LIMIT).check()
    # replicas meet at the end of an epoch too
    assert updates(tmp_path / "local", 0) == updates(tmp_path / "local", 1) == [0, 3, 4, 6, 8]
    exact = ["--exact", "--layers", "64-8", "--run-dir"]
    assert start(*SMALL, "--keep-trajectory", *exact, tmp_path / "one") == 0
    on_ranks(3, [*command, *exact, tmp_path / "three", "--model-shards", "3"], limit=LIMIT).check()
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
