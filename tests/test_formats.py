"""Files of earlier versions are read as ever, and those of later formats are refused with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.comm.grid import Grid
from modelpar.data import open_dataset
from modelpar.errors import ModelparError
from modelpar.training import digests
from partitioners import GraphError, Partition
from partitioners.placement import load_placement, save_placement
from tests import format_files

VERSIONS = sorted(path for path in format_files.FIXTURES.iterdir() if path.is_dir())
MEND = "use the version"


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where something is not as expected; versions that are later may tell more than was expected."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for name, value in expected.items()
            for line in (
                differences(found[name], value, f"{where}/{name}") if name in found else [f"no {where}/{name}"]
            )
        ]
    return [] if found == expected else [f"{where} is {found}, not {expected}"]


@pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")  # of data that are as few as these
@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_files_of_earlier_versions_are_read_as_ever(folder: Path) -> None:
    expected = json.loads((folder / format_files.EXPECTED).read_text())
    found = json.loads(json.dumps(format_files.read(folder)))
    if format_files.EXPORTED not in found:  # h5py is not installed, or the folder has none
        expected.pop(format_files.EXPORTED, None)
    assert not differences(found, expected)


@pytest.mark.parametrize(
    "folder", [path for path in VERSIONS if (path / format_files.RUN).exists()], ids=lambda path: path.name
)
def test_runs_of_earlier_versions_go_on(folder: Path, tmp_path: Path) -> None:
    """From the last checkpoint before the end, to the same model."""
    run = tmp_path / "run"
    shutil.copytree(folder / format_files.RUN, run)
    (run / "model.safetensors").unlink()
    format_files.modelpar("train", "--resume", "--run-dir", run, "--threads", "1")
    with Grid(MPI.COMM_SELF) as grid:
        models = [checkpoint.load(path / "model.safetensors", grid) for path in (folder / format_files.RUN, run)]
        assert format_files.held(models[0]) == format_files.held(models[1])
    assert digests.read(run / digests.NAME) == digests.read(folder / format_files.RUN / digests.NAME)


def later_checkpoint(path: Path) -> None:
    with Grid(MPI.COMM_SELF) as grid:
        block = files.TensorBlock("rbm.0.W", (2,), np.zeros(2, np.float32), np.arange(2), None)
        files.write(path, grid, [block], {"modelpar": "2"})
        checkpoint.load(path, grid)


def later_packed(path: Path) -> None:
    file = path.with_suffix(".npz")
    np.savez(file, bits=np.ones((4, 1), np.uint8), shape=[4, 8], scale=np.uint8(1), format=np.int64(3))
    open_dataset(str(file))


def later_placement(path: Path) -> None:
    file = path.with_suffix(".npz")
    save_placement(file, Partition((np.zeros(3, int),), 1), {"format": 2})
    load_placement(file)


def later_digests(path: Path) -> None:
    path.write_text('{"format": 2, "stage": "pretrain", "sums": []}\n')
    digests.read(path)


@pytest.mark.parametrize("later", [later_checkpoint, later_packed, later_placement, later_digests])
def test_later_formats_are_refused_with_the_way_out(later: Any, tmp_path: Path) -> None:
    with pytest.raises((ModelparError, GraphError), match=r"format [23], but this version reads formats? 1") as refused:
        later(tmp_path / "file")
    text = str(refused.value)
    assert MEND in text
    assert "\n" not in text
