"""Parquet and CSV files: the values that were saved, the columns of a rank, labels, and what is refused.

Modules: modelpar/formats/arrow
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelpar.data.packed import PackedColumns
from tests.data.test_genotypes import opened, problem, values_of

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(9)
STATES = RNG.random((83, 11)) < 0.3
REAL = RNG.random((83, 11)).astype(np.float32)
NAMES = [f"neuron {k}" for k in range(11)]


def saved(path: Path, values: Array, labels: Array | None = None, **how: Any) -> Path:
    """A Parquet file."""
    columns = dict(zip(NAMES, values.T, strict=True))
    if labels is not None:
        columns["Label"] = labels
    parquet.write_table(pyarrow.table(columns), path, **how)
    return path


def csv(path: Path, values: Array, names: list[str] | None = NAMES, sign: str = ",") -> Path:
    lines = [] if names is None else [sign.join(names)]
    lines += [sign.join(f"{value:g}" for value in row) for row in values.astype(float)]
    text = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize(
    "values", [STATES, REAL, STATES.astype(np.int8), REAL.astype(float)], ids=lambda v: str(v.dtype)
)
@pytest.mark.parametrize("how", [{}, {"row_group_size": 7, "compression": "gzip"}], ids=["one group", "groups"])
def test_parquet(tmp_path: Path, values: Array, how: dict[str, Any]) -> None:
    labels = np.arange(83) % 3
    data = opened(saved(tmp_path / "x.parquet", values, labels, **how))
    assert np.array_equal(values_of(data), values.astype(np.float32))
    units = RNG.permutation(11)[:4]
    assert np.array_equal(values_of(data, units), values[:, units].astype(np.float32))
    assert isinstance(data.train.table.columns(np.arange(3)), PackedColumns) == (values.dtype.kind != "f")
    assert np.array_equal(data.train.labels, labels)


@pytest.mark.parametrize(("name", "sign"), [("x.csv", ","), ("x.csv.gz", ","), ("x.tsv", "\t")])
@pytest.mark.parametrize("names", [NAMES, None], ids=["names", "no names"])
def test_csv(tmp_path: Path, name: str, sign: str, names: list[str] | None) -> None:
    shown = np.array([[float(f"{value:g}") for value in row] for row in REAL], np.float32)
    data = opened(csv(tmp_path / name, REAL, names, sign))
    assert np.array_equal(values_of(data), shown)
    assert np.array_equal(values_of(data, np.array([7, 2])), shown[:, [7, 2]])
    states = opened(csv(tmp_path / name, STATES, names, sign))
    assert np.array_equal(values_of(states), STATES)
    assert isinstance(states.train.table.columns(np.arange(3)), PackedColumns)


def test_states_of_sites_and_labels(tmp_path: Path) -> None:
    sites = RNG.integers(0, 4, (83, 11))
    for path in (saved(tmp_path / "x.parquet", sites), csv(tmp_path / "x.csv", sites)):
        data = opened(path, visible="categorical:4")
        assert np.array_equal(values_of(data), (sites[:, :, None] == np.arange(4)).reshape(83, -1))
    path = csv(tmp_path / "y.csv", np.column_stack([STATES, np.arange(83) % 5]), [*NAMES, "target"])
    assert np.array_equal(opened(path).train.labels, np.arange(83) % 5)
    assert opened(path).n_visible == 11


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for columns, wanted in (
        ({"a": [1.0, None, 2.0], "b": [1.0, 2.0, 3.0]}, "no value in row 2 of column 'a'"),
        ({"a": [1, 2], "b": ["x", "y"]}, "column 'b'"), ({"label": [1, 2]}, "no columns of samples"),
        ({"a": [[1], [2]]}, "holds list"),
    ):  # fmt: skip
        parquet.write_table(pyarrow.table(columns), path)
        assert wanted in problem(path)
    content = saved(path, REAL).read_bytes()
    for damaged in (content[:-9], content[: len(content) // 2], content[:4] + bytes(300) + content[304:]):
        path.write_bytes(damaged)
        assert "cannot be read as Parquet" in problem(path)
    for text, wanted in (
        ("a,b\n1,2\n1\n", "CSV"), ("a,b\n1,x\n", "CSV"), ("a,b\n1,\n", "no value in row 1 of column 'b'"),
        ("a,a\n1,2\n", "two columns 'a'"), ("a,b\n", "is empty"), ("", "is empty"), ("label\n1\n", "no columns"),
    ):  # fmt: skip
        (tmp_path / "x.csv").write_text(text)
        assert wanted in problem(tmp_path / "x.csv")
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 9999)[:-12])
    assert "x.csv.gz" in problem(tmp_path / "x.csv.gz")
