"""``shown``: records pass unchanged, on every rank; a notebook's card is replaced, and says how it ended."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from mpi4py import MPI

from modelpar import shown
from modelpar.records import Record
from tests.partitioners.test_cards import cells, check_html

RECORDS = [
    record
    for layer in (0, 1)
    for step in (1, 2)
    for record in (
        Record("step", "pretrain", layer, step, step, 2, 100, 0.5 * step),
        Record("epoch", "pretrain", layer, step, step, 2, 100, 0.5 * step, {"reconstruction_error": 0.1 / step}),
    )
]


def a_kernel(module: str) -> object:
    """An object of a class of that module."""
    return type("Kernel", (), {"__module__": module})()


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What an IPython that is made up has displayed, first and later."""
    drawn: list[str] = []

    def display(what: Any, *, display_id: bool) -> Any:
        assert display_id
        drawn.append(what._repr_html_())
        return SimpleNamespace(update=lambda what: drawn.append(what._repr_html_()))

    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=a_kernel("ipykernel.ipkernel"))
    of_display: Any = ModuleType("IPython.display")
    of_display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    return drawn


def test_a_card_in_a_notebook(cards: list[str]) -> None:
    assert list(shown(RECORDS)) == RECORDS
    assert "Training begins" in cards[0]
    for html in cards:
        check_html(html)
    half = next(html for html in cards if "RBM 1, epoch 1: training goes on" in html)
    assert "<progress value='1' max='2'></progress> 1 of 2 updates" in half
    assert "RBM 1, epoch 2: training finished" in cards[-1]
    assert "<progress" not in cards[-1]
    assert cells(cards[-1]) == [[f"RBM {i}", "2", "2 of 2", "1.0", "error 0.0500"] for i in (0, 1)]
    assert "samples/s</span> 200" in cards[-1]  # of the second update: 100 in half a second


def test_a_loop_that_is_left(cards: list[str]) -> None:
    passing = shown(RECORDS)
    next(passing)
    passing.close()  # type: ignore[attr-defined]  # as a break does
    assert "ended before its time" in cards[-1]


def test_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown(RECORDS, MPI.COMM_SELF)) == RECORDS
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [["RBM", i, "epoch", j] for i in "01" for j in "12"]


def test_lines_in_an_engine(
    cards: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels of notebooks have it
    engine = a_kernel("ipyparallel.engine.kernel")
    sys.modules["IPython"].get_ipython = lambda: SimpleNamespace(kernel=engine)  # type: ignore[attr-defined]
    assert list(shown(RECORDS)) == RECORDS
    assert not cards
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 4
    assert "\x1b" not in printed


def test_one_rank_shows(cards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    other: Any = SimpleNamespace(rank=1)
    assert list(shown(RECORDS, other)) == RECORDS
    assert not cards
    assert not capsys.readouterr().out
