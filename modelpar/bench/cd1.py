"""Updates by CD-1 beside dense matrix products of the same sizes, measured in turn on the same machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from mpi4py import MPI
from scipy.linalg.blas import dgemm, sgemm

from modelpar import draws
from modelpar.data import Minibatches
from modelpar.draws import Purpose, Stream
from modelpar.grid import Grid
from modelpar.kernels import warm_up
from modelpar.kernels.states import pack
from modelpar.memory import check_fits
from modelpar.network import DeepBeliefNetwork, memory_bytes
from modelpar.optimizer import StepSize
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.sync import AllreduceSync

Size = tuple[int, int, int]  # batch, visible units, hidden units

SIZES: tuple[Size, ...] = (
    (100, 784, 500), (100, 784, 1000), (256, 784, 4096), (256, 4096, 4096), (512, 8192, 8192),
)  # fmt: skip
ONES = 0.2  # part of the visible states that are on
RATE = 0.001  # of learning: small, so that the weights stay those of a network however long it is measured


def run(
    sizes: Sequence[Size] | None = None, *, grid: Grid, threads: int = 1, dtype: str = "float32",
    repeats: int = 5, seconds: float = 0.5, statistics: str = "3",
) -> dict[str, Any]:  # fmt: skip
    """``{"machine": {...}, "rows": [...]}``, the same on every rank.  Collective.

    A row: ``size`` (BxVxH), ``ranks``, ``threads`` of each, ``samples_per_second``, ``gflops`` (10 B V H operations an
    update), ``sgemm_gflops``, ``over_sgemm`` = gflops / sgemm_gflops.

    An update is all that training does with a minibatch that is in memory: statistics of both phases, momentum, decay,
    exchanges over shards and replicas.  SGEMM is each rank's block of B x V times V x H (its samples, its part of W);
    all ranks compute at once, and their rates are added.  Each is measured ``repeats`` times, in turn, for at least
    ``seconds``; medians count, and the slowest rank's clock.
    Raises OutOfMemoryError on every rank where a size does not fit.
    """
    warm_up(dtype)
    rows = [_row(size, grid, threads, dtype, repeats, seconds, statistics) for size in sizes or SIZES]
    shape = f"{grid.n_replicas} replica(s) x {grid.n_shards} model shard(s)"
    return {"machine": {"ranks": grid.comm.size, "grid": shape, "threads": threads, "dtype": dtype}, "rows": rows}


def _row(
    size: Size, grid: Grid, threads: int, dtype: str, repeats: int, seconds: float, statistics: str
) -> dict[str, Any]:
    n_samples, n_visible, n_hidden = size
    update, product, product_flops = _prepare(size, grid, dtype, statistics)
    n_updates = _calls_for(seconds, update, grid.comm)
    n_products = _calls_for(seconds / 2, product, grid.comm)
    update_times, product_times = [], []
    for _ in range(repeats):
        update_times.append(_time(update, n_updates, grid.comm))
        product_times.append(_time(product, n_products, grid.comm))
    update_seconds, product_seconds = median(update_times), median(product_times)
    gflops = 10.0 * n_samples * n_visible * n_hidden / update_seconds / 1e9
    gemm_gflops = grid.comm.allreduce(product_flops) / product_seconds / 1e9
    return {
        "size": "x".join(map(str, size)), "ranks": grid.comm.size, "threads": threads,
        "samples_per_second": n_samples / update_seconds, "gflops": gflops,
        "sgemm_gflops": gemm_gflops, "over_sgemm": gflops / gemm_gflops, "dtype": dtype,
    }  # fmt: skip


def _prepare(
    shape: Size, grid: Grid, dtype: str, statistics: str
) -> tuple[Callable[[], None], Callable[[], None], float]:
    """(one update, one product, operations of the product) of this rank."""
    n_samples, n_visible, n_hidden = shape
    spec, training = (
        NetworkSpec(layers=(n_visible, n_hidden), dtype=dtype),
        TrainingSpec(batch_size=n_samples, statistics=statistics, reconstruction="states"),
    )
    needed = memory_bytes(spec, grid.n_shards, n_samples) * 5 // 4  # the product's operands come on top
    check_fits(needed, f"a benchmark of {'x'.join(map(str, shape))}", grid.comm, grid.node_comm)
    network = DeepBeliefNetwork(spec, grid)
    rbm = network.rbms[0]
    sync = AllreduceSync(grid.replica_comm, network.traffic)
    velocity = rbm.parameters.like()
    mine = Minibatches.share(n_samples, grid.replica, grid.n_replicas)
    n_mine = mine.stop - mine.start
    p = np.full((len(rbm.visible_ids), n_mine), ONES, rbm.W.dtype)
    draws.sample_bernoulli(p, Stream(spec.seed, 0, Purpose.DATA), rbm.visible_ids, mine.start, p)
    v0 = pack(p)
    size = StepSize(RATE, training.momentum, training.weight_decay)
    first_draw = mine.start

    def update() -> None:
        nonlocal first_draw
        step = rbm.contrastive_divergence(v0, first_draw, training, n_all_samples=n_samples)
        sync.learn(rbm.parameters, velocity, step.statistics, size, n_mine)
        first_draw += n_samples

    gemm = sgemm if dtype == "float32" else dgemm
    # column-major operands, which BLAS takes without a copy: (H, V) times (V, B), the block as it lies in memory
    left = rbm.W.T
    right = np.asfortranarray(np.full((left.shape[1], n_mine), ONES, rbm.W.dtype))
    out = np.zeros((left.shape[0], n_mine), rbm.W.dtype, order="F")

    def product() -> None:
        if left.size and n_mine:
            gemm(1.0, left, right, 0.0, out, overwrite_c=1)

    return update, product, 2.0 * left.shape[0] * left.shape[1] * n_mine


def _calls_for(seconds: float, work: Callable[[], None], comm: MPI.Comm) -> int:
    """How often ``work`` must be done to last as long; the first calls warm everything up."""
    work()
    once = min(_time(work, 1, comm) for _ in range(2))
    return max(1, math.ceil(seconds / max(once, 1e-6)))


def _time(work: Callable[[], None], calls: int, comm: MPI.Comm) -> float:
    """Seconds of one call on the slowest rank, the same on every rank.  Collective."""
    comm.Barrier()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return float(comm.allreduce((time.perf_counter() - started) / calls, MPI.MAX))
