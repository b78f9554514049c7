"""What data sets are known by: the same by any path and form, another for any change, and cheap."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from mpi4py import MPI

from modelpar.checkpoint import files, load, save
from modelpar.comm.grid import Grid
from modelpar.data import fingerprint as module
from modelpar.data import open_dataset, write_packed
from modelpar.data.fingerprint import Fingerprint, values_of
from modelpar.errors import SpecError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import DataSpec, NetworkSpec, TrainingSpec
from modelpar.training.trainer import pretrain

STATES = (np.random.default_rng(3).random((40, 12)) < 0.4).astype(np.uint8)
LABELS = np.arange(40) % 3


def mark(data: str | Path, **more: Any) -> Fingerprint:
    result = open_dataset(DataSpec(data=str(data), **more)).fingerprint
    assert result is not None
    return result


def idx(path: Path, values: np.ndarray) -> Path:
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())
    return path


def test_one_file_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", STATES)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.npy").symlink_to("x.npy")
    os.link(tmp_path / "x.npy", tmp_path / "sub" / "hard.npy")
    (tmp_path / "sub" / "copy.npy").write_bytes((tmp_path / "x.npy").read_bytes())
    wanted = mark(tmp_path / "x.npy")
    monkeypatch.chdir(tmp_path)
    for path in ("x.npy", "./sub/../x.npy", "link.npy", "sub/hard.npy", "sub/copy.npy"):
        assert mark(path) == wanted, path
    assert Fingerprint.from_text(wanted.as_text()) == wanted


def test_one_array_in_several_forms(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", STATES)
    np.savez(tmp_path / "b.npz", data=STATES, labels=LABELS)
    np.savez_compressed(tmp_path / "c.npz", data=STATES)
    np.savez(tmp_path / "d.npz", STATES, LABELS)
    result = [mark(tmp_path / name).train for name in ("a.npy", "b.npz", "c.npz", "d.npz")]
    assert len({each.values for each in result}) == 1
    assert not any(each.differs(result[0]) for each in result)
    assert [bool(each.labels) for each in result] == [False, True, False, True]
    plain = idx(tmp_path / "e", STATES.reshape(40, 3, 4))
    (tmp_path / "f.gz").write_bytes(gzip.compress(plain.read_bytes(), 1))
    (tmp_path / "g.gz").write_bytes(gzip.compress(plain.read_bytes(), 9))
    assert mark(plain) == mark(tmp_path / "f.gz") == mark(tmp_path / "g.gz")


@pytest.mark.parametrize("form", ["npy", "npz", "packed", "sparse", "coo", "idx", "gz"])
def test_a_change_of_one_value_shows(form: str, tmp_path: Path) -> None:
    def written(values: np.ndarray) -> str:
        path = tmp_path / f"it-{form}"
        if form == "npy":
            np.save(path.with_suffix(".npy"), values)
            return values_of(path.with_suffix(".npy"))
        if form in ("npz", "packed", "sparse", "coo"):
            path = path.with_suffix(".npz")
            if form == "npz":
                np.savez(path, data=values)
            elif form == "packed":
                write_packed(path, values)
            else:
                scipy.sparse.save_npz(
                    path, scipy.sparse.coo_array(values).asformat("csr" if form == "sparse" else "coo")
                )
        else:
            idx(path, values)
            if form == "gz":
                path.write_bytes(gzip.compress(path.read_bytes()))
        return mark(path).train.values

    other = STATES.copy()
    other[23, 7] ^= 1
    assert written(STATES) == written(STATES)
    assert written(STATES) != written(other)


def test_labels_and_test_sets_count(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", STATES)
    np.save(tmp_path / "y.npy", LABELS)
    np.save(tmp_path / "z.npy", LABELS[::-1])
    np.save(tmp_path / "t.npy", STATES[:9])
    plain = mark(tmp_path / "x.npy")
    first = mark(tmp_path / "x.npy", labels=str(tmp_path / "y.npy"))
    second = mark(tmp_path / "x.npy", labels=str(tmp_path / "z.npy"))
    tested = mark(tmp_path / "x.npy", test_data=str(tmp_path / "t.npy"))
    assert "labels are new" in first.differs(plain)
    assert "labels are missing" in plain.differs(first)
    assert "labels are others" in second.differs(first)
    assert "test set was added" in tested.differs(plain)
    assert not plain.differs(replace(plain, fractions=(0.5, 0.1)))


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE", 1 << 16)
    monkeypatch.setattr(module, "PIECE", 1 << 10)
    values = np.zeros((1 << 12, 256), np.uint8)
    np.save(tmp_path / "x.npy", values)
    first = values_of(tmp_path / "x.npy")
    assert first.startswith("sample:")
    assert values_of(tmp_path / "x.npy") == first
    for row in (0, -1):  # the ends, and what is spread in between
        values[row] = 1
        np.save(tmp_path / "x.npy", values)
        assert values_of(tmp_path / "x.npy") != first
        values[row] = 0
    values[:, :] = np.arange(256)
    np.save(tmp_path / "x.npy", values)
    assert values_of(tmp_path / "x.npy") != first


@pytest.mark.parametrize("text", [None, "", "3", "{}", '{"train": 3, "test": null, "fractions": [0, 0]}', "[" * 9999])
def test_a_checkpoint_may_not_tell(text: str | None) -> None:
    assert Fingerprint.from_text(text) is None


def test_it_stands_in_the_checkpoint_and_holds_a_stage_to_its_data(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", STATES.astype(bool))
    np.save(tmp_path / "other.npy", STATES[::-1].astype(bool))
    mine, other = (open_dataset(str(tmp_path / name)) for name in ("x.npy", "other.npy"))
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec(layers=(12, 5)), grid)
        save(network, tmp_path / "new")
        assert "data" not in files.read_header(tmp_path / "new", grid.comm).metadata
        for _ in pretrain(network, mine, TrainingSpec(epochs=2, batch_size=10)):
            break
        save(network, tmp_path / "begun")
        again = load(tmp_path / "begun", grid)
        assert again.run.data == mine.fingerprint
        with pytest.raises(SpecError, match="other values in the same shape"):
            next(pretrain(again, other, TrainingSpec(epochs=2, batch_size=10)))
        again.run.data = None
        assert next(pretrain(again, other, TrainingSpec(epochs=2, batch_size=10))).step == 2
