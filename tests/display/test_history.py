"""Records in a notebook: their numbers, and curves through the points that were recorded."""

from __future__ import annotations

import re

from modelpar import History
from modelpar.records import Record
from tests.partitioners.test_cards import cells, check_html


def record(kind: str, step: int, **measures: float) -> Record:
    return Record(kind, "pretrain", 1, -(-step // 10), step, 30, 50, step / 8, measures)


def test_a_record() -> None:
    html = record("epoch", 20, reconstruction_error=0.0213)._repr_html_()
    check_html(html)
    assert "RBM 1: end of epoch 2, update 20 of 30" in html
    assert "<span class='muted'>reconstruction error</span> 0.0213" in html


def test_curves_and_a_table() -> None:
    history = History(record("step", step) for step in range(1, 31))
    history += [record("epoch", 10 * i, reconstruction_error=0.5 / i) for i in (1, 2, 3)]
    html = history._repr_html_()
    check_html(html)
    assert repr(history) == "History(3 epochs in 33 records)"
    points = re.findall(r"<title>epoch (\d): ([\d.]+)</title>", html)
    assert points == [("1", "0.5"), ("2", "0.25"), ("3", "0.166667")]
    assert cells(html) == [
        ["RBM 1", str(i), str(10 * i), f"{10 * i / 8:.2f}", f"error {0.5 / i:.4f}"] for i in (1, 2, 3)
    ]


def test_nothing_yet() -> None:
    check_html(History()._repr_html_())


def test_long_histories_stay_small() -> None:
    history = History(record("epoch", 10 * i, reconstruction_error=1 / i) for i in range(1, 5001))
    html = history._repr_html_()
    assert len(html) < 100_000
    assert len(cells(html)) == 200
