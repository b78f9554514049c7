"""The digest of matrices: its formula in plain integers, sums over shards, and differences that it must detect."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelpar.kernels.digest import (
    GRAIN,
    MODULUS,
    WIDTH,
    digest,
    digest_listed,
    digest_memory,
    digest_of_digests,
    digest_states,
)

DTYPES = [np.float32, np.float64, np.int32, np.uint64]
WORD, LOW_31 = 2**64 - 1, 2**31 - 1


def row_key(i: int) -> int:
    z = (i + 1) * 0x9E3779B97F4A7C15 & WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31 | 1


def column_key(j: int) -> int:
    z = (j ^ j >> 31) + 0x1E3779B9 & LOW_31
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x2C1B3C6D)):
        z = (z ^ z >> shift) * factor & LOW_31
    return 2 * (z ^ z >> 15) + 1


def by_the_formula(block, rows, columns):
    """The digest in plain integers of any length, cut to 64 bits."""
    parts, total = block.itemsize // 4, 0
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            bits = int.from_bytes(block[i, j].tobytes(), "little")
            for part in range(parts):
                half = bits >> 32 * part & 0xFFFFFFFF
                total += row_key(int(row)) * column_key(parts * int(column) + part) * half
    return total & WORD


def matrix(dtype, shape=(13, 17)):
    """Bit patterns of all kinds, NaN among them."""
    n_bytes = np.dtype(dtype).itemsize
    return np.random.default_rng(8).integers(0, 256, (*shape, n_bytes), np.uint8).view(dtype)[..., 0].copy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_formula(dtype):
    x = matrix(dtype, (5, 7))
    rows, columns = np.array([4, 0, 2**32 - 1, 7, 123456]), np.array([9, 1, 2**30 - 1, 0, 77, 5, 6])
    assert digest(x, rows, columns) == by_the_formula(x, rows, columns)
    assert digest(x[:, 0], rows, None) == by_the_formula(x[:, :1], rows, [0])
    assert digest(x[1], list(range(7)), None) == by_the_formula(x[1][:, None], range(7), [0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_listed_elements_are_those_of_a_matrix(dtype, monkeypatch):
    """Piece by piece, and zero where nothing is listed."""
    monkeypatch.setattr(sys.modules[digest_listed.__module__], "GRAIN", 10)
    x = matrix(dtype)
    x[np.random.default_rng(2).random(x.shape) < 0.7] = 0
    rows, columns = np.nonzero(x.view(np.uint32).reshape(*x.shape, -1).any(axis=2))
    assert len(rows) > 30
    assert digest_listed(x[rows, columns], rows, columns) == by_the_formula(x, range(13), range(17))
    assert digest_listed(x[:0, 0], rows[:0], columns[:0]) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_shards", [1, 2, 3, 5])
def test_shards_add_up_in_any_order(dtype, n_shards):
    """Rows and columns are assigned at random, some shards have none, and the ids of each are shuffled."""
    x, rng = matrix(dtype), np.random.default_rng(n_shards)
    total = digest(x, np.arange(13), np.arange(17))
    for _ in range(5):
        row_owner, column_owner = rng.integers(0, n_shards, 13), rng.integers(0, n_shards, 17)
        parts = []
        for p in range(n_shards):
            for q in range(n_shards):
                rows, columns = (
                    rng.permutation(np.flatnonzero(o == k)) for o, k in ((row_owner, p), (column_owner, q))
                )
                parts.append(digest(x[np.ix_(rows, columns)], rows, columns))
        assert sum(parts) % MODULUS == sum(reversed(parts)) % MODULUS == total
        vector = [digest(x[row_owner == p, 3], np.flatnonzero(row_owner == p), None) for p in range(n_shards)]
        assert sum(vector) % MODULUS == digest(x[:, 3], np.arange(13), None)


def test_threads_change_nothing(n_threads):
    x = np.random.default_rng(0).standard_normal((5, GRAIN // 2 + 3)).astype(np.float32)
    parts = [digest(x[i : i + 1], [i], np.arange(x.shape[1])) for i in range(5)]
    assert digest(x, np.arange(5), np.arange(x.shape[1])) == sum(parts) % MODULUS


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_of_every_element_counts(dtype):
    x = matrix(dtype, (3, 4))
    good, raw = digest(x, range(3), range(4)), x.reshape(-1).view(np.uint8)
    for at in range(raw.size):
        for bit in range(8):
            raw[at] ^= 1 << bit
            assert digest(x, range(3), range(4)) != good
            raw[at] ^= 1 << bit
    assert digest(x, range(3), range(4)) == good


@pytest.mark.parametrize("dtype", DTYPES)
def test_exchanged_elements_are_seen(dtype):
    x = matrix(dtype, (6, 8))
    good, flat = digest(x, range(6), range(8)), x.reshape(-1)
    for a in range(48):
        for b in range(a):
            flat[[a, b]] = flat[[b, a]]
            assert digest(x, range(6), range(8)) != good
            flat[[a, b]] = flat[[b, a]]
    assert digest(x[::-1], range(6), range(8)) != good
    assert digest(x[::-1], range(5, -1, -1), range(8)) == good


def test_no_two_sparse_changes_are_alike():
    """Digests of 0/1 matrices with two ones are all different."""
    x = np.zeros((40, 40), np.float32)
    seen, n = {0}, 1
    for a in range(0, 1600, 9):
        for b in range(a + 1, 1600, 31):
            x.reshape(-1)[[a, b]] = 1
            seen.add(digest(x, range(40), range(40)))
            x.reshape(-1)[[a, b]] = 0
            n += 1
    assert len(seen) == n


def test_keys_of_columns_are_all_different():
    keys = {digest(np.ones((1, 1), np.int32), [0], [j]) for j in range(20000)}
    assert len(keys) == 20000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_blocks(dtype, shape):
    assert digest(np.zeros(shape, dtype), range(shape[0]), range(shape[1])) == 0
    assert digest(np.zeros(0, dtype), [], None) == 0


def test_memory_order_does_not_matter():
    x = matrix(np.float32)
    good = digest(x, range(13), range(17))
    assert digest(np.asfortranarray(x), range(13), range(17)) == good
    wide = np.zeros((13, 40), np.float32)
    wide[:, 3:37:2] = x
    assert digest(wide[:, 3:37:2], range(13), range(17)) == good
    x.setflags(write=False)
    assert digest(x, range(13), range(17)) == good


@pytest.mark.parametrize("block", [np.zeros((2, 3), np.int16), np.zeros((2, 4), np.float32), np.zeros(2, bool)])
def test_blocks_that_cannot_be_digested_are_refused(block):
    with pytest.raises(ValueError, match="elements have 4 or 8 bytes"):
        digest(block, range(2), range(3) if block.ndim == 2 else None)


@pytest.mark.parametrize("cuts", [[0, 200], [0, 64, 200], [0, 50, 100, 150, 200], [0, 1, 1, 130, 200]], ids=str)
@pytest.mark.parametrize("planes", [1, 3])
def test_packed_states_of_replicas_add_up(cuts, planes):
    """The samples of each replica are packed from bit 0 of a word, at whatever position of the minibatch they are."""
    states = np.random.default_rng(2).integers(0, 2, (7, planes, 200)).astype(bool)

    def packed(part):
        n_words = -(-part.shape[-1] // 64)
        padded = np.zeros((*part.shape[:-1], 64 * n_words), bool)
        padded[..., : part.shape[-1]] = part
        return np.packbits(padded, axis=-1, bitorder="little").view(np.uint64)

    rows = np.array([3, 1, 9, 0, 5, 2, 8])
    total = digest_states(packed(states), rows)
    parts = [digest_states(packed(states[..., a:b]), rows, a) for a, b in itertools.pairwise(cuts)]
    assert sum(parts) % MODULUS == total
    if planes == 1:
        assert total == digest(packed(states)[:, 0], rows, range(4)) == digest_states(packed(states)[:, 0], rows)
    states[4, -1, 130] ^= True
    assert digest_states(packed(states), rows) != total


def small_digests():
    small = [digest(matrix(dtype, shape), range(shape[0]), range(shape[1])) for dtype in DTYPES for shape in SMALL]
    return [*small, digest(matrix(np.float32)[:, 0], range(13), None), digest_states(matrix(np.uint64), range(13), 70)]


SMALL = [(1, 1), (3, 5), (2, 33)]


def test_interpreted_code_gives_the_same_digests():
    program = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import numba\nfrom tests.kernels import test_digest\n"
        "assert numba.config.DISABLE_JIT\nprint(test_digest.small_digests())"
    )
    folders = [str(Path(__file__).parents[2])]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(small_digests())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, WIDTH // 2 + 3, 2 * WIDTH, 2 * WIDTH + 5])
def test_memory_is_a_matrix_of_rows_of_one_width(dtype, n):
    values = matrix(dtype, (1, n))[0] if n else np.empty(0, dtype)
    words = np.zeros((n * values.itemsize // 4 // WIDTH + 1, WIDTH), np.uint32)
    words.reshape(-1)[: n * values.itemsize // 4] = values.view(np.uint32)
    assert digest_memory(values) == digest(words, range(len(words)), range(WIDTH))


def test_one_changed_bit_of_memory_is_always_seen():
    rng = np.random.default_rng(4)
    values = matrix(np.float32, (3, WIDTH))
    before, octets = digest_memory(values), values.reshape(-1).view(np.uint8)
    for place, bit in zip(rng.integers(0, octets.size, 100), rng.integers(0, 8, 100), strict=True):
        octets[place] ^= np.uint8(1 << bit)
        assert digest_memory(values) != before
        octets[place] ^= np.uint8(1 << bit)
    assert digest_memory(values) == before
    assert len({digest_of_digests(d) for d in ([], [2], [0, 1], [1, 0], [1 << 63, 1], [(1 << 63) + 1, 1])}) == 6
