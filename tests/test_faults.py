"""Faults on demand, and what becomes of a job in which one rank fails at some place.

``python -m tests.faults`` goes over all places, kinds and numbers of ranks; here every other place is seen, and each
kind.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelpar import faults
from modelpar.errors import ModelparError
from tests import jobs
from tests.faults import EXPECTED, Case, few_cases, run_case

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "text", ["", "0:step", "0:nowhere:bug", "0:step:nothing", "x:step:bug", "0:step:bug:x", "-1:step:bug"]
)
def test_a_fault_that_cannot_be_understood(text: str) -> None:
    with pytest.raises(ModelparError, match="MODELPAR_FAULT is"):
        faults.Fault(text)


@pytest.mark.parametrize(("rank", "fails"), [("1", True), ("0", False)])
def test_a_fault_is_of_one_rank_and_one_visit(rank: str, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", rank)
    fault = faults.Fault("1:step:bug:2")
    fault.come()
    if fails:
        with pytest.raises(RuntimeError):
            fault.come()
    fault.come()


def test_every_place_is_in_the_code() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "modelpar").rglob("*.py"))
    assert [place for place in faults.PLACES if code.count(f'faults.at("{place}")') != 1] == []


def test_all_kinds_are_seen_here() -> None:
    assert {case.kind for case in few_cases(2)} == set(EXPECTED)
    assert any(case.goes_on for case in few_cases(2))


@pytest.mark.jobs
@pytest.mark.slow
@pytest.mark.parametrize("case", few_cases(2), ids=str)
def test_one_rank_fails(case: Case, tmp_path: Path) -> None:
    """The job ends, or goes on where only a picture failed, with the right status, and says why once."""
    result = run_case(case, tmp_path, limit=120.0)
    assert not result.wrong, f"{result.wrong}\n{result.output}"
    assert not jobs.alive(result.tag)
