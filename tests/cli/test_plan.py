"""``modelpar plan``, and the grid of a training that was asked for none.

Modules: modelpar/cli/plan_commands, modelpar/cli/planned_job, modelpar/cli/grid_choice
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

from modelpar.bench import calibrate, check
from modelpar.cli import grid_choice, planned_job, run
from modelpar.cli.config import Settings
from modelpar.cli.grid_choice import ChosenGrid
from modelpar.cli.report.figures import updates_chart
from modelpar.cli.report.reading import Run
from modelpar.cli.threads import Placement
from modelpar.plan.machine import Machine, read_machine
from modelpar.spec import NetworkSpec

FIELDS = {
    "replicas", "model_shards", "layout", "threads", "step_seconds", "parts", "bytes", "memory_per_rank", "efficiency",
}  # fmt: skip
KEY = "predicted_update_seconds"  # of summary.json
ETHERNET = ["--machine", "ethernet-10g", "--ranks", "4", "--nodes", "2"]


def planned(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    status = run(MPI.COMM_SELF, ["plan", *words])
    return status, *capfd.readouterr()


def test_json_has_the_names_that_scripts_rely_on(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = planned(capfd, "--layers", "300-200-100", "--batch-size", "50", *ETHERNET, "--json")
    found: dict[str, Any] = json.loads(out)
    assert status == 0
    assert all(set(choice) >= FIELDS for choice in found["choices"])
    grids = {(choice["replicas"], choice["model_shards"]) for choice in found["choices"]}
    assert grids == {(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4)}
    chosen = found["choice"]
    assert chosen["replicas"] * chosen["model_shards"] == 4
    of_all = [c["step_seconds"] for c in found["choices"] if c["replicas"] * c["model_shards"] == 4]
    assert chosen["step_seconds"] == min(of_all)


def test_the_table_has_one_rank_and_pure_replicas_within_its_width(capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = planned(capfd, "--layers", "784-500", "--machine", "infiniband-200g", "--ranks", "32", "--nodes", "32")
    assert "1 x 1" in out
    assert "32 x 1" in out
    assert "train --grid auto takes" in out
    assert max(map(len, out.splitlines())) <= 120


def test_data_tell_the_width_and_the_updates_of_an_epoch(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('[data]\ndata = "bars:3"\n[training]\nbatch_size = 100\n')
    _, out, _ = planned(capfd, str(config), *ETHERNET, "--json")
    found = json.loads(out)
    assert found["choices"][0]["epoch_seconds"] == pytest.approx(
        found["updates_of_epoch"] * found["choices"][0]["step_seconds"]
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--machine", "nowhere"], "'nowhere' is not known"),
        (["--machine", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--layers", "300000-300000", *ETHERNET], "model shards on"),
        (["--grid", "auto", "--model-shards", "2", *ETHERNET], "leave one of them out"),
        (["--machine", "ethernet-10g", "--recalibrate", "--layers", "9-9"], "leave one of them out"),
        (["--check", "--machine", "ethernet-10g"], "leave one of them out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_told_in_one_line(words: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = planned(capfd, *words)
    assert status == 2
    assert expected in err.splitlines()[-1]
    assert "Traceback" not in err


# -- train --grid auto -------------------------------------------------------------------------------------------------


class Ranks:
    """What a choice needs of a communicator, of more ranks than there are."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = size, 0

    def bcast(self, value: Any, root: int = 0) -> Any:
        return value

    def allgather(self, value: Any) -> list[Any]:
        return [value]

    def allreduce(self, value: Any, op: Any = None) -> Any:
        return value


def chosen(monkeypatch: pytest.MonkeyPatch, machine: Machine, n: int, **tables: dict[str, Any]) -> ChosenGrid:
    monkeypatch.setattr(grid_choice, "kept_machine", lambda comm, **_: machine)
    monkeypatch.setattr(grid_choice, "available_bytes", lambda: 1 << 40)
    settings = Settings({"network": {"layers": (40, 30)}, **tables})
    return grid_choice.grid_of(Ranks(n), settings, Placement(4, 4, n, 1))  # type: ignore[arg-type]


def test_the_planner_chooses_where_no_size_is_given(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = read_machine("infiniband-200g")
    grid = chosen(monkeypatch, machine, 4)
    assert grid.model_shards is not None
    assert grid.replicas is not None
    assert grid.model_shards * grid.replicas == 4
    line = capfd.readouterr().err
    assert line.startswith("modelpar: grid chosen: ")
    assert line.count("\n") == 1
    assert "would be faster" in line  # of so small a network one rank is


def test_sizes_that_are_given_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = read_machine("ethernet-10g")
    assert chosen(monkeypatch, machine, 4, grid={"replicas": 4}) == ChosenGrid(None, 4)
    assert chosen(monkeypatch, machine, 4, grid={"partition": "placement.npz"}) == ChosenGrid(None, None)
    assert chosen(monkeypatch, machine, 1) == ChosenGrid(None, None)


def test_a_strategy_of_replicas_gets_some(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    machine = read_machine("ethernet-10g")
    for sync in ("local", "server"):
        grid = chosen(monkeypatch, machine, 4, sync={"sync": sync})
        assert grid.replicas in (2, 4)
        assert "changes what is learned" in capfd.readouterr().err


def test_the_layout_that_was_chosen_is_asked_for() -> None:
    grid: Any = type("OfTwoShards", (), {"n_shards": 2})
    spec, owners = grid_choice.with_layout(NetworkSpec((20, 10), classes=3), grid, ("dual",))
    assert spec.layout == "dual,auto"
    assert owners is not None
    assert owners.matrix_layouts == ("dual",)
    assert grid_choice.with_layout(spec, grid, None) == (spec, None)


# -- beside measured ---------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_shows_predicted_beside_measured_updates() -> None:
    line = {"kind": "epoch", "stage": "pretrain", "layer": 0, "epoch": 1, "step": 50, "seconds": 0.2}
    assert updates_chart([Run(Path("run"), "run", records=[line])]) is None
    for damaged in ({}, [], {"pretrain.0": "fast"}):
        assert updates_chart([Run(Path("run"), "run", records=[line], summary={KEY: damaged})]) is None
    chart = updates_chart([Run(Path("run"), "run", records=[line], summary={KEY: {"pretrain.0": 0.003}})])
    assert chart is not None
    assert "0.004 s" in chart
    assert "0.003 s" in chart


def test_a_run_records_what_was_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = read_machine("ethernet-10g")
    monkeypatch.setattr(planned_job, "kept_machine", lambda comm, **_: machine)
    words = ["--data", "bars:2", "--layers", "4-6-3", "--epochs", "1", "--pretrain-only", "--no-score", "--no-pictures",
             "--no-report", "--threads", "1", "--run-dir", str(tmp_path / "run")]  # fmt: skip
    assert run(MPI.COMM_SELF, ["train", *words]) == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())[KEY]
    assert set(found) == {"pretrain.0", "pretrain.1"}
    assert all(seconds > 0 for seconds in found.values())


def test_the_check_prints_predictions_beside_measurements(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "here", lambda comm, **_: read_machine("ethernet-10g"))
    monkeypatch.setattr(check, "LEAST", 0.0)
    few = [check.Configuration(64, (20, 10)), check.Configuration(64, (20, 10), "float", replicas=2)]
    monkeypatch.setattr(check, "configurations", lambda cores, ranks: few)
    monkeypatch.setattr(check, "networks_to_rank", lambda: [(64, (12, 10), "dense", "1")])
    status, out, _ = planned(capfd, "--check", "--json")
    found = json.loads(out)
    assert status == 0
    [row] = found["rows"]
    assert found["median_error"] == found["worst_error"] == abs(row["error"])
    assert found["bytes_exact"] is True
    [ranked] = found["ranking"]
    assert ranked["lost"] >= 0
    status, out, _ = planned(capfd, "--check")
    assert status == 0
    assert "predicted and measured updates" in out
    assert "the predicted choice and the fastest" in out
