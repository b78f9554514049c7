"""The buffer of a shard's parameters."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.weights.parameters import Parameters

PAGE = 4096


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (300, 1000)], ids=str)
def test_blocks_of_weights_begin_with_a_page(shape, dtype):
    parameters = Parameters(shape, shape[0], shape[1], dtype, (7, 1100))
    for made in (parameters, parameters.like()):
        assert made.rows is not None
        for array in (made.flat, made.W, made.rows):
            assert array.ctypes.data % PAGE == 0
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert array.dtype == np.dtype(dtype)
            assert not array.any()
        assert len(made.flat) == shape[0] * shape[1] + shape[0] + shape[1]
        assert made.rows.shape == (7, 1100)
