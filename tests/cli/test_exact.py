"""Exact mode as a user meets it: the command line at several grids, refusals, other processors, and one real run."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path

import pytest

from tests import extent, jobs
from tests.test_on_ranks import inner_pytest

pytestmark = [pytest.mark.jobs, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LIMIT = 240.0  # seconds of one job, compilation of the kernels included
TINY = ["--exact", "--layers", "64-20-12", "--epochs", "2", "--batch-size", "100", "--checkpoint-every", "20",
        "--pretrain-only", "--no-pictures", "--no-score", "--threads", "1"]  # fmt: skip
GRIDS = {
    "1x1": (1, ["--model-shards", "1"]),
    "1x2 dual": (2, ["--model-shards", "2", "--layout", "dual"]),
    "2x1": (2, ["--replicas", "2"]),
    "1x3 column": (3, ["--model-shards", "3", "--layout", "column"]),
}  # replicas x model shards


def start(n: int, *words: str | Path, limit: float = LIMIT) -> jobs.Outcome:
    """``mpiexec -n N python -m modelpar ...``"""
    return jobs.run_on_ranks(n, [sys.executable, "-m", "modelpar", *words], limit=limit, PYTHONPATH=str(ROOT))


# -- the constants of tests/exact.py, where little else is as usual ----------------------------------------------------


@pytest.mark.parametrize(
    ("n", "which"), [(1, "alone or every_way or some_ways and not wide"), (2, "some_ways and not wide")]
)
def test_without_compilation(n: int, which: str) -> None:
    """What NumPy computes is what the compiled kernels compute.

    The wide training, which is for the edges of compiled panels, runs on one rank alone; all ways to share one training
    on 2 ranks are a matter of exchanges, which compiled runs test.
    """
    command = [*inner_pytest(ROOT / "tests/training/test_exactness.py"), "-k", which]
    printed = jobs.run_on_ranks(n, command, limit=LIMIT, cwd=ROOT, NUMBA_DISABLE_JIT="1").check().output
    if n == 1:
        assert "no kernel tables on this processor, or without compilation" in printed


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the processor that is imitated is an x86")
def test_another_processor(tmp_path: Path) -> None:
    """Kernels compiled for a processor of 2013, and NumPy and BLAS as they are there: without AVX-512."""
    command = [
        *inner_pytest(ROOT / "tests/training/test_exactness.py"),
        "-k",
        "alone or some_ways or every_way and blocks",
    ]
    older = {
        "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma,+popcnt,+bmi,+bmi2,+lzcnt",
        "NUMBA_CACHE_DIR": str(tmp_path), "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX",
    }  # fmt: skip
    printed = jobs.run_on_ranks(1, command, limit=2 * LIMIT, cwd=ROOT, **older).check().output
    assert "no kernel registers on this processor" in printed


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run on one rank, on two shards and on two replicas, and one of another seed."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for name in ("1x1", "1x2 dual", "2x1", "another seed"):
        n, words = GRIDS.get(name, (1, ["--seed", "2"]))
        made[name] = folder / name.replace(" ", "-")
        start(n, "train", *TINY, *words, "--run-dir", made[name]).check()
    return made


@pytest.mark.parametrize("other", ["1x2 dual", "2x1"])
def test_the_same_files_at_every_grid(runs: dict[str, Path], other: str) -> None:
    # 1438 samples in minibatches of 100 make 15 updates an epoch and 60 in all, so these two are in mid-epoch
    names = [f"checkpoints/step-{step:08d}.safetensors" for step in (20, 40)]
    for name in (*names, "pretrained.safetensors", "model.safetensors", "digests.jsonl"):
        assert (runs[other] / name).read_bytes() == (runs["1x1"] / name).read_bytes(), name
    outcome = start(2, "diff", runs["1x1"], runs[other])
    assert outcome.returncode == 0, outcome.output
    assert "no digest differs: 60 update(s) are alike" in outcome.output


def test_another_seed_parts_at_the_first_step(runs: dict[str, Path]) -> None:
    outcome = start(1, "diff", runs["1x1"], runs["another seed"])
    assert outcome.returncode == 1, outcome.output
    assert "the first difference is at step 1 of RBM 0 (epoch 1) in v0" in outcome.output
    assert "network.seed 1 | 2" in outcome.output


def test_resumed_at_another_grid(runs: dict[str, Path], tmp_path: Path) -> None:
    """A run whose last files are lost goes on from step 40, in mid-epoch, and ends as if nothing had been."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.toml", "metrics.jsonl", "digests.jsonl", "checkpoints/step-00000040.safetensors"):
        (run / name).write_bytes((runs["2x1"] / name).read_bytes())
    n, words = GRIDS["1x3 column"]
    printed = start(n, "train", "--resume", *TINY, *words, "--replicas", "1", "--run-dir", run).check().output
    assert "step-00000040.safetensors" in printed
    for name in ("pretrained.safetensors", "digests.jsonl"):
        assert (run / name).read_bytes() == (runs["1x1"] / name).read_bytes(), name


def test_fine_tuning_leaves_the_same_at_every_grid(tmp_path: Path) -> None:
    words = [*TINY[:3], "--epochs", "1", "--finetune-epochs", "1", "--no-pictures", "--no-score", "--threads", "1"]
    files = []
    for name in ("1x1", "1x1", "1x2 dual", "2x1"):
        n, grid = GRIDS[name]
        run = tmp_path / str(len(files))
        start(n, "train", *words, *grid, "--run-dir", run).check()
        files.append((run / "model.safetensors").read_bytes())
    assert [file == files[0] for file in files] == [True] * 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--visible", "gaussian"], "--visible gaussian"),
        (["--dtype", "float64"], "--dtype float64"),
        (["--reconstruction", "probabilities"], "--reconstruction probabilities"),
        (["--pass-up", "probabilities"], "--pass-up probabilities"),
        (["--sparsity-cost", "0.1"], "a sparsity penalty"),
        (["--binarise", "none"], "use --binarise stochastic or a threshold such as --binarise 0.5"),
        (["--max-norm", "2"], "--max-norm"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_exact_is_refused_before_anything_is_written(
    words: list[str], expected: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = [word for word in TINY if word != "--pretrain-only"]
    outcome = start(2, "train", *asked, *words, "--run-dir", run)
    assert outcome.returncode == 2, outcome.output
    [line] = [line for line in outcome.output.splitlines() if "modelpar: error:" in line]
    assert "--exact cannot be kept with" in line
    assert expected in line
    assert "Traceback" not in outcome.output
    assert not run.exists()


# -- the real run ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mnist_at_four_grids(mnist_path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """An epoch of each RBM with ``--products``; else the first 120 of its 600 updates."""
    complete = request.config.getoption("extent") == extent.PRODUCTS
    words = ["--exact", "--data", "mnist", "--layers", "784-1000-500", "--pretrain-only", "--no-pictures", "--no-score",
             "--threads", "1", *(["--epochs", "1"] if complete else ["--updates", "120"])]  # fmt: skip
    result = {}
    for name, (n, grid) in GRIDS.items():
        run = tmp_path / name.replace(" ", "-")
        command = [sys.executable, "-m", "modelpar", "train", *words, *grid, "--run-dir", run]
        jobs.run_on_ranks(
            n, command, limit=4 * LIMIT, PYTHONPATH=str(ROOT), MODELPAR_DATA=str(mnist_path)
        ).check()  # fmt: skip
        result[name] = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert len(set(result.values())) == 1, result
