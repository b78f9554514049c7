"""What a stranger's checkpoint says is believed within bounds: its header, definitions, lists and chains."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files, structure
from modelpar.errors import CheckpointError, OutOfMemoryError
from tests.fuzz.checkpoints import apart, grid, in_order, together, valid

Entries = dict[str, Any]


def changed(path: Path, kind: str, change: Callable[[Entries, dict[str, bytes]], None]) -> Path:
    """A checkpoint of ``kind`` after a change of its header and tensors, with the checksums that belong to it."""
    entries, tensors = apart(valid(kind))
    change(entries, tensors)
    path.write_bytes(together(entries, in_order(entries, tensors)))
    return path


def in_metadata(key: str, change: Callable[[Any], None]) -> Callable[[Entries, dict[str, bytes]], None]:
    def work(entries: Entries, tensors: dict[str, bytes]) -> None:
        values = json.loads(entries["__metadata__"][key])
        change(values)
        entries["__metadata__"][key] = json.dumps(values)

    return work


def in_tensor(name: str, values: Any, dtype: str = "I32") -> Callable[[Entries, dict[str, bytes]], None]:
    def work(entries: Entries, tensors: dict[str, bytes]) -> None:
        array = np.array(values, {"I32": np.int32, "I64": np.int64}[dtype])
        entries[name]["dtype"], entries[name]["shape"], tensors[name] = dtype, list(array.shape), array.tobytes()

    return work


def refused(path: Path, words: str) -> None:
    """Opening it is refused in a line with these words, whatever it is opened for."""
    for to_train in (True, False):
        with pytest.raises(CheckpointError, match=words):
            checkpoint.load(path, grid(), to_train=to_train)


def test_intact_ones_are_opened(tmp_path: Path) -> None:
    for kind in ("begun", "listed", "local", "tempered"):
        path = changed(tmp_path / kind, kind, lambda entries, tensors: None)
        assert path.read_bytes() == valid(kind)
        checkpoint.load(path, grid())


# -- lists of connections --------------------------------------------------------------------------------------------

DEGREES = [4] * 9  # of "listed": 9 hidden units, of 13 visible ones
WRAPPING = [2**62] * 4 + [36, 0, 0, 0, 0]  # their sum in 64 bits is the number of connections


@pytest.mark.parametrize(
    ("degrees", "dtype", "words"),
    [(WRAPPING, "I64", "needs int32"), (DEGREES, "I64", "needs int32"), ([3, *DEGREES[1:]], "I32", "do not fit"),
     ([14, 0, 0, 0, 0, 0, 0, 0, 22], "I32", "do not fit"), ([-4, 12, *DEGREES[2:]], "I32", "do not fit"),
     (DEGREES[1:], "I32", "needs int32 .9.")],
)  # fmt: skip
def test_degrees_are_checked_before_they_are_added(degrees: list[int], dtype: str, words: str, tmp_path: Path) -> None:
    refused(changed(tmp_path / "it", "listed", in_tensor("rbm.0.degrees", degrees, dtype)), words)


@pytest.mark.parametrize("first", [[1, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 13], [-1, 0, 1, 2]])
def test_visible_units_ascend_within_their_layer(first: list[int], tmp_path: Path) -> None:
    others = np.frombuffer(apart(valid("listed"))[1]["rbm.0.visible"], np.int32)[4:]
    path = changed(tmp_path / "it", "listed", in_tensor("rbm.0.visible", [*first, *others]))
    refused(path, "do not ascend|do not fit")


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [lambda network: network.update(layers=[13, 300_000_000, 4]), lambda network: network.update(classes=2**31),
     lambda network: network.update(layers=[2**31, 9, 4])],
)  # fmt: skip
def test_what_the_file_does_not_hold_takes_no_memory(change: Callable[[Any], None], tmp_path: Path) -> None:
    path = changed(tmp_path / "it", "begun", in_metadata("network", change))
    tracemalloc.start()
    refused(path, "but its network needs")
    with pytest.raises(CheckpointError, match="but its network needs"):
        checkpoint.read_spec(path, files.read_header(path, MPI.COMM_SELF))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_room_is_asked_for_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed(tmp_path / "it", "listed", lambda entries, tensors: None)
    monkeypatch.setattr("modelpar.comm.memory.available_bytes", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match="GiB"):
        checkpoint.load(path, grid())
    header = files.read_header(path, MPI.COMM_SELF)
    tensors = sum(stop - start for _, _, start, stop in header.tensors.values())
    assert structure.memory_bytes(header, checkpoint.read_spec(path, header), 1, to_train=True) >= tensors


@pytest.mark.parametrize("shape", [[13.0, 9], [True, 117], [2**70, 0], [13, 9, 1], "13", [[13, 9]], [-13, -9]])
def test_shapes_are_lists_of_sizes(shape: Any, tmp_path: Path) -> None:
    path = changed(tmp_path / "it", "begun", lambda entries, tensors: entries["rbm.0.W"].update(shape=shape))
    refused(path, "a header that modelpar does not write")


def test_tensors_come_in_their_order(tmp_path: Path) -> None:
    entries, tensors = apart(valid("begun"))
    backwards = {"__metadata__": entries["__metadata__"], **{name: entries[name] for name in reversed(tensors)}}
    (tmp_path / "it").write_bytes(together(backwards, dict(reversed(tensors.items()))))
    refused(tmp_path / "it", "a header that modelpar does not write")


# -- definitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["connections", "layout", "visible_grid", "dtype", "seed", "layers", "halo", "classes"])
@pytest.mark.parametrize("value", [None, [1], {"a": []}, "\x1b[31m\n" * 1000, 2**80, [[]]])
def test_the_network_is_of_known_types(key: str, value: Any, tmp_path: Path) -> None:
    if (key, value) in (("layout", None), ("halo", None)):
        value = 3
    path = changed(tmp_path / "it", "begun", in_metadata("network", lambda network: network.update({key: value})))
    refused(path, "a network that this version does not understand")


@pytest.mark.parametrize(
    ("where", "value"),
    [("position", {"stage": "x"}), ("position", {"stage": "pretrain", "layer": 2}), ("position", [1]),
     ("position", {"stage": "pretrain", "epoch": "1"}), ("position", {"stage": "pretrain", "step": 2**70}),
     ("position", {"stage": "pretrain", "sums": {"x": "y"}}), ("position", {"stage": "pretrain", "reached": 1}),
     ("position", {"stage": ["pretrain"]}), ("updates", "rbm.0"), ("updates", ["rbm.7"]), ("best", {"rbm.0": 1}),
     ("average", 7), ("binarise", 0.5), ("binarise", "x"), ("binarise", ["none"]), ("best_accuracy", "1"),
     ("epochs_since_best", -1), ("tempering", {"method": "pt"}), ("tempering", [])],
)  # fmt: skip
def test_the_training_is_of_known_types(where: str, value: Any, tmp_path: Path) -> None:
    path = changed(tmp_path / "it", "begun", in_metadata("training", lambda training: training.update({where: value})))
    refused(path, "does not say where training stood")
    if where == "position":
        header = files.read_header(path, MPI.COMM_SELF)
        if "layer" not in value and "sums" not in value:  # what is wrong with these shows beside the network
            assert checkpoint.read_position(header) is None


@pytest.mark.parametrize("key", ["network", "training"])
@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"layers": ' + "9" * 5000 + "}", "null", ""])
def test_json_of_any_depth_is_refused(key: str, text: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "it", "begun", lambda entries, tensors: entries["__metadata__"].update({key: text}))
    refused(path, "does not understand|does not say")


def test_what_training_names_is_there(tmp_path: Path) -> None:
    change = in_metadata("training", lambda training: training.update(outer=["rbm.0", "rbm.1", "output"]))
    refused(changed(tmp_path / "it", "begun", change), "has no tensor 'outer.rbm.0.W'")


# -- chains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [50, 100_000])
def test_levels_are_those_of_the_file(levels: int, tmp_path: Path) -> None:
    def change(training: Any) -> None:
        training["tempering"] |= {"tried": [0] * levels, "accepted": [0] * levels, "betas": []}

    refused(changed(tmp_path / "it", "tempered", in_metadata("training", change)), "chains.below|less than 1024")


@pytest.mark.parametrize("name", ["chains", "chains.below", "chains.direction"])
def test_chains_are_states(name: str, tmp_path: Path) -> None:
    def change(entries: Entries, tensors: dict[str, bytes]) -> None:
        values = np.frombuffer(tensors[name], np.int32 if name.endswith("direction") else np.float32).copy()
        values[3] = 7
        tensors[name] = values.tobytes()

    with pytest.raises(CheckpointError, match="has other values than 0, 1"):
        checkpoint.load(changed(tmp_path / "it", "tempered", change), grid())


# -- files -----------------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, words in (
        ("pipe", "a pipe"),
        ("device", "a device"),
        ("a\0b", "name of a file"),
        ("\ud800", "name of a file"),
    ):
        with pytest.raises(CheckpointError, match=words):
            checkpoint.load(tmp_path / name, grid())
