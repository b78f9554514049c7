"""Messages are one line of at most 300 characters, whatever names and values they repeat."""

from __future__ import annotations

import pickle

import pytest

from modelpar.errors import DataError, DisagreementError, ModelparError, ModelparWarning, SpecError, one_line
from partitioners import GraphError

KINDS = (ModelparError, SpecError, DataError, DisagreementError, ModelparWarning, GraphError)


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_one_line(kind: type[Exception]) -> None:
    text = str(kind("a\nb\r\x1b[31m\x00\u2028\u202e\x9b.npz does not exist; name another"))
    assert text == "a\\nb\\r\\x1b[31m\\x00\\u2028\\u202e\\x9b.npz does not exist; name another"
    assert str(kind("é[x] 'ß' \\n")) == "é[x] 'ß' \\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filling", ["x", "\n", "é"])
def test_of_long_ones_the_ends_stay(kind: type[Exception], filling: str) -> None:
    error = kind(f"--data {filling * 100_000} does not exist; name a file")
    text = str(error)
    assert len(text) <= 300
    assert text.startswith("--data ")
    assert text.endswith(" does not exist; name a file")
    assert str(pickle.loads(pickle.dumps(error))) == text  # as it comes from another rank
    assert one_line(text) == text


def test_of_long_paths_the_middles_go_first() -> None:
    path = "/scratch/" + "/".join(f"folder{i}" for i in range(40)) + "/train-images.gz"
    text = str(DataError(f"{path} is not the file of that name; name another, or remove {path}"))
    words = " is not the file of that name; name another, or remove "
    assert words in text
    first, second = text.split(words)
    assert first.startswith("/scratch/folder0/")
    assert first.endswith("/train-images.gz")
    assert second.endswith("/train-images.gz")


def test_other_arguments_stay() -> None:
    assert ModelparError().args == ()
    assert ModelparError("x", 3).args == ("x", 3)
