"""Sparse layers and placements as a user meets them: partition, train, prune, resume, compare, bench, and mistakes.

Modules: modelpar/bench/placements, modelpar/bench/sparse, modelpar/cli/compare, modelpar/cli/prune
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from tests import jobs

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
LIMIT = 240.0
NETWORK = ["--layers", "64-72-20", "--connections", "local:3,random:6"]
FEW = ["--epochs", "1", "--finetune-epochs", "1", "--no-pictures", "--no-score", "--threads", "1"]


def start(n: int, *words: str | Path, cwd: Path | None = None) -> jobs.Outcome:
    command = [sys.executable, "-m", "modelpar", *words]
    if n == 1:
        return jobs.run(command, limit=LIMIT, cwd=cwd, PYTHONPATH=str(ROOT))
    return jobs.run_on_ranks(n, command, limit=LIMIT, cwd=cwd, PYTHONPATH=str(ROOT))


@pytest.mark.slow
def test_partition_then_train_then_open_elsewhere(tmp_path: Path) -> None:
    file, run = tmp_path / "placement.npz", tmp_path / "run"
    printed = (
        start(1, "partition", *NETWORK, "--parts", "2", "--method", "tiles", "--out", file, "--json").check().output
    )
    measures = json.loads(printed.strip().splitlines()[-1])
    assert measures["volume"] == sum(measures["volume_up"]) + sum(measures["volume_down"])
    assert measures["feasible"] is True
    start(2, "train", *NETWORK, *FEW, "--model-shards", "2", "--partition", file, "--run-dir", run).check()
    accuracies = [
        json.loads(start(n, "evaluate", run, "--json", *more).check().output.strip().splitlines()[-1])["accuracy"]
        for n, more in ((1, []), (2, ["--model-shards", "2", "--partitioner", "strided"]), (3, ["--model-shards", "3"]))
    ]
    assert np.ptp(accuracies) < 0.01
    wrong = start(1, "train", *NETWORK, *FEW, "--partition", file, "--run-dir", tmp_path / "other")
    assert wrong.returncode == 2, wrong.output
    assert wrong.output.count("modelpar: error: --partition") == 1, wrong.output
    assert "--model-shards 2" in wrong.output
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_partition_of_a_configuration_and_of_a_run(tmp_path: Path) -> None:
    config = tmp_path / "network.toml"
    config.write_text('[network]\nlayers = [64, 36]\nconnections = "local:3"\n')
    for source in (config, _trained(tmp_path / "run")):
        start(1, "partition", source, "--parts", "3", "--method", "strips", "--out", tmp_path / "it.npz").check()
        with np.load(tmp_path / "it.npz") as file:
            assert sorted(np.unique(file["layer1"])) == [0, 1, 2]


def _trained(run: Path, *more: str) -> Path:
    start(1, "train", "--layers", "64-36", "--connections", "local:3", *FEW, *more, "--run-dir", run).check()
    return run


@pytest.mark.slow
def test_prune_then_go_on(tmp_path: Path) -> None:
    whole, small = tmp_path / "whole", tmp_path / "small"
    start(1, "train", "--layers", "64-40", *FEW, "--run-dir", whole).check()
    printed = start(2, "prune", whole, small, "--keep", "0.1").check().output
    assert "RBM 0: 256 of 2,560 weights are kept (10.00%)" in printed
    refused = start(1, "prune", whole, small, "--keep", "0.1")
    assert refused.returncode == 2, refused.output
    assert "--overwrite" in refused.output
    printed = (
        start(2, "train", "--resume", "--run-dir", small, "--model-shards", "2", "--finetune-epochs", "2")
        .check()
        .output
    )
    assert "going on from" in printed
    start(1, "export", small, tmp_path / "small.npz").check()
    with np.load(tmp_path / "small.npz") as file:
        offsets = np.concatenate([[0], np.cumsum(file["degrees0"])])
        matrix = sparse.csc_array((file["W0"], file["visible0"], offsets), shape=(64, 40))
        assert matrix.nnz == 256
    refused = start(1, "export", small, tmp_path / "small.safetensors")
    assert refused.returncode == 2, refused.output
    assert "export to .npz" in refused.output


@pytest.mark.slow
def test_exact_mode_leaves_the_same_file_at_every_grid_and_partition(tmp_path: Path) -> None:
    words = ["train", *NETWORK, *FEW, "--exact"]
    grids = {
        "alone": (1, []),
        "tiles": (2, ["--model-shards", "2"]),
        "strided": (3, ["--model-shards", "3", "--partitioner", "strided"]),
        "recomputed": (2, ["--model-shards", "2", "--halo", "recompute"]),
        "replicas": (2, ["--replicas", "2"]),
    }  # fmt: skip
    files = {}
    for name, (n, more) in grids.items():
        start(n, *words, *more, "--run-dir", tmp_path / name).check()
        files[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert [name for name, file in files.items() if file != files["alone"]] == []


def test_compare_joins_what_is_predicted_and_what_is_measured(tmp_path: Path) -> None:
    start(
        2, "compare", "--networks", "smallworld,dense", "--methods", "block,strided,tiles", "--batch", "70",
        "--json", tmp_path / "it.json", "--html", tmp_path / "it.html",
    ).check()  # fmt: skip
    result = json.loads((tmp_path / "it.json").read_text())
    assert [(one["network"], one["method"]) for one in result] == [
        (network, method) for network in ("smallworld", "dense") for method in ("block", "strided", "tiles")
    ]
    for one in result:
        if one["method"] == "tiles":  # neither network lies in the plane
            assert "coordinates" in one["problem"]
            continue
        assert one["measured"]["step_bytes"] == one["measured"]["step_predicted"] > 0
        assert one["measured"]["step_seconds"] > 0
        # predicted for 64 samples, a word; measured for 70, two words
        assert one["measured"]["bytes"] == one["predicted_bytes"] > 0
    assert "<svg" in (tmp_path / "it.html").read_text() or "data:image" in (tmp_path / "it.html").read_text()


@pytest.mark.slow
def test_bench_sparse() -> None:
    small = ["--layers", "144-200", "--connections", "local:3", "--batch", "70", "--repeats", "2", "--seconds", "0.01"]
    [row] = json.loads(start(1, "bench", "sparse", *small, "--json").check().output.strip().splitlines()[-1])["rows"]
    assert row["gflops"] > 0
    assert row["scipy_gflops"] > 0
    assert row["dense_gflops"] > 0
    assert row["bytes"] == row["predicted"] == 0
    two = [*small, "--model-shards", "2", "--partitioners", "tiles,strided", "--json"]
    rows = json.loads(start(2, "bench", "sparse", *two).check().output.strip().splitlines()[-1])["rows"]
    assert [row["partitioner"] for row in rows] == ["tiles", "strided"]
    assert all(row["bytes"] == row["predicted"] > 0 for row in rows)
    assert rows[0]["bytes"] < rows[1]["bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--layers", "64-70", "--connections", "local:3"], "use 72"),
        (["train", "--layers", "64-72", "--connections", "fields:3"], "is not known; use dense"),
        (["train", "--layers", "64-72", "--connections", "mask:nowhere.npy"], "nowhere.npy does not exist"),
        (["train", "--layers", "64-72", "--partitioner", "nobody"], "there is no method 'nobody'"),
        (["train", "--layers", "64-72", "--partition", "nowhere.npz"], "nowhere.npz cannot be read"),
        (["partition", "--layers", "64-72", "--parts", "2", "--method", "tiles"], "coordinates"),
        (["partition", "--layers", "64-72", "--parts", "2", "--out", "no/where.npz", "--method", "block"], "where.npz"),
        (["compare", "--networks", "nowhere"], "there is no network 'nowhere'"),
        (["compare", "--parts", "7"], "numbers from 1 to 2"),
        (["compare", "--budget", "0"], "the budget is 0.0"),
        (["partition", "--layers", "64-72", "--parts", "2", "--method", "block", "--budget", "9"], "auto and fastest"),
        (["prune", "nowhere", "out", "--keep", "0.5"], "nowhere"),
        (["bench", "sparse", "--layers", "64-72", "--connections", "dense"], "connections are not complete"),
    ],
    ids=lambda value: " ".join(value[:5]) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(words: list[str], expected: str, tmp_path: Path) -> None:
    outcome = start(2, *words, *(["--model-shards", "2"] if words[0] == "train" else []), cwd=tmp_path)
    assert outcome.returncode == 2, outcome.output
    lines = [line for line in outcome.output.splitlines() if "error" in line.lower()]
    assert len([line for line in lines if line.startswith("modelpar: error:")]) == 1, outcome.output
    assert expected in outcome.output
    assert "Traceback" not in outcome.output
    assert not list(tmp_path.rglob("*.partial"))
