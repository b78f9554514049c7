"""Small files that ask for much, and what is no file: refused in a line, before anything is taken."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from partitioners import GraphError, load_placement
from partitioners.graph_files import read_hmetis, read_metis
from partitioners.reading import check_room
from tests.fuzz.graph_readers import array_bytes

READERS = (read_metis, read_hmetis, load_placement)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_regular_file(read: Callable[[Any], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a directory")):
        with pytest.raises(GraphError, match=words):
            read(path)


@pytest.mark.parametrize("read", READERS)
def test_memory_is_asked_for_first(
    read: Callable[[Any], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 100

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    (tmp_path / "it").write_bytes(b"x" * 1000)
    with pytest.raises(GraphError, match="GiB of memory"):
        read(tmp_path / "it")
    check_room("it", 100)


def test_units_without_a_line_take_memory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Some:
        available = 1 << 30

    monkeypatch.setattr(psutil, "virtual_memory", Some)
    (tmp_path / "it").write_text("% layers 2000000000 1\n0 2000000001\n")
    with pytest.raises(GraphError, match="GiB of memory"):
        read_hmetis(tmp_path / "it")


@pytest.mark.parametrize("text", [f"% layers {'9' * 5000} 1\n0 2\n", f"{'9' * 5000} 1\n", "% layers" + " 1" * 70_000])
def test_numbers_of_any_length(text: str, tmp_path: Path) -> None:
    (tmp_path / "it").write_text(text)
    for read in (read_metis, read_hmetis):
        with pytest.raises(GraphError):
            read(tmp_path / "it")


def archive(path: Path, **members: bytes) -> Path:
    usual = {
        "layer0": array_bytes(np.zeros(6, np.int32)),
        "n_parts": array_bytes(2),
        "made": array_bytes(np.array("{}")),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in {**usual, **members}.items():
            file.writestr(f"{name}.npy", content)
    return path


def with_shape(shape: str) -> bytes:
    content = io.BytesIO()
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}"
    content.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117).encode() + b"\n")
    return content.getvalue() + bytes(24)


@pytest.mark.parametrize(
    "members",
    [{"layer0": with_shape("(10000000000,)")}, {"layer0": with_shape("(4611686018427387904, 4)")},
     {"layer0": with_shape("(5,)")}, {"layer0": with_shape("(-6,)")}, {"layer0": with_shape("(6.0,)")},
     {"layer0": array_bytes(np.array([{}] * 6, object))}, {"made": array_bytes(np.array("[" * 100_000))},
     {"made": array_bytes(np.array("x" * 10**6))}, {"n_parts": array_bytes(np.zeros(10**7, np.int8))},
     {"n_parts": array_bytes(2.0)}, {"layer2": with_shape("(6,)")}],
)  # fmt: skip
def test_placements_that_are_none(members: dict[str, bytes], tmp_path: Path) -> None:
    load_placement(archive(tmp_path / "intact.npz"))
    with pytest.raises(GraphError, match="is not a placement file"):
        load_placement(archive(tmp_path / "it.npz", **members))


def test_a_small_archive_of_large_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Some:
        available = 1 << 22

    large = array_bytes(np.zeros(10**6, np.int32))
    path = archive(tmp_path / "it.npz", layer0=large)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(psutil, "virtual_memory", Some)
    with pytest.raises(GraphError, match="GiB of memory"):
        load_placement(path)
