"""``modelpar sample`` along ladders: the same bytes at every grid, what it prints, and what it refuses."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, load, save
from modelpar.cli import run
from modelpar.cli.trajectory import models_before
from modelpar.training.state import Position, TrainingRun

pytestmark = [pytest.mark.jobs, pytest.mark.slow]

LIMIT = 120  # seconds


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exact RBM of large weights, and its trajectory: the same at parts of the weights."""
    path = tmp_path_factory.mktemp("run")
    (path / "trajectory").mkdir()
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec((13, 7), seed=4, weight_scale=2.0, exact=True), grid)
        whole = network.rbms[0].parameters.flat.copy()
        for update in (2, 5, 11, 40):
            network.rbms[0].parameters.flat[:] = whole * np.float32(update / 40)
            save(network, path / "trajectory" / f"rbm-0-update-{update:010d}.safetensors")
        run_of = TrainingRun.of(network)
        run_of.position = Position(epoch=1, step=1, batch_size=10, n_samples=100)
        save(network, path / "step.safetensors")
        run_of.position = Position("done")
        save(network, path / "model.safetensors")
    (path / "trajectory" / "notes.txt").touch()
    return path


@pytest.mark.parametrize(("name", "expected"), [("model", [2, 5, 11, 40]), ("step", [2, 5])])
def test_models_are_those_before_the_checkpoint(name: str, expected: list[int], run_dir: Path) -> None:
    """The step is the eleventh update, whose own model is not before it."""
    path = run_dir / f"{name}.safetensors"
    with Grid(MPI.COMM_SELF) as grid:
        assert [model.update for model in models_before(path, path, load(path, grid))] == expected


@pytest.mark.parametrize("words", [["--method", "pt", "--temperatures", "5"], ["--method", "ptt"]], ids=" ".join)
def test_the_same_bytes_at_every_grid(words: list[str], run_dir: Path, tmp_path: Path, on_ranks: Any) -> None:
    files, lines = [], []
    for n, grid in ((1, []), (2, ["--replicas", "2"]) if "ptt" in words else (3, ["--model-shards", "3"])):
        out = tmp_path / f"{n}.npy"
        command = [sys.executable, "-m", "modelpar", "sample", run_dir, *words, *grid, "--count", "70", "--steps", "40"]
        printed = on_ranks(n, [*command, "--out", out], limit=LIMIT).check().output
        lines += re.findall(r"^.*levels, swaps between neighbours.*$", printed, re.MULTILINE)
        files.append(out.read_bytes())
    assert files[0] == files[1]
    assert len(lines) == 2
    assert len(set(lines)) == 1
    levels, rates, trips = re.match(r"(\d+) levels, .*: ([\d. ]+); (\d+) round trips", lines[0]).groups()  # type: ignore[union-attr]
    assert len(rates.split()) == int(levels) - 1 >= 2
    assert int(trips) > 0
    assert all(0 < float(rate) <= 1 for rate in rates.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "ptt", "--temperatures", "5"], "--temperatures has no effect with --method ptt"),
        (["--method", "pt", "--steps", "0"], "--steps is 0, but --method pt needs at least one"),
        (["--method", "pt", "--steps", str(2**32)], "a seed has draws for 4294967296 of them"),
        (["--method", "ptt"], "keeps no trajectory of RBM 0; train it with --keep-trajectory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(
    words: list[str], expected: str, run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    model, out = str(tmp_path / "alone.safetensors"), str(tmp_path / "x.npy")
    shutil.copy(run_dir / "model.safetensors", model)
    status, err = run(MPI.COMM_SELF, ["sample", model, *words, "--out", out]), capfd.readouterr().err
    assert (status, err.count("\n")) == (2, 1), err
    assert expected in err
    assert not Path(out).exists()
