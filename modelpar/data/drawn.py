"""States drawn from grey values in bytes, fused: rows -> probabilities -> draws -> packed bits, a panel at a time.

The same bits as :func:`modelpar.data.gather_dense.fill_bytes` into float32 and then
:func:`modelpar.draws.sample_bernoulli` give.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.gather_dense import SAMPLES, UNITS, transpose_panel
from modelpar.kernels.llvm.sampling import draw_16, philox_32
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.sampling.philox import MARGIN, fill_words_at
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]

_SCRATCH = MARGIN + 2 * SAMPLES  # words of 64 samples, those of the first counter and the rest of the last group


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def draw_bytes(  # type: ignore[no-untyped-def]
    source, rows, columns, adjacent, offset, scale, first, samples, units, tag, key0, key1, start, stop, words
):
    """words = draw < (source[rows][:, columns] - offset) / scale, of the units ``start .. stop - 1``

    source (n, width) uint8; rows (batch,), columns (units,) int64; offset, scale (units,) float32; first, samples,
    units, tag, keys as in :mod:`modelpar.kernels.sampling.philox`; words (units, batch / 64 rounded up) uint64
    """
    tile = np.zeros((SAMPLES, UNITS), np.uint8)
    transposed = np.empty((SAMPLES // 8, 8, UNITS // 8), np.uint64)  # [group of samples, unit % 8, unit // 8]
    line = np.zeros(SAMPLES, np.uint8)
    line_words = line.view(np.uint64)
    p = np.zeros(SAMPLES, np.float32)
    drawn = np.empty(_SCRATCH, np.uint32)
    p_at, drawn_at = address(p), address(drawn) + 4 * MARGIN
    for first_sample in range(0, len(rows), SAMPLES):
        n_samples = min(SAMPLES, len(rows) - first_sample)
        n_groups = (n_samples + 7) // 8
        skip = (first + first_sample) % 4
        begin = first + first_sample - skip
        some_ids = samples[first_sample : first_sample + n_samples] if len(samples) else samples
        for first_unit in range(start, stop, UNITS):
            n_units = min(UNITS, stop - first_unit)
            wanted = columns[first_unit : first_unit + n_units]
            transpose_panel(source, rows[first_sample : first_sample + n_samples], wanted, adjacent, tile, transposed)
            for u in range(n_units):
                unit = first_unit + u
                bright = np.uint64(0)
                for group in range(n_groups):
                    line_words[group] = transposed[group, u & 7, u >> 3]
                    bright |= line_words[group]
                word = np.uint64(0)
                shift, divisor = offset[unit], scale[unit]
                if bright or (np.float32(0) - shift) / divisor > 0:
                    for s in range(SAMPLES):
                        p[s] = (line[s] - shift) / divisor
                    if len(samples):
                        fill_words_at(some_ids, units[unit], tag, key0, key1, drawn[MARGIN:])
                    else:
                        # in place, as a call for so few words costs as much as the words
                        for s in range(0, skip + n_samples, 32):
                            philox_32(
                                np.uint64((begin + s) // 4), np.uint64(units[unit]), np.uint64(tag), np.uint64(key0),
                                np.uint64(key1), drawn_at + 4 * (s - skip),
                            )  # fmt: skip
                    for s in range(0, n_samples, LANES):
                        word |= draw_16(p_at + 4 * s, drawn_at + 4 * s) << np.uint64(s)
                    if n_samples < SAMPLES:
                        word &= (np.uint64(1) << np.uint64(n_samples)) - np.uint64(1)
                words[unit, first_sample // SAMPLES] = word
