"""Configurations that ask for too much, or are no files: one line, and status 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mpi4py import MPI

from modelpar.cli import run
from modelpar.cli.config import MOST_BYTES, Settings, parse_config
from modelpar.errors import SpecError


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = " + "[" * 5000, "nests its values too deeply"), ("x = " + "{a=" * 5000, "nests its values too deeply"),
     ("[training]\nepochs = 0x" + "f" * 5000, "an integer of 20000 bits"),
     ("[training]\nepochs = " + "9" * 5000, "digits"),
     ("x" + ".a" * 30_000 + " = 1", "line 1 has keys of 30000 dots"),
     ("network = 0x" + "f" * 5000, "must be a table"), ('"\\"' + '\\"' * 50_000 + ".." * 50, "valid TOML"),
     ("\n[" + "a." * 20_000 + "b]", "line 2 has keys of 20000 dots"),
     ("[network]\nseed = -9223372036854775809", "at most 63"),
     ("[network]\nlayers = 1979-05-27", "a list of integers")],
)  # fmt: skip
def test_values_that_are_none(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_config(text, "it.toml")


def test_dots_in_texts_and_comments_are_no_keys() -> None:
    masks = ",".join(f"mask:/a/b.c/d{i}.npz" for i in range(40))
    text = f"# {'.' * 100}\n[network]\nconnections = '{masks}' # {'.' * 50}\n"
    assert parse_config(text, "it.toml")["network"]["connections"] == masks


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_files_that_are_no_configuration(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, words = tmp_path / "it.toml", {"pipe": "a pipe", "device": "a device", "large": "more than"}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("#" * (MOST_BYTES + 1))
    assert run(MPI.COMM_SELF, ["train", "--config", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    "words",
    [["--layers", "2-" * 300_000 + "1"], ["--data", "x" * 5000], ["--data", "a\nb\x1b[31m.npz"], ["--" + "y\n" * 500],
     ["--connections", "radix-net:" + "2x" * 5000 + "2"], ["--connections", "local:" + "9" * 4000],
     ["--visible-grid", "x".join(["9" * 4000] * 3)], ["--seed", "9" * 400], ["--config", "z\r" * 100]],
)  # fmt: skip
def test_errors_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(MPI.COMM_SELF, ["train", *words]) == 2
    text = capsys.readouterr().err
    assert text.startswith("modelpar: error: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    line = text.removeprefix("modelpar: error: ").rstrip("\n")
    assert len(line) <= 300
    assert line.isprintable()


def test_exact_mode_draws_states_unless_units_are_categorical() -> None:
    network = {"exact": True, "layers": (9, 4)}
    assert Settings({"network": network}).data.binarise == "stochastic"
    assert Settings({"network": network | {"visible": "spin"}}).data.binarise == "stochastic"
    assert Settings({"network": network | {"visible": "categorical:3"}}).data.binarise == "none"
