"""Updates by CD-1 beside dense matrix products of the same sizes, measured in turn on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from mpi4py import MPI
from scipy.linalg.blas import dgemm, sgemm

from modelpar.bench.contest import contest
from modelpar.bench.step import CD1, ONES, PIECES, training_spec
from modelpar.bench.timing import Size, calls_for, in_turn, text_of, time_of
from modelpar.comm.grid import Grid
from modelpar.kernels.products import dispatch
from modelpar.kernels.warm_up import warm_up
from modelpar.spec import TrainingSpec

SIZES: tuple[Size, ...] = (
    (100, 784, 500), (100, 784, 1000), (256, 784, 4096), (256, 4096, 4096), (512, 8192, 8192),
)  # fmt: skip
ALL_STATISTICS = ("1", "3", "float")  # that ``--statistics all`` stands for

_OPERATIONS = {"up": 2.0, "down": 2.0, "up again": 2.0, "update": 4.0}  # of a piece, for each sample and weight


def run(
    sizes: Sequence[Size] | None = None, *, grid: Grid, threads: int = 1, dtype: str = "float32",
    repeats: int = 5, seconds: float = 0.5, statistics: Sequence[str] = (TrainingSpec.statistics,),
    layout: str = "auto", profile: bool = False, peers: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """``{"machine": {...}, "rows": [...]}``, the same on every rank.  Collective.

    Each row belongs to a size and a kind of statistics: ``size`` (BxVxH), ``statistics``, ``layout``, ``ranks``,
    ``threads`` of each, ``samples_per_second``, ``gflops`` (10 B V H operations an update), ``sgemm_gflops``,
    ``over_sgemm`` = gflops / sgemm_gflops and its range over the repeats, ``dtype``; with ``profile`` where the time
    of a step goes, with ``peers`` (names of :mod:`modelpar.bench.peers`) how others do.

    An update is all the work of training on a minibatch that is in memory: statistics of both phases, momentum, decay,
    exchanges over shards and replicas.  SGEMM is each rank's block of B x V times V x H (its samples, its block of W);
    all ranks compute at once, and their rates are added.  Each is measured ``repeats`` times, in turn, for at least
    ``seconds``; medians count, and the slowest rank's clock.
    Raises OutOfMemoryError on every rank where a size does not fit; LayoutError, SpecError for unknown names.
    """
    warm_up(dtype)
    dispatch.prepare()
    rows: list[dict[str, Any]] = []
    for size in sizes or SIZES:
        bench = CD1(size, grid, dtype=dtype, layout=layout)
        trainings = {name: training_spec(name, size[0]) for name in statistics}
        size_rows = _rows(size, bench, trainings, repeats=repeats, seconds=seconds)
        for row in size_rows:
            training = trainings[row["statistics"]]
            row |= {"ranks": grid.comm.size, "threads": threads, "dtype": dtype}
            if profile:
                row["profile"] = _profile(size, bench, training, repeats, seconds)
            if peers:
                row["peers"] = contest(
                    _update(bench, training), size, list(peers),
                    comm=grid.comm, threads=threads, repeats=repeats, seconds=seconds,
                )  # fmt: skip
        rows += size_rows
    shape = f"{grid.n_replicas} replica(s) x {grid.n_shards} model shard(s)"
    return {"machine": {"ranks": grid.comm.size, "grid": shape, "threads": threads, "dtype": dtype}, "rows": rows}


def _rows(
    size: Size, bench: CD1, trainings: dict[str, TrainingSpec], *, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """All kinds of statistics in turn, each with the product beside it."""
    comm = bench.network.grid.comm
    product, product_operations = dense_product(bench.rbm.W, bench.n_mine)
    works: dict[str, Callable[[], object]] = {}
    for name, training in trainings.items():
        works[name] = _update(bench, training)
        works[f"product beside {name}"] = product
    times = in_turn(works, repeats=repeats, seconds=seconds, comm=comm)
    operations, product_operations = 1e-9 * _update_operations(size), 1e-9 * comm.allreduce(product_operations)
    rows = []
    for name in trainings:
        updates, products = times[name], times[f"product beside {name}"]
        gflops, gemm_gflops = operations / median(updates), product_operations / median(products)
        ratios = [operations / u / (product_operations / p) for u, p in zip(updates, products, strict=True)]
        rows.append(
            {
                "size": text_of(size), "statistics": name, "layout": bench.layout,
                "samples_per_second": size[0] / median(updates), "gflops": gflops, "sgemm_gflops": gemm_gflops,
                "over_sgemm": gflops / gemm_gflops, "over_sgemm_range": [min(ratios), max(ratios)],
            }
        )  # fmt: skip
    return rows


def _update_operations(size: Size) -> float:
    """The operations of an update by dense products."""
    return 10.0 * size[0] * size[1] * size[2]


def _update(bench: CD1, training: TrainingSpec) -> Callable[[], None]:
    return lambda: bench.update(training)


def dense_product(W: Any, n_samples: int) -> tuple[Callable[[], None], float]:
    """(one dense product of this rank's samples with its block of W, its operations)"""
    gemm = sgemm if W.dtype == np.float32 else dgemm
    # column-major operands, which BLAS takes without a copy: (H, V) times (V, B), the block as it lies in memory
    left = W.T
    right = np.asfortranarray(np.full((left.shape[1], n_samples), ONES, W.dtype))
    out = np.zeros((left.shape[0], n_samples), W.dtype, order="F")

    def product() -> None:
        if left.size and n_samples:
            gemm(1.0, left, right, 0.0, out, overwrite_c=1)

    return product, 2.0 * left.shape[0] * left.shape[1] * n_samples


def _profile(size: Size, bench: CD1, training: TrainingSpec, repeats: int, seconds: float) -> dict[str, Any]:
    """``kernels`` of the products, ``seconds`` of a step, and of each of its ``pieces`` ``seconds``, the
    fraction of the step (``share``) and ``over_sgemm``.

    Steps in pieces and products are measured in turn, one by one, and of each piece the fastest quarter counts:
    interruptions on a busy machine hit long pieces more than short ones.  ``rest`` is the time of a step outside its
    pieces, ``seconds`` the sum of all.  Of several ranks the slowest one's clock counts, piece by piece.  Collective.
    """
    comm = bench.network.grid.comm
    product, operations = dense_product(bench.rbm.W, bench.n_mine)
    calls = repeats * calls_for(seconds, _update(bench, training), comm)
    steps, products = np.empty((calls, len(PIECES) + 1)), np.empty((calls, 1))
    for i in range(calls):
        started = time.perf_counter()
        steps[i, :-1] = list(bench.in_pieces(training).values())
        steps[i, -1] = time.perf_counter() - started - steps[i, :-1].sum()
        products[i] = time_of(product, 1, comm)
    comm.Allreduce(MPI.IN_PLACE, steps, MPI.MAX)
    fastest, fastest_products = (
        np.sort(x, axis=0)[: max(1, calls // 4)].mean(axis=0).tolist() for x in (steps, products)
    )
    pieces = dict(zip((*PIECES, "rest"), fastest, strict=True))
    step_seconds = sum(fastest)
    # seconds that SGEMM takes for one operation for each sample and weight
    dense = fastest_products[0] * size[0] * size[1] * size[2] / comm.allreduce(operations)
    return {
        "kernels": comm.bcast(bench.kernels()),
        "seconds": step_seconds,
        "pieces": {
            name: {
                "seconds": value,
                "share": value / step_seconds,
                "over_sgemm": _OPERATIONS[name] * dense / value if name in _OPERATIONS and value > 0 else None,
            }
            for name, value in pieces.items()
        },
    }
