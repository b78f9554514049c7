"""One line of metrics.jsonl: flat, JSON, and with the names that scripts rely on."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from modelpar.records import Record


def record(**measures):
    return Record("epoch", "pretrain", 1, 2, 40, 100, 1437, 0.25, measures)


def test_a_line_is_one_flat_json_object():
    line = record(reconstruction_error=0.5, pseudo_likelihood=-20.0).as_line()
    assert line == {
        "kind": "epoch", "stage": "pretrain", "layer": 1, "epoch": 2, "step": 40, "steps": 100, "samples": 1437,
        "seconds": 0.25, "reconstruction_error": 0.5, "pseudo_likelihood": -20.0,
    }  # fmt: skip
    assert json.loads(json.dumps(line)) == line


def test_the_names_that_scripts_rely_on_are_there_without_measures():
    assert {"stage", "layer", "epoch", "step", "seconds"} <= record().as_line().keys()
    assert "measures" not in record().as_line()


def test_a_line_is_a_copy():
    one = record(loss=1.0)
    one.as_line()["loss"] = 2.0
    assert one.measures == {"loss": 1.0}
    with pytest.raises(FrozenInstanceError):
        one.step = 3
