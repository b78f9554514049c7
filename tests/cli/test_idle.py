"""Every option acts, or is refused where the command line gives it, or told of where a file does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import idle, run
from modelpar.cli.config import Settings
from modelpar.cli.options import Tables
from modelpar.data import Dataset, open_dataset
from modelpar.errors import SpecError

# right after so few epochs, and not what is looked at here
pytestmark = pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning")

NETWORK = {"layers": (64, 9), "classes": 10}
LOCAL = {"layers": (64, 36), "connections": "local:3", "classes": 10}
DEEP = {"layers": (64, 9, 5), "classes": 10}


def unlabelled() -> Dataset:
    result = open_dataset("bars:4")
    assert result.train.labels is None or result.n_classes
    bare = {name: None if split is None else dataclasses.replace(split, labels=None)
            for name, split in (("train", result.train), ("test", result.test))}  # fmt: skip
    return dataclasses.replace(result, n_classes=0, **bare)  # type: ignore[arg-type]


def outcome(mine: Tables, dataset: Dataset | None = None, file: Tables | None = None) -> tuple[str, str]:
    """(what was refused, what was told)"""
    tables: Tables = {}
    for given in (file or {}, mine):
        for table, values in given.items():
            tables.setdefault(table, {}).update(values)
    settings = Settings(tables, mine, file or {})
    lines: list[str] = []
    try:
        idle.check_idle(settings, settings.network(), dataset or open_dataset(settings.data), lines.append)
    except SpecError as error:
        return str(error), ""
    assert len(lines) <= 1
    return "", "".join(lines)


@pytest.mark.parametrize(
    ("option", "beside"),
    [
        ("--no-centred", {"training": {"standardised": True, "centred": False}}),
        ("--no-score", {"training": {"score_every": 3}, "run": {"score": False}}),
    ],
)
def test_switching_off_what_another_option_needs_is_refused(option: str, beside: Tables) -> None:
    refused, _ = outcome({"network": NETWORK, **beside})
    assert refused.startswith(f"{option} has no effect")


GAUSSIAN = {**NETWORK, "visible": "gaussian"}
CLASSLESS = {**NETWORK, "classes": 0}


@pytest.mark.parametrize(
    ("option", "why", "beside"),
    [
        ("--final-rate 0.5", "the rate is constant without --schedule", {"training": {"final_rate": 0.5}}),
        ("--finetune-final-rate 0.5", "--finetune-schedule", {"finetune": {"final_rate": 0.5, "schedule": "constant"}}),
        ("--gaussian-learning-rate 0.1", "--visible is bernoulli", {"training": {"gaussian_learning_rate": 0.1}}),
        ("--learning-rate 0.3", "Gaussian", {"training": {"learning_rate": 0.3}, "network": GAUSSIAN}),
        ("--sparsity-target 0.1", "without --sparsity-cost", {"training": {"sparsity_target": 0.1}}),
        ("--pass-up states", "there is one RBM", {"training": {"pass_up": "states"}}),
        ("--cache keep", "there is one RBM", {"training": {"cache": "keep"}}),
        ("--statistics 2", "there is no pre-training", {"training": {"epochs": 0, "statistics": "2"}}),
        ("--initial-momentum 0.3", "--momentum-epochs", {"training": {"momentum_epochs": 0, "initial_momentum": 0.3}}),
        ("--momentum-epochs 3", "without --initial-momentum", {"training": {"momentum_epochs": 3}}),
        ("--momentum 0.3", "--adagrad", {"training": {"momentum": 0.3}, "sync": {"sync": "server", "adagrad": True}}),
        ("--halo receive", "all connections are complete", {"network": {**NETWORK, "halo": "receive"}}),
        ("--visible-grid 8x8", "no connections are local", {"network": {**NETWORK, "visible_grid": "8x8"}}),
        ("--dropout 0.3", "--pretrain-only", {"run": {"pretrain_only": True}, "finetune": {"dropout": 0.3}}),
        ("--dropout 0.3", "--finetune-epochs 0", {"finetune": {"epochs": 0, "dropout": 0.3}}),
        ("--patience 3", "--classes 0", {"finetune": {"patience": 3}, "network": CLASSLESS}),
        ("--labels y.npy", "--classes 0", {"data": {"labels": "y.npy"}, "network": CLASSLESS}),
        ("--evaluate-every 5", "no test or validation set with labels", {"finetune": {"evaluate_every": 5}}),
    ],
)  # fmt: skip
def test_refused_on_the_command_line_and_told_of_from_a_file(option: str, why: str, beside: Tables) -> None:
    mine, digits = {"network": NETWORK, **beside}, open_dataset("digits")
    if "evaluate" in option:
        digits = dataclasses.replace(digits, test=None)
    refused, _ = outcome(mine, digits)
    assert refused.startswith(f"{option} has no effect: ")
    assert why in refused
    assert "\n" not in refused
    _, said = outcome({}, digits, mine)
    assert f"{option} (" in said
    assert why in said


@pytest.mark.parametrize(("table", "name", "value"), [("sync", "period", 10), ("sync", "fetch_every", 1),
                                                      ("training", "sparsity_target", 0.05)])  # fmt: skip
def test_a_default_in_a_file_is_not_worth_a_word(table: str, name: str, value: object) -> None:
    """As every configuration that a run has written names all defaults; asked for, it is refused all the same."""
    mine = {"network": NETWORK, table: {name: value}}
    digits = open_dataset("digits")
    assert outcome({}, digits, mine) == ("", "")
    assert "has no effect" in outcome(mine, digits)[0]


@pytest.mark.parametrize("name", ["patience", "until_accuracy", "epochs", "dropout", "max_norm", "learning_rate"])
def test_options_of_fine_tuning_need_labels(name: str) -> None:
    network = {"layers": (16, 5)}
    refused, _ = outcome(
        {"network": network, "finetune": {name: 1 if name in ("patience", "epochs") else 0.5}}, unlabelled()
    )
    assert "has no labels, so there is no fine-tuning" in refused


@pytest.mark.parametrize(
    "mine",
    [
        {},
        {"finetune": {"patience": 0, "epochs": 0}},
        {"run": {"pretrain_only": True}},
        {"training": {"final_rate": 1.0}},
        {"training": {"momentum": 0.0, "initial_momentum": 0.0, "momentum_epochs": 0}},
        {"training": {"sparsity_cost": 0.1, "sparsity_target": 0.1}},
        {"training": {"pass_up": "states"}, "network": DEEP},
        {"sync": {"sync": "local", "period": 3}},
        {"network": {**LOCAL, "visible_grid": "8x8", "halo": "receive"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_acts_or_asks_for_what_happens_anyway_is_accepted(mine: Tables) -> None:
    assert outcome({"network": NETWORK, **mine}, open_dataset("digits")) == ("", "")


def test_what_another_number_of_epochs_would_mend_is_told() -> None:
    training = {"epochs": 1, "schedule": "linear", "momentum": 0.7, "initial_momentum": 0.5}
    refused, said = outcome({"network": NETWORK, "training": training})
    assert not refused
    assert "--schedule linear" in said
    assert "--momentum 0.7" in said


def modelpar(words: list[Any], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capfd.readouterr()
    return run(MPI.COMM_SELF, [str(word) for word in words]), capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sample", "x", "--out", "x.npy", "--image-shape", "2x2"], "--image-shape has no effect"),
        (["partition", "some.safetensors", "--parts", "2", "--layers", "4-3"], "--layers has no effect"),
        (["partition", "some.safetensors", "--parts", "2", "--config", "c.toml"], "--config has no effect"),
        (["bench", "cd1", "--partitioner", "tiles"], "No such option '--partitioner'"),
        (["bench", "exchange", "--partition", "p.npz"], "No such option '--partition'"),
        (["bench", "sparse", "--statistics", "1,3"], "names several"),
    ],
)
def test_other_commands(words: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, err = modelpar(words, capfd)
    assert (status, err.count("\n")) == (2, 1)
    assert expected in re.sub(r"option: (--[\w-]+)", r"option '\1'", err)  # as older versions of click write it


def test_messages_name_what_was_given(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.eye(9, dtype=bool))
    few = ["--layers", "9-4", "--epochs", "0", "--threads", "1", "--no-pictures"]
    assert modelpar(["train", "--data", tmp_path / "x.npy", *few, "--run-dir", tmp_path / "r"], capfd)[0] == 0
    status, err = modelpar(["sample", tmp_path / "r", "--image-shape", "2x4", "--out", tmp_path / "s.png"], capfd)
    assert (status, err.count("\n")) == (2, 1)
    assert "--image-shape 2x4 is of 8 values, but a sample has 9" in err
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "summary.json").touch()
    for place, why in (("old", "holds a run already"), ("x.npy", "is a file")):
        status, err = modelpar(["prune", tmp_path / "r", tmp_path / place, "--keep", "0.5"], capfd)
        assert (status, err.count("\n")) == (2, 1)
        assert f"OUT_RUN_DIR {tmp_path / place} {why}" in err
        assert "--resume" not in err
        assert "--run-dir" not in err


def test_what_is_left_out_for_want_of_labels_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).random((40, 9)) < 0.5
    few = ["--layers", "9-4", "--epochs", "1", "--finetune-epochs", "1", "--threads", "1", "--no-pictures"]
    np.savez(tmp_path / "named.npz", data=values, ids=np.arange(40.0))
    np.savez(tmp_path / "pair.npz", values, np.arange(40) % 2)
    status, err = modelpar(["train", "--data", tmp_path / "named.npz", *few, "--run-dir", tmp_path / "a"], capfd)
    assert status == 2
    assert "--finetune-epochs 1 has no effect: named.npz has no labels" in err
    bare = [*few[:4], *few[6:]]
    status, err = modelpar(["train", "--data", tmp_path / "named.npz", *bare, "--run-dir", tmp_path / "a"], capfd)
    assert status == 0
    assert err.count("\n") == 1
    assert "(of its arrays data, ids none is called labels)" in err
    status, err = modelpar(["train", "--data", tmp_path / "pair.npz", *few, "--run-dir", tmp_path / "b"], capfd)
    assert status == 0  # numpy.savez(file, samples, labels)
    assert [line for line in err.splitlines() if "it has not learned to tell them apart" not in line] == []
    assert '"finetune"' in (tmp_path / "b" / "metrics.jsonl").read_text()


def test_judging(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ["--layers", "64-4", "--epochs", "1", "--pretrain-only", "--threads", "1", "--no-pictures"]
    assert modelpar(["train", *few, "--binarise", "0.25", "--run-dir", tmp_path / "a"], capfd)[0] == 0
    assert modelpar(["train", *few, "--classes", "0", "--run-dir", tmp_path / "b"], capfd)[0] == 0
    other = tmp_path / "other.toml"
    other.write_text("[data]\nbinarise = '0.5'\n")
    for words, expected in (
        (["evaluate", tmp_path / "a", "--binarise", "0.5"], "--binarise 0.5 has no effect"),
        (["evaluate", tmp_path / "a", "--config", other], f"[data] binarise = 0.5 of {other} has no effect"),
        (["reconstruct", tmp_path / "a", "--config", other], f"[data] binarise = 0.5 of {other} has no effect"),
        (["evaluate", tmp_path / "b", "--labels", "y.npy"], "--labels has no effect"),
        (["reconstruct", tmp_path / "a", "--labels", "y.npy"], "--labels has no effect"),
        (["reconstruct", tmp_path / "a", "--out", tmp_path / "x.npy", "--count", "5000"], "--count is 5000, but"),
    ):
        status, err = modelpar([*words, "--threads", "1"], capfd)
        assert status == 2, err
        assert expected in err
    assert modelpar(["evaluate", tmp_path / "a", "--binarise", "0.250", "--threads", "1"], capfd) == (0, "")
    same = tmp_path / "a" / "config.toml"
    assert modelpar(["evaluate", tmp_path / "a", "--config", same, "--threads", "1"], capfd) == (0, "")
