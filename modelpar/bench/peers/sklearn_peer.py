"""The step of scikit-learn's ``BernoulliRBM`` in single precision: PCD, without momentum or decay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.bench.peers.worker import ONES, RATE, Measure, Order, serve, timed

Array = npt.NDArray[Any]


def estimator(n_samples: int, n_visible: int, n_hidden: int, seed: int = 0) -> Any:
    """A ``BernoulliRBM`` as ``fit`` leaves it after looking at data in single precision.

    ``partial_fit`` would go to double precision, and ``fit`` would start again at each call; the step itself is what
    ``fit`` does with every minibatch, without its checks of the input.
    """
    from sklearn.neural_network import BernoulliRBM

    data = np.zeros((n_samples, n_visible), np.float32)
    rbm = BernoulliRBM(n_hidden, learning_rate=RATE, batch_size=n_samples, n_iter=1, random_state=seed)
    rbm.fit(data)
    rbm.components_ = np.asarray(
        np.random.default_rng(seed).normal(0, 0.01, (n_hidden, n_visible)), dtype=np.float32, order="F"
    )
    rbm.intercept_hidden_[:] = 0
    rbm.intercept_visible_[:] = 0
    rbm.h_samples_[:] = 0
    return rbm


def prepare(order: Order) -> Measure:
    n_samples, n_visible, n_hidden = order.size
    rbm = estimator(n_samples, n_visible, n_hidden)
    rng = np.random.RandomState(0)  # the generator that scikit-learn's step takes
    v0 = (np.random.default_rng(0).random((n_samples, n_visible)) < ONES).astype(np.float32)
    return timed(lambda: rbm._fit(v0, rng), n_samples)


if __name__ == "__main__":
    serve(prepare)
