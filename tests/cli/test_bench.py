"""``modelpar bench``: what the commands print, on one rank and on several, and how they refuse mistakes.

Modules: modelpar/bench/figures, modelpar/cli/bench_commands
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

from modelpar.cli import bench, run
from modelpar.errors import SpecError
from modelpar.kernels.products import dispatch
from tests import jobs

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
LIMIT = 240.0  # seconds of one job, compilation of the kernels included
QUICK = ["--threads", "1", "--repeats", "1", "--seconds", "0.001", "--sizes", "70x33x21"]


def start(n: int, *words: str | Path, **env: str) -> jobs.Outcome:
    """``mpiexec -n N python -m modelpar bench ...``"""
    command: list[str | Path] = [sys.executable, "-m", "modelpar", "bench", *words]
    return jobs.run_on_ranks(n, command, limit=LIMIT, PYTHONPATH=str(ROOT), **env)


def only_object(outcome: jobs.Outcome) -> dict[str, Any]:
    """The one line that was printed."""
    lines = outcome.check().output.splitlines()
    assert len(lines) == 1, outcome.output
    return dict(json.loads(lines[0]))


# -- options -----------------------------------------------------------------------------------------------------------


def test_sizes_are_parsed() -> None:
    assert bench.parse_sizes(None) is None
    assert bench.parse_sizes("1x2x3, 40X50x60") == [(1, 2, 3), (40, 50, 60)]


def test_statistics_are_parsed() -> None:
    assert bench.parse_statistics("8,1,float") == ["8", "1", "float"]
    assert bench.parse_statistics("all,2") == ["1", "3", "float", "2"]
    assert len(bench.parse_statistics(None)) == 1


def test_peers_are_parsed() -> None:
    assert bench.parse_peers(["numpy,sklearn", "numpy"], ranks=1) == ["numpy", "sklearn"]
    assert "torch-gloo" in bench.parse_peers(["torch"], ranks=2)
    assert "torch-gloo" not in bench.parse_peers(["all"], ranks=1)
    with pytest.raises(SpecError, match="'jax', but needs one of torch"):
        bench.parse_peers(["jax"], ranks=1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cd1", "--sizes", "100x784"], "batch x visible x hidden"),
        (["kernels", "--sizes", "1x2x0"], "batch x visible x hidden"),
        (["exchange", "--sizes", "1x2x\u00b2"], "batch x visible x hidden"),
        (["cd1", "--statistics", "9"], "--statistics has '9', but needs 1 to 8, float or all"),
        (["cd1", "--statistics", "1,,3"], "--statistics has ''"),
        (["cd1", "--peer", "jax"], "--peer has 'jax', but needs one of torch, sklearn, numpy, all"),
        (["cd1", "--peer", "numpy", "--dtype", "float64"], "leave one of them out"),
        (["cd1", "--layout", "diagonal"], "layout 'diagonal' is not known"),
        (["cd1", "--seconds", "0"], "--seconds"),
        (["kernels", "--picture", "x.pdf"], "use .png"),
        (["exchange", "--replicas", "2"], "replicas"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line_and_status_2(words: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(MPI.COMM_SELF, ["bench", words[0], "--threads", "1", *words[1:]]) == 2
    out, err = capfd.readouterr()
    assert expected in err
    assert err.startswith("modelpar: error: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.slow
def test_a_mistake_on_two_ranks_is_told_once() -> None:
    outcome = start(2, "cd1", "--threads", "1", "--statistics", "half")
    assert outcome.returncode == 2, outcome.output
    assert outcome.output.count("modelpar: error:") == 1
    assert "Traceback" not in outcome.output


def test_no_picture_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "have_matplotlib", lambda: False)
    assert run(MPI.COMM_SELF, ["bench", "kernels", *QUICK, "--picture", str(tmp_path / "k.png")]) == 2
    assert "pip install 'modelpar[plots]'" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- what is printed ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_updates_as_json(n: int, tmp_path: Path) -> None:
    words = [*QUICK, "--statistics", "1,float", "--layout", "dual", "--profile", "--json"]
    result = only_object(start(n, "cd1", *words, XDG_CACHE_HOME=str(tmp_path)))
    assert set(result) == {"machine", "rows"}
    assert {"cpu", "cores", "instruction_set", "blas_core_type", "mpi", "ranks", "grid"} <= set(result["machine"])
    assert [(row["statistics"], row["layout"], row["ranks"]) for row in result["rows"]] == [
        ("1", "dual", n), ("float", "dual", n),
    ]  # fmt: skip
    assert all("exchange" in row["profile"]["pieces"] for row in result["rows"])


@pytest.mark.slow
def test_updates_beside_a_peer_on_two_ranks(tmp_path: Path) -> None:
    words = [*QUICK, "--statistics", "1", "--peer", "numpy", "--json"]
    peers = only_object(start(2, "cd1", *words, XDG_CACHE_HOME=str(tmp_path)))["rows"][0]["peers"]
    assert peers["rounds"] + peers["discarded"] >= 1
    assert peers["failed"] == {}
    assert len(peers["sgemm"]["ratios"]) == peers["rounds"] + peers["discarded"]
    if peers["rounds"]:  # the machine may have no two processors to give
        assert peers["peers"]["numpy"]["ratio"] > 0


@pytest.mark.slow
def test_kernels_as_json_with_a_calibration(tmp_path: Path) -> None:
    result = only_object(start(2, "kernels", *QUICK, "--calibrate", "--json", XDG_CACHE_HOME=str(tmp_path)))
    assert set(result) == {"machine", "rows"}
    assert result["machine"]["threads"] == [1]
    calibration = result["machine"]["calibrations"]["1"]
    assert Path(calibration["file"]).is_relative_to(tmp_path)
    measured = {f"{kernel}.{way}" for kernel in dispatch.usual() for way in ("up", "down")}
    assert set(calibration["rates"]) == measured  # those that products may choose, of all in ["machine"]["kernels"]
    assert {row["direction"] for row in result["rows"]} == {"up", "down", "statistics"}


@pytest.mark.slow
@pytest.mark.parametrize(("n", "grid"), [(1, []), (2, []), (4, ["--model-shards", "2"])])
def test_exchange_as_json(n: int, grid: list[str]) -> None:
    """The engine counts the bytes that the closed form says."""
    result = only_object(start(n, "exchange", *QUICK, *grid, "--json"))
    shards = 2 if n > 1 else 1
    assert set(result) == {"machine", "rows", "steps"}
    assert result["machine"]["model_shards"] == shards
    assert [step for step in result["steps"] if not step["agree"]] == []
    crossed = {row["what"]: row["bytes"] for row in result["rows"]}
    batch, words, replicas = (35, 1, 2) if n == 4 else (70, 2, 1)
    assert crossed == {
        "gather bits": (shards - 1) * replicas * 33 * 8 * words,
        "gather floats": (shards - 1) * replicas * 33 * 4 * batch,
        "reduce floats": (shards - 1) * replicas * 33 * 4 * batch,
        "allreduce floats": (shards - 1) * replicas * 2 * 33 * 4 * batch,
    }


def test_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = [tmp_path / "cd1.png", tmp_path / "kernels.png"]
    words = ["cd1", *QUICK, "--statistics", "1,2,float", "--profile", "--picture", str(pictures[0])]
    assert run(MPI.COMM_SELF, ["bench", *words]) == 0
    assert "Where the time of a step goes" in capfd.readouterr().out
    assert run(MPI.COMM_SELF, ["bench", "kernels", *QUICK, "--picture", str(pictures[1])]) == 0
    assert "Statistics of both phases" in capfd.readouterr().out
    assert run(MPI.COMM_SELF, ["bench", "exchange", *QUICK]) == 0
    assert "nothing travels between shards" in capfd.readouterr().out
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_info_tells_the_kernels_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run(MPI.COMM_SELF, ["info", "--threads", "1", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert "blas" in result["kernels"]
    assert result["calibration"] is None
    assert list(tmp_path.iterdir()) == []
    assert run(MPI.COMM_SELF, ["info", "--threads", "1"]) == 0
    assert "bench kernels --calibrate" in capfd.readouterr().out
