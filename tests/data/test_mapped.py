"""A file that is cut while it is mapped is one line, where touching it would be the end of the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelpar.data import DataFeed, open_dataset, write_packed
from modelpar.errors import DataError
from modelpar.spec import DataSpec

STATES = np.random.default_rng(0).random((900, 64)) < 0.4


def write_npy(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, STATES.astype(np.float32) / 3)


def write_idx(path: Path) -> None:
    header = bytes([0, 0, 8, 2]) + b"".join(n.to_bytes(4, "big") for n in STATES.shape)
    path.write_bytes(header + (STATES * np.uint8(77)).tobytes())


def write_bits(path: Path) -> None:
    write_packed(path, STATES)


@pytest.mark.parametrize("write", [write_npy, write_idx, write_bits])
@pytest.mark.parametrize("binarise", ["none", "stochastic"])
def test_a_file_cut_after_it_was_opened(tmp_path: Path, write: Callable[[Path], None], binarise: str) -> None:
    path = tmp_path / "file"
    write(path)
    data = open_dataset(DataSpec(data=str(path), test_fraction=0.0, binarise=binarise))
    columns = data.train.table.columns(np.arange(64))
    feed = DataFeed(data.train, np.arange(64), scale=data.scale, binarise=binarise)
    samples, out = np.arange(900), np.empty((64, 900), np.float32)
    uses: list[Callable[[], Any]] = [
        lambda: columns.fill(samples, out), lambda: columns.summary(samples), lambda: feed.fill(samples, 0, out),
        lambda: data.train.table.columns(np.arange(9)).summary(samples),
    ]  # fmt: skip
    if binarise == "stochastic":
        uses.append(lambda: feed.states(samples, 0))
    for use in uses:
        use()
    with open(path, "r+b") as file:
        os.ftruncate(file.fileno(), 100)
    data = open_dataset(DataSpec(data="digits"))  # the table of the file keeps nothing of another
    for use in uses[:3] + uses[4:]:
        with pytest.raises(DataError, match=r"file was truncated while it was in use: it had \d+ bytes, and has 100;"):
            use()
