"""A run that is cut off wherever a file of it appears goes on to the same end, with all that belongs to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from mpi4py import MPI

from modelpar.cli import run
from modelpar.files import outputs
from tests import extent

pytestmark = pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning")
pytest.importorskip("matplotlib")

WORDS = [
    "--layers", "64-6", "--batch-size", "720", "--epochs", "1", "--finetune-epochs", "1", "--finetune-batch-size",
    "720", "--checkpoint-every", "1", "--keep", "2", "--threads", "1", "--no-score",
]  # fmt: skip
# in the order in which they appear
FILES = [
    "config.toml", "ranks.txt", "metrics.jsonl", "step-00000001.safetensors", "step-00000002.safetensors",
    "pretrained.safetensors", "filters.png", "reconstructions.png", "samples.png", "step-00000003.safetensors",
    "step-00000004.safetensors", "model.safetensors", "curves.png", "report.html",
    "summary.json",
]  # fmt: skip
SAME = [name for name in FILES if name.endswith((".safetensors", ".png")) and name != "curves.png"]  # it shows no time
# a network that was fine-tuned has lost its pictures; a model has no summary; nothing but options is there
SHARPEST = [("reconstructions.png", True), ("model.safetensors", True), ("metrics.jsonl", False)]

Cut = Callable[[str, bool], None]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """``cut(name, after)``: the next time that a file of this name appears, all ends right before or after it."""

    def at(name: str, after: bool) -> None:
        def replace(source: Path, target: Path) -> None:
            if target.name != name or after:
                os.rename(source, target)
            if target.name == name:
                monkeypatch.undo()
                raise KeyboardInterrupt

        monkeypatch.setattr(outputs.os, "replace", replace)

    return at


def train(folder: Path, *words: str) -> int:
    return run(MPI.COMM_SELF, ["train", *words, "--run-dir", str(folder)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.name in SAME}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, *WORDS) == 0
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(
        {*FILES} - {"step-00000001.safetensors", "step-00000002.safetensors"}
    )
    return folder


@pytest.mark.parametrize(
    ("name", "after"),
    extent.quick(sorted(product(FILES, (False, True)), key=lambda case: case not in SHARPEST), n=len(SHARPEST)),
)
def test_a_run_that_is_cut_off_comes_to_the_same_end(
    name: str, after: bool, whole: Path, cut: Cut, tmp_path: Path
) -> None:
    cut(name, after)
    assert train(tmp_path / "run", *WORDS) == 130
    status = train(tmp_path / "run", "--resume", "--max-restarts", "3", *WORDS)
    assert status == 0
    if (name, after) == ("step-00000004.safetensors", True):  # the next checkpoint would have removed it
        (tmp_path / "run" / "checkpoints" / "step-00000002.safetensors").unlink()
    assert contents(tmp_path / "run") == contents(whole)
    left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()} - {"restarts"}
    assert left == {path.name for path in whole.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "missing", extent.quick(["model.safetensors summary.json", "samples.png summary.json", "summary.json"])
)
def test_the_end_of_a_run_without_fine_tuning(missing: str, tmp_path: Path) -> None:
    """Also where a kill comes between the two files that are alike."""
    words = WORDS[: WORDS.index("--finetune-epochs")] + WORDS[WORDS.index("--checkpoint-every") :]
    assert train(tmp_path / "run", *words, "--pretrain-only") == 0
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    for name in missing.split():
        (tmp_path / "cut" / name).unlink()
    assert train(tmp_path / "cut", "--resume") == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "run")
    assert (tmp_path / "cut" / "summary.json").exists()


def test_more_epochs_are_not_forgotten_by_a_kill(
    whole: Path, cut: Cut, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A finished run is told to go on, and ends while its new options are written: the same command goes on with it."""
    shutil.copytree(whole, tmp_path / "run")
    for after in (False, True):
        cut("config.toml", after)
        assert train(tmp_path / "run", "--resume", "--finetune-epochs", "2") == 130
        assert not (tmp_path / "run" / "summary.json").exists()
    capfd.readouterr()
    assert train(tmp_path / "run", "--resume", "--finetune-epochs", "2") == 0
    assert '"epoch": 2, "step": 4' in (tmp_path / "run" / "metrics.jsonl").read_text()
