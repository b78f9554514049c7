"""The last good checkpoint is a healthy one: when it is written, kept, and gone on from.

Modules: modelpar/cli/chosen_checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from safetensors.numpy import load_file

from modelpar import checkpoint
from modelpar.checkpoint.health import Verdict
from modelpar.cli import run
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.run_directory import RunDirectory, verdict_of
from modelpar.comm.grid import Grid
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec
from modelpar.training import monitor
from modelpar.training.state import TrainingRun

SMALL = [
    "--layers", "64-8", "--batch-size", "400", "--pretrain-only", "--threads", "1", "--no-pictures", "--no-score",
]  # fmt: skip

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str]) -> Command:
    """``train(words)`` -> (status, standard output, standard error), in this process."""

    def started(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run(MPI.COMM_SELF, ["train", *map(str, words)])
        return status, *capfd.readouterr()

    return started


@pytest.fixture(scope="module")
def grid() -> Iterator[Grid]:
    with Grid(MPI.COMM_SELF) as grid:
        yield grid


def numbers(directory: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (directory / "checkpoints").iterdir())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("every", ["1", "0"])
def test_an_exploding_run_leaves_what_a_smaller_rate_goes_on_from(train: Command, tmp_path: Path, every: str) -> None:
    home = tmp_path / "run"
    status, _, err = train(*SMALL, "--learning-rate", "1e8", "--checkpoint-every", every, "--run-dir", home)
    assert status == 2
    [line] = err.splitlines()
    assert "RBM 0: weights explode (the largest is" in line
    assert "use a smaller --learning-rate" in line
    assert line.endswith("the last good checkpoint is " + str(home / "checkpoints" / "step-00000000.safetensors"))
    for path in home.rglob("*.safetensors"):
        assert verdict_of(path) == Verdict(), path
    anew = [*SMALL, "--learning-rate", "0.1", "--epochs", "1"]
    assert train(*anew, "--resume", "--run-dir", home)[0] == 0
    assert train(*anew, "--run-dir", tmp_path / "other")[0] == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (home, tmp_path / "other"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_goes_on_from_the_newest_healthy_checkpoint(train: Command, tmp_path: Path, grid: Grid) -> None:
    home = tmp_path / "run"
    assert train(*SMALL, "--epochs", "1", "--checkpoint-every", "1", "--run-dir", home)[0] == 0
    (home / "model.safetensors").unlink()
    (home / "pretrained.safetensors").unlink()
    newest, before, last = (home / "checkpoints" / f"step-{n:08d}.safetensors" for n in (4, 3, 2))
    network = checkpoint.load(newest, grid)
    TrainingRun.of(network).ailments["replicas"] = "replicas differ"
    checkpoint.save(network, newest)
    network = checkpoint.load(before, grid)
    network.rbms[0].W[3, 2] = np.nan
    checkpoint.save(network, before)
    status, out, _ = train("--resume", "--run-dir", home)
    assert status == 0
    words = " ".join(out.split())
    assert f"{newest} holds a network that is not healthy: replicas differ; going back" in words
    assert f"{before} holds a network that is not healthy: RBM 0: a weight is no longer" in words
    assert f"going on from {last}" in words


def test_the_last_healthy_checkpoint_is_kept(tmp_path: Path, grid: Grid) -> None:
    directory = RunDirectory(MPI.COMM_SELF, tmp_path)
    directory.checkpoints.mkdir()
    network = DeepBeliefNetwork(NetworkSpec((5, 4)), grid)
    ailments = TrainingRun.of(network).ailments
    for updates in (1, 2):
        assert directory.save_step(network, updates, keep=2)[1].healthy
    ailments["collapse"] = "RBM 0 has collapsed"
    for updates, left in ((3, [2, 3]), (4, [2, 3, 4]), (5, [2, 4, 5])):
        path, verdict = directory.save_step(network, updates, keep=2)
        assert not verdict.healthy
        assert numbers(tmp_path) == left
        assert checkpoint_of(MPI.COMM_SELF, str(tmp_path), generative=False) != path
    ailments.clear()
    for updates, left in ((6, [5, 6]), (7, [6, 7])):
        assert directory.save_step(network, updates, keep=2)[1].healthy
        assert numbers(tmp_path) == left


def test_a_collapse_is_said_and_may_pass(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "idle_units", lambda *_: (1.0, 0.0))
    words = ["--epochs", "1", "--checkpoint-every", "1", "--keep", "9", "--run-dir", tmp_path]
    status, out, err = train(*SMALL, *words)
    assert (status, err) == (0, "")
    steps = sorted((tmp_path / "checkpoints").iterdir())
    collapsed = Verdict(("RBM 0 has collapsed: 100% of its hidden units are always off and 0% always on",))
    assert [verdict_of(step) for step in steps] == [collapsed] * 4, "after 1, 2, 4 updates, and until the next look"
    assert f"{steps[0]} is not healthy, no run goes on from it: RBM 0 has collapsed" in " ".join(out.split())
    assert verdict_of(tmp_path / "model.safetensors") == Verdict(), "the end of an epoch looks at more samples"
