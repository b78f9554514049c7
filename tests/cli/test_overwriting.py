"""What a command reads is not written over, whatever it is called."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import run

TRAIN = ["train", "--layers", "64-10", "--epochs", "1", "--overwrite"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, data, a mask, a configuration, links to them; nothing of it would stand being read."""
    names = "r/model.safetensors r/pretrained.safetensors r/checkpoints/step-00000005.safetensors r/summary.json "
    for name in (names + "m.npy x.npy y.npy p.npz mask.npz").split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for name in ("r/config.toml", "c.toml", "c.png", "c.npz"):
        (tmp_path / name).write_text("[run]\nthreads = 1\n")
    (tmp_path / "soft.safetensors").symlink_to("r/model.safetensors")
    (tmp_path / "softr").symlink_to("r")
    os.link(tmp_path / "r/model.safetensors", tmp_path / "hard.safetensors")
    os.link(tmp_path / "x.npy", tmp_path / "hard.npy")
    os.link(tmp_path / "y.npy", tmp_path / "r/metrics.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        "export r r/model.safetensors",
        "export r ./r/../r/model.safetensors",
        "export r soft.safetensors",
        "export r hard.safetensors",
        "export soft.safetensors r/model.safetensors",
        "export r/model.safetensors softr/pretrained.safetensors",
        "export r/checkpoints/step-00000005.safetensors r/checkpoints/step-00000005.safetensors",
        "export r c.npz --config c.npz",
        "export r p.npz --partition p.npz",
        "sample m.npy --out m.npy",
        "sample r --out c.png --config c.png",
        "reconstruct r --data x.npy --out ./x.npy",
        "reconstruct r --data x.npy --out hard.npy",
        "reconstruct r --data digits --labels y.npy --out y.npy",
        "reconstruct r --data digits --test-data x.npy --test-labels y.npy --out y.npy",
        "partition c.toml --parts 2 --out c.toml",
        "partition --config c.toml --parts 2 --out c.toml",
        "partition --layers 64-20 --connections mask:mask.npz --parts 2 --out mask.npz",
        "partition r --parts 2 --out r/config.toml",
        "partition r --parts 2 --out r/summary.json",
        "compare --networks dense --methods block --parts 1 --json new --html ./new",
        "compare --networks dense --methods block --parts 1 --json x.npy --html hard.npy",
        "bench kernels --config c.png --picture c.png",
        "prune r r --keep 0.5 --overwrite",
        "prune r softr --keep 0.5 --overwrite",
        "prune r/model.safetensors r --keep 0.5 --overwrite",
        "prune hard.safetensors r --keep 0.5 --overwrite",
        "prune r/checkpoints/step-00000005.safetensors r --keep 0.5 --overwrite",
    ],
)
def test_inputs_stay(words: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert run(MPI.COMM_SELF, words.split()) == 2
    printed = capfd.readouterr().err
    assert "would write over" in printed or "both name" in printed
    assert printed.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        "--run-dir r --config r/config.toml",
        "--run-dir softr --config r/config.toml",
        "--run-dir r --data r/model.safetensors",
        "--run-dir r --data digits --labels y.npy",
        "--run-dir r --test-data soft.safetensors",
        "--run-dir r --partition hard.safetensors",
        "--run-dir r --connections mask:r/summary.json",
    ],
)
def test_a_run_takes_no_name_of_what_it_reads(words: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert run(MPI.COMM_SELF, [*TRAIN, *words.split()]) == 2
    printed = capfd.readouterr().err
    assert "would write over" in printed
    assert printed.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        "partition --layers 6-4 --parts 2 --method block --out x.npy",  # nothing that it reads
        "partition --layers 6-4 --parts 2 --method block --config c.toml --out new.npz",
        "compare --networks dense --methods block --parts 1 --json /dev/null --html /dev/null",
    ],
)
def test_other_files_are_written(words: str, folder: Path) -> None:
    (folder / "c.toml").write_text("[network]\nseed = 2\n")
    assert run(MPI.COMM_SELF, words.split()) == 0


def test_what_cannot_be_written_is_told_before_the_work(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(folder / "x.npy", np.ones((3, 4)))
    os.mkfifo(folder / "pipe.safetensors")
    for words, expected in {
        "sample r --out no/x.npy": "No such file or directory",
        "sample r --out x.npy/y.npy": "Not a directory",
        "export r pipe.safetensors": "not a regular file",
        "partition --layers 6-4 --parts 2 --out r": "it is a directory",
    }.items():
        assert run(MPI.COMM_SELF, words.split()) == 2
        err = capfd.readouterr().err
        assert expected in err
        assert err.count("\n") == 1
