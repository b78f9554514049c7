"""Products with packed states, and samplers of them: every kernel against NumPy, bit for bit.

Modules: modelpar/kernels/llvm/sampling, modelpar/kernels/products/draw, modelpar/kernels/products/fixed_point
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest

from modelpar.draws import uniform
from modelpar.kernels import states, threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import draw, subset_sums
from modelpar.kernels.products.dispatch import VARIABLE, available, candidates
from modelpar.kernels.products.product import Product, Sampler, plain_sums
from modelpar.kernels.products.subset_sums import fixed_point_scale
from modelpar.kernels.sampling import epilogue
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.kernels.statistics import counts, learning, probability_counts
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts, update_from
from modelpar.kernels.warm_up import warm_up
from modelpar.streams import Purpose, Stream
from tests.kernels.test_kernels import small_results as small_kernel_results

STREAM = Stream(seed=2**40 + 17, layer=1, purpose=Purpose.HIDDEN, repeat=2)
KERNELS = available()


def allocate(n_units, batch, dtype):
    return np.full((n_units, batch), 77, dtype)


def integer_sums(W, bits, up, n_inputs):
    """Sums in fixed point, int32, by integers in NumPy."""
    steps = np.rint(W.astype(np.float64) * float(fixed_point_scale(n_inputs))).astype(np.int64)
    return ((steps.T if up else steps) @ bits.astype(np.int64)).astype(np.int32)


def expected_means(sums, bias, n_inputs):
    """sigmoid(float32(sums) * step + bias) by ``bias_sigmoid``, which test_kernels.py compares with exact values."""
    p = sums.astype(np.float32) * np.float32(1 / fixed_point_scale(n_inputs)) if sums.dtype == np.int32 else sums.copy()
    epilogue.bias_sigmoid(p, bias)
    return p


def drawn_uniform(like, unit_ids, samples):
    u = np.empty_like(like)
    uniform(STREAM, unit_ids, samples, u)
    return u


def expected_statistic(p, u, planes):
    """ceil(p L - u); y - u is exact in float64 or too small to matter."""
    y = p * p.dtype.type((1 << planes) - 1)
    return np.ceil(y.astype(np.float64) - u)


def expected_error(p, bits):
    """Sum of squared errors, each rounded to a multiple of 2^-20."""
    miss = np.where(bits, 1 - p, p)
    return float(np.floor(miss * miss * p.dtype.type(2**20) + p.dtype.type(0.5)).sum(dtype=np.float64)) / 2**20


def case(n_in, n_out, batch, *, up=True, density=0.3, scale=1.0, dtype=np.float32):
    rng = np.random.default_rng([n_in, n_out, batch])
    W = rng.normal(0, scale / np.sqrt(max(n_in, 1)), (n_in, n_out) if up else (n_out, n_in)).astype(dtype)
    bits = rng.random((n_in, batch)) < density
    return W, bits, rng.normal(0, 1, n_out).astype(dtype), rng.permutation(5000)[:n_out]


def assert_sampled(drawn, p, u, *, planes, target=None):
    """All results equal those of NumPy from the probabilities and the uniform draws."""
    if drawn.means is not None:
        assert drawn.means.dtype == p.dtype
        assert np.array_equal(drawn.means, p)
    if drawn.states is not None:
        assert drawn.states.planes == 1
        assert np.array_equal(drawn.states.words, pack(u < p).words)
    if drawn.statistic is not None:
        assert drawn.statistic.planes == planes
        assert np.array_equal(drawn.statistic.words, pack(expected_statistic(p, u, planes), planes).words)
    assert drawn.error == (0 if target is None else expected_error(p, target))


# products


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (33, 70, 17), (520, 200, 65), (40, 1100, 3)], ids=str)
@pytest.mark.parametrize("n_inputs", [600, 10_000])
def test_integer_sums_are_the_same_by_every_kernel(kernel, up, sizes, n_inputs, n_threads, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    W, bits, _, _ = case(*sizes, up=up)
    sums = Product(W, pack(bits), up, n_inputs, integer_sums=True).sums(allocate)
    assert sums.dtype == np.int32
    assert np.array_equal(sums, integer_sums(W, bits, up, n_inputs))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_integer_sums_wrap_by_every_kernel(kernel, up, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    W, bits, _, _ = case(300, 70, 20, up=up, scale=7000)
    steps = np.rint(W.astype(np.float64) * float(fixed_point_scale(300))).astype(np.int64)
    exact = (steps.T if up else steps) @ bits
    assert abs(steps).max() < 2**31
    assert (abs(exact) >= 2**31).any()
    sums = Product(W, pack(bits), up, 300, integer_sums=True).sums(allocate)
    assert np.array_equal(sums, (exact & 0xFFFFFFFF).astype(np.uint32).view(np.int32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("packed", [True, False])
def test_products_in_floats(dtype, up, packed, monkeypatch):
    monkeypatch.setenv(VARIABLE, "blas")
    W, bits, _, _ = case(100, 70, 20, up=up, dtype=dtype)
    operand = bits if packed else np.random.default_rng(0).random(bits.shape)
    product = Product(W, pack(bits) if packed else operand.astype(dtype), up, 100)
    assert (product.n_out, product.batch, product.chosen_kernel()) == (70, 20, "blas")
    sums = product.sums(allocate)
    if packed and dtype == np.float32 and not compiled():
        sums = plain_sums(sums, 100)
    assert sums.dtype == dtype
    exact = (W.T if up else W).astype(np.float64) @ operand
    np.testing.assert_allclose(sums, exact, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("sizes", [(0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0)], ids=str)
def test_empty_products(kernel, up, sizes, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    W, bits, bias, ids = case(*sizes, up=up)
    product = Product(W, pack(bits), up, sizes[0], integer_sums=True)
    assert np.array_equal(product.sums(allocate), np.zeros(sizes[1:]))
    sampler = Sampler(bias, ids, STREAM, 3, means=True, planes=3, target=pack(np.ones(sizes[1:])))
    drawn = sampler.of_product(product, allocate)
    p = expected_means(np.zeros(sizes[1:], np.int32), bias, sizes[0])
    assert_sampled(drawn, p, drawn_uniform(p, ids, 3), planes=3, target=np.ones(sizes[1:], bool))
    assert drawn.states.shape == drawn.statistic.shape == drawn.means.shape == sizes[1:]


def test_sums_as_floats():
    sums = np.array([[-(2**31), 2**31 - 1, 3, 0]], np.int32)
    for n_inputs in (10, 5000):
        step = 1 / float(fixed_point_scale(n_inputs))
        assert plain_sums(sums, n_inputs).dtype == np.float32
        assert np.array_equal(plain_sums(sums, n_inputs), (sums * step).astype(np.float32))
    floats = np.zeros((2, 3), np.float64)
    assert plain_sums(floats, 10) is floats


# samplers


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (33, 70, 17), (520, 200, 65), (16, 65, 1100)], ids=str)
@pytest.mark.parametrize("planes", [1, 3])
def test_a_sampler_draws_the_same_by_every_kernel(kernel, up, sizes, planes, n_threads, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    W, bits, bias, ids = case(*sizes, up=up, scale=4)
    target = np.random.default_rng(9).random(sizes[1:]) < 0.5
    sampler = Sampler(bias, ids, STREAM, 1001, means=True, planes=planes, target=pack(target))
    product = Product(W, pack(bits), up, 5000, integer_sums=True)
    fused, parted = sampler.of_product(product, allocate), sampler.of_sums(product.sums(allocate), 5000)
    p = expected_means(integer_sums(W, bits, up, 5000), bias, 5000)
    for drawn in (fused, parted):
        assert all(result is not None for result in (drawn.means, drawn.states, drawn.statistic))
        assert_sampled(drawn, p, drawn_uniform(p, ids, 1001), planes=planes, target=target)


@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("planes", [0, 1, 2, 8])
@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("kind", ["product", np.int32, np.float32, np.float64], ids=str)
def test_only_requested_arrays_are_made(means, states, planes, with_target, kind):
    W, bits, bias, ids = case(20, 70, 90, scale=4)
    target = np.random.default_rng(9).random((70, 90)) < 0.5
    wanted = {"means": means, "states": states, "planes": planes, "target": pack(target) if with_target else None}
    sums = integer_sums(W, bits, True, 20)
    if kind in (np.float32, np.float64):
        sums, bias = sums.astype(kind) / kind(2**20), bias.astype(kind)
    p = expected_means(sums, bias, 20)
    sampler = Sampler(bias, ids, STREAM, 5, **wanted)
    if kind == "product":
        drawn = sampler.of_product(Product(W, pack(bits), True, 20, integer_sums=True), allocate)
    else:
        drawn = sampler.of_sums(sums.copy(), 20)
    assert (drawn.means is not None) == means
    assert (drawn.statistic is not None) == (planes > 0)
    assert (drawn.states is not None) == (states or planes == 1)
    assert_sampled(drawn, p, drawn_uniform(p, ids, 5), planes=planes, target=target if with_target else None)


@pytest.mark.parametrize("batch", [1, 15, 33, 1030])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 1023, 4 * 2**32 - 3, 2**32 + 1, 2**61 + 2])
def test_samples_by_their_first_id(first, batch):
    _, _, bias, ids = case(1, 5, batch)
    ids[0] = 2**32 - 1
    sampler = Sampler(bias, ids, STREAM, first, means=True, planes=8)
    sums = np.random.default_rng(0).integers(-(2**22), 2**22, (5, batch)).astype(np.int32)
    p = expected_means(sums, bias, 20)
    u = drawn_uniform(p, ids, first)
    assert_sampled(sampler.of_sums(sums.copy(), 20), p, u, planes=8)
    explicit = Sampler(bias, ids, STREAM, np.arange(first, first + batch), means=True, planes=8)
    assert_sampled(explicit.of_sums(sums, 20), p, u, planes=8)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 33, 1030])
def test_samples_by_explicit_ids(dtype, batch):
    rng = np.random.default_rng(batch)
    samples = rng.integers(0, 2**62, batch)
    bias = np.zeros(70, np.float64 if dtype == np.float64 else np.float32)
    sums = (rng.normal(0, 1, (70, batch)) * (2**20 if dtype == np.int32 else 1)).astype(dtype)
    p = expected_means(sums, bias, 20)
    units = rng.permutation(2**20)[:70]
    drawn = Sampler(bias, units, STREAM, samples, planes=3).of_sums(sums, 20)
    assert_sampled(drawn, p, drawn_uniform(p, units, samples), planes=3)


def test_parts_of_a_minibatch_draw_the_same_as_the_minibatch():
    W, bits, bias, ids = case(30, 70, 130)
    product = Product(W, pack(bits), True, 30, integer_sums=True)
    complete = Sampler(bias, ids, STREAM, 6, planes=3).of_product(product, allocate)
    for start, stop in pairwise((0, 1, 64, 67, 130)):
        product = Product(W, pack(bits[:, start:stop]), True, 30, integer_sums=True)
        part = Sampler(bias, ids, STREAM, 6 + start, planes=3).of_product(product, allocate)
        assert np.array_equal(part.states.words, complete.states.take(start, stop).words)
        assert np.array_equal(part.statistic.words, complete.statistic.take(start, stop).words)


def test_wrong_ids_are_refused():
    bias, sums = np.zeros(5, np.float32), np.zeros((5, 9), np.int32)
    with pytest.raises(ValueError, match="sample ids have shape"):
        Sampler(bias, np.arange(5), STREAM, np.arange(8)).of_sums(sums.copy(), 5)
    with pytest.raises(ValueError, match="at least 0"):
        Sampler(bias, np.arange(5), STREAM, -1).of_sums(sums.copy(), 5)
    with pytest.raises(ValueError, match="unit ids have shape"):
        Sampler(bias, np.arange(4), STREAM, 0).of_sums(sums.copy(), 5)


# the statistic of k bits


def certain_sums(p, batch):
    """Float sums whose sigmoids are these probabilities up to rounding; 0 and 1 exactly."""
    with np.errstate(divide="ignore"):
        return np.repeat(np.log(p / (1 - p)), batch, axis=1)


@pytest.mark.parametrize("planes", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_statistic_is_unbiased(planes, dtype):
    n = 60_000
    levels = (1 << planes) - 1
    p = np.array([0, 1e-4, 0.01, 0.1, 1 / 7, 0.3, 0.5, 2 / 3, 0.8, 0.99, 1 - 1e-4, 1])[:, None]
    sampler = Sampler(np.zeros(len(p), dtype), np.arange(len(p)), STREAM, 7, means=True, planes=planes)
    drawn = sampler.of_sums(certain_sums(p, n).astype(dtype), 1)
    means = drawn.means[:, 0].astype(np.float64)
    np.testing.assert_allclose(means, p[:, 0], rtol=1e-6)
    values = unpack(drawn.statistic, np.float64)
    y = means * levels
    assert (values >= np.floor(y)[:, None]).all()
    assert (values <= np.ceil(y)[:, None]).all()
    standard_error = np.sqrt((y - np.floor(y)) * (np.ceil(y) - y) / n)
    assert (abs(values.mean(axis=1) - y) <= 5 * standard_error + 1e-12).all()
    assert (values[0] == 0).all()
    assert (values[-1] == levels).all()


def test_the_statistic_of_one_bit_is_the_state():
    W, bits, bias, ids = case(30, 70, 130)
    product = Product(W, pack(bits), True, 30, integer_sums=True)
    for wanted in (True, False):
        drawn = Sampler(bias, ids, STREAM, 6, states=wanted, planes=1).of_product(product, allocate)
        states = Sampler(bias, ids, STREAM, 6).of_product(product, allocate).states
        assert isinstance(drawn.statistic, Packed)
        assert np.array_equal(drawn.statistic.words, states.words)


@pytest.mark.parametrize("planes", range(2, 9))
def test_the_statistic_at_integer_levels(planes):
    """At integer levels and the floats next to them, the statistic is never outside the range nor a level away."""
    levels = (1 << planes) - 1
    p = np.arange(levels + 1, dtype=np.float32) / np.float32(levels)
    p = np.concatenate([p, np.nextafter(p[:-1], np.float32(1)), np.nextafter(p[1:], np.float32(0))])
    sampler = Sampler(np.zeros(len(p), np.float32), np.arange(len(p)), STREAM, 0, means=True, planes=planes)
    drawn = sampler.of_sums(certain_sums(p.astype(np.float64)[:, None], 500).astype(np.float32), 1)
    u = drawn_uniform(drawn.means, np.arange(len(p)), 0)
    values = unpack(drawn.statistic, np.float64)
    assert np.array_equal(values, expected_statistic(drawn.means, u, planes))
    assert (abs(values - drawn.means.astype(np.float64) * levels) < 1 + 1e-4).all()
    assert values.min() == 0
    assert values.max() == levels


# without compilation, and on other processors


def small_results(dtype, *, probabilities=True):
    """Results of every kernel on packed states at small sizes, with weights of this type."""
    results = {}
    rng = np.random.default_rng(5)
    for up in (True, False):
        W, bits, bias, ids = case(40, 70, 20, up=up, scale=4, dtype=dtype)
        product = Product(W, pack(bits), up, 5000, integer_sums=True)
        target = pack(rng.random((70, 20)) < 0.5)
        results[f"sums {up}"] = product.sums(allocate)
        for name, samples in (("first", 4 * 2**32 - 9), ("ids", rng.integers(0, 2**50, 20))):
            for planes in (1, 3, 8):
                sampler = Sampler(bias, ids, STREAM, samples, means=True, planes=planes, target=target)
                for drawn in (sampler.of_product(product, allocate), sampler.of_sums(product.sums(allocate), 5000)):
                    case_name = f"{up} {name} {planes} {len(results)}"
                    results |= {
                        f"means {case_name}": drawn.means, f"states {case_name}": drawn.states.words,
                        f"statistic {case_name}": drawn.statistic.words, f"error {case_name}": np.array(drawn.error),
                    }  # fmt: skip
        real = Sampler(bias, ids, STREAM, 3, means=True, planes=3).of_sums(rng.normal(0, 9, (70, 20)).astype(dtype), 40)
        results |= {f"real {up}": real.means, f"states {up}": real.states.words, f"k {up}": real.statistic.words}
    v0, v1 = (pack(rng.random((9, 70)) < 0.5) for _ in range(2))
    p0, p1 = (rng.random((33, 70)).astype(np.float32) for _ in range(2))
    blocks = {"probabilities": ProbabilityCounts((v0, p0), (v1, p1), 70)} if probabilities else {}
    for planes in (1, 3, 8):
        s0, s1 = (pack(rng.integers(0, 1 << planes, (33, 70)), planes) for _ in range(2))
        results[f"sums of {planes} planes"] = s0.sums()
        blocks[f"{planes} planes"] = Counts((v0, s0), (v1, s1))
    for name, block in blocks.items():
        W, V = rng.normal(0, 1, (2, 9, 33)).astype(dtype)
        C = np.zeros((9, 33), np.int32)
        block.fill(C)
        block.learn(W, V, 0.9, 0.01 * block.unit, 0.003)
        results |= {f"C {name}": C, f"plain {name}": block.plain(), f"W {name}": W.copy(), f"V {name}": V.copy()}
        update_from(C, W, V, 0.5, 0.1, 0.003)
        results |= {f"W again {name}": W, f"V again {name}": V}
    return results


def signatures_after_warm_up(dtype):
    """{kernel: number of types that it is compiled for, after ``warm_up`` and after its use}"""
    kernels = {name: kernel for module in (counts, subset_sums, draw, probability_counts, states)
               for name, kernel in vars(module).items() if hasattr(kernel, "signatures")}  # fmt: skip
    warm_up(dtype)
    before = {name: len(kernel.signatures) for name, kernel in kernels.items()}
    for kernel in candidates():
        os.environ[VARIABLE] = kernel
        small_results(dtype, probabilities=dtype == np.float32)  # only with float32 weights
    return {name: np.array([before[name], len(kernel.signatures)]) for name, kernel in kernels.items()}


def results_elsewhere(expression, path, environment):
    """The results of an expression in another Python with a changed environment, passed in the file ``path``."""
    program = (
        "import warnings; warnings.simplefilter('error')\n"
        "import numpy as np, numba\n"
        "from modelpar.kernels.llvm import vectors\n"
        "from modelpar.kernels.products import dispatch\n"
        "from tests.kernels import test_kernels\n"
        "from tests.kernels.products import test_product, test_tables\n"
        f"np.savez({str(path)!r}, **{expression})"
    )
    folders = [str(Path(__file__).parents[3])]
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_D", "NUMBA_CPU", VARIABLE))
    }
    environment = {**kept, "PYTHONPATH": os.pathsep.join(folders), **environment}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    with np.load(path) as results:
        return dict(results)


def assert_same_results(got, expected):
    assert set(got) == set(expected)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype, name
        assert np.array_equal(got[name], values, equal_nan=values.dtype.kind == "f"), name


@pytest.mark.parametrize("kernel", KERNELS)
def test_eight_threads_give_the_same_bits(kernel, monkeypatch):
    """More threads than cores, each with a little work, in whatever order they get there."""
    monkeypatch.setenv(VARIABLE, kernel)
    expected = small_results(np.float32)
    monkeypatch.setattr(threads, "WAKING", 1)
    monkeypatch.setattr(learning, "GRAIN", 1)
    with threads.limited(8):
        for _ in range(3):
            assert_same_results(small_results(np.float32), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_interpreted_code_gives_the_same_bits(dtype, tmp_path):
    expression = f"test_product.small_results(np.{np.dtype(dtype).name}) | {{'compiled': np.array(vectors.compiled())}}"
    got = results_elsewhere(expression, tmp_path / "results.npz", {"NUMBA_DISABLE_JIT": "1"})
    assert not got.pop("compiled")
    assert_same_results(got, small_results(dtype))


@pytest.mark.slow
@pytest.mark.skipif(not compiled(), reason="nothing is compiled here")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_compiles_after_warm_up(dtype, tmp_path):
    expression = f"test_product.signatures_after_warm_up(np.{np.dtype(dtype).name})"
    got = results_elsewhere(expression, tmp_path / "results.npz", {})
    assert {"sample_units", "sample_sums", "sample_means", "incoming_sums", "count_and_update"} <= set(got)
    assert {name: n.tolist() for name, n in got.items() if n[0] != n[1]} == {}


@pytest.mark.slow
@pytest.mark.skipif(not compiled(), reason="nothing is compiled here")
@pytest.mark.skipif(
    not llvmlite.binding.get_host_cpu_features().get("avx2", False), reason="this processor does not run such code"
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_processors_without_avx_512_give_the_same_bits(dtype, tmp_path):
    """Every kernel compiled for an older processor, including the draws: no result depends on the instructions."""
    name = np.dtype(dtype).name
    expression = (
        f"test_product.small_results(np.{name}) | test_kernels.small_results(np.{name})"
        " | {'kernels': np.array(dispatch.available()), 'cpu': np.array(numba.config.CPU_NAME)}"
    )
    older = {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+popcnt,+sse4.2",
        "NUMBA_CACHE_DIR": str(tmp_path / "compiled"),
    }
    got = results_elsewhere(expression, tmp_path / "results.npz", older)
    assert got.pop("kernels").tolist() == ["tables", "lists", "blas"]
    assert got.pop("cpu") == "haswell"
    assert_same_results(got, small_results(dtype) | small_kernel_results(dtype))
