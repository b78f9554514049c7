"""``modelpar score``: what it prints, and what it refuses."""

from __future__ import annotations

import functools
import json
import math
import sys

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DataSpec, DeepBeliefNetwork, Grid, NetworkSpec, open_dataset, save
from modelpar.cli import run
from modelpar.likelihood.energy import free_energy
from modelpar.likelihood.enumeration import log_partition_exact
from modelpar.training.feeds import visible_feed

pytestmark = pytest.mark.jobs

LIMIT = 120  # seconds
COMMAND = [sys.executable, "-m", "modelpar", "score"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An RBM of the 3 x 3 bars, and the exact mean log-likelihood of all of these."""
    path = tmp_path_factory.mktemp("score") / "bars.safetensors"
    dataset = open_dataset(DataSpec(data="bars:3"))
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec(layers=(9, 6), seed=1, weight_scale=0.5), grid)
        v = np.empty((9, len(dataset.train)), np.float32)
        visible_feed(network, dataset, dataset.train, "none").fill(np.arange(v.shape[1]), 0, v)
        exact = float(-free_energy(network.rbms[0], v).mean() - log_partition_exact(network.rbms[0]))
        save(network, path)
    return str(path), exact


@pytest.mark.slow
def test_all_methods_on_two_ranks(trained, on_ranks) -> None:
    path, exact = trained
    words = [*COMMAND, path, "--data", "bars:3", "--split", "train", "--json"]
    for method in ("auto", "ais", "reverse-ais"):
        outcome = on_ranks(2, [*words, "--method", method, "--temperatures", "200", "--chains", "100"], limit=LIMIT)
        assert outcome.returncode == 0, outcome.output
        result = json.loads(outcome.output.strip().splitlines()[-1])
        assert {"log_likelihood", "low", "high", "log_partition", "effective_chains", "method", "seconds"} <= set(
            result
        )
        assert math.isclose(result["log_likelihood"], exact, abs_tol=1e-4 if method == "auto" else 0.1)
        assert result["low"] - 1e-9 <= result["log_likelihood"] <= result["high"] + 1e-9
        assert result["method"] == ("exact" if method == "auto" else method)


def test_a_table_for_people(trained, on_ranks) -> None:
    outcome = on_ranks(1, [*COMMAND, trained[0], "--data", "bars:3", "--split", "train"], limit=LIMIT)
    assert "nats a sample" in outcome.output, outcome.output
    assert "interval" in outcome.output


def test_through_the_trajectory_of_a_run(tmp_path, capfd) -> None:
    """The models before the one that is scored; without any, one line."""
    words = ["--data", "bars:3", "--layers", "9-7-6", "--updates", "30", "--batch-size", "10", "--learning-rate", "0.5",
             "--pretrain-only", "--no-pictures", "--threads", "1"]  # fmt: skip
    start = functools.partial(run, MPI.COMM_SELF)
    path, bare = str(tmp_path / "run"), str(tmp_path / "bare")
    assert start(["train", *words, "--keep-trajectory", "--run-dir", path]) == 0
    for model in (path, f"{path}/trajectory/rbm-1-update-0000000018.safetensors"):
        results = []
        for method in ("exact", "trajectory"):
            capfd.readouterr()
            assert start(["score", model, "--method", method, "--temperatures", "300", "--json"]) == 0
            results.append(json.loads(capfd.readouterr().out.strip().splitlines()[-1]))
        exact, through = results
        assert through["low"] - 0.05 < exact["log_likelihood"] < through["high"] + 0.05
        assert math.isclose(through["log_partition"], exact["log_partition"], abs_tol=0.1)
        assert through["method"] == "trajectory"
    assert start(["train", *words, "--updates", "1", "--run-dir", bare]) == 0
    first = f"{path}/trajectory/rbm-1-update-0000000000.safetensors"
    below = f"{path}/trajectory/rbm-0-update-0000000018.safetensors"
    for model, message in (
        (bare, f"{bare} keeps no trajectory of RBM 1; train it with --keep-trajectory"),
        (first, "is from before the trajectory of its top RBM"), (below, "is from before the trajectory"),
    ):  # fmt: skip
        capfd.readouterr()
        assert start(["score", model, "--method", "trajectory"]) == 2
        err = capfd.readouterr().err
        assert message in err
        assert err.count("modelpar: error:") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "guess"], "'guess' is not one of"),
        (["--chains", "1"], "not in the range"),
        (["--data", "digits"], "64"),
    ],
)
def test_mistakes_are_one_line(trained, on_ranks, words, message) -> None:
    outcome = on_ranks(2, [*COMMAND, trained[0], "--data", "bars:3", *words], limit=LIMIT)
    assert outcome.returncode == 2, outcome.output
    assert message in outcome.output, outcome.output
    assert outcome.output.count("modelpar: error:") == 1, outcome.output


@pytest.mark.slow
def test_scores_of_training_are_recorded_drawn_and_summed_up(on_ranks, tmp_path) -> None:
    words = "--layers 64-9 --epochs 3 --pretrain-only --binarise 0.5 --score-every 2 --average 5 --run-dir run"
    train = [sys.executable, "-m", "modelpar", "train", *words.split()]
    outcome = on_ranks(2, [*train, "--model-shards", "2"], limit=LIMIT, cwd=tmp_path)
    assert outcome.returncode == 0, outcome.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "log_likelihood" in line] == [2, 3]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    names = "log_likelihood", "log_likelihood_low", "log_likelihood_high"
    assert [summary[name] for name in names] == [lines[-1][name] for name in names]
    assert summary["score_seconds"] == sum(line["score_seconds"] for line in lines if "log_likelihood" in line) > 0
    assert f"log-likelihood {summary['log_likelihood']:.2f}" in outcome.output
    assert "nats a sample" in outcome.output
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0
    again = on_ranks(1, [*COMMAND, "run", "--binarise", "0.5", "--json"], limit=LIMIT, cwd=tmp_path)
    result = json.loads(again.output.strip().splitlines()[-1])
    assert math.isclose(result["log_likelihood"], summary["log_likelihood"], rel_tol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--no-score --score-share 0.2", "--score-share 0.2 has no effect"),
        ("--score-every 1 --score-temperatures 5 --score-share 0.2", "--score-temperatures 5 says how many"),
        ("--score-every 1 --score-temperatures 1", "must be at least 2"),
    ],
)
def test_options_of_scores_in_training_that_make_no_sense(on_ranks, tmp_path, words, message) -> None:
    train = [sys.executable, "-m", "modelpar", "train", "--layers", "64-9", "--pretrain-only", *words.split()]
    outcome = on_ranks(1, train, limit=LIMIT, cwd=tmp_path)
    assert outcome.returncode == 2, outcome.output
    assert message in outcome.output
    assert not list(tmp_path.iterdir())
