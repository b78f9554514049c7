"""Statistics of packed states by tables of subset sums: one more way to the integers of ``statistics.counts``.

Where a processor does not count the ones of a vector by one instruction, k-bit values are summed as they are, and not
plane by plane: the sums over every subset of five samples stand in tables (``kernels.llvm.tables``) of 64 columns in
int16, and a row of C adds those that the codes of its states name.  Values of the model's phase have a minus sign, so
that both phases are one sum.  No sum leaves int16 within a *piece* of the samples; pieces are added in int32.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from modelpar.kernels.llvm.calls import address_of
from modelpar.kernels.llvm.subset_sums import BITS, CODE_BITS
from modelpar.kernels.llvm.tables import (
    PART,
    STEP,
    TABLE,
    TABLES,
    WIDTH,
    add_looked_up_16,
    add_widened,
    widen,
    write_table_16,
    write_values,
)
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products.aligned import aligned_int32
from modelpar.kernels.statistics.counts import COUNT_ROWS
from modelpar.kernels.statistics.probability_counts import codes_of_samples
from modelpar.machine.compilation import njit

ROWS = 128  # of C at once: their sums stay in the first-level cache, beside the tables
COLUMNS = WIDTH // 2
LARGEST = (1 << 15) - 1

Words = npt.NDArray[np.uint64]
Phases = tuple[Words, Words]


@functools.cache
def entry() -> int:
    """Return the address of ``count_rows_by_tables``."""
    return address_of(count_rows_by_tables, COUNT_ROWS)


def codes_of_rows(words: Phases, samples: tuple[int, int]) -> Words:
    """Bits of both phases (units, n) as codes of 15 samples -> (chunks, units) uint16, as words of 64 bits."""
    return np.concatenate([codes_of_samples(w, n) for w, n in zip(words, samples, strict=True)]).view(np.uint64)


def values_of_columns(vectors: tuple[npt.NDArray[np.uint32], ...], samples: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Values of both phases, from ``counts.by_vectors``, as int16 -> (64 units, pieces, samples, 32) uint32"""
    planes = vectors[1].shape[1]
    chunks = [-(-n // CODE_BITS) for n in samples]
    steps = -(-sum(chunks) // 2)
    most = max(1, LARGEST // (((1 << planes) - 1) * STEP))
    pieces = max(1, -(-steps // most))
    shape = -(-vectors[1].shape[0] * LANES // COLUMNS), pieces, -(-steps // pieces) * STEP, WIDTH // 4
    values = aligned_int32(math.prod(shape)).view(np.uint32).reshape(shape)
    write_columns(vectors[0], samples[0], 0, 1, values)
    write_columns(vectors[1], samples[1], chunks[0] * CODE_BITS, -1, values)
    return values


@njit(cache=True, nogil=True)
def write_columns(vectors, n_samples, first, sign, values):  # type: ignore[no-untyped-def]
    """Rows ``first .. first + n_samples - 1`` of the values = sign times those of a phase"""
    for vector in range(vectors.shape[0]):
        source, stride = address(vectors) + vector * vectors.strides[0], vectors.strides[1]
        target = address(values) + vector // (COLUMNS // LANES) * values.strides[0]
        target += 2 * (vector % (COLUMNS // LANES)) * LANES + first * WIDTH
        for s in range(n_samples):
            write_values(
                source + s // 32 * vectors.strides[2], stride, vectors.shape[1], s % 32, sign, target + s * WIDTH
            )


@njit(cache=True, nogil=True)
def count_rows_by_tables(codes, values, no_bits, no_values, first, n_rows, low, high, counts):  # type: ignore[no-untyped-def]
    """As ``counts.count_rows``, of up to ROWS rows, with codes from codes_of_rows and values from values_of_columns.

    low   a multiple of ``counts.COLUMNS``
    """
    scratch = aligned_int32((ROWS * WIDTH + TABLES * TABLE) // 4)
    sums, tables = address(scratch), address(scratch) + ROWS * WIDTH
    n_steps, n = (len(codes) + 1) // 2, values.shape[2] // STEP
    for j in range(low, high, COLUMNS):
        source = address(values) + j // COLUMNS * values.strides[0]
        out = address(counts) + 4 * (j - low)
        for piece in range(values.shape[1]):
            scratch[: n_rows * WIDTH // 4] = 0
            for step in range(piece * n, min(piece * n + n, n_steps)):
                for g in range(TABLES):
                    here = source + (step * STEP + g * BITS) * WIDTH
                    for part in range(0, WIDTH, PART):
                        write_table_16(here + part, WIDTH, tables + g * TABLE + part)
                one = address(codes) + 2 * step * codes.strides[0] + 2 * first
                other = one + codes.strides[0] if 2 * step + 1 < len(codes) else one  # of values that are 0
                add_looked_up_16(tables, one, other, n_rows, sums)
            for r in range(n_rows):
                if piece:
                    add_widened(sums + r * WIDTH, out + r * counts.strides[0])
                else:
                    widen(sums + r * WIDTH, out + r * counts.strides[0])
