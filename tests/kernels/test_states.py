"""Packed states against plain arrays of integers: every value, any batch size, zeros after the last sample."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels import states as states_module
from modelpar.kernels.products.product import Sampler
from modelpar.kernels.states import Packed, n_words, over_samples, over_units, pack, unpack
from modelpar.streams import Purpose, Stream

BATCHES = [0, 1, 63, 64, 65, 130]


def integers(n_units, batch, planes=1, seed=0):
    """Values 0 .. 2^planes - 1, both extremes among them where there are two values or more."""
    values = np.random.default_rng(seed + 1000 * planes + batch).integers(0, 1 << planes, (n_units, batch))
    values.flat[:1], values.flat[1:2] = (1 << planes) - 1, 0
    return values


def bits_after(packed):
    """The number of ones after the last sample, counted with Python's integers."""
    used = packed.batch % 64
    if used == 0:
        return 0
    return sum(int(word) >> used for word in packed.words[..., -1].ravel())


def by_definition(packed):
    """(units, batch) values, bit by bit from the definition of the words."""
    values = np.zeros(packed.shape, np.int64)
    for i in range(packed.n_units):
        for s in range(packed.batch):
            for p in range(packed.planes):
                values[i, s] += (int(packed.words[i, p, s // 64]) >> s % 64 & 1) << p
    return values


@pytest.mark.parametrize(("batch", "words"), [(0, 0), (1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (130, 3)])
def test_words_of_a_batch(batch, words):
    assert n_words(batch) == words
    assert Packed.empty(3, batch, 2).words.shape == (3, 2, words)


@pytest.mark.parametrize("planes", range(1, 9))
@pytest.mark.parametrize("batch", BATCHES)
def test_packed_values_are_their_bits(batch, planes):
    values = integers(3, batch, planes)
    packed = pack(values, planes)
    assert (packed.n_units, packed.planes, packed.shape) == (3, planes, (3, batch))
    assert packed.words.flags.c_contiguous
    assert np.array_equal(by_definition(packed), values)
    assert bits_after(packed) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("planes", [1, 3, 8])
@pytest.mark.parametrize("batch", BATCHES)
def test_unpacking_gives_back_what_was_packed(batch, planes, dtype):
    values = integers(5, batch, planes).astype(dtype)
    got = unpack(pack(values, planes), dtype)
    assert got.dtype == dtype
    assert np.array_equal(got, values)
    out = np.full((5, batch), 7, dtype)
    assert unpack(pack(values, planes), out=out) is out
    assert np.array_equal(out, values)


@pytest.mark.parametrize("planes", [1, 2, 8])
@pytest.mark.parametrize("batch", BATCHES)
def test_sums_and_density(batch, planes):
    values = integers(6, batch, planes)
    values[2], values[3] = 0, (1 << planes) - 1
    packed = pack(values, planes)
    assert packed.sums().dtype == np.int64
    assert np.array_equal(packed.sums(), values.sum(axis=1))
    ones = sum(int(value).bit_count() for value in values.ravel())
    assert packed.density() == (ones / (6 * planes * batch) if batch else 0.0)
    assert packed.density(4) == Packed(packed.words[::4].copy(), batch).density()  # of units 0 and 4


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize(("start", "stop"), [(0, 130), (0, 0), (0, 1), (5, 70), (63, 65), (64, 128), (129, 130)])
def test_taken_samples_are_a_copy(start, stop, planes):
    values = integers(4, 130, planes)
    packed = pack(values, planes)
    taken = packed.take(start, stop)
    assert (taken.planes, taken.shape) == (planes, (4, stop - start))
    assert np.array_equal(by_definition(taken), values[:, start:stop])
    assert bits_after(taken) == 0
    taken.words[:] = 0
    assert np.array_equal(unpack(packed), values)


@pytest.mark.parametrize("batch", BATCHES)
def test_empty_layers(batch):
    packed = pack(np.zeros((0, batch)), 2)
    assert packed.shape == (0, batch)
    assert unpack(packed).shape == (0, batch)
    assert packed.sums().shape == (0,)
    assert packed.density() == 0.0
    assert packed.take(0, batch // 2).shape == (0, batch // 2)


@pytest.mark.parametrize("planes", [0, 1, 2, 8])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_sampler_leaves_zeros_after_the_last_sample(batch, planes):
    """Every draw gives ones, so that a missing mask would be noticed."""
    ids = np.arange(5)
    sampler = Sampler(np.full(5, 50, np.float32), ids, Stream(1, 0, Purpose.HIDDEN), 3, planes=planes)
    for sums in (np.zeros((5, batch), np.int32), np.zeros((5, batch), np.float32)):
        drawn = sampler.of_sums(sums, 1)
        assert bits_after(drawn.states) == 0
        assert (unpack(drawn.states) == 1).all()
        if planes:
            assert bits_after(drawn.statistic) == 0
            assert (unpack(drawn.statistic) == (1 << planes) - 1).all()


def test_rows_are_the_same_memory():
    packed = pack(integers(3, 70, 2), 2)
    packed.rows[1, 3] = 9
    assert packed.words[1, 1, 1] == 9


@pytest.mark.parametrize(
    ("values", "planes"),
    [([[2]], 1), ([[4]], 2), ([[256]], 8), ([[-1]], 1), ([[0.5]], 1), ([[65536]], 1), ([[65537.0]], 1), ([[1e30]], 8)],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_what_does_not_fit_is_refused(values, planes):
    with pytest.raises(ValueError, match=f"must be integers from 0 to {(1 << planes) - 1}"):
        pack(np.array(values), planes)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_nan_is_refused():
    with pytest.raises(ValueError, match="must be integers"):
        pack(np.array([[0.0, np.nan]]))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(units, batch\)"):
        pack(np.zeros(4))
    for words in (np.zeros((3, 1, 1), np.uint64), np.zeros((3, 2), np.uint64), np.zeros((3, 1, 2), np.int64)):
        with pytest.raises(ValueError, match="65 samples need 2 words of 64 bits a unit and plane"):
            Packed(words, 65)


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 2, 5)])
def test_ones_are_counted_as_python_counts_them(shape):
    words = np.random.default_rng(5).integers(0, 2**64, shape, np.uint64)
    words.flat[:1] = 2**64 - 1
    assert np.array_equal(
        states_module.count_ones(words), np.array([int(w).bit_count() for w in words.ravel()]).reshape(shape)
    )


@pytest.mark.parametrize("planes", [1, 4])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (7, 64), (70, 131)])
def test_weighted_sums_over_units_and_over_samples(shape, planes, n_threads):
    """Of integers, so that every order of summation is exact."""
    rng = np.random.default_rng(planes)
    values = rng.integers(0, 1 << planes, shape)
    of_units, of_samples = (rng.integers(-(1 << 16), 1 << 16, n).astype(np.float64) for n in shape)
    packed = pack(values, planes)
    assert np.array_equal(over_units(packed, of_units), of_units @ values)
    assert np.array_equal(over_samples(packed, of_samples), values @ of_samples)
