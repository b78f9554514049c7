"""Means and deviations: right to rounding, at any unit, offset and order, and the same bits in every form of the data.

The reference is exact: sums of fractions, rounded once at the end.

Modules: modelpar/data/column_summary, modelpar/data/columns, modelpar/data/pairs
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec
from modelpar.data import Dataset, Split, column_moments, open_dataset
from modelpar.data.columns import DenseColumns
from modelpar.data.dataset import LoadedTable, MappedTable
from modelpar.data.packed import PackedColumns, in_memory
from modelpar.data.sparse import SparseColumns
from modelpar.spec import DataSpec
from modelpar.training.feeds import in_data_units, learn_scaling, visible_feed

RNG = np.random.default_rng(3)
N, UNITS = 150, 5  # one panel of columns, not filled
NORMAL = RNG.standard_normal((N, UNITS))
HALF_ZEROS = np.where(RNG.random((N, UNITS)) < 0.5, 0.0, NORMAL)


def exact(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(mean, standard deviation) of the columns."""
    means, deviations = [], []
    for column in values.astype(np.float64).T:
        numbers = [Fraction(x) for x in column.tolist()]
        mean = sum(numbers, Fraction(0)) / len(numbers)
        variance = sum(((x - mean) ** 2 for x in numbers), Fraction(0)) / len(numbers)
        means.append(float(mean))
        shift = (variance.numerator.bit_length() - variance.denominator.bit_length()) // 2
        deviations.append(math.ldexp(math.sqrt(variance / Fraction(4) ** shift), shift))
    return np.array(means), np.array(deviations)


ODD = {
    "a small unit": NORMAL * 1e-12,
    "a large unit": NORMAL * 1e12,
    "squares that underflow": NORMAL * 1e-170,
    "subnormal numbers": NORMAL * 1e-310,
    "squares that nearly overflow": NORMAL * 1e140,
    "an offset": NORMAL + 1e9,
    "a large offset": NORMAL * 1e-3 + 1e12,
    "zeros beside an offset": np.where(HALF_ZEROS == 0, 0, HALF_ZEROS + 1e9),
    "an outlier first": np.concatenate([np.full((1, UNITS), 1e15), NORMAL]),
    "one value that differs in its last bit": np.where(np.arange(N)[:, None] == 17, np.nextafter(1e9, 2e9), 1e9)
    * np.ones(UNITS),
    "float32": (NORMAL * 3 + 1e5).astype(np.float32),
    "bytes": RNG.integers(0, 256, (N, UNITS), dtype=np.uint8),
    "bytes of two neighbours": RNG.integers(254, 256, (N, UNITS), dtype=np.uint8),
    "two values": np.where(HALF_ZEROS == 0, 0, 0.7),
}


@pytest.mark.parametrize("kind", ODD)
def test_moments_are_those_of_exact_sums_in_every_form(kind: str) -> None:
    values = ODD[kind]
    rows = np.arange(len(values))
    mean, std = exact(values)
    shuffled = RNG.permutation(rows)
    forms = {
        "dense": DenseColumns(values).summary(rows),
        "permuted": DenseColumns(np.ascontiguousarray(values[shuffled])).summary(np.argsort(shuffled)[::-1].copy()),
        "sparse": SparseColumns(scipy.sparse.csr_array(values)).summary(rows),
        "kept": in_memory(values).summary(rows),
    }
    if values.dtype != np.float64:
        forms["float64"] = DenseColumns(values.astype(np.float64)).summary(rows)
    for form, result in forms.items():
        np.testing.assert_allclose(result.mean, mean, rtol=3e-16, err_msg=form)
        np.testing.assert_allclose(result.std, std, rtol=5e-16, err_msg=form)
        np.testing.assert_array_equal(result.mean, forms["dense"].mean, err_msg=form)
        np.testing.assert_array_equal(result.std, forms["dense"].std, err_msg=form)
        assert np.array_equal(result.low, values.min(axis=0)), form
        assert np.array_equal(result.high, values.max(axis=0)), form


@pytest.mark.parametrize("kind", ["an offset", "bytes", "two values"])
def test_a_shard_without_units_has_nothing_to_summarise(kind: str) -> None:
    none = ODD[kind][:, :0]
    for form in (DenseColumns(none), SparseColumns(scipy.sparse.csr_array(none)), in_memory(none)):
        assert form.summary(np.arange(N)).mean.shape == (0,)


def test_two_values_kept_as_bits_are_among_the_forms() -> None:
    assert isinstance(in_memory(ODD["two values"]), PackedColumns)


@given(
    st.lists(st.floats(-1e100, 1e100, allow_subnormal=False), min_size=1, max_size=20),
    st.integers(-300, 300),
    st.integers(0, 3),
)
def test_moments_of_any_floats(column: list[float], exponent: int, n_zeros: int) -> None:
    values = np.ldexp(np.array([*column, *[0.0] * n_zeros])[:, None], exponent)
    largest = np.abs(values).max()
    if not 1e-290 < largest < 1e149:
        values = values / (largest or 1.0)
    mean, std = exact(values)
    rows = np.arange(len(values))
    for form in (DenseColumns(values), SparseColumns(scipy.sparse.csr_array(values))):
        result = form.summary(rows)
        np.testing.assert_allclose(result.mean, mean, rtol=1e-15)
        np.testing.assert_allclose(result.std, std, rtol=1e-15)
        assert (result.std == 0) == (values.min() == values.max())


FORMS: dict[str, Callable[[Any, Any], None]] = {
    "npy": np.save,
    "fortran": lambda file, values: np.save(file, np.asfortranarray(values)),
    "foreign": lambda file, values: np.save(file, values.astype(">f8")),
    "npz": np.savez_compressed,
    "csr": lambda file, values: scipy.sparse.save_npz(file, scipy.sparse.csr_array(values)),
    "csc": lambda file, values: scipy.sparse.save_npz(file, scipy.sparse.csc_array(values)),
}


def test_files_of_all_forms_have_the_same_moments(tmp_path: Path) -> None:
    values = ODD["zeros beside an offset"]
    wanted = column_moments(Split(MappedTable("x", values), np.arange(N)), np.arange(UNITS))
    for form, save in FORMS.items():
        with open(tmp_path / form, "wb") as file:
            save(file, values)
        train = open_dataset(DataSpec(data=str(tmp_path / form), test_fraction=0)).train
        for result, expected in zip(column_moments(train, np.arange(UNITS)), wanted, strict=True):
            np.testing.assert_array_equal(result, expected, err_msg=form)


def standardised(values: np.ndarray[Any, Any], *, loaded: bool = False) -> np.ndarray[Any, Any]:
    """(samples, units), as Gaussian visible units see them."""
    table = LoadedTable("x", values.shape, values.dtype, lambda: values) if loaded else MappedTable("x", values)
    data = Dataset("x", values.shape[1], 0, None, Split(table, np.arange(len(values))), None, None, 1.0)
    with Grid(MPI.COMM_SELF) as grid:
        spec = NetworkSpec((values.shape[1], 2), visible="gaussian", dtype="float64")
        network = DeepBeliefNetwork(spec, grid)
        learn_scaling(network, data)
        out = np.empty((values.shape[1], len(values)))
        visible_feed(network, data, data.train, "none").fill(np.arange(len(values)), 0, out)
        largest = float(np.abs(values).max())
        np.testing.assert_allclose(in_data_units(network, out), values.T, rtol=1e-15, atol=1e-15 * largest)
    return out.T


@pytest.mark.parametrize("factor", [1e-300, 1e-12, 1e12, 1e100])
def test_standardised_values_have_no_unit(factor: float) -> None:
    np.testing.assert_allclose(standardised(NORMAL * factor), standardised(NORMAL), rtol=1e-12, atol=1e-13)


def test_standardised_values_have_no_offset() -> None:
    steps = RNG.integers(-8, 9, (N, UNITS)) / 8  # which stay the same numbers beside 1e9
    # but for the rounding of the mean itself
    np.testing.assert_allclose(standardised(steps + 1e9), standardised(steps), rtol=1e-12, atol=2.3e-16 * 1e9)


@pytest.mark.parametrize("kind", ["bytes of two neighbours", "bytes", "two values"])
def test_standardised_values_have_no_form(kind: str) -> None:
    values = ODD[kind]
    wanted = (values - values.mean(axis=0)) / values.std(axis=0)
    for result in (standardised(values), standardised(values, loaded=True), standardised(values.astype(np.float64))):
        np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=1e-13)
