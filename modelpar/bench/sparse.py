"""Updates by CD-1 where connections are not complete, beside scipy.sparse and beside dense products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg.blas import sgemm

from modelpar.bench.step import CD1, ONES, PIECES, training_spec
from modelpar.bench.timing import in_turn
from modelpar.comm.grid import Grid
from modelpar.errors import SpecError
from modelpar.kernels.warm_up import warm_up
from modelpar.machine.memory import available_bytes
from modelpar.ownership.costs import halo_bytes
from modelpar.ownership.placement import place
from modelpar.spec import NetworkSpec, TrainingSpec

DENSE_FRACTION = 0.4  # of the free memory: at most so much for the dense matrix
PRODUCTS = 6.0  # operations of the products up, down and up again, for each connection and sample
UPDATE = 10.0  # with the statistics of both phases


def run(
    spec: NetworkSpec, batch: int, partitioners: Sequence[str | None], *, grid: Grid, threads: int = 1,
    repeats: int = 5, seconds: float = 0.5, statistics: str = TrainingSpec.statistics, peers: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """``{"rows": [...]}``, one for each partitioner, the same on every rank.  Collective.

    A row: ``partitioner``, ``seconds`` of an update and of its ``pieces``, ``samples_per_second``, ``gflops`` (10
    operations for each existing connection and sample), ``bytes`` received in a step by all ranks as
    counted and as ``predicted``, ``bytes_a_connection`` of weights, velocities and lists; and on one rank, with
    ``peers``, ``scipy_gflops`` (the three products alone, by scipy.sparse) and ``dense_gflops`` (by SGEMM on the
    masked matrix, existing connections counted; left out where it does not fit), and the ratios to them.

    Raises SpecError on every rank where the network is not one RBM of listed connections.
    """
    if len(spec.layers) != 2 or spec.patterns[0].dense:
        raise SpecError("bench sparse measures one RBM whose connections are not complete, as in --connections local:9")
    warm_up(spec.dtype)
    rows = []
    for name in partitioners:
        owners = place(spec, grid.n_shards, grid.comm, partitioner=name)
        bench = CD1((batch, *spec.layers), grid, spec=spec, owners=owners)  # type: ignore[arg-type]
        rows.append({"partitioner": name or "by default", **_row(bench, batch, repeats, seconds, statistics, peers)})
    return {"rows": rows, "connections": bench.network.n_weights[0], "threads": threads}


def _row(bench: CD1, batch: int, repeats: int, seconds: float, statistics: str, peers: bool) -> dict[str, Any]:
    network, comm = bench.network, bench.network.grid.comm
    training, n = training_spec(statistics, batch), bench.network.n_weights[0]
    works: dict[str, Callable[[], object]] = {"update": lambda: bench.update(training)}
    if peers and comm.size == 1:
        works |= _peers(bench)
    times = {
        name: median(seconds_of)
        for name, seconds_of in in_turn(works, repeats=repeats, seconds=seconds, comm=comm).items()
    }
    before = _halo(bench)
    bench.update(training)
    weights = bench.rbm.weights
    up, down = (comm.allreduce(size) // network.grid.n_replicas for size in weights.halo_units)
    pieces = dict.fromkeys(PIECES, 0.0)
    for _ in range(repeats):
        for name, spent in bench.in_pieces(training).items():
            pieces[name] += comm.allreduce(spent) / comm.size / repeats
    row: dict[str, Any] = {
        "seconds": times["update"], "samples_per_second": batch / times["update"], "pieces": pieces,
        "gflops": UPDATE * batch * n / times["update"] * 1e-9,
        "bytes": _halo(bench) - before,
        "predicted": network.grid.n_replicas * halo_bytes(
            up, down, bench.n_mine, planes=training.planes, recompute=weights.recompute
        ),
        "bytes_a_connection": comm.allreduce(_weight_bytes(bench)) / network.grid.n_replicas / max(n, 1),
    }  # fmt: skip
    row["bytes"] //= repeats + 1  # of the updates since
    if "scipy" in times:
        row["scipy_gflops"] = PRODUCTS * batch * n / times["scipy"] * 1e-9
        row["over_scipy"] = row["gflops"] / max(row["scipy_gflops"], 1e-30)
    if "dense" in times:
        row["dense_gflops"] = 2.0 * batch * n / times["dense"] * 1e-9
        row["over_dense"] = row["gflops"] / max(row["dense_gflops"], 1e-30)
    return row


def _halo(bench: CD1) -> int:
    return sum(bench.network.traffic.total(bench.network.grid.comm)["shard"].get("halo", {}).values())


def _weight_bytes(bench: CD1) -> int:
    """Bytes of this rank's weights, velocities and lists."""
    weights = bench.rbm.weights
    return weights.list_bytes + 2 * bench.rbm.W.nbytes


def _peers(bench: CD1) -> dict[str, Callable[[], object]]:
    """The same products by scipy.sparse, which has one thread, and one of them by SGEMM with all threads."""
    weights = bench.rbm.weights
    visible, hidden, W = weights.entries(bench.rbm.W)
    n_visible, n_hidden = bench.network.spec.layers
    matrix = sparse.csr_array((W, (visible, hidden)), shape=(n_visible, n_hidden))
    transposed = sparse.csr_array(matrix.T)
    rng = np.random.default_rng(0)
    v = (rng.random((n_visible, bench.n_mine)) < ONES).astype(np.float32)
    h = (rng.random((n_hidden, bench.n_mine)) < ONES).astype(np.float32)
    works: dict[str, Callable[[], object]] = {"scipy": lambda: (transposed @ v, matrix @ h, transposed @ v)}
    if 4 * n_visible * n_hidden < DENSE_FRACTION * available_bytes():
        dense = np.asfortranarray(transposed.toarray())
        right, out = np.asfortranarray(v), np.zeros((n_hidden, bench.n_mine), np.float32, order="F")
        works["dense"] = lambda: sgemm(1.0, dense, right, 0.0, out, overwrite_c=1)
    return works
