"""``modelpar sample`` along ladders: the same bytes at every grid, what it prints, and what it refuses.

Modules: modelpar/cli/sample_commands
"""

from __future__ import annotations

import json
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
from modelpar.kernels.states import unpack
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


def test_a_finished_run_has_its_ladder_and_its_chains(tmp_path: Path, on_ranks: Any) -> None:
    """What training shows of its ladder; samples by it at every grid; chains as training left them without steps."""
    words = "train --data bars:4 --layers 16-8 --pretrain-only --epochs 3 --chains 60 --chain-method ptt --average 9"
    more = "--exact --learning-rate 1 --no-score --no-pictures --run-dir run"
    train = [sys.executable, "-m", "modelpar", *words.split(), *more.split()]
    printed = on_ranks(2, [*train, "--replicas", "2"], limit=LIMIT, cwd=tmp_path).check().output
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    summary, last = json.loads((tmp_path / "run" / "summary.json").read_text()), records[-1]
    assert last["chain_levels"] > 2
    assert f"swaps {last['swap_acceptance']:.0%}  round trips {last['round_trips']:.0f}" in printed
    assert [summary[name] for name in ("swap_acceptance", "round_trips")] == [
        last["swap_acceptance"],
        last["round_trips"],
    ]
    assert f"{last['round_trips']:.0f} round trips (last epoch)" in printed
    files, sample = [], [sys.executable, "-m", "modelpar", "sample", tmp_path / "run"]
    for n, shards in ((1, 1), (3, 3)):
        out = tmp_path / f"{n}.npy"
        ladder = ["--method", "ptt", "--steps", "30", "--model-shards", str(shards), "--out", out]
        line = on_ranks(n, [*sample, *ladder], limit=LIMIT).check().output
        assert f"{last['chain_levels']:.0f} levels, swaps" in line
        files.append(out.read_bytes())
    assert files[0] == files[1]
    with Grid(MPI.COMM_SELF) as grid:
        network = load(tmp_path / "run" / "pretrained.safetensors", grid, last=True)
        rbm, h = network.rbms[0], unpack(network.run.chains.h)
    on_ranks(2, [*sample, "--start", "chains", "--steps", "0", "--count", "70", "--last", "--replicas", "2",
                 "--out", tmp_path / "c.npy"], limit=LIMIT).check()  # fmt: skip
    expected = 1 / (1 + np.exp(-(rbm.W @ h + rbm.b[:, None])))
    assert np.allclose(np.load(tmp_path / "c.npy"), np.concatenate([expected, expected], axis=1)[:, :70].T, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--start", "chains"], "has no chains to start at: its training had none of its own"),
        (["--last"], "has no average of parameters"),
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
