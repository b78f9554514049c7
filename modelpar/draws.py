"""Random draws that depend on unit and sample, not on the rank: the same bits at every grid.

Philox4x32-10 (:mod:`modelpar.kernels.sampling.philox`) with key = the two 32-bit halves of the seed and counter =
``(low32(sample // 4), high32(sample // 4), unit id, layer << 24 | purpose << 16 | repeat)``; the draw of ``sample`` is
output word ``sample % 4``.  A draw depends on these values alone, so no generator state has to be shared or saved.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.sampling import philox
from modelpar.streams import Purpose, Stream

__all__ = ["Purpose", "Stream", "permutation", "sample_bernoulli", "sample_gaussian", "uniform"]

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

GRAIN = 1 << 17  # draws that are worth another thread: about 120 us of work


def uniform(stream: Stream, unit_ids: IntArray, samples: int | IntArray, out: FloatArray) -> None:
    """Fill ``out`` (units, batch) with draws in [0, 1) of 24 random bits.

    unit_ids: (units,) global ids below 2^32; samples: the first of consecutive sample ids, or (batch,) int64 ids.
    """
    first, ids = philox.kernel_samples(samples, out.shape[1])
    units = philox.kernel_units(unit_ids, out.shape[0])
    words = stream.words

    def work(start: int, stop: int) -> None:
        philox.uniform_rows(first, ids, units[start:stop], *words, out[start:stop])

    threads.split(out.shape[0], threads.rows_of(GRAIN, out.shape[1]), work)


def sample_bernoulli(
    p: FloatArray, stream: Stream, unit_ids: IntArray, samples: int | IntArray, out: FloatArray
) -> None:
    """Fill ``out`` (units, batch) with 1.0 where the uniform draw is below ``p`` (units, batch), else 0.0.

    ``p`` may be ``out`` itself.  A NaN in ``p`` gives 0.0.
    """
    _check_same_shape(p, out)
    first, ids = philox.kernel_samples(samples, out.shape[1])
    units = philox.kernel_units(unit_ids, out.shape[0])
    words = stream.words

    def work(start: int, stop: int) -> None:
        philox.bernoulli_rows(p[start:stop], first, ids, units[start:stop], *words, out[start:stop])

    threads.split(out.shape[0], threads.rows_of(GRAIN, out.shape[1]), work)


def sample_gaussian(
    mean: FloatArray, stream: Stream, unit_ids: IntArray, samples: int | IntArray, out: FloatArray
) -> None:
    """Fill ``out`` (units, batch) with ``mean`` (units, batch) plus a standard normal draw (Box and Muller 1958).

    ``mean`` may be ``out`` itself.  Logarithm, cosine and sine are those of
    :mod:`modelpar.kernels.sampling.elementary`, so a draw has the same bits on every machine.
    """
    _check_same_shape(mean, out)
    first, ids = philox.kernel_samples(samples, out.shape[1])
    units = philox.kernel_units(unit_ids, out.shape[0])
    words = stream.words

    def work(start: int, stop: int) -> None:
        philox.gaussian_rows(mean[start:stop], first, ids, units[start:stop], *words, out[start:stop])

    threads.split(out.shape[0], threads.rows_of(GRAIN // 2, out.shape[1]), work)


def _check_same_shape(given: FloatArray, out: FloatArray) -> None:
    if given.shape != out.shape:
        raise ValueError(f"the parameter of the draws has shape {given.shape}, but the result has {out.shape}")


def permutation(seed: int, epoch: int, n: int) -> IntArray:
    """A random order of ``0 .. n - 1``, int64 (n,), the same on every rank and platform.

    Sorts 64-bit keys whose upper bits are random and whose lower bits are the index, so keys never tie.

    Raises ValueError where epoch or n do not fit in 32 bits.
    """
    seed, epoch, n = operator.index(seed), operator.index(epoch), operator.index(n)  # NumPy's integers may be too short
    if not 0 <= epoch < 1 << 32 or not 0 <= n < 1 << 32:
        raise ValueError(f"a permutation was asked for epoch {epoch} and {n} items, but both must be 0 to {2**32 - 1}")
    keys = np.empty(n, np.uint64)
    index_bits = max(n - 1, 0).bit_length()
    philox.permutation_keys(epoch, seed & 0xFFFFFFFF, seed >> 32, index_bits, keys)
    keys.sort()
    keys &= np.uint64((1 << index_bits) - 1)
    return keys.view(np.int64)
