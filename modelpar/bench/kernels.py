"""Each kernel on packed states beside the BLAS's product of the same size, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.bench.timing import Size, Work, in_turn, text_of
from modelpar.comm.memory import check_fits
from modelpar.kernels.products import dense, dispatch
from modelpar.kernels.products.product import Product, Sampler
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts
from modelpar.kernels.statistics.update import apply_update
from modelpar.kernels.warm_up import warm_up
from modelpar.streams import Purpose, Stream
from modelpar.weights.dense import Scratch

Array = npt.NDArray[Any]

SIZES: tuple[Size, ...] = ((100, 784, 500), (256, 784, 4096))
DENSITIES = (0.05, 0.1, 0.2, 0.5)  # fractions of the states that are on
PLANES = (1, 3, 8)  # bits of the statistics
SAMPLE = "sample"  # the kernel that the dispatcher chooses, with bias, sigmoid, draw and packing
COUNTS, SOFT, BLAS = "{}-bit", "soft", "blas"

CARRY, GAIN, SHRINK = 0.9, 1e-9, 1e-9  # of the updates: weights hardly change, however often they are updated


@dataclass(frozen=True)
class ByKernel(Product):
    """A product by a named kernel, in place of the one that the dispatcher chooses."""

    kernel: str = BLAS

    def chosen_kernel(self) -> str:
        return self.kernel


def run(
    sizes: Sequence[Size] | None = None, *, comm: MPI.Comm, set_threads: Callable[[int], object],
    threads: Sequence[int] = (1,), densities: Sequence[float] = DENSITIES, repeats: int = 3, seconds: float = 0.02,
    calibrate: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """``{"machine": {...}, "rows": [...]}``, the same on every rank.  Collective: all ranks compute at once.

    A row: ``size`` (BxVxH), ``threads``, ``direction`` (up, down, statistics), ``density`` of the states, ``kernel``,
    ``gflops`` of one rank (operations of the dense product over the time), ``sgemm_gflops``, ``over_sgemm``, and
    ``chosen``: whether the dispatcher chooses it, None where there is no choice.

    set_threads   called with the number of threads that kernels and BLAS use from then on
    threads       numbers of threads of a rank, each measured
    calibrate     measure the dispatcher's rates again, for each number of threads, instead of using those on disk

    Products: the kernels of this processor, the BLAS on states that are unpacked first, and ``sample``: the chosen one
    with bias, sigmoid, draw and packing.  Statistics: both phases and the update of the weights, 4 B V H operations;
    of k-bit values, of probabilities (``soft``), and by the BLAS of unpacked ones.  SGEMM: one product of dense
    operands in single precision, nothing unpacked.
    Raises OutOfMemoryError on every rank where a size does not fit.
    """
    warm_up("float32")
    rows: list[dict[str, Any]] = []
    calibrations = {}
    for n_threads in threads:
        set_threads(n_threads)
        if calibrate:
            dispatch.calibrate()
        else:
            dispatch.prepare()
        calibrations[str(n_threads)] = comm.bcast(calibration())
        for size in sizes or SIZES:
            _check_memory(size, comm)
            for direction in ("up", "down"):
                for density in densities:
                    rows += _products(size, density, direction, comm, repeats, seconds)
            rows += _statistics(size, comm, repeats, seconds)
            for row in rows:
                row.setdefault("threads", n_threads)
    machine = {
        "ranks": comm.size, "threads": list(threads), "kernels": list(dispatch.trusted()),
        "calibrations": calibrations,
    }  # fmt: skip
    return {"machine": machine, "rows": comm.bcast(rows)}


def calibration() -> dict[str, Any] | None:
    """The rates by which kernels are chosen: ``file`` and ``rates`` in nanoseconds; None where they are assumed.

    Loads those on disk for this machine and number of threads; measures nothing.
    """
    if not dispatch.load():
        dispatch.use(None)
    rates = dispatch.calibration()
    if rates is None:
        return None
    return {"file": str(dispatch.calibration_file()), **asdict(rates)}


def _check_memory(size: Size, comm: MPI.Comm) -> None:
    n_samples, n_visible, n_hidden = size
    needed = 4 * (3 * n_visible * n_hidden + 8 * n_samples * (n_visible + n_hidden))
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        check_fits(needed, f"a benchmark of {text_of(size)}", comm, node)
    finally:
        node.Free()


def _products(
    size: Size, density: float, direction: str, comm: MPI.Comm, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    n_samples, n_visible, n_hidden = size
    up = direction == "up"
    n_in, n_out = (n_visible, n_hidden) if up else (n_hidden, n_visible)
    rng = np.random.default_rng(0)
    W = rng.standard_normal((n_visible, n_hidden), np.float32)
    W *= np.float32(0.05)
    states = pack(rng.random((n_in, n_samples), np.float32) < density)
    chosen = dispatch.choose(states, n_out, up=up)
    sampler = Sampler(np.zeros(n_out, np.float32), np.arange(n_out), Stream(0, 0, Purpose.HIDDEN), 0)
    buffers = {name: Scratch().buffer for name in (*dispatch.trusted(), SAMPLE)}

    def product(kernel: str) -> Product:
        return ByKernel(W, states, up, n_in, kernel=kernel)

    works: dict[str, Work] = {"sgemm": _dense(product(BLAS).matrix, unpack(states))}
    for name in dispatch.trusted():
        works[name] = lambda name=name: product(name).sums(buffers[name])  # type: ignore[misc]
    works[SAMPLE] = lambda: sampler.of_product(product(chosen), buffers[SAMPLE])
    times = in_turn(works, repeats=repeats, seconds=seconds, comm=comm)
    rows = _rated(times, 2.0 * n_samples * n_in * n_out, 2.0 * n_samples * n_in * n_out)
    about = {"size": text_of(size), "direction": direction, "density": density}
    return [{**about, **row, "chosen": row["kernel"] == chosen if row["kernel"] != SAMPLE else None} for row in rows]


def _statistics(size: Size, comm: MPI.Comm, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """No kernel of these depends on the density of the states."""
    n_samples, n_visible, n_hidden = size
    density = 0.2
    rng = np.random.default_rng(0)
    W = np.zeros((n_visible, n_hidden), np.float32)
    V = np.zeros_like(W)
    v0, v1 = (pack(rng.random((n_visible, n_samples), np.float32) < density) for _ in range(2))
    p0, p1 = (rng.random((n_hidden, n_samples), np.float32) for _ in range(2))
    dense0, dense1 = unpack(v0), unpack(v1)
    works: dict[str, Work] = {"sgemm": _dense(dense0, p0.T)}
    for planes in PLANES:
        counts = Counts((v0, _rounded(p0, planes)), (v1, _rounded(p1, planes)))
        works[COUNTS.format(planes)] = lambda c=counts: c.learn(W, V, CARRY, GAIN * c.unit, SHRINK)  # type: ignore[misc]
    probability_counts = ProbabilityCounts((v0, p0), (v1, p1), n_samples)
    works[SOFT] = lambda: probability_counts.learn(W, V, CARRY, GAIN * probability_counts.unit, SHRINK)

    def by_blas() -> None:
        dense.matmul(unpack(v0, out=dense0), p0.T, V, GAIN, CARRY)
        dense.matmul(unpack(v1, out=dense1), p1.T, V, -GAIN, 1.0)
        apply_update(W.reshape(-1), V.reshape(-1), SHRINK)

    works[BLAS] = by_blas
    times = in_turn(works, repeats=repeats, seconds=seconds, comm=comm)
    product = 2.0 * n_samples * n_visible * n_hidden
    about = {"size": text_of(size), "direction": "statistics", "density": density}
    return [{**about, **row, "chosen": None} for row in _rated(times, 2 * product, product)]


def _rounded(p: Array, planes: int) -> Packed:
    """k-bit values (units, batch) of probabilities."""
    return pack(np.rint(p * np.float32((1 << planes) - 1)), planes)


def _dense(a: Array, b: Array) -> Work:
    """One product of dense matrices, ``a @ b``."""
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    return lambda: dense.matmul(a, b, out)


def _rated(times: dict[str, list[float]], operations: float, sgemm_operations: float) -> list[dict[str, Any]]:
    """A row for each work but SGEMM: medians, as rates."""
    sgemm = sgemm_operations / median(times["sgemm"]) / 1e9
    rates = {name: operations / median(taken) / 1e9 for name, taken in times.items() if name != "sgemm"}
    return [
        {"kernel": name, "gflops": rate, "sgemm_gflops": sgemm, "over_sgemm": rate / sgemm}
        for name, rate in rates.items()
    ]
