"""Whether files of a run are whole and healthy, told without opening them as a network.

Modules: modelpar/checkpoint/verify
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, save
from modelpar.checkpoint import files
from modelpar.checkpoint.files import TensorBlock
from modelpar.cli import run

TRAIN = [
    "train", "--layers", "64-6", "--batch-size", "720", "--epochs", "1", "--pretrain-only", "--checkpoint-every", "1",
    "--threads", "1", "--no-score", "--digests",
]  # fmt: skip

Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def verify(capfd: pytest.CaptureFixture[str]) -> Verify:
    """``verify(path)`` -> (status, the JSON object)"""

    def started(path: Path) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        status = run(MPI.COMM_SELF, ["verify", str(path), "--json"])
        return status, json.loads(capfd.readouterr().out)

    return started


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(MPI.COMM_SELF, [*TRAIN, "--run-dir", str(folder)]) == 0
    return folder


def network(path: Path, value: float = 0.0) -> Path:
    with Grid(MPI.COMM_SELF) as grid:
        made = DeepBeliefNetwork(NetworkSpec(layers=(6, 4, 3), classes=2, connections="random:3,dense"), grid)
        made.rbms[1].W[0, 0] += value
        save(made, path)
    return path


def test_all_is_well(finished: Path, verify: Verify, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, said = verify(finished)
    assert (status, said["status"], said["path"]) == (0, "healthy", str(finished))
    names = {Path(file["path"]).name: (file["status"], *file["reasons"]) for file in said["files"]}
    assert set(names.values()) == {("healthy",)}
    assert set(names) == {path.name for path in finished.rglob("*") if path.is_file()}
    file = network(tmp_path / "model.safetensors")
    assert verify(file) == (0, {"path": str(file), "status": "healthy", "files": [
        {"path": str(file), "status": "healthy", "reasons": []}]})  # fmt: skip
    assert run(MPI.COMM_SELF, ["verify", str(file)]) == 0
    assert capfd.readouterr().out == f"healthy    {file}\n{file} is healthy\n"
    exported = tmp_path / "exported.safetensors"
    assert run(MPI.COMM_SELF, ["export", str(finished), str(exported)]) == 0
    assert verify(exported)[0] == 0


def test_every_flipped_byte_is_found(verify: Verify, tmp_path: Path) -> None:
    content = network(tmp_path / "model.safetensors").read_bytes()
    for at in [0, 5, 9, 200, len(content) // 2, *range(len(content) - 300, len(content), 37)]:
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        (tmp_path / "model.safetensors").write_bytes(damaged)
        status, said = verify(tmp_path / "model.safetensors")
        assert (status, said["status"], bool(said["files"][0]["reasons"])) == (1, "damaged", True), at
    for end in (0, 7, 100, len(content) - 1):
        (tmp_path / "model.safetensors").write_bytes(content[:end])
        assert verify(tmp_path / "model.safetensors")[1]["status"] == "damaged"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value: float, verify: Verify, tmp_path: Path) -> None:
    status, said = verify(network(tmp_path / "model.safetensors", value))
    assert (status, said["status"]) == (1, "unhealthy")
    assert any("rbm.1.W" in reason or "finite" in reason for reason in said["files"][0]["reasons"])


@pytest.mark.parametrize(
    ("metadata", "status", "found", "reason"),
    [
        ({"health": '{"healthy": true, "reasons": []}'}, 0, "healthy", ""),
        ({"health": '{"healthy": false, "reasons": ["it has collapsed"]}'}, 1, "unhealthy", "it has collapsed"),
        ({"health": "[]"}, 1, "unhealthy", "cannot be read"),
        ({"modelpar": "2"}, 2, "unreadable", "format 2"),
        ({"network": "{}"}, 1, "damaged", "does not understand"),
        ({"training": "{}"}, 1, "damaged", "where training stood"),
    ],
)
def test_what_a_file_says_of_itself(
    metadata: dict[str, str], status: int, found: str, reason: str, verify: Verify, tmp_path: Path
) -> None:
    path = network(tmp_path / "model.safetensors")
    header = files.read_header(path, MPI.COMM_SELF)
    with Grid(MPI.COMM_SELF) as grid:
        blocks = []
        for name, (dtype, shape, start, _) in header.tensors.items():
            values = np.fromfile(path, dtype, int(np.prod(shape)), offset=start).reshape(shape)
            columns = np.arange(shape[1]) if len(shape) == 2 else None
            blocks.append(TensorBlock(name, shape, values, np.arange(shape[0]), columns))
        files.write(path, grid, blocks, {**header.metadata, **metadata})
    got, said = verify(path)
    assert (got, said["status"]) == (status, found)
    assert reason in "".join(said["files"][0]["reasons"])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.toml", b"", "it is empty"), ("config.toml", b"[network]\nlayers = 3\n", "layers"),
        ("config.toml", None, "it is missing"), ("summary.json", None, "train --resume makes up for it"),
        ("summary.json", b"[]", "not one JSON object"), ("metrics.jsonl", b"x\ny\n", "1 of its lines"),
        ("digests.jsonl", b"x\ny\n", "1 of its lines"), ("filters.png", b"\x89PNG", "not a whole PNG"),
        ("restarts", b"many", "should hold an integer"), ("checkpoints/step-00000001.safetensors", b"", "safetensors"),
    ],
)  # fmt: skip
def test_each_file_of_a_run_counts(
    name: str, content: bytes | None, reason: str, finished: Path, verify: Verify, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    if content is None:
        (tmp_path / "run" / name).unlink()
    else:
        (tmp_path / "run" / name).write_bytes(content)
    status, said = verify(tmp_path / "run")
    [bad] = [file for file in said["files"] if file["status"] != "healthy"]
    assert (status, said["status"], bad["status"]) == (1, "damaged", "damaged")
    assert bad["path"] == str(tmp_path / "run" / name)
    assert reason in bad["reasons"][0]


def test_what_cannot_be_read(verify: Verify, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "empty").mkdir()
    for name in ("none.safetensors", "notes.txt", "pipe.safetensors", "empty"):
        status, said = verify(tmp_path / name)
        assert (status, said["status"], said["files"][0]["status"]) == (2, "unreadable", "unreadable"), name
        assert len(said["files"][0]["reasons"]) == 1


def test_no_verify_opens_what_is_damaged(finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "run")
    model = tmp_path / "run" / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-3] ^= 1
    model.write_bytes(content)
    words = ["export", str(model), str(tmp_path / "out.npz")]
    assert run(MPI.COMM_SELF, words) == 2
    assert "does not match its checksum" in capfd.readouterr().err
    assert run(MPI.COMM_SELF, [*words, "--no-verify"]) == 0
    assert run(MPI.COMM_SELF, [*TRAIN, "--no-verify", "--run-dir", str(tmp_path / "new")]) == 2
    assert "--resume" in capfd.readouterr().err
