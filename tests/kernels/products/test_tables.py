"""Sums by tables beyond what tests/kernels/products/test_subset_sums.py asks of every kernel: weights that are
prepared, and other processors.

Modules: modelpar/kernels/llvm/tables
"""

from __future__ import annotations

import llvmlite.binding
import numpy as np
import pytest

from modelpar.kernels.llvm.tables import STEP
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import draw, subset_sums
from modelpar.kernels.products.dispatch import VARIABLE
from modelpar.kernels.states import pack
from modelpar.kernels.statistics.learning import Counts
from tests.kernels.products.test_product import results_elsewhere

pytestmark = pytest.mark.skipif(not compiled(), reason="these kernels exist only compiled")

OLDER = {  # processors of other instructions, which this one has too where it has AVX2
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+popcnt,+sse4.2"},
    "no extension": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (5, 17), (30, 64), (31, 70), (700, 130)])
def test_weights_that_are_prepared_are_the_integers(up: bool, n_in: int, n_out: int) -> None:
    rng = np.random.default_rng(n_in)
    W = rng.normal(0, 1, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
    integers = subset_sums.integers_of(W, "tables", up, n_in)
    assert integers.ctypes.data % 64 == 0
    by_unit = integers.reshape(-1, -(-n_in // STEP) * STEP, 16).transpose(0, 2, 1)
    by_unit = by_unit.reshape(-1, by_unit.shape[2])[:n_out]
    fixed = np.rint((W.T if up else W).astype(np.float64) * 2.0**20)
    assert np.array_equal(by_unit[:, :n_in], fixed)
    assert not by_unit[:, n_in:].any()
    entry, _, _, *rest = subset_sums.operands("tables", W, pack(rng.random((n_in, 40)) < 0.5), up, n_in)
    for start, stop in ((0, n_out), (n_out // 2 // 16 * 16, n_out)):
        sums = np.zeros((2, n_out, 40), np.int32)
        for out, prepared in zip(sums, (integers, subset_sums.NO_INTEGERS), strict=True):
            draw.incoming_sums(entry, W, prepared, *rest, start, stop, out)
        assert sums[0, start:].any()
        assert np.array_equal(*sums)


def results():  # type: ignore[no-untyped-def]
    """Sums in both directions and statistics, all by tables, and what NumPy makes of the same."""
    rng = np.random.default_rng(3)
    W, bits = rng.normal(0, 0.3, (100, 70)).astype(np.float32), rng.random((100, 33)) < 0.5
    found, expected = {}, {}
    for up in (True, False):
        given = W if up else np.ascontiguousarray(W.T)
        out = np.zeros((70, 33), np.int32)
        draw.incoming_sums(*subset_sums.operands("tables", given, pack(bits), up, 100), 0, 70, out)
        found[f"sums {up}"], expected[f"sums {up}"] = out, np.rint(W.T * np.float32(2**20)).astype(np.int64) @ bits
    v, s = rng.random((2, 40, 130)) < 0.5, rng.integers(0, 16, (2, 70, 130))
    out = np.zeros((40, 70), np.int32)
    Counts(*((pack(v[k]), pack(s[k], 4)) for k in (0, 1))).fill(out)
    found["C"], expected["C"] = out, v[0].astype(int) @ s[0].T - v[1].astype(int) @ s[1].T
    return found, expected


@pytest.mark.skipif(
    not llvmlite.binding.get_host_cpu_features().get("avx2", False), reason="this processor does not run such code"
)
@pytest.mark.parametrize("processor", ["AVX2", pytest.param("no extension", marks=pytest.mark.slow)])
def test_tables_on_processors_without_avx_512(processor, tmp_path):  # type: ignore[no-untyped-def]
    environment = OLDER[processor] | {VARIABLE: "tables", "NUMBA_CACHE_DIR": str(tmp_path / "compiled")}
    expression = "test_tables.results()[0] | {'available': np.array(dispatch.available())}"
    got = results_elsewhere(expression, tmp_path / "results.npz", environment)
    assert got.pop("available").tolist() == ["tables", "lists", "blas"]
    for name, values in results()[1].items():
        assert np.array_equal(got[name], values), name
