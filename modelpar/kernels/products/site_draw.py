"""Categorical sites drawn straight from weights and given states, for sweeps as one piece (``products.sweeps``)."""

from __future__ import annotations

import functools

import numpy as np
from numba import types

from modelpar.kernels.llvm.calls import address_of, caller
from modelpar.kernels.products.draw import SAMPLE_UNITS, incoming_sums
from modelpar.kernels.sampling.softmax import draw_sites
from modelpar.machine.compilation import njit


@njit(cache=True, nogil=True)
def sample_sites(  # type: ignore[no-untyped-def]
    kernel, W, integers, up, n_in, scale, codes, offsets, active, batch, bias, start, stop, draw, wanted, categories
):
    """As ``draw.sample_units``, for units that are sites of so many ``categories``; all from ``start`` to ``stop`` - 1
    belong to whole sites."""
    sums = np.empty((stop, batch), np.int32)
    incoming_sums(kernel, W, integers, up, n_in, scale, codes, offsets, active, batch, start, stop, sums)
    step = np.float32(1.0) / scale
    return draw_sites(sums, step, bias, categories, start // categories, stop // categories, draw, wanted)


_SAMPLE_SITES = types.int64(*SAMPLE_UNITS.args, types.int64)
call_sample_sites = caller(_SAMPLE_SITES)


@functools.cache
def entry_of_sample_sites() -> int:
    """Return the address of ``sample_sites`` for ``call_sample_sites``, compiled now where it is not yet."""
    return address_of(sample_sites, _SAMPLE_SITES)
