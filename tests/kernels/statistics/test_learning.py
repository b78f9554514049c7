"""Statistics in integers and the updates from them, against NumPy bit for bit in the documented order.

Modules: modelpar/kernels/llvm/counts, modelpar/kernels/statistics/counts,
modelpar/kernels/statistics/probability_counts
"""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels.states import pack
from modelpar.kernels.statistics import probability_counts
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts, update_from

DTYPES = [np.float32, np.float64]
SIZES = [(1, 1), (4, 16), (5, 15), (9, 17), (3, 513), (53, 70)]  # rows, columns
SCALARS = {"carry": 0.9, "gain": 0.0123, "shrink": 1e-3}


def weights(rows, columns, dtype, seed=0):
    rng = np.random.default_rng([seed, rows, columns])
    return rng.normal(0, 0.1, (rows, columns)).astype(dtype), rng.normal(0, 0.01, (rows, columns)).astype(dtype)


def learned(C, W, V, carry, gain, shrink):
    """(W, V): V = carry V + gain C; V -= shrink W; W += V, each operation rounded to the weights' type."""
    kind = W.dtype.type
    velocity = kind(carry) * V + kind(gain) * C.astype(W.dtype)
    velocity = velocity - kind(shrink) * W
    return W + velocity, velocity


def state_phase(rows, columns, batch, planes, seed):
    rng = np.random.default_rng([seed, rows, columns, batch, planes])
    return rng.random((rows, batch)) < 0.4, rng.integers(0, 1 << planes, (columns, batch))


def state_case(rows, columns, batch, planes):
    """(Counts, C in NumPy's integers)"""
    phases = [state_phase(rows, columns, batch, planes, seed) for seed in (1, 2)]
    C = [v.astype(np.int64) @ s.T for v, s in phases]
    return Counts(*[(pack(v), pack(s, planes)) for v, s in phases]), C[0] - C[1]


def probability_case(rows, columns, batches, n_samples):
    """(ProbabilityCounts, C in NumPy's integers)"""
    operands, C = [], []
    scale = 2.0 ** probability_counts.fraction_bits(n_samples)
    for seed, batch in enumerate(batches):
        rng = np.random.default_rng([seed, rows, columns, batch])
        v, p = rng.random((rows, batch)) < 0.4, rng.random((columns, batch)).astype(np.float32)
        p[rng.random(p.shape) < 0.1] = 1
        operands.append((pack(v), p))
        C.append(v.astype(np.int64) @ np.rint(p.astype(np.float64) * scale).astype(np.int64).T)
    return ProbabilityCounts(*operands, n_samples), C[0] - C[1]


# states and k-bit values


@pytest.mark.parametrize("planes", range(1, 9))
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("batch", [0, 1, 63, 65, 130])
def test_counts_equal_integers(size, batch, planes, n_threads):
    counts, C = state_case(*size, batch, planes)
    assert counts.shape == size
    assert counts.unit == 1 / ((1 << planes) - 1)
    assert np.array_equal(counts.plain(), C)
    out = np.full(size, 99, np.int32)
    counts.fill(out)
    assert np.array_equal(out, C)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_counts_in_each_type(size, dtype, n_threads):
    counts, C = state_case(*size, 18, 3)
    out = np.full(size, 99, dtype)
    counts.fill(out)
    assert np.array_equal(out, C)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("batch", "planes"), [(0, 1), (1, 1), (65, 1), (64, 3), (130, 8)])
def test_learning_from_counts(size, dtype, batch, planes, n_threads):
    counts, C = state_case(*size, batch, planes)
    W, V = weights(*size, dtype)
    expected = learned(C, W, V, **SCALARS)
    counts.learn(W, V, **SCALARS)
    assert np.array_equal(W, expected[0])
    assert np.array_equal(V, expected[1])


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("kind", ["states", "probabilities"])
def test_empty_blocks(size, kind):
    counts, _ = state_case(*size, 20, 2) if kind == "states" else probability_case(*size, (20, 20), 20)
    W, V = weights(*size, np.float32)
    counts.learn(W, V, **SCALARS)
    counts.fill(np.zeros(size, np.int32))
    assert counts.plain().shape == size


@pytest.mark.parametrize("kind", ["states", "probabilities"])
def test_nothing_outside_the_block_is_changed(kind):
    counts, C = state_case(7, 21, 70, 2) if kind == "states" else probability_case(7, 21, (70, 70), 70)
    W, V = weights(7, 21, np.float32)
    expected = learned(C, W, V, **SCALARS)
    around = np.full((3, 11, 21), np.nan, np.float32)
    around[0, 2:-2], around[1, 2:-2] = W, V
    counts.learn(around[0, 2:-2], around[1, 2:-2], **SCALARS)
    assert np.array_equal(around[0, 2:-2], expected[0])
    assert np.array_equal(around[1, 2:-2], expected[1])
    around[:2, 2:-2] = np.nan
    assert np.isnan(around).all()
    out = np.full((11, 21), 99, np.int32)
    counts.fill(out[2:-2])
    assert np.array_equal(out[2:-2], C)
    assert (np.delete(out, np.s_[2:-2], axis=0) == 99).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize(("batch", "planes"), [(0, 1), (1, 1), (65, 1), (64, 3), (130, 8)])
def test_counts_of_the_model_only(size, dtype, batch, planes, n_threads):
    """Without samples of the data, C is the same as with states of the data that are all 0."""
    v, s = state_phase(*size, batch, planes, 1)
    model = pack(v), pack(s, planes)
    counts, C = Counts(Counts.empty_like(model), model), -(v.astype(np.int64) @ s.T)
    assert counts.shape == size
    assert counts.unit == 1 / ((1 << planes) - 1)
    assert np.array_equal(counts.plain(), C)
    out = np.full(size, 99, np.int32)
    counts.fill(out)
    assert np.array_equal(out, C)
    W, V = weights(*size, dtype)
    added = V + dtype(0.5) * C.astype(dtype)
    expected = learned(C, W, V, **SCALARS)
    again = V.copy()
    counts.add_to(again, 0.5)
    assert np.array_equal(again, added)
    counts.learn(W, V, **SCALARS)
    assert np.array_equal(W, expected[0])
    assert np.array_equal(V, expected[1])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_counts_added_to_a_velocity(size, n_threads):
    counts, C = state_case(*size, 70, 3)
    _, V = weights(*size, np.float32)
    expected = V + np.float32(0.25) * C.astype(np.float32)
    counts.add_to(V, 0.25)
    assert np.array_equal(V, expected)


def test_phases_of_unlike_sizes_are_refused():
    data, model = state_phase(4, 5, 70, 2, 0), state_phase(4, 5, 60, 2, 1)
    with pytest.raises(ValueError, match="must have the same samples and planes"):
        Counts((pack(data[0]), pack(data[1], 2)), (pack(model[0]), pack(model[1], 2)))
    with pytest.raises(ValueError, match="must have the same samples and planes"):
        Counts((pack(data[0]), pack(data[1], 2)), (pack(data[0]), pack(data[1], 3)))
    with pytest.raises(ValueError, match="must have the same samples and planes"):
        Counts((pack(data[0]), pack(data[1][:, :9], 2)), (pack(data[0]), pack(data[1], 2)))
    with pytest.raises(ValueError, match="must have the same samples and planes"):  # the model's phase is required
        Counts((pack(data[0]), pack(data[1], 2)), Counts.empty_like((pack(data[0]), pack(data[1], 2))))


# states and probabilities


@pytest.mark.parametrize("size", [(1, 1), (16, 64), (17, 65), (100, 130), (53, 200)], ids=str)
@pytest.mark.parametrize("batches", [(0, 0), (1, 1), (14, 16), (15, 15), (64, 65), (511, 100)], ids=str)
def test_probability_counts_equal_integers(size, batches, n_threads):
    counts, C = probability_case(*size, batches, max(batches))
    assert counts.shape == size
    assert counts.unit == 1 / float(counts.scale) == 2.0 ** -probability_counts.fraction_bits(max(batches))
    assert np.array_equal(counts.plain(), C)
    out = np.full(size, 99, np.int32)
    counts.fill(out)
    assert np.array_equal(out, C)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (16, 64), (17, 65), (53, 200)], ids=str)
@pytest.mark.parametrize("batches", [(0, 0), (14, 16), (100, 100)], ids=str)
def test_learning_from_probability_counts(size, dtype, batches, n_threads):
    counts, C = probability_case(*size, batches, 100)
    W, V = weights(*size, dtype)
    scalars = SCALARS | {"gain": SCALARS["gain"] * counts.unit}
    expected = learned(C, W, V, **scalars)
    counts.learn(W, V, **scalars)
    assert np.array_equal(W, expected[0])
    assert np.array_equal(V, expected[1])


@pytest.mark.parametrize("n_samples", [0, 1, 255, 256, 2**15 - 1, 2**15, 2**29, 2**30 - 1])
def test_probability_counts_never_leave_int32(n_samples):
    bits = probability_counts.fraction_bits(n_samples)
    assert 0 <= bits <= 22
    assert n_samples * 2**bits < 2**31
    assert bits == 22 or n_samples * 2 ** (bits + 2) >= 2**31  # it is at most a factor of 4 less than possible


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n_samples", [255, 511])
def test_the_largest_probability_counts(n_samples, sign):
    on, off = pack(np.ones((2, n_samples))), pack(np.zeros((2, n_samples)))
    p = np.ones((3, n_samples), np.float32)
    counts = ProbabilityCounts((on if sign > 0 else off, p), (off if sign > 0 else on, p), n_samples)
    out = np.zeros((2, 3), np.int32)
    counts.fill(out)
    assert (out == sign * n_samples * 2 ** probability_counts.fraction_bits(n_samples)).all()


# updates from sums over replicas


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("size", [*SIZES, (0, 4), (4, 0)], ids=str)
def test_updates_from_integers(size, kind, dtype, n_threads):
    limits = np.iinfo(kind)
    C = np.random.default_rng(size[1]).integers(limits.min, limits.max, size, kind, endpoint=True)
    W, V = weights(*size, dtype)
    expected = learned(C, W, V, **SCALARS)
    update_from(C, W, V, **SCALARS)
    assert np.array_equal(W, expected[0])
    assert np.array_equal(V, expected[1])
