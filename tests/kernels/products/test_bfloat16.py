"""Products in bfloat16 by every way that this processor has: against rounded operands in float64, at ragged sizes.

Modules: modelpar/kernels/llvm/bfloat16, modelpar/kernels/products/precision
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

from modelpar.kernels import threads
from modelpar.kernels.llvm.bfloat16 import HAS_PAIR_TILES, HAS_PAIRS
from modelpar.kernels.llvm.tiles import allowed
from modelpar.kernels.products import bfloat16, dense, precision
from modelpar.kernels.products.product import Product

HERE = [
    name for name, there in (("tiles", HAS_PAIR_TILES and allowed()), ("pairs", HAS_PAIRS), ("blas", True)) if there
]
SIZES = [(1, 1, 1), (5, 3, 2), (16, 32, 16), (33, 65, 17), (70, 1100, 100), (3, 2070, 49), (300, 40, 64)]


def operands(m: int, k: int, n: int, order: str) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of which ``order`` says which are transposes: up as W.T with activations, down, or as gradients."""
    rng = np.random.default_rng([m, k, n])
    a, b = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    if order == "up":
        a = np.ascontiguousarray(a.T).T
    return a, np.ascontiguousarray(b.T).T if order == "gradient" else b


def test_rounding() -> None:
    ulp = 2.0**-7  # of bfloat16 numbers from 1 to 2
    x = [1 + ulp / 2, 1 + 3 * ulp / 2, 1 + ulp * 0.51, -1 - ulp / 2, 0.0, -0.0, np.inf, -np.inf, 3.4e38, 2.0**-130]
    expected = [1, 1 + 2 * ulp, 1 + ulp, -1, 0.0, -0.0, np.inf, -np.inf, np.inf, 2.0**-130]
    got = bfloat16.rounded(np.array(x, np.float32))
    assert np.array_equal(got, np.array(expected, np.float32))
    assert np.signbit(got[5])
    for word in (0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF):  # the rounding of none may carry into its sign
        assert np.isnan(bfloat16.rounded(np.array([word], np.uint32).view(np.float32))).all()


@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("order", ["up", "down", "gradient"])
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_products(
    way: str, order: str, m: int, k: int, n: int, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "way", lambda: way)
    a, b = operands(m, k, n, order)
    rounded_a, rounded_b = (bfloat16.rounded(x).astype(np.float64) for x in (a, b))
    bound = k * np.finfo(np.float32).eps * (abs(rounded_a) @ abs(rounded_b)) + 1e-30
    out = np.full((m, n), np.nan, np.float32)  # which is not read
    bfloat16.matmul(a, b, out)
    assert (abs(out - rounded_a @ rounded_b) <= bound).all()
    before = out.astype(np.float64)
    bfloat16.matmul(a, b, out, -0.5, 0.25)
    assert (abs(out - (-0.5 * (rounded_a @ rounded_b) + 0.25 * before)) <= bound + 1e-6 * abs(before)).all()


@pytest.mark.parametrize("way", HERE)
def test_eight_threads_give_the_same_bits(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "way", lambda: way)
    a, b = operands(270, 100, 200, "up")
    alone, together = np.empty((270, 200), np.float32), np.empty((270, 200), np.float32)
    bfloat16.matmul(a, b, alone)
    monkeypatch.setattr(threads, "WAKING", 1)
    with threads.limited(8):
        bfloat16.matmul(a, b, together)
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("way", HERE)
def test_numbers_that_bfloat16_has_are_multiplied_exactly(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "way", lambda: way)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((20, 90), (90, 50)))
    out = np.empty((20, 50), np.float32)
    bfloat16.matmul(a, b, out)
    assert np.array_equal(out, a @ b)


@pytest.mark.parametrize("way", HERE)
def test_numbers_that_are_none_stay_where_they_are(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "way", lambda: way)
    a, b = operands(35, 33, 19, "down")
    a[34, 32], b[0, 18] = np.nan, np.inf
    out = np.empty((35, 19), np.float32)
    bfloat16.matmul(a, b, out)
    assert np.isnan(out[34]).all()
    assert not np.isfinite(out[:, 18]).any()
    assert np.isfinite(out[:34, :18]).all()


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_empty_products(m: int, k: int, n: int) -> None:
    out = np.ones((m, n), np.float32)
    bfloat16.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32), out, 1.0, 2.0)
    assert np.array_equal(out, np.full((m, n), 2.0))


@pytest.mark.parametrize("way", HERE)
def test_what_would_be_copied_is_refused(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "way", lambda: way)
    x, out = np.ones((8, 8), np.float32), np.ones((4, 4), np.float32)
    odd = np.frombuffer(bytes(65), np.uint8)[1:].view(np.float32).reshape(4, 4)
    for other in (x[::2, ::2], x[:4, :4], odd):
        for operands in ((other, out.copy()), (out.copy(), other)):
            with pytest.raises(ValueError, match="would be copied"):
                bfloat16.matmul(*operands, out)
    with pytest.raises(ValueError, match="do not fit"):
        bfloat16.matmul(x, out, out)


def test_the_ways_test_themselves() -> None:
    assert bfloat16.way() == HERE[0]
    assert all(bfloat16.self_test(way) for way in ([bfloat16.multiply_rows] if HAS_PAIRS else []))
    assert not HAS_PAIRS or not bfloat16.self_test(lambda *_: None)


def test_precision_is_of_a_block_and_a_thread() -> None:
    """Products with real values are those that were asked for; double precision stays what it is."""
    W, x = operands(9, 30, 11, "down")
    full, rounded = W @ x, bfloat16.rounded(W) @ bfloat16.rounded(x)
    seen: list[np.ndarray] = []

    def sums(dtype: type = np.float32) -> np.ndarray:
        product = Product(W.astype(dtype), x.astype(dtype), False, 30)
        return product.sums(lambda n, batch, kind: np.empty((n, batch), kind))

    with precision.products_in("bf16"):
        assert np.allclose(sums(), rounded, rtol=0, atol=1e-5)
        assert np.allclose(sums(np.float64), W.astype(np.float64) @ x, rtol=0, atol=1e-12)
        other = threading.Thread(target=lambda: seen.append(sums()))
        other.start()
        other.join()
    expected = np.empty_like(full)
    dense.matmul(W, x, expected)
    assert np.array_equal(sums(), expected)
    assert np.array_equal(seen[0], expected)
    assert not np.allclose(full, rounded, rtol=0, atol=1e-4)
