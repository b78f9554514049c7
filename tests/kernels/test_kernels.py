"""Kernels against NumPy, and compiled against interpreted code bit for bit.

Modules: modelpar/kernels/backprop, modelpar/kernels/llvm/exponential, modelpar/kernels/products/dense,
modelpar/kernels/reductions, modelpar/kernels/sampling/epilogue, modelpar/kernels/statistics/update
"""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from modelpar.draws import Purpose, Stream, permutation, sample_bernoulli, sample_gaussian, uniform
from modelpar.kernels import threads
from modelpar.kernels.products import dense
from modelpar.kernels.sampling import epilogue, philox
from modelpar.kernels.statistics import update
from modelpar.kernels.warm_up import warm_up

DTYPES = [np.float32, np.float64]
STREAM = Stream(seed=2**40 + 17, layer=1, purpose=Purpose.VISIBLE, repeat=2)


def sigmoid_of(x):
    """The kernel on one row with zero bias."""
    row = np.array(x)[None, :].copy()
    epilogue.bias_sigmoid(row, np.zeros(1, row.dtype))
    return row[0]


# products


def operand(rng, rows, columns, transposed, dtype):
    """A C-contiguous (rows, columns) matrix, or the transpose of a C-contiguous one."""
    x = rng.standard_normal((columns, rows) if transposed else (rows, columns)).astype(dtype)
    return x.T if transposed else x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
@pytest.mark.parametrize("sizes", [(5, 7, 3), (1, 4, 6), (6, 1, 4), (4, 6, 1), (1, 1, 1), (70, 33, 50)], ids=str)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-0.5, 1.0), (2.0, 0.25), (0.0, 1.0)])
def test_matmul_equals_numpy(dtype, a_transposed, b_transposed, sizes, alpha, beta):
    m, k, n = sizes
    rng = np.random.default_rng(m * k + n)
    a, b = operand(rng, m, k, a_transposed, dtype), operand(rng, k, n, b_transposed, dtype)
    out = rng.standard_normal((m, n)).astype(dtype)
    expected = alpha * (a.astype(np.float64) @ b) + beta * out
    dense.matmul(a, b, out, alpha, beta)
    np.testing.assert_allclose(out, expected, rtol=0, atol=100 * k * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_matmul_takes_empty_sizes(dtype, sizes, beta):
    m, k, n = sizes
    out = np.ones((m, n), dtype)
    dense.matmul(np.ones((m, k), dtype), np.ones((k, n), dtype), out, beta=beta)
    assert np.array_equal(out, np.full((m, n), beta))


@pytest.mark.parametrize("k", [0, 4])
def test_beta_of_zero_ignores_nan_in_out(k):
    out = np.full((3, 5), np.nan, np.float32)
    dense.matmul(np.ones((3, k), np.float32), np.ones((k, 5), np.float32), out)
    assert np.array_equal(out, np.full((3, 5), float(k)))


@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
def test_matmul_copies_nothing(a_transposed, b_transposed):
    rng = np.random.default_rng(0)
    a, b = operand(rng, 300, 200, a_transposed, np.float32), operand(rng, 200, 100, b_transposed, np.float32)
    out = np.zeros((300, 100), np.float32)
    dense.matmul(a, b, out)
    tracemalloc.start()
    try:
        dense.matmul(a, b, out, beta=1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000  # the smallest of the three takes 80 000 bytes


def test_matmul_writes_into_a_panel_of_a_larger_array():
    array = np.zeros((6, 4), np.float32)
    dense.matmul(np.ones((2, 3), np.float32), np.ones((3, 4), np.float32), array[2:4])
    assert np.array_equal(array.sum(axis=1), [0, 0, 12, 12, 0, 0])


def test_matmul_refuses_arrays_that_it_would_copy():
    square = np.ones((4, 4), np.float32)
    wide = np.ones((4, 8), np.float32)
    frozen = square.copy()
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match="a would be copied"):
        dense.matmul(wide[:, :4], square, square.copy())
    with pytest.raises(ValueError, match="b would be copied"):
        dense.matmul(square, wide[:, ::2], square.copy())
    for out in (wide[:, :4], square.copy().T, frozen):
        with pytest.raises(ValueError, match="out would be copied"):
            dense.matmul(square, square, out)
    with pytest.raises(ValueError, match="types do not fit"):
        dense.matmul(square, square.astype(np.float64), square.copy())
    with pytest.raises(ValueError, match="types do not fit"):
        dense.matmul(*(np.ones((2, 2), np.int64) for _ in range(3)))
    with pytest.raises(ValueError, match="shapes do not fit"):
        dense.matmul(square, wide, square.copy())
    with pytest.raises(ValueError, match="matrices are needed"):
        dense.matmul(square, square[0], square[0].copy())


# bias, sigmoid, draw


def precise_sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x.astype(np.longdouble)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_keeps_its_stated_error(dtype):
    dtype = np.dtype(dtype)
    tiny = np.finfo(dtype).tiny
    edge = 87.3 if dtype == np.float32 else 708.0
    small = np.logspace(np.log10(tiny), 1, 20_000)
    x = np.concatenate([np.linspace(-edge, 100, 300_001), small, -small]).astype(dtype)
    expected = precise_sigmoid(x)
    assert np.max(np.abs(sigmoid_of(x) - expected) / expected) <= epilogue.SIGMOID_ERROR[dtype]
    below = np.linspace(-2 * edge, -edge, 10_001).astype(dtype)
    assert np.max(np.abs(sigmoid_of(below) - precise_sigmoid(below))) <= tiny


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_at_its_limits(dtype):
    x = np.array([-np.inf, -1e30, -1e4, -720, -0.0, 0.0, 60, 1e4, 1e30, np.inf], dtype)
    if dtype == np.float32:
        x[3] = -89
    assert sigmoid_of(x).tolist() == [0, 0, 0, 0, 0.5, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_nan_stays_nan_and_infects_nothing(dtype, n):
    x = np.zeros((3, n), dtype)
    x[1, n // 2] = np.nan
    bias = np.zeros(3, dtype)
    for sign in (1, -1):
        p = np.copysign(x, sign)
        states = np.full_like(p, 7)
        epilogue.bias_sigmoid(p, bias)
        sample_bernoulli(p, STREAM, np.arange(3), 0, states)
        assert np.array_equal(np.isnan(p), np.isnan(x))
        assert np.all(p[~np.isnan(x)] == 0.5)
        assert states[1, n // 2] == 0
        assert set(states.ravel()) <= {0.0, 1.0}
    bias[2] = np.nan
    p = np.zeros((3, n), dtype)
    epilogue.bias_sigmoid(p, bias)
    assert np.isnan(p).all(axis=1).tolist() == [False, False, True]
    assert not np.isnan(p[:2]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_never_decreases_and_is_between_0_and_1(dtype):
    x = (np.arange(-100_000, 100_000) * 2.0**-10).astype(dtype)
    y = sigmoid_of(x)
    assert np.diff(y).min() >= 0
    assert (y[0], y[-1]) == (pytest.approx(0, abs=1e-37), 1)
    assert y[0] >= 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_is_the_same_bits_in_every_position(dtype):
    values = np.random.default_rng(3).normal(0, 5, 41).astype(dtype)
    expected = sigmoid_of(values)
    for start in range(20):
        for stop in (start + 1, start + 5, start + 17, 41):
            assert np.array_equal(sigmoid_of(values[start:stop]), expected[start:stop])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (200, 37), (300, 1100)], ids=str)
@pytest.mark.parametrize("samples", ["first", "ids"])
def test_sigmoids_and_draws_below_them(dtype, shape, samples, n_threads):
    rng = np.random.default_rng(2)
    x, bias = rng.normal(0, 2, shape).astype(dtype), rng.normal(0, 1, shape[0]).astype(dtype)
    units = rng.permutation(1000)[: shape[0]]
    sample_ids = 13 if samples == "first" else rng.integers(0, 2**40, shape[1])
    p, states, u = (np.full_like(x, np.nan) for _ in range(3))
    p[:] = x
    epilogue.bias_sigmoid(p, bias)
    sample_bernoulli(p, STREAM, units, sample_ids, states)
    uniform(STREAM, units, sample_ids, u)
    assert np.array_equal(states, u < p)
    np.testing.assert_allclose(p, precise_sigmoid(x + bias[:, None]).astype(dtype), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_bias(dtype, n_threads):
    rng = np.random.default_rng(2)
    x, bias = rng.normal(0, 2, (700, 300)).astype(dtype), rng.normal(0, 1, 700).astype(dtype)
    expected = x + bias[:, None]
    epilogue.add_bias(x, bias)
    assert np.array_equal(x, expected)


def test_wrong_arrays_are_refused():
    x = np.zeros((3, 4), np.float32)
    for bias in (np.zeros(4, np.float32), np.zeros(3)):
        with pytest.raises(ValueError, match="but biases are"):
            epilogue.bias_sigmoid(x, bias)
    with pytest.raises(ValueError, match="C-contiguous"):
        epilogue.add_bias(np.zeros((4, 3), np.float32).T, x[:, 0].copy())
    with pytest.raises(ValueError, match="but both must be"):
        update.apply_update(np.zeros(3), np.zeros(4), 0.0)


# update and threads


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 1000, 250_001])
def test_apply_update(dtype, n, n_threads):
    rng = np.random.default_rng(n)
    parameters, velocity = rng.normal(size=n).astype(dtype), rng.normal(size=n).astype(dtype)
    decay = 0.0625  # a power of two, so that a fused multiply-add could not differ
    expected_velocity = velocity - dtype(decay) * parameters
    expected = parameters + expected_velocity
    update.apply_update(parameters, velocity, decay)
    assert np.array_equal(velocity, expected_velocity)
    assert np.array_equal(parameters, expected)


@pytest.mark.parametrize("grain", [1, 7, 50, 1000])
@pytest.mark.parametrize("n", [0, 1, 2, 99, 100])
def test_split_covers_every_row_once(n, grain, n_threads):
    seen = []
    threads.split(n, grain, lambda start, stop: seen.append((start, stop)))
    assert len(seen) <= n_threads
    assert sorted(row for start, stop in seen for row in range(start, stop)) == list(range(n))
    assert all(stop - start >= min(grain, n) for start, stop in seen)


@pytest.mark.parametrize("failing", [0, 99])
def test_split_raises_what_a_panel_raises(failing, n_threads):
    def work(start, stop):
        if start <= failing < stop:
            raise RuntimeError("a panel failed")

    with pytest.raises(RuntimeError, match="a panel failed"):
        threads.split(100, 1, work)


def test_fewer_than_one_thread_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        threads.set_threads(0)


# compilation


def small_results(dtype):
    """One result of every kernel at a small size."""
    rng = np.random.default_rng(11)
    x = rng.normal(0, 30, (4, 21)).astype(dtype)
    x[0, :4] = np.nan, np.inf, -np.inf, 0.0
    bias = rng.normal(size=4).astype(dtype)
    units, ids = np.array([3, 1, 2**32 - 1, 0]), rng.integers(0, 2**50, 21)
    results = {"order": permutation(3, 1, 50)}
    for name, samples in (("first", 4 * 2**32 - 9), ("ids", ids)):
        p, states, u, g = x.copy(), np.empty_like(x), np.empty_like(x), np.empty_like(x)
        epilogue.bias_sigmoid(p, bias)
        sample_bernoulli(p, STREAM, units, samples, states)
        uniform(STREAM, units, samples, u)
        sample_gaussian(x, STREAM, units, samples, g)
        results |= {f"p {name}": p, f"states {name}": states, f"uniform {name}": u, f"gaussian {name}": g}
    p, shifted, parameters, velocity = x.copy(), x.copy(), x[1].copy(), x[2].copy()
    epilogue.bias_sigmoid(p, bias)
    epilogue.add_bias(shifted, bias)
    update.apply_update(parameters, velocity, 0.125)
    product = np.empty((4, 4), dtype)
    dense.matmul(x[1:].T[:4].copy(), x[1:, :4].copy(), product)
    return results | {"p": p, "shifted": shifted, "parameters": parameters, "velocity": velocity, "product": product}


@pytest.mark.parametrize("dtype", DTYPES)
def test_interpreted_code_gives_the_same_bits(dtype, tmp_path):
    path = tmp_path / "interpreted.npz"
    program = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import numpy as np, numba\n"
        "from tests.kernels import test_kernels\n"
        "assert numba.config.DISABLE_JIT\n"
        f"np.savez({str(path)!r}, **test_kernels.small_results(np.{np.dtype(dtype).name}))"
    )
    folders = [str(Path(__file__).parents[2])]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    compiled = small_results(dtype)
    with np.load(path) as interpreted:
        assert set(interpreted) == set(compiled)
        for name, expected in compiled.items():
            assert np.array_equal(interpreted[name], expected, equal_nan=True), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_compiles_after_warm_up(dtype):
    warm_up(dtype)
    kernels = [f for module in (epilogue, philox, update) for f in vars(module).values() if hasattr(f, "signatures")]
    before = [len(kernel.signatures) for kernel in kernels]
    small_results(dtype)
    out = np.empty((2, 3), dtype)
    sample_bernoulli(out, STREAM, np.arange(2), 0, out)
    assert [len(kernel.signatures) for kernel in kernels] == before
