"""Values that are missing, in every kind of file: what stands in their place, and the mask of those that are drawn.

Modules: modelpar/data/not_numbers
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import run
from modelpar.data import Dataset
from modelpar.data.missing import MissingValues
from modelpar.kernels.states import unpack
from tests.data.test_genotypes import (
    ALLELES,
    COPIES,
    UNKNOWN,
    bed,
    most_frequent,
    one_hot,
    opened,
    problem,
    spoiled,
    values_of,
    vcf,
    written,
)

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
LETTERS = "-ACGT"


def mask_of(data: Dataset, units: Array | None = None) -> Array:
    """(samples, units) where values are to be drawn."""
    missing = MissingValues(data.train, np.arange(data.n_visible) if units is None else units)
    return unpack(missing.of(np.arange(len(data.train))), np.bool_).T


def frequent(states: Array, unknown: Array, n_states: int) -> Array:
    """(samples, sites) with the most frequent state of the site in the place of what is unknown."""
    result = states.copy()
    for site in range(states.shape[1]):
        known = states[~unknown[:, site], site]
        result[unknown[:, site], site] = np.bincount(known, minlength=n_states).argmax()
    return result


def test_letters_that_say_little(tmp_path: Path) -> None:
    states = RNG.integers(0, 5, (50, 9))
    unknown = RNG.random(states.shape) < 0.2
    unknown[10:] = False  # a mask is kept of few samples
    letters = np.where(unknown, "N", np.array(list(LETTERS))[states])
    text = "".join(f">s{i}\n{''.join(row)}\n" for i, row in enumerate(letters))
    for path, content in ((tmp_path / "x.fa", text.encode()), (tmp_path / "y.fa.gz", gzip.compress(text.encode()))):
        path.write_bytes(content)
        data = opened(path, missing="sample", visible="categorical:5")
        assert np.array_equal(values_of(data), one_hot(frequent(states, unknown, 5), 5))
        assert np.array_equal(mask_of(data), np.repeat(unknown, 5, axis=1))
        units = np.arange(10, 30)  # of a rank
        assert np.array_equal(mask_of(data, units), np.repeat(unknown, 5, axis=1)[:, units])
        assert MissingValues(data.train, units).nbytes < 4 * 50 + 2 * 12
    assert opened(tmp_path / "x.fa").train.missing is None
    assert data.fingerprint.differs(opened(tmp_path / "y.fa.gz").fingerprint)


def test_genotypes_and_haplotypes(tmp_path: Path) -> None:
    codes = spoiled(COPIES)
    codes[0, 0] = UNKNOWN
    for path in (bed(tmp_path / "x.bed", codes),):
        data = opened(path, missing="sample")
        assert np.array_equal(values_of(data), one_hot(most_frequent(codes)))
        assert np.array_equal(mask_of(data), np.repeat(codes == UNKNOWN, 3, axis=1))
        bits = opened(path, missing="sample", visible="bernoulli")
        assert np.array_equal(mask_of(bits), np.repeat(codes == UNKNOWN, 2, axis=1))
    alleles = spoiled(ALLELES)
    data = opened(vcf(tmp_path / "x.vcf", written(alleles, "|")), missing="sample")
    by_sample = alleles.transpose(0, 2, 1).reshape(-1, alleles.shape[1])
    assert np.array_equal(mask_of(data), by_sample == UNKNOWN)
    assert np.array_equal(values_of(data), most_frequent(by_sample))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5", "x.csv", "x.parquet", "fortran.npy"])
def test_numbers(tmp_path: Path, name: str) -> None:
    """NaN, or nothing at all in a table: of states, of sites (-1), and of real values."""
    shape = 60, 7
    unknown = RNG.random(shape) < 0.2
    bits = (RNG.random(shape) < 0.3).astype(np.float32)
    data = opened(saved(tmp_path / name, bits, unknown), missing="sample", visible="bernoulli")
    assert np.array_equal(values_of(data), frequent(bits.astype(int), unknown, 2))
    assert np.array_equal(mask_of(data), unknown)
    units = np.array([6, 2, 3])
    assert np.array_equal(mask_of(data, units), unknown[:, units])
    assert np.array_equal(values_of(data, units), frequent(bits.astype(int), unknown, 2)[:, units])
    real = RNG.normal(2, 3, shape).astype(np.float32).round(3)
    data = opened(saved(tmp_path / name, real, unknown), missing="sample", visible="gaussian")
    means = np.nanmean(np.where(unknown, np.nan, real).astype(float), axis=0)
    assert np.allclose(values_of(data), np.where(unknown, means, real), atol=1e-5)
    filled = opened(tmp_path / name, missing="most-frequent", visible="gaussian")
    assert filled.train.missing is None
    assert np.array_equal(values_of(filled), values_of(data))
    sites = RNG.integers(0, 4, shape)
    data = opened(saved(tmp_path / name, sites, unknown), missing="sample", visible="categorical:4")
    assert np.array_equal(values_of(data), one_hot(frequent(sites, unknown, 4), 4))
    assert np.array_equal(mask_of(data), np.repeat(unknown, 4, axis=1))
    assert "has" in problem(tmp_path / name, visible="categorical:4")


def saved(path: Path, values: Array, unknown: Array) -> Path:
    """Values in the format that the name of the file says."""
    missing = np.where(unknown, -1, values) if values.dtype.kind == "i" else np.where(unknown, np.nan, values)
    missing = missing.astype(values.dtype)
    if path.suffix == ".npz":
        np.savez_compressed(path, data=missing)
    elif path.suffix == ".npy":
        np.save(path, np.asfortranarray(missing) if path.stem == "fortran" else missing)
    elif path.suffix == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            file.create_dataset("x", data=missing, chunks=(16, 3))
    elif path.suffix == ".csv":
        pytest.importorskip("pyarrow")
        words = [
            ["" if no else f"{value:g}" for value, no in zip(*row, strict=True)]
            for row in zip(values, unknown, strict=True)
        ]
        path.write_text("\n".join(",".join(row) for row in [[f"u{k}" for k in range(values.shape[1])], *words]) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        columns = {
            f"u{k}": pyarrow.array(column, mask=no)
            for k, (column, no) in enumerate(zip(values.T, unknown.T, strict=True))
        }
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


def test_the_command_tells_and_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.where(RNG.random((64, 16)) < 0.1, np.nan, RNG.random((64, 16)) < 0.5))
    words = ["data", str(tmp_path / "x.npy"), "--missing", "sample", "--visible", "bernoulli"]
    assert run(MPI.COMM_SELF, [*words, "--json", "--model-shards", "2"]) == 0
    out, err = capfd.readouterr()
    assert '"mask_bytes_of_rank": 64' in out
    assert "are drawn from the model while it is trained" in err
    assert run(MPI.COMM_SELF, [*words, "--out", str(tmp_path / "y.npz")]) == 2
    assert "without a mask of those that are missing" in capfd.readouterr().err
    assert not (tmp_path / "y.npz").exists()
