"""CD-1 in NumPy: single precision, every array made once, products in BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.bench.peers.worker import DECAY, MOMENTUM, ONES, RATE, Measure, Order, serve, timed

Array = npt.NDArray[Any]

PANEL = 1 << 16  # elements of the weights that are updated at once: they stay in the cache through all five passes


class NumpyRBM:
    """W (n_visible, n_hidden), b, c, and a velocity of each.

    Both phases of the statistics are one product: their states are stacked in ``v``, their probabilities in ``p`` with
    the signs of the gradient.  Sigmoid by tanh, and draws by PCG64: the fastest that NumPy has.
    """

    def __init__(self, n_samples: int, n_visible: int, n_hidden: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.W = self.rng.standard_normal((n_visible, n_hidden), np.float32)
        self.W *= 0.01
        self.b, self.c = np.zeros(n_visible, np.float32), np.zeros(n_hidden, np.float32)
        self.velocity_W, self.velocity_b, self.velocity_c = (np.zeros_like(x) for x in (self.W, self.b, self.c))
        self.gradient = np.empty_like(self.W)
        self.v = np.empty((2 * n_samples, n_visible), np.float32)
        self.p = np.empty((2 * n_samples, n_hidden), np.float32)
        self.h = np.empty((n_samples, n_hidden), np.float32)
        self.mean_v = np.empty((n_samples, n_visible), np.float32)
        self.draws_v, self.draws_h = np.empty_like(self.mean_v), np.empty_like(self.h)

    def step(self, v0: Array) -> None:
        """Learn from one minibatch.   v0 (n_samples, n_visible), states"""
        n, W, p = len(v0), self.W, self.p
        self.v[:n] = v0
        v1 = self.v[n:]
        np.matmul(v0, W, out=p[:n])
        sigmoid(p[:n], self.c)
        np.less(self.rng.random(dtype=np.float32, out=self.draws_h), p[:n], out=self.h)
        np.matmul(self.h, W.T, out=self.mean_v)
        sigmoid(self.mean_v, self.b)
        np.less(self.rng.random(dtype=np.float32, out=self.draws_v), self.mean_v, out=v1)
        np.matmul(v1, W, out=p[n:])
        sigmoid(p[n:], self.c)
        gain = RATE / n
        p[:n] *= gain
        p[n:] *= -gain
        np.matmul(self.v.T, p, out=self.gradient)
        self._learn(gain * (v0.sum(axis=0) - v1.sum(axis=0)), p.sum(axis=0))

    def _learn(self, gradient_b: Array, gradient_c: Array) -> None:
        rows = max(1, PANEL // self.W.shape[1])
        for first in range(0, len(self.W), rows):
            W, velocity, gradient = (x[first : first + rows] for x in (self.W, self.velocity_W, self.gradient))
            velocity *= MOMENTUM
            velocity += gradient
            velocity -= np.multiply(W, RATE * DECAY, out=gradient)
            W += velocity
        self.velocity_b *= MOMENTUM
        self.velocity_b += gradient_b
        self.b += self.velocity_b
        self.velocity_c *= MOMENTUM
        self.velocity_c += gradient_c
        self.c += self.velocity_c


def sigmoid(x: Array, bias: Array) -> None:
    """x = 1 / (1 + exp(-(x + bias)))"""
    x += bias
    x *= 0.5
    np.tanh(x, out=x)
    x *= 0.5
    x += 0.5


def prepare(order: Order) -> Measure:
    n_samples, n_visible, n_hidden = order.size
    rbm = NumpyRBM(n_samples, n_visible, n_hidden)
    v0 = (rbm.rng.random((n_samples, n_visible)) < ONES).astype(np.float32)
    return timed(lambda: rbm.step(v0), n_samples)


if __name__ == "__main__":
    serve(prepare)
