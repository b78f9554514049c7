"""``modelpar diff`` on runs written by hand: what it tells, and how it ends."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.checkpoint.files import TensorBlock, write
from modelpar.comm.grid import Grid
from modelpar.training.digests import UpdateDigests, append
from tests import jobs

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
LIMIT = 120.0  # seconds of one job
CONFIG = """
[network]
layers = [9, 5, 4]
seed = 1

[training]
learning_rate = {rate}

[grid]
replicas = {replicas}
"""
NAMES = ("v0", "h0", "v1", "h1", "W", "b", "c")


def diff(n: int, *words: str | Path) -> jobs.Outcome:
    command = [sys.executable, "-m", "modelpar", "diff", *words]
    return jobs.run_on_ranks(n, command, limit=LIMIT, PYTHONPATH=str(ROOT))


def printed_by(outcome: jobs.Outcome, status: int) -> str:
    assert outcome.returncode == status, outcome.output
    assert "Traceback" not in outcome.output
    return outcome.output


def as_json(outcome: jobs.Outcome, status: int) -> dict[str, Any]:
    lines = [line for line in printed_by(outcome, status).splitlines() if line.startswith("{")]
    assert len(lines) == 1, outcome.output
    result: dict[str, Any] = json.loads(lines[0])
    return result


def tensors(**changed: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    made = {"rbm.0.W": rng.normal(size=(9, 5)), "rbm.0.b": rng.normal(size=9), "rbm.1.W": rng.normal(size=(5, 4))}
    return {name: np.asarray(array, np.float32) for name, array in {**made, **changed}.items()}


def save(path: Path, arrays: dict[str, np.ndarray], **metadata: str) -> None:
    blocks = []
    for name, array in arrays.items():
        columns = np.arange(array.shape[1]) if array.ndim == 2 else None
        blocks.append(TensorBlock(name, array.shape, np.ascontiguousarray(array), np.arange(len(array)), columns))
    with Grid(MPI.COMM_SELF, model_shards=1, replicas=1) as grid:
        write(path, grid, blocks, {"modelpar": "1", **metadata})


def course(n_steps: int = 6, changed: dict[tuple[int, int], dict[str, int]] | None = None) -> list[UpdateDigests]:
    updates = []
    for layer in range(2):
        for step in range(1, n_steps + 1):
            digests = {name: 1000 * layer + 10 * step + i for i, name in enumerate(NAMES)}
            digests |= (changed or {}).get((layer, step), {})
            updates.append(UpdateDigests("pretrain", layer, (step + 2) // 3, step, digests))
    return updates


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(
        name: str, updates: list[UpdateDigests] | None = None, *, rate: float = 0.1, replicas: int = 1,
        checkpoints: dict[str, dict[str, np.ndarray]] | None = None,
    ) -> Path:  # fmt: skip
        run = tmp_path / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.toml").write_text(CONFIG.format(rate=rate, replicas=replicas))
        if updates is not None:
            with open(run / "digests.jsonl", "wb") as file:
                for update in updates:
                    append(file, update)
        default = {f"checkpoints/step-{step:08d}.safetensors": tensors() for step in (6, 12)}
        for where, arrays in (checkpoints or {**default, "model.safetensors": tensors()}).items():
            save(run / where, arrays)
        return run

    return make


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_runs_that_are_alike(n: int, make_run: Callable[..., Path]) -> None:
    """The grid is no difference."""
    a, b = make_run("a", course()), make_run("b", course(), replicas=4)
    text = printed_by(diff(n, a, b), 0)
    assert text.count("no digest differs: 12 update(s) are alike") == 1
    assert "identical: checkpoints/step-00000006.safetensors, checkpoints/step-00000012" in text
    assert "configurations" not in text
    result = as_json(diff(n, a, b, "--json"), 0)
    assert result["differs"] is False
    assert result["updates"] == {"n_alike": 12, "n_alone": 0, "parting": None}


@pytest.mark.parametrize("n", [1, 2])
def test_the_first_difference(n: int, make_run: Callable[..., Path]) -> None:
    a, b = make_run("a", course()), make_run("b", course(changed={(1, 5): {"h0": 1, "W": 2}, (1, 6): {"v0": 3}}))
    text = printed_by(diff(n, a, b), 1)
    assert text.count("first difference is at step 5 of RBM 1 (epoch 2) in h0, then W; before it 10 update(s)") == 1
    assert "h0 comes from the product up" in text
    assert "the configurations do not explain it" in text
    parting = as_json(diff(n, a, b, "--json"), 1)["updates"]["parting"]
    assert (parting["stage"], parting["layer"], parting["step"], parting["tensor"]) == ("pretrain", 1, 5, "h0")
    assert parting["also"] == ["W"]


@pytest.mark.slow
def test_configurations_that_explain_it(make_run: Callable[..., Path]) -> None:
    a, b = make_run("a", course()), make_run("b", course(changed={(0, 1): {"W": 1}}), rate=0.05, replicas=2)
    text = printed_by(diff(1, a, b), 1)
    assert "the configurations differ: training.learning_rate 0.1 | 0.05" in text
    assert "replicas" not in text
    (b / "config.toml").write_text("[network")
    assert "b/config.toml cannot be read, so the configurations are not compared" in printed_by(diff(1, a, b), 1)


@pytest.mark.slow
def test_runs_of_different_lengths(make_run: Callable[..., Path]) -> None:
    a, b = make_run("a", course()), make_run("b", course()[:8])
    text = printed_by(diff(1, a, b), 1)
    assert f"the runs part before step 3 of RBM 1 (epoch 1): {b} ends there; 8 update(s) are alike" in text
    c = make_run("c", course(4))
    assert f"before step 5 of RBM 0 (epoch 2): {c} goes on with step 1 of RBM 1" in printed_by(diff(1, a, c), 1)


@pytest.mark.slow
def test_runs_without_digests(make_run: Callable[..., Path]) -> None:
    a, b = make_run("a", course()), make_run("b")
    text = printed_by(diff(1, a, b), 0)
    assert f"{b}: no digests.jsonl, so steps cannot be compared; train --exact or train --digests records them" in text
    assert "identical: " in text


@pytest.mark.slow
def test_damaged_lines(make_run: Callable[..., Path]) -> None:
    a, b = make_run("a", course()), make_run("b", course())
    lines = (b / "digests.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = b"damaged\n"
    (b / "digests.jsonl").write_bytes(b"".join(lines))
    text = printed_by(diff(1, a, b), 0)
    assert f"{b}: 1 damaged line(s) of digests.jsonl left out" in text
    assert "11 update(s) are alike" in text
    assert "1 update(s) were recorded by one run alone" in text


@pytest.mark.slow
def test_the_size_of_the_difference(make_run: Callable[..., Path]) -> None:
    weights = tensors()["rbm.0.W"].copy()
    weights[3, 1] += 0.25
    weights[8, 4] = -weights[8, 4]
    other = {"model.safetensors": tensors(**{"rbm.0.W": weights}), "pretrained.safetensors": tensors()}
    a, b = make_run("a", course()), make_run("b", course(), checkpoints=other)
    expected = float(np.abs(weights.astype(float) - tensors()["rbm.0.W"]).max())
    text = printed_by(diff(2, a, b), 1)
    row = next(line for line in text.splitlines() if line.startswith("model.safetensors"))
    assert row.split() == ["model.safetensors", "rbm.0.W", "2", "of", "45", f"{expected:.2g}"]
    assert f"only in {b}: pretrained.safetensors" in text
    assert f"only in {a}: checkpoints/step-00000006.safetensors" in text
    (model,) = as_json(diff(2, a, b, "--json"), 1)["checkpoints"]
    assert model["tensors"]["rbm.0.W"] == {"elements": 45, "differing": 2, "largest": expected, "note": ""}
    assert model["tensors"]["rbm.1.W"] == {"elements": 20, "differing": 0, "largest": 0.0, "note": ""}


@pytest.mark.slow
def test_many_checkpoints_have_a_row_each(make_run: Callable[..., Path]) -> None:
    names = [f"checkpoints/step-{step:08d}.safetensors" for step in range(1, 12)]
    changed = {"rbm.0.W": tensors()["rbm.0.W"] + 1, "rbm.0.b": tensors()["rbm.0.b"] + 2}
    a = make_run("a", checkpoints=dict.fromkeys(names, tensors()))
    b = make_run("b", checkpoints={**dict.fromkeys(names, tensors(**changed)), names[0]: tensors()})
    text = printed_by(diff(1, a, b), 1)
    assert f"identical: {names[0]}" in text
    row = next(line for line in text.splitlines() if line.startswith(names[1]))
    assert row.split()[1:] == ["2", "of", "3", "54", "of", "54", "2", "(rbm.0.b)"]
    assert "and 2 more: see --json" in text


@pytest.mark.slow
def test_checkpoint_files(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run("a", course())
    wider = {"rbm.1.W": np.zeros((5, 7)), "extra": np.zeros(2), "rbm.0.b": np.r_[np.inf, tensors()["rbm.0.b"][1:]]}
    save(tmp_path / "wide.safetensors", tensors(**wider))
    shutil.copy(run / "model.safetensors", tmp_path / "copy.safetensors")
    assert "identical: model.safetensors" in printed_by(
        diff(2, run / "model.safetensors", tmp_path / "copy.safetensors"), 0
    )
    text = printed_by(diff(2, run / "model.safetensors", tmp_path / "wide.safetensors"), 1)
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("model.safetensors")}
    assert "float32 [5, 4] against float32 [5, 7]" in rows["rbm.1.W"]
    assert "only in the second" in rows["extra"]
    assert "1 of 9" in rows["rbm.0.b"]
    assert "not finite" in rows["rbm.0.b"]
    shutil.copy(tmp_path / "wide.safetensors", tmp_path / "model.safetensors")
    assert "rbm.1.W" in printed_by(diff(1, run, tmp_path / "model.safetensors"), 1)


@pytest.mark.slow
def test_other_metadata_are_a_difference(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", tensors(), training="{}")
    save(tmp_path / "b.safetensors", tensors(), training='{"best": 1}')
    assert "metadata: training" in printed_by(diff(1, tmp_path / "a.safetensors", tmp_path / "b.safetensors"), 1)


def refused(outcome: jobs.Outcome) -> str:
    lines = [line for line in printed_by(outcome, 2).splitlines() if "modelpar: error:" in line]
    assert len(lines) == 1, outcome.output
    return lines[0]


@pytest.mark.slow
def test_mistakes_are_told_once(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run("a", course())
    assert "nowhere does not exist; name a run directory" in refused(diff(2, run, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "have nothing to compare: no digests.jsonl in both" in refused(diff(2, run, tmp_path / "empty"))
    assert "is not a safetensors file" in refused(diff(2, run / "config.toml", run / "config.toml"))
    save(tmp_path / "other.safetensors", tensors())
    assert "a directory without a checkpoint other.safetensors" in refused(diff(2, run, tmp_path / "other.safetensors"))
    damaged = bytearray((tmp_path / "other.safetensors").read_bytes())
    damaged[-9] ^= 0xFF
    (tmp_path / "other.safetensors").write_bytes(damaged)
    assert "other.safetensors is damaged: tensor" in refused(
        diff(2, run / "model.safetensors", tmp_path / "other.safetensors")
    )
