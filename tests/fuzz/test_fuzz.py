"""A few damaged files for each reader; ``python -m tests.fuzz`` has as many as one likes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import harness
from tests.fuzz.mutation import damaged_bytes, damaged_json, damaged_text

CASES = harness.readers()
SLOW = ("command", "checkpoint/trajectory", "checkpoint/tempered", "checkpoint/local", "checkpoint/dense")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(SLOW) else []) for name in CASES]
)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    """In one line, or as what they say; crashes and hangs are for the long run to find."""

    @settings(max_examples=6)
    @given(st.integers(0, 2**31))
    def check(seed: int) -> None:
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                outcome = harness.run(CASES[name], seed, Path(folder))
            finally:
                os.chdir(before)
        assert not outcome.fault, f"python -m tests.fuzz --readers {name} --seed {seed} --cases 1: {outcome.fault}"

    check()


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "fault"),
    [(ValueError("x"), "ValueError: x"), (MemoryError(), "MemoryError"), (OSError("x"), ""),
     (harness.Fault("it"), "it"), (harness.ModelparError("x"), ""), (harness.ModelparError(""), "an empty message")],
)  # fmt: skip
def test_what_a_reader_may_do(error: Exception, fault: str, tmp_path: Path) -> None:
    case = harness.Case("x", lambda path, random: path.touch(), lambda path: _raise(error))
    outcome = harness.run(case, 0, tmp_path)
    assert outcome.fault.startswith(fault)
    assert bool(outcome.fault) == bool(fault)


def test_a_seed_makes_the_same_damage() -> None:
    for damage, value in (
        (damaged_bytes, b"abc" * 9),
        (damaged_text, "a 1\nb 2"),
        (damaged_json, {"a": [1, {"b": 2}]}),
    ):
        made = [[damage(value, Random(seed)) for seed in range(50)] for _ in range(2)]  # type: ignore[operator]
        assert repr(made[0]) == repr(made[1])
        assert sum(repr(one) != repr(value) for one in made[0]) > 25
    assert list(harness.seeds_of(["a", "b"], 7, 3)) == [("a", 7), ("b", 7), ("a", 8)]
