"""A run knows its own data: by any path, in any folder, and when something else lies in their place.

Modules: modelpar/cli/recorded_paths
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import recorded_paths, run
from modelpar.data import open_dataset, write_packed
from modelpar.data.named import SETS
from modelpar.data.synthetic import KINDS
from modelpar.spec import DATA_SETS, DRAWN_SETS, DataSpec

# right after so few epochs, and not what is looked at here
pytestmark = pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning")

RANDOM = np.random.default_rng(7)
LABELS = RANDOM.integers(0, 3, 120)
STATES = (RANDOM.random((120, 12)) < 0.15 + 0.6 * (np.arange(12) // 4 == LABELS[:, None])).astype(np.float32)
FEW = ["--threads", "1", "--no-pictures", "--no-score"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def modelpar(capfd: pytest.CaptureFixture[str]) -> Command:
    """``modelpar(words)`` -> (status, standard output, standard error), in this process."""

    def started(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run(MPI.COMM_SELF, [str(word) for word in words])
        out, err = capfd.readouterr()
        return status, out, err

    return started


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modelpar: Command) -> Path:
    """A folder with a run ``r`` of x.npy and y.npy, in which 12 samples were set aside."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", STATES)
    np.save("y.npy", LABELS)
    np.save("other.npy", STATES[::-1])
    words = ["--layers", "12-6", "--epochs", "1", "--finetune-epochs", "1", "--test-fraction", "0.1", "--run-dir", "r"]
    status, _, err = modelpar("train", "--data", "x.npy", "--labels", "y.npy", *words, *FEW)
    assert status == 0, err
    return tmp_path


def judged(modelpar: Command, *words: str | Path) -> tuple[dict[str, Any], str]:
    status, out, err = modelpar("evaluate", *words, "--threads", "1", "--json")
    assert status == 0, err
    return json.loads(out.splitlines()[-1]), err


def printed_by(modelpar: Command, *words: str | Path) -> str:
    """The one line of a command that is refused."""
    status, _, err = modelpar(*words)
    assert status == 2, err
    (line,) = [line for line in err.splitlines() if "error:" in line]
    return line


def of_data(err: str) -> list[str]:
    """All lines but that two epochs are few, which is so."""
    return [line for line in err.splitlines() if "it has not learned to tell them apart" not in line]


def test_names_of_data_sets_are_those_of_the_reader() -> None:
    assert set(DATA_SETS) == {"digits", *SETS}
    assert set(DRAWN_SETS) == set(KINDS)


@pytest.mark.slow
def test_recorded_paths_are_absolute(home: Path) -> None:
    result = tomllib.loads((home / "r" / "config.toml").read_text())["data"]
    assert (result["data"], result["labels"]) == (str(home / "x.npy"), str(home / "y.npy"))
    data = DataSpec(data="bars:4", test_data="~/t.npy", test_labels="a/../l.npy")
    every = recorded_paths.recorded({"data": data})["data"]
    assert every == DataSpec("bars:4", None, os.path.expanduser("~/t.npy"), str(home / "l.npy"))


def test_masks_and_placements_are_recorded_by_absolute_paths(home: Path) -> None:
    from modelpar.cli.options import GridSpec
    from modelpar.spec import NetworkSpec

    network = NetworkSpec((4, 3, 2), connections="mask:m.npz, dense")
    result = recorded_paths.recorded({"network": network, "grid": GridSpec(partition="p.npz")})
    assert result["network"].connections == f"mask:{home / 'm.npz'}, dense"  # type: ignore[attr-defined]
    assert result["grid"] == GridSpec(partition=str(home / "p.npz"))


@pytest.mark.parametrize(
    "spelling", ["./x.npy", "sub/../x.npy", "link.npy", "sub/hard.npy", "sub/copy.npy", "zipped.npz"]
)
def test_the_same_data_by_another_path_are_the_runs_own(spelling: str, home: Path, modelpar: Command) -> None:
    (home / "sub").mkdir()
    (home / "link.npy").symlink_to("x.npy")
    os.link(home / "x.npy", home / "sub" / "hard.npy")
    shutil.copy(home / "x.npy", home / "sub" / "copy.npy")
    np.savez(home / "zipped.npz", STATES)
    plain, _ = judged(modelpar, "r")
    result, err = judged(modelpar, "r", "--data", spelling)
    assert result["samples"] == 12
    assert result["accuracy"] == plain["accuracy"]
    assert not err


def test_another_file_of_the_same_name_is_not_taken_for_it(
    home: Path, modelpar: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "sub").mkdir()
    shutil.copy("other.npy", home / "sub" / "x.npy")
    plain, _ = judged(modelpar, "r")
    monkeypatch.chdir(home / "sub")
    assert judged(modelpar, "../r")[0]["accuracy"] == plain["accuracy"]
    result, err = judged(modelpar, "../r", "--data", "x.npy")
    assert result["samples"] == 120
    assert "accuracy" not in result
    assert "x.npy is not the data that the network was trained on: all 120 samples are tested on" in err
    line = printed_by(modelpar, "train", "--resume", "--run-dir", "../r", "--data", "x.npy", *FEW)
    assert "other values in the same shape" in line
    assert "--accept-other-data" in line


def test_other_data_are_a_test_set(home: Path, modelpar: Command) -> None:
    result, err = judged(modelpar, "r", "--data", "other.npy", "--labels", "y.npy")
    assert result["samples"] == 120
    assert "accuracy" in result
    assert err.count("\n") == 1
    result, err = judged(modelpar, "r", "--data", "other.npy", "--labels", "y.npy", "--test-fraction", "0.25")
    assert result["samples"] == 30
    assert "--test-fraction 0.25 of it is tested on" in err


def test_a_path_that_leads_up_from_a_link(home: Path, modelpar: Command) -> None:
    """``link/../x.npy`` is beside what the link leads to, and not beside the link."""
    (home / "far" / "inner").mkdir(parents=True)
    (home / "link").symlink_to("far/inner")
    np.save(home / "far" / "x.npy", STATES[::-1])
    words = ["--layers", "12-6", "--epochs", "1", "--run-dir", "up", *FEW]
    assert modelpar("train", "--data", "link/../x.npy", *words)[0] == 0
    recorded = tomllib.loads((home / "up" / "config.toml").read_text())["data"]["data"]
    assert os.path.samefile(recorded, home / "far" / "x.npy")
    assert not judged(modelpar, "up")[1]


def test_labels_of_other_samples_than_those_that_are_judged(home: Path, modelpar: Command) -> None:
    apart = ["evaluate", "r", "--test-data", "other.npy"]
    assert "--labels has no effect" in printed_by(modelpar, *apart, "--labels", "y.npy")
    np.savez("both.npz", x_train=STATES, y_train=LABELS, x_test=STATES[:9], y_test=LABELS[:9])
    assert "--labels has no effect" in printed_by(modelpar, "evaluate", "r", "--data", "both.npz", "--labels", "y.npy")
    np.save("few.npy", LABELS[:9])
    words = ["evaluate", "r", "--data", "both.npz", "--test-labels", "few.npy"]
    assert "--test-labels has no effect on --split train" in printed_by(modelpar, *words, "--split", "train")
    assert judged(modelpar, *words[1:])[0]["samples"] == 9
    result, err = judged(
        modelpar, "r", "--data", "other.npy", "--validation-fraction", "0.1", "--split", "validation"
    )  # fmt: skip
    assert result["samples"] == 12
    assert "its validation set of 12 samples" in err


def test_nothing_tests_on_training_samples(home: Path, modelpar: Command) -> None:
    for words in (["--test-fraction", "0.5"], ["--data", "./x.npy", "--test-fraction", "0.05"],
                  ["--validation-fraction", "0.2", "--split", "validation"]):  # fmt: skip
        assert "would mix training and test samples" in printed_by(modelpar, "evaluate", "r", *words, *FEW[:2])
    # away from its run, the checkpoint knows itself
    shutil.copy(home / "r" / "model.safetensors", home / "alone.safetensors")
    result, _ = judged(modelpar, "alone.safetensors", "--data", "x.npy", "--labels", "y.npy")
    assert result["samples"] == 12
    assert result["accuracy"] == judged(modelpar, "r")[0]["accuracy"]


def test_a_file_that_was_replaced(home: Path, modelpar: Command) -> None:
    shutil.copy("other.npy", "x.npy")
    assert "x.npy has changed since the network was trained on it" in printed_by(modelpar, "evaluate", "r", *FEW[:2])
    assert f"not what the run in {home / 'r'} was trained on" in printed_by(
        modelpar, "train", "--resume", "--run-dir", "r", *FEW
    )
    assert judged(modelpar, "r", "--data", "x.npy")[0]["samples"] == 120


def test_labels_that_were_replaced(home: Path, modelpar: Command) -> None:
    np.save("y.npy", (LABELS + 1) % 3)
    assert "the labels are others" in printed_by(modelpar, "train", "--resume", "--run-dir", "r", *FEW)
    assert "the labels are others" in judged(modelpar, "r")[1]


def test_a_run_whose_data_lie_elsewhere_now(home: Path, modelpar: Command) -> None:
    plain, _ = judged(modelpar, "r")
    (home / "new").mkdir()
    for name in ("r", "x.npy", "y.npy"):
        shutil.move(home / name, home / "new" / name)
    line = printed_by(modelpar, "evaluate", "new/r", *FEW[:2])
    assert f"--data {home / 'x.npy'}, which does not exist; say where it is now by --data" in line
    assert "--data" in printed_by(modelpar, "train", "--resume", "--run-dir", "new/r", *FEW)
    assert "--labels" in printed_by(modelpar, "evaluate", "new/r", "--data", "new/x.npy", *FEW[:2])
    words = ["--data", "new/x.npy", "--labels", "new/y.npy"]
    assert judged(modelpar, "new/r", *words)[0]["accuracy"] == plain["accuracy"]
    status, out, err = modelpar("train", "--resume", "--run-dir", "new/r", *words, "--finetune-epochs", "2", *FEW)
    assert (status, of_data(err)) == (0, [])
    assert "epoch   2" in out
    result = tomllib.loads((home / "new" / "r" / "config.toml").read_text())
    assert result["data"]["data"] == str(home / "new" / "x.npy")
    assert result["finetune"]["epochs"] == 2


def test_other_data_may_be_asked_for(home: Path, modelpar: Command) -> None:
    words = ["--resume", "--run-dir", "r", "--data", "other.npy", "--finetune-epochs", "2", "--accept-other-data", *FEW]
    status, out, err = modelpar("train", *words)
    assert (status, of_data(err)) == (0, [])
    assert "going on with other data than before: it has other values" in out
    assert judged(modelpar, "r", "--data", "other.npy")[0]["samples"] == 12  # its own from now on
    assert "give --resume with it" in printed_by(modelpar, "train", "--accept-other-data")


def test_where_a_relative_path_was_looked_for(home: Path, modelpar: Command) -> None:
    for words in (["--data", "nowhere/x.npy"], ["--data", "x.npy", "--labels", "nowhere/y.npy"]):
        assert str(home) in printed_by(modelpar, "train", *words, *FEW)


def test_an_older_checkpoint_tells_nothing_and_goes_by_the_path(home: Path, modelpar: Command) -> None:
    from modelpar.checkpoint import load, save
    from modelpar.comm.grid import Grid

    with Grid(MPI.COMM_SELF) as grid:
        network = load(home / "r" / "model.safetensors", grid)
        network.run.data = None
        save(network, home / "r" / "model.safetensors")
    assert judged(modelpar, "r")[0]["samples"] == 12
    assert judged(modelpar, "r", "--data", "./x.npy")[0]["samples"] == 12
    assert modelpar("train", "--resume", "--run-dir", "r", *FEW)[0] == 0


# -- letters of states -------------------------------------------------------------------------------------------------


def aligned(path: Path, letters: str, n: int = 60) -> Path:
    """Sequences of 5 letters, each of them of ``letters``."""
    rng = np.random.default_rng(len(letters))
    rows = ["".join(rng.choice(list(letters), 5)) for _ in range(n)]
    path.write_text("".join(f">s{i}\n{row}\n" for i, row in enumerate(rows)))
    return path


@pytest.mark.parametrize(("letters", "option"), [("-ACGU", "rna"), ("xyAB-", "xyAB-")])
def test_letters_of_the_states_are_kept(
    modelpar: Command, tmp_path: Path, monkeypatch, letters: str, option: str
) -> None:
    """Commands that read or write sequences need no --alphabet again, and refuse another."""
    monkeypatch.chdir(tmp_path)
    aligned(tmp_path / "family.fasta", letters)
    words = ["--data", "family.fasta", "--visible", "categorical:5", "--layers", "25-3", "--epochs", "1"]
    status, _, err = modelpar("train", *words, "--alphabet", option, "--run-dir", "r", *FEW)
    assert status == 0, err
    status, _, err = modelpar("sample", "r", "--count", "40", "--steps", "2", "--out", "new.fasta")
    assert status == 0, err
    written = {*"".join((tmp_path / "new.fasta").read_text().splitlines()[1::2])}
    assert written <= set(letters)
    assert len(written) == 5
    aligned(tmp_path / "one.fasta", letters[1:3], 1)  # whose few letters suggest other states
    assert modelpar("mutations", "r", "--wild-type", "one.fasta", "--out", "m.csv")[0] == 0
    status, _, err = modelpar("evaluate", "r", "--data", "one.fasta", "--threads", "1", "--json")
    assert status == 0, err
    line = printed_by(modelpar, "sample", "r", "--alphabet", "dna", "--out", "x.fasta")
    assert f"not that of the training, whose letters are {letters}" in line
    for words in (("mutations", "r", "--wild-type", "one.fasta", "--out", "x.csv"), ("score", "r")):
        assert "not that of the training" in printed_by(modelpar, *words, "--alphabet", "dna")
    aligned(tmp_path / "other.fasta", "-ACGT")
    again = ("train", "--resume", "--run-dir", "r", "--epochs", "2", "--data", "other.fasta", "--alphabet", "dna")
    assert f"its states are the letters -ACGT, not {letters}" in printed_by(modelpar, *again, *FEW)
    write_packed("packed.npz", open_dataset("other.fasta").train, visible="categorical:5", alphabet="-ACGT")
    assert "bring data of the same letters" in printed_by(modelpar, "score", "r", "--data", "packed.npz")
    assert not list(tmp_path.glob("x.*"))
