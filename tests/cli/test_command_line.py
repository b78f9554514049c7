"""The command line on several ranks, as a user starts it: files, statuses, and nothing that hangs.

Modules: modelpar/cli/announcement, modelpar/cli/evaluate, modelpar/cli/export, modelpar/cli/preparation,
modelpar/cli/progress, modelpar/cli/session, modelpar/cli/summary, modelpar/cli/train
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import extent, jobs

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
LIMIT = 240.0  # seconds of one job, compilation of the kernels included
TINY = ["--layers", "64-20-12", "--epochs", "2", "--finetune-epochs", "2", "--batch-size", "100",
        "--finetune-batch-size", "100", "--threads", "1"]  # fmt: skip

Words = list[str | Path]


def start(n: int, *words: str | Path, cwd: Path | None = None, **environment: str) -> jobs.Outcome:
    """``mpiexec -n N python -m modelpar ...``"""
    command: Words = [sys.executable, "-m", "modelpar", *words]
    return jobs.run_on_ranks(n, command, limit=LIMIT, cwd=cwd, PYTHONPATH=str(ROOT), **environment)


def refused(outcome: jobs.Outcome) -> str:
    """The one line of a run that ended with status 2."""
    assert outcome.returncode == 2, outcome.output
    lines = [line for line in outcome.output.splitlines() if "modelpar: error:" in line]
    assert len(lines) == 1, outcome.output
    assert "Traceback" not in outcome.output
    return lines[0]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 2 replicas x 2 model shards; tests copy it before they change it."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    words = ["--model-shards", "2", "--replicas", "2", "--checkpoint-every", "20", "--keep", "50"]
    start(4, "train", *TINY, *words, "--run-dir", run).check()
    return run


def test_a_run_leaves_its_files(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {"config.toml", "metrics.jsonl", "summary.json", "pretrained.safetensors", "model.safetensors"}
    # 1438 samples in minibatches of 100: 15 updates an epoch; 2 RBMs and fine-tuning of 2 epochs each
    steps = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert steps == [f"step-{step:08d}.safetensors" for step in (20, 40, 60, 80)]
    assert load_file(trained / "model.safetensors")["rbm.0.W"].shape == (64, 20)


def test_a_run_leaves_its_pictures(trained: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("filters.png", "reconstructions.png", "samples.png", "curves.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG"), name


def test_metrics_keep_the_promised_names(trained: Path) -> None:
    lines = metrics(trained)
    assert [(line["stage"], line["layer"], line["epoch"], line["step"]) for line in lines] == [
        ("pretrain", 0, 1, 15), ("pretrain", 0, 2, 30), ("pretrain", 1, 1, 15), ("pretrain", 1, 2, 30),
        ("finetune", -1, 1, 15), ("finetune", -1, 2, 30),
    ]  # fmt: skip
    for line in lines:
        assert line["seconds"] > 0
        expected = {"pretrain": {"reconstruction_error", "pseudo_likelihood"}, "finetune": {"loss", "test_accuracy"}}
        assert expected[line["stage"]] <= set(line)


def test_the_summary_keeps_the_promised_names(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert 0 <= summary["test_accuracy"] <= 1
    assert summary["test_accuracy"] == metrics(trained)[-1]["test_accuracy"]
    assert summary["train_seconds"] > 0
    assert summary["samples_per_second"] > 0
    assert len(summary["peak_rss_per_rank"]) == 4
    assert all(peak > 2**20 for peak in summary["peak_rss_per_rank"])
    assert summary["grid"] == {"replicas": 2, "model_shards": 2, "ranks": 4}
    assert set(summary["bytes"]) == {"shard", "replica"}
    assert sum(summary["bytes"]["replica"]["allreduce"].values()) > 0


@pytest.mark.slow
def test_the_saved_configuration_makes_the_same_model_at_another_grid(trained: Path, tmp_path: Path) -> None:
    """The configuration holds everything: in exact mode the bytes are the same."""
    exact = [
        "--exact",
        "--pass-up",
        "states",
        "--binarise",
        "stochastic",
        "--pretrain-only",
        "--no-pictures",
        "--no-score",
    ]
    start(4, "train", "--config", trained / "config.toml", *exact, "--run-dir", tmp_path / "first").check()
    other = ["--model-shards", "1", "--replicas", "1", "--run-dir", tmp_path / "again"]
    start(1, "train", "--config", tmp_path / "first" / "config.toml", *other).check()
    ours, theirs = (tmp_path / name / "pretrained.safetensors" for name in ("first", "again"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_interrupted_run_goes_on_at_another_grid(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "model.safetensors").unlink()
    newest = run / "checkpoints" / "step-00000080.safetensors"
    newest.write_bytes(newest.read_bytes()[:2000])  # cut off: the one before it counts
    printed = start(3, "train", "--resume", "--run-dir", run).check().output
    assert "truncated" in printed
    assert "pretrained.safetensors" in printed  # after 60 updates, as step-00000060 but one stage later
    before, after = metrics(trained), metrics(run)
    assert [(line["stage"], line["layer"], line["step"]) for line in after] == [
        (line["stage"], line["layer"], line["step"]) for line in before
    ]
    assert after[:4] == before[:4]
    assert after[-1]["loss"] == pytest.approx(before[-1]["loss"], abs=1e-4)
    np.testing.assert_allclose(
        load_file(run / "model.safetensors")["output.W"],
        load_file(trained / "model.safetensors")["output.W"],
        atol=2e-4,
    )


@pytest.mark.slow
def test_a_finished_run_says_so(trained: Path) -> None:
    printed = start(1, "train", "--resume", "--run-dir", trained).check().output
    assert "has finished" in printed


@pytest.mark.slow
def test_a_resumed_run_must_be_of_the_same_network(trained: Path) -> None:
    printed = refused(start(1, "train", "--resume", "--run-dir", trained, "--layers", "64-21-12"))
    assert "--layers is 64-20-12, but 64-21-12 was asked for" in printed


def test_evaluate_agrees_with_the_run(trained: Path) -> None:
    printed = start(2, "evaluate", trained, "--threads", "1", "--json").check().output
    result = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    summary = json.loads((trained / "summary.json").read_text())
    assert result["accuracy"] == summary["test_accuracy"]
    assert {"cross_entropy", "reconstruction_error", "pseudo_likelihood"} <= set(result)


@pytest.mark.slow
def test_samples_and_reconstructions(trained: Path, tmp_path: Path) -> None:
    start(2, "sample", trained, "--count", "7", "--steps", "3", "--out", tmp_path / "two.npy").check()
    start(1, "sample", trained, "--count", "7", "--steps", "3", "--out", tmp_path / "one.npy").check()
    start(2, "reconstruct", trained, "--count", "5", "--out", tmp_path / "pairs.npy").check()
    two, one, pairs = (np.load(tmp_path / name) for name in ("two.npy", "one.npy", "pairs.npy"))
    assert two.shape == (7, 64)
    np.testing.assert_allclose(two, one, atol=1e-4)  # the same draws at every grid
    assert pairs.shape == (2, 5, 64)
    np.testing.assert_array_equal(pairs[0], np.rint(pairs[0]))  # in the unit of the data: 0 to 16
    assert pairs[0].max() == 16
    assert 0 < np.mean((pairs[0] - pairs[1]) ** 2) / 16**2 < 0.2


@pytest.mark.slow
def test_exports_compute_what_the_network_computes(trained: Path, tmp_path: Path) -> None:
    start(3, "export", trained, tmp_path / "plain.npz").check()
    start(3, "export", trained, tmp_path / "torch.safetensors").check()
    plain, torch, whole = np.load(tmp_path / "plain.npz"), load_file(tmp_path / "torch.safetensors"), load_file(
        trained / "model.safetensors"
    )  # fmt: skip
    for i in range(2):
        for part in "Wbc":
            np.testing.assert_array_equal(plain[f"{part}{i}"], whole[f"rbm.{i}.{part}"])
        np.testing.assert_array_equal(torch[f"{2 * i}.weight"], plain[f"W{i}"].T)
        np.testing.assert_array_equal(torch[f"{2 * i}.bias"], plain[f"c{i}"])
    np.testing.assert_array_equal(torch["4.weight"], plain["W_output"].T)
    assert set(torch) == {f"{2 * i}.{part}" for i in range(3) for part in ("weight", "bias")}


@pytest.mark.slow
def test_gaussian_standardisation_is_folded_into_the_export(tmp_path: Path) -> None:
    values = np.random.default_rng(5).normal([3.0, -8.0, 0.5, 40.0, 0.0], [2.0, 0.1, 9.0, 1.0, 3.0], (60, 5))
    np.save(tmp_path / "values.npy", values.astype(np.float32))
    for layout in ("row", "column"):
        options = [
            "--visible",
            "gaussian",
            "--layers",
            "5-4",
            "--epochs",
            "1",
            "--layout",
            layout,
            "--no-pictures",
            "--no-score",
        ]
        run = tmp_path / layout
        start(2, "train", "--data", tmp_path / "values.npy", *options, "--threads", "1", "--run-dir", run).check()
        start(2 if layout == "row" else 1, "export", run, tmp_path / "torch.safetensors").check()
        start(1 if layout == "row" else 2, "export", run, tmp_path / "plain.npz").check()
        plain, torch = np.load(tmp_path / "plain.npz"), load_file(tmp_path / "torch.safetensors")
        seen = (values - plain["input_offset"]) / plain["input_scale"]
        expected = seen @ plain["W0"] + plain["c0"]
        np.testing.assert_allclose(values @ torch["0.weight"].T + torch["0.bias"], expected, atol=1e-3)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "words", "expected"),
    extent.quick(
        [
            (3, ["--model-shards", "2"], "2 model shards do not divide the 3 ranks"),
            (2, ["--model-shards", "2", "--replicas", "2"], "need 4 ranks, but 2 were started; use mpirun -n 4"),
            (2, ["--layers", "784-20"], "digits has 64 values a sample; use --layers 64-20"),
            (2, ["--data", "digitss"], "did you mean digits?"),
            (2, ["--classes", "5"], "use --classes 10"),
            (2, ["--patience", "3"], "give --validation-fraction"),
            (2, ["--layers", "64-400000000"], "GiB are free"),
            (2, ["--epochs", "three"], "'three' is not a valid integer"),
            (2, ["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        ]
    ),
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_told_once(n: int, words: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refused(start(n, "train", "--threads", "1", *words, "--run-dir", tmp_path / "run", cwd=tmp_path))


@pytest.mark.slow
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert "cannot be written" in refused(start(2, "train", *TINY, "--run-dir", tmp_path / "file" / "run"))


@pytest.mark.slow
def test_a_run_is_not_overwritten(trained: Path) -> None:
    assert "use --resume to go on with it" in refused(start(2, "train", *TINY, "--run-dir", trained))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--overwrite", "--data", "bad.npy", "--layers", "64-20"], "has the value nan"),
        (["--overwrite", "--data", "digits", "--layers", "784-20"], "use --layers 64-20"),
        (["--overwrite", "--data", "digits", "--test-fraction", "0.2", "--patience", "2"], "--patience needs"),
        (["--resume", "--batch-size", "7"], "--batch-size is 7"),
        (["--resume", "--test-fraction", "0.5"], "samples, but the data have"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused_changes_nothing(words: list[str], expected: str, trained: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((50, 64), np.float32)
    values[7, 60] = np.nan
    np.save(tmp_path / "bad.npy", values)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for path in (run / "model.safetensors", run / "pretrained.safetensors"):
        path.unlink()
    for step in (40, 60, 80):
        (run / "checkpoints" / f"step-{step:08d}.safetensors").unlink()
    before = contents(run)
    assert expected in refused(start(2, "train", *words, "--threads", "1", "--run-dir", run, cwd=tmp_path))
    assert contents(run) == before


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_damaged(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for path in run.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:2000])
    before = contents(run)
    assert "use --overwrite to start again" in refused(start(2, "train", "--resume", "--run-dir", run))
    assert contents(run) == before


@pytest.mark.slow
def test_labels_of_one_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", data=np.random.default_rng(0).random((50, 9)), labels=np.zeros(50, np.int64))
    words = ["--data", tmp_path / "one.npz", "--layers", "9-4", "--run-dir", tmp_path / "run"]
    assert "--classes 0" in refused(start(2, "train", *words))


@pytest.mark.slow
def test_a_damaged_checkpoint(trained: Path, tmp_path: Path) -> None:
    damaged = bytearray((trained / "model.safetensors").read_bytes())
    damaged[-50] ^= 0xFF
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    assert "does not match its checksum" in refused(
        start(2, "evaluate", tmp_path / "damaged.safetensors", "--data", "digits")
    )


@pytest.mark.slow
def test_data_of_another_width(trained: Path) -> None:
    printed = refused(start(2, "evaluate", trained, "--data", "bars:4"))
    assert "16 values a sample" in printed
    assert "--layers" not in printed


@pytest.mark.slow
def test_a_breakdown_names_the_last_good_checkpoint(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(trained / "checkpoints" / "step-00000020.safetensors", run / "checkpoints")
    shutil.copy(trained / "config.toml", run)
    printed = refused(
        start(2, "train", "--resume", *TINY, "--learning-rate", "1e12", "--epochs", "9", "--run-dir", run)
    )
    assert "--learning-rate" in printed
    assert "the last good checkpoint is" in printed
    assert "step-00000020.safetensors" in printed


@pytest.mark.slow
def test_a_mistake_of_one_rank_alone_ends_all() -> None:
    """An error that the others do not share would leave them waiting: the job is aborted after a few seconds."""
    code = (
        "import sys\nfrom mpi4py import MPI\nimport modelpar.cli as cli\nfrom modelpar.errors import DataError\n"
        "from modelpar.cli.commands import modelpar\n"
        "def work(**options):\n"
        "    if MPI.COMM_WORLD.rank == 1: raise DataError('only here')\n"
        "    MPI.COMM_WORLD.Barrier()\n"
        "modelpar.commands['info'].callback = work\ncli.main(['info'])\n"
    )
    outcome = jobs.run_on_ranks(3, [sys.executable, "-c", code], limit=60, PYTHONPATH=str(ROOT))
    assert outcome.returncode == 2, outcome.output
    assert outcome.output.count("rank 1 of 3: only here") == 1


@pytest.mark.slow
def test_a_bug_on_one_rank_ends_all() -> None:
    code = (
        "from mpi4py import MPI\nimport modelpar.cli as cli\nfrom modelpar.cli.commands import modelpar\n"
        "def work(**options):\n"
        "    if MPI.COMM_WORLD.rank == 1: raise ZeroDivisionError('a bug')\n"
        "    MPI.COMM_WORLD.Barrier()\n"
        "modelpar.commands['info'].callback = work\ncli.main(['info'])\n"
    )
    outcome = jobs.run_on_ranks(3, [sys.executable, "-c", code], limit=60, PYTHONPATH=str(ROOT))
    assert outcome.returncode not in (0, None), outcome.output
    assert "ZeroDivisionError: a bug" in outcome.output


@pytest.mark.slow
def test_bench_prints_its_rows() -> None:
    words = ["--sizes", "16x30x20,8x20x30", "--threads", "1", "--repeats", "1", "--seconds", "0.01", "--json"]
    printed = start(2, "bench", "cd1", *words).check().output
    result = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert set(result) == {"machine", "rows"}
    assert [row["size"] for row in result["rows"]] == ["16x30x20", "8x20x30"]
    for row in result["rows"]:
        assert (row["ranks"], row["threads"]) == (2, 1)
        _, visible, hidden = map(int, row["size"].split("x"))
        assert row["gflops"] == pytest.approx(row["samples_per_second"] * 10 * visible * hidden / 1e9)
        assert row["over_sgemm"] == pytest.approx(row["gflops"] / row["sgemm_gflops"])


@pytest.mark.slow
def test_everything_works_without_compilation(tmp_path: Path) -> None:
    """And what it saves is what compiled kernels make, on other ranks: --exact."""
    few = ["--exact", "--layers", "64-7", "--epochs", "1", "--batch-size", "700", "--finetune-epochs", "1",
           "--finetune-batch-size", "700", "--no-pictures", "--run-dir"]  # fmt: skip
    start(1, "train", *few, tmp_path / "plain", NUMBA_DISABLE_JIT="1").check()
    start(2, "train", *few, tmp_path / "compiled").check()
    plain, compiled = (tmp_path / name / "pretrained.safetensors" for name in ("plain", "compiled"))
    assert plain.read_bytes() == compiled.read_bytes()
