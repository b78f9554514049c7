"""Runs that are taken up again: with more epochs, with fewer, with other options, and where there is no run.

Modules: modelpar/cli/same_network
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import run
from modelpar.spec import TrainingSpec
from modelpar.training.schedule import step_size

# right after so few epochs, and not what is looked at here
pytestmark = pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning")

FEW = ["--threads", "1", "--no-pictures", "--no-score"]
SMALL = ["--layers", "64-8-5", "--batch-size", "400", *FEW]  # 4 updates an epoch
TUNED = [*SMALL, "--finetune-batch-size", "400"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str]) -> Command:
    """``train(words)`` -> (status, standard output, standard error), in this process."""

    def started(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run(MPI.COMM_SELF, ["train", *map(str, words)])
        out, err = capfd.readouterr()
        # so few epochs are no training, which is said
        printed = [line for line in err.splitlines(keepends=True) if "has not learned to tell them apart" not in line]
        return status, out, "".join(printed)

    return started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs: ``tuned`` of 2 and 2 epochs, ``top`` of 2 epochs without fine-tuning, each with the checkpoints
    of its last updates, and ``bare`` as ``top`` without."""
    home = tmp_path_factory.mktemp("runs")
    every = ["--checkpoint-every", "4", "--keep", "99"]
    tuned, top = (["train", "--epochs", "2", *words, *every] for words in (TUNED, SMALL))
    assert run(MPI.COMM_SELF, [*tuned, "--finetune-epochs", "2", "--run-dir", str(home / "tuned")]) == 0
    assert run(MPI.COMM_SELF, [*top, "--pretrain-only", "--run-dir", str(home / "top")]) == 0
    shutil.copytree(home / "top", home / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    return home


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def cut(path: Path, updates: int) -> Path:
    """A run as it was when it was ended after its checkpoint of so many updates."""
    for name in ("model.safetensors", "summary.json"):
        (path / name).unlink()
    for step in (path / "checkpoints").iterdir():
        if int(step.stem.removeprefix("step-")) > updates:
            step.unlink()
    if updates < 16:
        (path / "pretrained.safetensors").unlink()
    return path


def test_more_epochs_are_what_a_longer_run_would_have_made(
    copied: Callable[[str], Path], train: Command, tmp_path: Path
) -> None:
    """Bit for bit, where the checkpoint of the last update is there: it has the momentum."""
    words = [*TUNED, "--finetune-schedule", "constant", "--finetune-epochs", "4", "--epochs", "2"]
    assert train(*words, "--run-dir", tmp_path / "long")[0] == 0
    assert train(*words[:-4], "--finetune-epochs", "2", "--epochs", "2", "--checkpoint-every", "4",
                 "--run-dir", tmp_path / "short")[0] == 0  # fmt: skip
    status, out, err = train("--resume", "--run-dir", tmp_path / "short", "--finetune-epochs", "4", *FEW)
    assert (status, err) == (0, "")
    assert "from here on: --finetune-epochs 4 (was 2)" in out
    both = [tmp_path / name / "model.safetensors" for name in ("long", "short")]
    assert both[0].read_bytes() == both[1].read_bytes()


@pytest.mark.parametrize("method", ["gibbs", "pt"])
def test_chains_and_averages_go_on_where_a_finished_run_does(train: Command, tmp_path: Path, method: str) -> None:
    """Bit for bit as in a longer run, from the model alone: without momentum that is all there is."""
    chains = ["--chains", "20", "--chain-method", method, "--average", "5"]
    words = ["--layers", "64-8", "--batch-size", "400", "--pretrain-only", *chains, *FEW]
    long, short = tmp_path / "long", tmp_path / "short"
    assert train(*words, "--epochs", "3", "--run-dir", long)[0] == 0
    assert train(*words, "--epochs", "2", "--run-dir", short)[0] == 0
    assert not list((short / "checkpoints").iterdir())
    status, out, _ = train("--resume", "--run-dir", short, "--epochs", "3", *FEW)
    assert (status, "its momentum from 0" in out) == (0, True)
    both = [path / "model.safetensors" for path in (long, short)]
    assert both[0].read_bytes() == both[1].read_bytes()


@pytest.mark.parametrize(("name", "option", "stage", "layer"), [
    ("tuned", "--finetune-epochs", "finetune", -1), ("top", "--epochs", "pretrain", 1),
    ("bare", "--epochs", "pretrain", 1),
])  # fmt: skip
def test_a_finished_run_goes_on_with_more_epochs(
    name: str, option: str, stage: str, layer: int, copied: Callable[[str], Path], train: Command
) -> None:
    path = copied(name)
    before = lines(path)
    status, out, err = train("--resume", "--run-dir", path, option, "3", *FEW)
    assert (status, err) == (0, "")
    assert ("its momentum from 0" in out) == (name == "bare")
    after = lines(path)
    # RBMs below the uppermost one stay as they are: it was trained on them
    assert [(line["stage"], line["layer"], line["epoch"]) for line in after] == [
        *((line["stage"], line["layer"], line["epoch"]) for line in before), (stage, layer, 3),
    ]  # fmt: skip
    table = "training" if stage == "pretrain" else "finetune"
    assert tomllib.loads((path / "config.toml").read_text())[table]["epochs"] == 3
    assert (path / "summary.json").exists()
    assert "has finished" in train("--resume", "--run-dir", path, option, "3", *FEW)[1]


def test_a_run_that_goes_on_behind_its_end_can_be_cut_off_there(copied: Callable[[str], Path], train: Command) -> None:
    """What it was before is not taken for its end."""
    path = copied("bare")
    assert train("--resume", "--run-dir", path, "--epochs", "4", "--checkpoint-every", "4", "--keep", "9", *FEW)[0] == 0
    assert sorted(step.name for step in (path / "checkpoints").iterdir()) == [
        f"step-{updates:08d}.safetensors" for updates in (16, 20, 24)
    ]
    whole = (path / "model.safetensors").read_bytes()
    for gone in (
        "model.safetensors",
        "pretrained.safetensors",
        "summary.json",
        "checkpoints/step-00000024.safetensors",
    ):
        (path / gone).unlink()
    status, out, _ = train("--resume", "--run-dir", path, *FEW)
    assert status == 0
    assert "step-00000020.safetensors" in out
    assert (path / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("tuned", ["--epochs", "3"], "--finetune-epochs goes on with that"),
        ("tuned", ["--finetune-epochs", "1"], "asks for fewer epochs than the 2 of this run"),
        ("top", ["--epochs", "1"], "asks for fewer epochs than the 2 of this run"),
        (
            "tuned",
            ["--learning-rate", "0.5"],
            "--learning-rate 0.5 (was the default) cannot act any more: the run has finished",
        ),
        ("tuned", ["--weight-scale", "0.5"], "--weight-scale 0.5 (was the default) cannot act any more"),
        ("tuned", ["--seed", "5"], "its --seed is 1, but 5 was asked for"),
        ("tuned", ["--dtype", "float64"], "its --dtype is float32, but float64 was asked for"),
        ("tuned", ["--test-fraction", "0.3"], "the samples of the run are fixed"),
        ("tuned", ["--binarise", "0.5"], "the samples of the run are fixed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_act_on_a_finished_run(
    name: str, words: list[str], expected: str, copied: Callable[[str], Path], train: Command
) -> None:
    path = copied(name)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    status, _, err = train("--resume", "--run-dir", path, *words, *FEW)
    assert (status, err.count("\n")) == (2, 1)
    assert expected in err
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_finished_run_with_its_own_options_is_left_alone(copied: Callable[[str], Path], train: Command) -> None:
    """As loops start it again: with all options of its start."""
    words = ["--epochs", "2", *TUNED, "--checkpoint-every", "4", "--finetune-epochs", "2", "--max-restarts", "3"]
    status, out, err = train("--resume", "--run-dir", copied("tuned"), *words)
    assert (status, err) == (0, "")
    assert "this run has finished" in out


def test_what_acts_from_here_on_is_said_and_recorded(copied: Callable[[str], Path], train: Command) -> None:
    path = cut(copied("tuned"), 8)  # RBM 1 is next
    words = ["--learning-rate", "0.05", "--finetune-schedule", "constant", "--checkpoint-every", "7"]
    status, out, err = train("--resume", "--run-dir", path, *words, *FEW)
    assert (status, err) == (0, "")
    assert "from here on: --learning-rate 0.05 (was the default), --finetune-schedule constant (was linear)" in out
    assert {line["learning_rate"] for line in lines(path) if line["layer"] == 1} == {0.05}
    assert lines(path)[0]["learning_rate"] == 0.1
    result = tomllib.loads((path / "config.toml").read_text())
    assert (result["training"]["learning_rate"], result["finetune"]["schedule"]) == (0.05, "constant")
    assert result["run"]["checkpoint_every"] == 7


def test_options_of_a_stage_that_is_over(copied: Callable[[str], Path], train: Command, tmp_path: Path) -> None:
    path = cut(copied("tuned"), 20)
    status, _, err = train("--resume", "--run-dir", path, "--gibbs-steps", "3", *FEW)
    assert status == 2
    assert "--gibbs-steps 3 (was 1) cannot act any more: pre-training is over" in err
    (tmp_path / "c.toml").write_text("[training]\ngibbs_steps = 3\n[finetune]\ndropout = 0.1\n")
    status, out, _ = train("--resume", "--run-dir", path, "--config", tmp_path / "c.toml", *FEW)
    assert status == 0
    assert "from here on: --dropout 0.1 (was 0.2)" in out
    assert "without effect on this run: --gibbs-steps 3 (was 1), as pre-training is over" in out


def test_a_falling_rate_follows_the_new_total(copied: Callable[[str], Path], train: Command, tmp_path: Path) -> None:
    words = [*SMALL, "--schedule", "linear", "--pretrain-only", "--run-dir", tmp_path / "run"]
    assert train(*words, "--epochs", "3", "--layers", "64-8")[0] == 0
    assert train("--resume", "--run-dir", tmp_path / "run", "--epochs", "6", *FEW)[0] == 0
    short, long = (TrainingSpec(epochs=n, schedule="linear") for n in (3, 6))
    planned = [step_size(short, 0.1, epoch).rate for epoch in range(3)]
    after = [step_size(long, 0.1, epoch).rate for epoch in range(3, 6)]
    assert after[0] > planned[-1]  # it goes up again, to where a run of 6 epochs would be
    np.testing.assert_allclose([line["learning_rate"] for line in lines(tmp_path / "run")], [*planned, *after])


@pytest.mark.parametrize(("option", "updates", "expected"), [
    ("--epochs", 6, "RBM 0 has had 1 epochs and 2 steps of another, more than --epochs 1"),
    ("--epochs", 8, "RBM 0 has had 2 epochs, more than --epochs 1"), ("--epochs", 12, ""),
    ("--finetune-epochs", 24, "fine-tuning has had 2 epochs, more than --finetune-epochs 1"),
])  # fmt: skip
def test_fewer_epochs_than_a_run_has_had(
    option: str, updates: int, expected: str, train: Command, tmp_path: Path
) -> None:
    words = [*TUNED, "--epochs", "2", "--finetune-epochs", "2", "--checkpoint-every", "2", "--keep", "99"]
    assert train(*words, "--run-dir", tmp_path / "run")[0] == 0
    path = cut(tmp_path / "run", updates)
    status, out, _ = train("--resume", "--run-dir", path, option, "1", "--keep", "1", *FEW)
    assert status == 0
    assert expected in out
    assert ("nothing is undone" in out) == bool(expected)
    assert (path / "model.safetensors").exists()
    numbers = [int(step.stem.removeprefix("step-")) for step in (path / "checkpoints").iterdir()]
    assert max(numbers) >= updates  # what comes later has the higher number, though less was planned
    assert option != "--epochs" or len(numbers) == 1


def test_a_directory_without_a_run(tmp_path: Path, train: Command) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = train("--resume", "--run-dir", tmp_path, *SMALL)
    assert status == 2
    assert "holds no run to resume: it has neither config.toml nor a checkpoint" in err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_without_a_checkpoint_begins_again_and_says_so(copied: Callable[[str], Path], train: Command) -> None:
    path = copied("top")
    for file in path.rglob("*.safetensors"):
        file.unlink()
    status, out, _ = train("--resume", "--run-dir", path, *FEW)
    assert status == 0
    assert f"no checkpoint to go on from was found in {path}: starting from the beginning" in out
