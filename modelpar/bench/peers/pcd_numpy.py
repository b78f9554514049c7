"""PCD in NumPy: single precision, every array made once, products in BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.bench.peers.numpy_peer import sigmoid
from modelpar.bench.peers.worker import MOMENTUM, ONES, RATE, Measure, Order, serve, timed

Array = npt.NDArray[Any]


class NumpyPCD:
    """W (n_visible, n_hidden), b, c, a velocity of W, and chains as hidden states (n_chains, n_hidden)."""

    def __init__(self, order: Order, seed: int = 0) -> None:
        n_samples, n_visible, n_hidden = order.size
        self.sweeps, self.rng = order.sweeps, np.random.default_rng(seed)
        self.W = self.rng.standard_normal((n_visible, n_hidden), np.float32) * np.float32(0.01)
        self.velocity = np.zeros_like(self.W)
        self.b, self.c = np.zeros(n_visible, np.float32), np.zeros(n_hidden, np.float32)
        self.h = (self.rng.random((order.chains, n_hidden)) < ONES).astype(np.float32)
        self.v = np.empty((order.chains, n_visible), np.float32)
        self.p, self.mean = np.empty_like(self.h), np.empty_like(self.v)
        self.draws_h, self.draws_v = np.empty_like(self.h), np.empty_like(self.v)
        self.p0 = np.empty((n_samples, n_hidden), np.float32)

    def step(self, v0: Array) -> None:
        """Learn from one minibatch (n_samples, n_visible) of states, and sweep the chains."""
        np.matmul(v0, self.W, out=self.p0)
        sigmoid(self.p0, self.c)
        for _ in range(self.sweeps):
            np.matmul(self.h, self.W.T, out=self.mean)
            sigmoid(self.mean, self.b)
            np.less(self.rng.random(dtype=np.float32, out=self.draws_v), self.mean, out=self.v)
            np.matmul(self.v, self.W, out=self.p)
            sigmoid(self.p, self.c)
            np.less(self.rng.random(dtype=np.float32, out=self.draws_h), self.p, out=self.h)
        gradient = v0.T @ self.p0 / np.float32(len(v0)) - self.v.T @ self.p / np.float32(len(self.v))
        self.velocity *= np.float32(MOMENTUM)
        self.velocity += np.float32(RATE) * gradient
        self.W += self.velocity
        self.b += np.float32(RATE) * (v0.mean(axis=0) - self.v.mean(axis=0))
        self.c += np.float32(RATE) * (self.p0.mean(axis=0) - self.p.mean(axis=0))


def prepare(order: Order) -> Measure:
    rbm = NumpyPCD(order)
    v0 = (rbm.rng.random((order.size[0], order.size[1])) < ONES).astype(np.float32)
    return timed(lambda: rbm.step(v0), order.chains * order.sweeps, warm_steps=1)


if __name__ == "__main__":
    serve(prepare)
