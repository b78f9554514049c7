"""Processes that a launcher has started, of which MPI does not know: one line, and no copies of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mpi4py import MPI

from modelpar import Grid, ModelparWarning
from modelpar.comm.launch import COUNTED, UNCOUNTED, Launch, launch, library_name, not_spoken
from tests import jobs

LIBRARY = library_name(MPI.Get_library_version())
VARIABLES = {*(name for pair in COUNTED for name in pair), UNCOUNTED}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "3", "PMI_FD": "9"}, Launch("PMI_SIZE", 4, 3)),
        # ranks of mpirun inside of a step, whose only process on each of two nodes is a daemon
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PMI_SIZE": "1", "PMI_RANK": "0"},
            Launch("PMI_SIZE", 1, 0),
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"},
            Launch("OMPI_COMM_WORLD_SIZE", 2, 1),
        ),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0", "PMIX_RANK": "0"}, Launch("SLURM_STEP_NUM_TASKS", 8, 0)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # a batch script
        ({"PMIX_RANK": "2"}, Launch("PMIX_RANK", None, 2)),
        ({"PMI_SIZE": "many", "PMI_RANK": "0"}, None),
    ],
)
def test_what_a_launcher_tells(environment: dict[str, str], expected: Launch | None) -> None:
    assert launch(environment) == expected


@pytest.mark.parametrize(
    ("told", "has_others", "is_reporter"),
    [
        (Launch("PMI_SIZE", 1, 0), False, True),
        (Launch("PMI_SIZE", 2, 0), True, True),
        (Launch("PMI_SIZE", 2, 1), True, False),
        (Launch("PMIX_RANK", None, 0), False, False),  # it may be the only one
        (Launch("PMIX_RANK", None, 1), True, True),
        (Launch("PMIX_RANK", None, 2), True, False),
    ],
)
def test_one_of_them_reports(told: Launch, has_others: bool, is_reporter: bool) -> None:
    assert told.has_others == has_others
    assert told.alone("MPI 7").is_reporter == is_reporter
    assert len(told.alone("Open MPI v5.0.11").message) < 300  # none is cut


def test_a_program_is_warned(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    Grid(MPI.COMM_WORLD).free()
    assert not recwarn.list  # the first process says it
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.warns(ModelparWarning, match=f"^4 processes were started .*STEP_NUM_TASKS=4.* only rank .*{LIBRARY}"):
        Grid(MPI.COMM_WORLD).free()


def test_pmix_is_not_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not_spoken() is None
    monkeypatch.setenv(UNCOUNTED, "0")
    mistake = not_spoken()
    if not LIBRARY.startswith("MPICH") or "pmix" in MPI.Get_library_version():
        assert mistake is None
        return
    assert mistake is not None
    assert mistake.is_reporter
    assert LIBRARY in mistake.message
    monkeypatch.setenv("PMI_FD", "9")
    assert not_spoken() is None


def command(*words: str) -> list[str | Path]:
    return [sys.executable, "-m", "modelpar", *words]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_command_ends(rank: int, tmp_path: Path) -> None:
    outcome = jobs.run(
        command("train", "--layers", "64-8"), limit=60, cwd=tmp_path, PYTHONPATH=str(Path(__file__).parents[2]),
        SLURM_STEP_NUM_TASKS="2", SLURM_PROCID=str(rank),
    )  # fmt: skip
    assert outcome.returncode == 2
    assert outcome.output.count("modelpar: error: 2 processes were started") == outcome.output.count("\n") == 1 - rank
    assert not list(tmp_path.iterdir())
