"""A rank is killed, and the others go on: every strategy, with Open MPI's fault tolerance.

Twenty kills of each strategy and grid, on MNIST: ``python -m tests.kills``.

Modules: modelpar/training/recovery
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import jobs, kills

pytestmark = [
    pytest.mark.jobs,
    pytest.mark.slow,
    pytest.mark.skipif("--oversubscribe" not in jobs.launcher(), reason="only Open MPI survives a lost rank"),
]

WORDS = ["--no-pictures", "--no-score", "--layers", "64-60-40", "--epochs", "40", "--finetune-epochs", "20"]
GOOD = 0.94  # test accuracy of this network on the digits: 0.96 to 0.99 over seeds, 0.1 untrained


def words_of(grid: str, *more: str) -> tuple[int, list[str]]:
    """(ranks, options of ``modelpar train``) for replicas x model shards"""
    replicas, shards = map(int, grid.split("x"))
    return replicas * shards, [*WORDS, "--replicas", str(replicas), "--model-shards", str(shards), *more]


def killed(tmp_path: Path, n: int, words: list[str], victim: int, moment: float) -> dict:
    result = kills.one(n, words, tmp_path / "run", moment, victim)
    assert result["hit"], "the run was over before the kill; choose an earlier moment"
    assert result["status"] == 0, result["output"]
    assert f"rank {victim} was lost" in result["output"]
    assert result["accuracy"] > GOOD
    return result


@pytest.mark.parametrize("sync", ["allreduce", "local", "server"])
@pytest.mark.parametrize("grid", ["4x1", "2x2"])
@pytest.mark.parametrize("victim", [0, 3])
def test_a_lost_replica(grid: str, sync: str, victim: int, tmp_path: Path) -> None:
    moment = random.Random(f"{grid} {sync} {victim}").uniform(0, 2)
    n, words = words_of(grid, "--sync", sync)
    result = killed(tmp_path, n, words, victim, moment)
    assert f"going on with {3 if grid == '4x1' else 1} replica(s)" in result["output"]


OTHERS = [
    [
        "--adagrad",
        "--learning-rate",
        "0.02",
        "--finetune-learning-rate",
        "0.05",
        "--epochs",
        "80",
        "--finetune-epochs",
        "40",
    ],
    ["--max-staleness", "3"],
    ["--warm-start", "500"],
]


@pytest.mark.parametrize("more", OTHERS, ids=lambda more: more[0])
def test_a_lost_replica_of_other_servers(more: list[str], tmp_path: Path) -> None:
    n, words = words_of("3x1", "--sync", "server", *more)
    killed(tmp_path, n, words, 1, 0.5)


CHAINS = ["--finetune-epochs", "40", "--chains", "50", "--learning-rate", "0.1", "--average", "20", "--clip", "1"]


@pytest.mark.parametrize("sync", ["local", "server"])
@pytest.mark.parametrize("method", ["gibbs", "ptt"])
def test_chains_of_a_lost_replica_go_on(sync: str, method: str, tmp_path: Path) -> None:
    n, words = words_of("3x1", "--sync", sync, "--chain-method", method, *CHAINS)
    killed(tmp_path, n, words, 1, 0.3)


@pytest.mark.parametrize("victim", [2, 3])
def test_a_lost_server(victim: int, tmp_path: Path) -> None:
    """Of two servers one is left; of one none, and the replicas hold the parameters themselves."""
    servers = 4 - 2 if victim == 3 else 3 - 2
    _, words = words_of("2x1", "--sync", "server", "--servers", str(servers))
    killed(tmp_path, 2 + servers, words, victim, 0.7)


PT = [
    "--layers", "64-60", "--epochs", "10", "--chains", "20", "--chain-method", "pt", "--chain-temperatures", "3",
    "--average", "20",
]  # fmt: skip


@pytest.mark.parametrize("more", [[], PT], ids=["CD", "PT"])
def test_the_model_is_what_it_would_have_been(more: list[str], tmp_path: Path) -> None:
    """Replicas in step go back to where all of them were, and draws belong to samples: bit for bit the same.

    The lost replica's chains too, which all have kept.
    """
    n, words = words_of("3x1", "--exact", *more)
    undisturbed = kills.Job(n, [*words, "--run-dir", str(tmp_path / "undisturbed")], tolerant=True)
    status, output = undisturbed.finish()
    assert status == 0, output
    killed(tmp_path, n, words, 1, 1.0)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("undisturbed", "run")]
    assert models[0] == models[1]


def test_nobody_has_a_whole_model(tmp_path: Path) -> None:
    """One replica over two shards: one clear line, exit status 2, and a checkpoint to go on from."""
    run, (n, words) = tmp_path / "run", words_of("1x2", "--checkpoint-every", "20")
    job = kills.Job(n, [*words, "--run-dir", str(run)], tolerant=True)
    job.wait_for(run / "checkpoints" / "step-00000020.safetensors")
    assert job.signal(1)
    status, output = job.finish(limit=30)
    assert status not in (0, None), output
    assert output.count("no replica is complete any more") == 1, output
    assert "Traceback" not in output
    again = jobs.run_on_ranks(
        1, ["modelpar", "train", "--resume", "--run-dir", run, "--model-shards", "1"], limit=120
    ).check()
    assert "going on from" in again.output
