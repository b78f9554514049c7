"""Sweeps as one piece of work: the same bits as one side after the other, by every kernel and number of threads.

Modules: modelpar/kernels/llvm/atomics, modelpar/kernels/products/site_draw
"""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import sweeps
from modelpar.kernels.products.dispatch import VARIABLE, available
from modelpar.kernels.products.product import Product, Sampler
from modelpar.kernels.states import Packed, pack
from modelpar.streams import Purpose, Stream, SweepStreams

pytestmark = pytest.mark.skipif(not compiled(), reason="sweeps as one piece are for compiled kernels")

STREAMS = SweepStreams(Stream(5, 1, Purpose.VISIBLE, 3), Stream(5, 1, Purpose.HIDDEN, 1), 2)
OWN = [name for name in available() if name != "blas"]


def side_by_side(W, b, c, ids, h, n, first, categories=0):
    """The definition: one product and one draw after the other."""

    def side(states, bias, units, up, stream):
        sampler = Sampler(bias, units, stream, first, categories=0 if up else categories)
        drawn = sampler.of_product(
            Product(W, states, up, states.n_units, True), lambda *shape: np.empty(shape[:2], "i4")
        )
        assert drawn.states is not None
        return drawn.states

    for k in range(n):
        v = side(h, b, ids[0], False, Stream(5, 1, Purpose.VISIBLE, 3 + 2 * k))
        h = side(v, c, ids[1], True, Stream(5, 1, Purpose.HIDDEN, 1 + 2 * k))
    return v


@pytest.mark.parametrize("kernel", OWN)
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(
    ("n_visible", "n_hidden", "batch", "categories"),
    [(5, 3, 1, 0), (70, 130, 64, 0), (131, 66, 201, 0), (20, 40, 1100, 0), (15, 70, 70, 5), (21 * 20, 130, 9, 21)],
)
def test_sweeps_equal_one_side_after_the_other(
    monkeypatch, kernel, n_threads, n_visible, n_hidden, batch, categories
):  # fmt: skip
    monkeypatch.setenv(VARIABLE, kernel)
    monkeypatch.setattr(threads, "WAKING", 1)
    rng = np.random.default_rng(n_visible)
    W = rng.normal(0, 0.5, (n_visible, n_hidden)).astype(np.float32)
    b, c = (rng.normal(0, 1, n).astype(np.float32) for n in W.shape)
    ids = rng.permutation(1000)[:n_visible], rng.permutation(1000)[:n_hidden]
    h = pack(rng.integers(0, 2, (n_hidden, batch)))
    before = h.words.copy()
    threads.set_threads(n_threads)
    try:
        result = sweeps.visible_after(W, (b, c), ids, h, 3, STREAMS, 7, categories=categories)
    finally:
        threads.set_threads(1)
    expected = side_by_side(W, b, c, ids, h, 3, 7, categories)
    assert isinstance(result, Packed)
    assert np.array_equal(result.words, expected.words)
    assert np.array_equal(h.words, before)


def test_where_the_blas_is_faster_there_is_no_such_piece(monkeypatch):
    monkeypatch.setenv(VARIABLE, "blas")
    W, ids = np.zeros((4, 3), np.float32), (np.arange(4), np.arange(3))
    h = pack(np.ones((3, 10)))
    biases = np.zeros(4, np.float32), np.zeros(3, np.float32)
    assert sweeps.visible_after(W, biases, ids, h, 2, STREAMS, 0) is None
