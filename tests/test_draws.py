"""Draws: the published vectors of Philox, independence of slicing, and distributions.

Modules: modelpar/kernels/sampling/elementary, modelpar/kernels/sampling/philox, modelpar/streams
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from modelpar.draws import Purpose, Stream, permutation, sample_bernoulli, sample_gaussian, uniform
from modelpar.kernels.sampling import elementary, philox

STREAM = Stream(seed=0x0123456789ABCDEF, layer=3, purpose=Purpose.HIDDEN, repeat=5)


PI_TIMES_2_TO_160 = 4591442807048218921384805199743311128454155024418


def philox_reference(counter, key):
    """Philox4x32-10 in plain integers, after figure 2 and section 3.3 of Salmon et al. 2011."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def draw_reference(stream, unit, sample):
    block = sample // 4
    tag = stream.layer * 2**24 + int(stream.purpose) * 2**16 + stream.repeat
    key = (stream.seed % 2**32, stream.seed // 2**32)
    word = philox_reference((block % 2**32, block // 2**32, unit, tag), key)[sample % 4]
    return (word // 256) / 2**24


def drawn(stream=STREAM, units=range(40), samples=0, n_samples=50, dtype=np.float32):
    out = np.full((len(units), n_samples), np.nan, dtype)
    uniform(stream, np.array(units, np.int64), samples, out)
    return out


KNOWN_ANSWERS = [  # Random123, kat_vectors, "philox4x32 10"
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_vectors(counter, key, answer):
    counter, key, answer = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
    assert philox_reference(counter, key) == answer
    words = philox.philox(*(np.uint64(word) for word in counter + key))
    assert [int(word) for word in words] == answer
    row = np.empty(4, np.uint32)
    philox.fill_words(counter[0] | (counter[1] & 0x7FFFFFFF) << 32, counter[2], counter[3], *key, row, 1)
    if counter[1] < 2**31:  # the row loop takes a block number of at most 63 bits
        assert row.tolist() == answer


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4 * 2**32 - 3, 2**61 + 1])
def test_counter_holds_unit_sample_layer_purpose_and_repeat(first):
    units = [0, 7, 2**32 - 1]
    out = drawn(units=units, samples=first, n_samples=11)
    expected = [[draw_reference(STREAM, unit, first + j) for j in range(11)] for unit in units]
    assert np.array_equal(out, np.array(expected))


@pytest.mark.parametrize(
    "other",
    [
        Stream(STREAM.seed + 1, 3, Purpose.HIDDEN, 5),
        Stream(STREAM.seed + 2**32, 3, Purpose.HIDDEN, 5),
        Stream(STREAM.seed, 4, Purpose.HIDDEN, 5),
        Stream(STREAM.seed, 3, Purpose.VISIBLE, 5),
        Stream(STREAM.seed, 3, Purpose.HIDDEN, 6),
    ],
)
def test_every_field_of_a_stream_changes_the_draws(other):
    assert abs(np.corrcoef(drawn().ravel(), drawn(other).ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(
    "fields", [(-1, 0, Purpose.DATA), (2**63, 0, Purpose.DATA), (0, 256, Purpose.DATA), (0, 0, Purpose.DATA, 2**16)]
)
def test_a_stream_that_does_not_fit_its_counter_is_refused(fields):
    with pytest.raises(ValueError, match="but must be 0 to"):
        Stream(*fields)


def test_wrong_shapes_are_refused():
    out = np.empty((3, 4), np.float32)
    with pytest.raises(ValueError, match="unit ids have shape"):
        uniform(STREAM, np.arange(4), 0, out)
    with pytest.raises(ValueError, match="sample ids have shape"):
        uniform(STREAM, np.arange(3), np.arange(3), out)
    with pytest.raises(ValueError, match="at least 0"):
        uniform(STREAM, np.arange(3), -1, out)
    with pytest.raises(ValueError, match="the result has"):
        sample_bernoulli(out[:2], STREAM, np.arange(3), 0, out)


def draw_all(kind, units, samples, n_samples, dtype=np.float32):
    out = np.empty((len(units), n_samples), dtype)
    p = np.full(out.shape, 0.3, dtype)
    if kind == "uniform":
        uniform(STREAM, units, samples, out)
    elif kind == "bernoulli":
        sample_bernoulli(p, STREAM, units, samples, out)
    else:
        sample_gaussian(p, STREAM, units, samples, out)
    return out


@pytest.mark.parametrize("kind", ["uniform", "bernoulli", "gaussian"])
@pytest.mark.parametrize("first", [0, 1001])
def test_a_draw_does_not_depend_on_how_units_and_samples_are_sliced(kind, first):
    units = np.array([5, 3, 900, 12, 0])
    n_samples = 2 * philox.CHUNK + 3
    whole = draw_all(kind, units, first, n_samples)
    rng = np.random.default_rng(1)
    for _ in range(12):
        start, stop = np.sort(rng.integers(0, n_samples + 1, 2))
        some = rng.permutation(5)[:3]
        assert np.array_equal(draw_all(kind, units[some], first + int(start), stop - start), whole[some, start:stop])
    scattered = rng.permutation(n_samples)[:700]
    assert np.array_equal(draw_all(kind, units, first + scattered, 700), whole[:, scattered])
    assert np.array_equal(draw_all(kind, units, np.arange(first, first + n_samples), n_samples), whole)


def test_types_see_the_same_uniform_draws():
    assert np.array_equal(drawn(dtype=np.float32), drawn(dtype=np.float64))


def test_read_only_and_strided_ids_are_taken():
    units = np.repeat(np.arange(40), 2)[::2]
    units.setflags(write=False)
    out = np.empty((40, 50), np.float32)
    uniform(STREAM, units, 0, out)
    assert np.array_equal(out, drawn())


def test_bernoulli_is_the_uniform_draw_below_p():
    p = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    p[0], p[1], p[2] = 0.0, 1.0, np.nan
    out = np.empty_like(p)
    sample_bernoulli(p, STREAM, np.arange(40), 9, out)
    assert np.array_equal(out, drawn(samples=9) < p)
    assert out[:3].any(axis=1).tolist() == [False, True, False]
    assert out[1].all()
    sample_bernoulli(p, STREAM, np.arange(40), 9, p)
    assert np.array_equal(out, p)


def test_uniform_draws_are_uniform():
    out = drawn(units=range(100), samples=2, n_samples=10_000)
    assert out.min() >= 0
    assert out.max() < 1
    assert np.array_equal(out * 2**24, np.floor(out * 2**24))
    counts = np.bincount((out.ravel() * 256).astype(np.int64), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    low_byte = np.bincount((out.ravel() * 2.0**24).astype(np.int64) % 256, minlength=256)
    assert stats.chisquare(low_byte).pvalue > 1e-3
    per_unit = np.array([np.bincount((row * 16).astype(np.int64), minlength=16) for row in out])
    assert stats.chisquare(per_unit, axis=1).pvalue.min() > 1e-5


def test_draws_are_uncorrelated_over_units_samples_and_repeats():
    n = 200 * 2000
    out = drawn(units=range(200), n_samples=2000) - 0.5
    again = drawn(Stream(STREAM.seed, 3, Purpose.HIDDEN, 6), units=range(200), n_samples=2000) - 0.5
    bound = 4.5 / np.sqrt(n)
    assert abs(out.mean() * np.sqrt(12)) < bound
    for lag in (1, 2, 3, 4, 8):
        assert abs(12 * np.mean(out[lag:] * out[:-lag])) < 1.1 * bound
        assert abs(12 * np.mean(out[:, lag:] * out[:, :-lag])) < 1.1 * bound
    assert abs(12 * np.mean(out * again)) < bound


def test_gaussian_moments_tails_and_independence():
    shape = (200, 2000)
    out = np.empty(shape, np.float64)
    sample_gaussian(np.full(shape, 2.0), STREAM, np.arange(200), 1, out)
    z = out - 2.0
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(np.mean(z**3)) < 4 * np.sqrt(15 / n)
    assert abs(np.mean(z**4) - 3) < 4 * np.sqrt(96 / n)
    assert stats.kstest(z.ravel()[::4], "norm").pvalue > 1e-3
    for lag in (1, 2, 3):  # neighbours share a counter
        assert abs(np.mean(z[:, lag:] * z[:, :-lag])) < 4.5 / np.sqrt(n)
        assert abs(np.mean(z[:, lag:] ** 2 * z[:, :-lag] ** 2) - 1) < 4.5 * np.sqrt(8 / n)


def test_gaussian_is_box_muller_of_the_counters_words():
    out = np.zeros((1, 8))
    sample_gaussian(out, STREAM, np.array([6]), 0, out)
    tag, *key = STREAM.words
    for block in range(2):
        w = [word / 2**32 for word in philox_reference((block, 0, 6, tag), key)]
        radius = [np.sqrt(-2 * np.log(u + 2**-32)) for u in (w[0], w[2])]
        angle = [2 * np.pi * w[1], 2 * np.pi * w[3]]
        expected = [f(a) * r for r, a in zip(radius, angle, strict=True) for f in (np.cos, np.sin)]
        np.testing.assert_allclose(out[0, 4 * block : 4 * block + 4], expected, rtol=1e-12, atol=1e-14)


def edges_and_others(n):
    """32-bit words where a function has its zeros, its seams and its ends, and ``n`` others."""
    rng = np.random.default_rng(4)
    edges = [eighth * 2**29 + step for eighth in range(9) for step in (-2, -1, 0, 1, 2)]
    near_zero, near_one = (2 ** rng.uniform(0, 31.9, n)).astype(np.int64), (2 ** rng.uniform(0, 31.9, n)).astype(int)
    words = np.concatenate([edges, rng.integers(0, 2**32, n), near_zero, 2**32 - 1 - near_one])
    return [int(word) for word in np.unique(words[(words >= 0) & (words < 2**32)])]


def errors_in_last_place(values, exact):
    return max(
        abs(Fraction(float(v)) - e) / Fraction(float(np.spacing(abs(v)))) for v, e in zip(values, exact, strict=True)
    )


def test_log_against_exact_values():
    """The series of 2 artanh((x - 1) / (x + 1)) in whole numbers, to 2^-120."""
    words = edges_and_others(150)
    unit = 1 << 120

    def artanh_twice(numerator, denominator):  # of a quotient in 0 .. 1
        s = unit * numerator // denominator
        square, term, total, k = s * s // unit, s, s, 1
        while term:
            term, k = term * square // unit, k + 2
            total += term // k
        return 2 * total

    ln2 = artanh_twice(1, 3)
    got = [float(elementary.log(np.float64((word + 1) * 2.0**-32))) for word in words]
    exact = []
    for word in words:  # x = (word + 1) / 2^bits * 2^(bits - 32), the first factor within 1/2 .. 1
        bits = word.bit_length()
        below = artanh_twice((1 << bits) - word - 1, (1 << bits) + word + 1)
        exact.append(Fraction((bits - 32) * ln2 - below, unit))
    assert got[-1] == 0 == exact[-1]
    assert errors_in_last_place(got[:-1], exact[:-1]) < 0.9


def test_log_of_other_floats():
    values = np.concatenate([np.random.default_rng(2).uniform(0.4, 2.2, 200), [2.3e-308, 1.7e308, 1e10]])
    got = [float(elementary.log(value)) for value in values]
    np.testing.assert_allclose(got, np.log(values), rtol=4e-16)


def test_cosine_and_sine_against_exact_values():
    """Their power series in whole numbers, to 2^-160; the multiples of a quarter turn are exact."""
    words = edges_and_others(150)
    unit = 1 << 160
    pi = PI_TIMES_2_TO_160
    got = [elementary.cos_sin_of_turn(np.uint32(word)) for word in words]
    exact = []
    for word in words:
        angle = 2 * pi * word >> 32
        term, parts, k = unit, [0, 0], 0
        while term:
            parts[k % 2] += -term if k % 4 >= 2 else term
            k += 1
            term = term * angle // unit // k
        exact.append([Fraction(part, unit) for part in parts])
    for kind in (0, 1):
        quarters = [word % 2**30 == 0 for word in words]
        values = [float(pair[kind]) for pair in got]
        right = [pair[kind] for pair in exact]
        assert all(value == round(e) for value, e, whole in zip(values, right, quarters, strict=True) if whole)
        rest = [(value, e) for value, e, whole in zip(values, right, quarters, strict=True) if not whole]
        assert errors_in_last_place(*zip(*rest, strict=True)) < 2


def test_gaussian_draws_of_extreme_words():
    """The shortest and the longest radius: words of all ones and of all zeros."""
    words = np.array([2**32 - 1, 0], np.uint32)
    evens, odds = np.empty(2), np.empty(2)
    philox.box_muller(words, np.zeros(2, np.uint32), evens, odds)
    assert evens[0] == 0
    assert evens[1] == pytest.approx(np.sqrt(64 * np.log(2)), rel=1e-15)
    assert not odds.any()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000, 65536, 65537])
def test_permutation_holds_every_position_once(n):
    order = permutation(7, 2, n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutation_depends_on_seed_and_epoch_alone():
    assert np.array_equal(permutation(1, 0, 1000), permutation(1, 0, 1000))
    orders = [permutation(seed, epoch, 1000) for seed, epoch in ((1, 0), (1, 1), (2, 0), (1 + 2**32, 0))]
    for i, order in enumerate(orders):
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15
        for other in orders[:i]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.15


def test_permutation_is_the_order_of_the_reference_keys():
    key = (9, 1)
    keys = [philox_reference((i, 0, 4, 0xFFFF0000), key)[:2] for i in range(100)]
    assert permutation(9 + 2**32, 4, 100).tolist() == sorted(range(100), key=keys.__getitem__)


def test_all_permutations_of_four_are_as_frequent():
    n_epochs = 4800
    codes = [int(permutation(5, epoch, 4) @ [64, 16, 4, 1]) for epoch in range(n_epochs)]
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
