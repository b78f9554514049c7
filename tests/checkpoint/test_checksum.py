"""The checksum of tensors against the formula in plain integers, and what it must notice."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.checkpoint.checksum import checksum, checksum_rows

TYPES = ("float32", "float64", "int64", "uint8")
WORD = 2**64 - 1


def by_the_formula(array: np.ndarray, first: int = 0) -> int:
    """Plain integers of any length, cut to 64 bits."""
    data, width, total = array.tobytes(), array.itemsize, 0
    for i in range(array.size):
        z = int.from_bytes(data[i * width : (i + 1) * width], "little") + (first + i + 1) * 0x9E3779B97F4A7C15 & WORD
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
        total += z ^ z >> 31
    return total & WORD


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return (
        np.random.default_rng(3)
        .integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
        .view(dtype)[..., 0]
        .copy()
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 64, 101])
@pytest.mark.parametrize("first", [0, 5, 2**33])
def test_formula(dtype, n, first):
    array = values(dtype, (n,))
    assert checksum(array, first) == by_the_formula(array, first)


def test_known_answer():
    """Element 0 with bits 0 is the first output of SplitMix64 seeded with 0."""
    assert checksum(np.zeros(1)) == 0xE220A8397B1DCDAF
    assert checksum(np.zeros(2)) == (0xE220A8397B1DCDAF + 0x6E789E6AA1B965F4) % 2**64


@pytest.mark.parametrize("dtype", TYPES)
def test_parts_add_up(dtype):
    """Whole matrix = scattered rows of one panel of columns + those of the other."""
    matrix = values(dtype, (11, 13))
    rows = np.array([7, 0, 10, 3])
    others = np.setdiff1d(np.arange(11), rows)
    total = 0
    for ids in (rows, others):
        for left, right in ((0, 5), (5, 13)):
            panel = np.ascontiguousarray(matrix[:, left:right])
            total += checksum_rows(panel, ids, ids, 13, left)
    assert total % 2**64 == checksum(matrix) == by_the_formula(matrix)


def test_rows_that_lie_elsewhere():
    matrix = values("float32", (9, 4))
    ids = np.array([8, 2, 5])
    held = np.ascontiguousarray(matrix[[5, 8, 2, 2]])
    expected = sum(by_the_formula(matrix[i], 4 * i) for i in ids.tolist()) % 2**64
    assert checksum_rows(held, np.array([1, 2, 0]), ids, 4, 0) == expected


@pytest.mark.parametrize("dtype", TYPES)
def test_every_bit_counts(dtype):
    array = values(dtype, (9,))
    good, raw = checksum(array), array.view(np.uint8)
    for at in range(raw.size):
        for bit in range(8):
            raw[at] ^= 1 << bit
            assert checksum(array) != good
            raw[at] ^= 1 << bit
    assert checksum(array) == good


def test_order_and_special_values_count():
    array = np.array([1.0, 0.0, np.nan], np.float32)
    assert checksum(array) != checksum(array[[1, 0, 2]])
    assert checksum(array) != checksum(np.array([1.0, -0.0, np.nan], np.float32))
    assert checksum(np.zeros(4)) != checksum(np.zeros(5))
    assert checksum(array) == checksum(array.copy())
