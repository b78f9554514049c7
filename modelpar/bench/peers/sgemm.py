"""NumPy's SGEMM with one thread and with two: whether two processors of this machine are free."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from modelpar.bench.peers.worker import Measure, Order, serve

SIDE = 1024  # of the matrices: some milliseconds a product, so the overhead of two threads does not matter


def prepare(order: Order) -> Measure:
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((SIDE, SIDE), np.float32) for _ in range(2))
    out = np.empty_like(left)

    def product() -> None:
        np.matmul(left, right, out=out)

    def measure(seconds: float) -> dict[str, Any]:
        rates = []
        for threads in (1, order.threads):
            with threadpool_limits(threads, user_api="blas"):
                rates.append(2.0 * SIDE**3 / _seconds_of(product, seconds) / 1e9)
        return {"gflops": rates}

    measure(0.0)
    return measure


def _seconds_of(work: Callable[[], None], seconds: float) -> float:
    """The seconds of one call, over calls that take at least ``seconds``."""
    work()
    started, calls, taken = time.perf_counter(), 0, 0.0
    while taken < seconds or not calls:
        work()
        calls += 1
        taken = time.perf_counter() - started
    return taken / calls


if __name__ == "__main__":
    serve(prepare)
