"""Traffic between shards: bits against floats, and the bytes of a step of CD-1 in every layout.

The closed form of a step's bytes (:func:`bytes_of_step`) is compared with the engine's counters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from modelpar.bench.step import CD1, ONES, training_spec
from modelpar.bench.timing import Size, Work, in_turn, text_of
from modelpar.comm.exchange import Exchange, Traffic
from modelpar.comm.grid import Grid
from modelpar.comm.memory import check_fits
from modelpar.data import Minibatches
from modelpar.kernels.states import n_words, pack
from modelpar.kernels.warm_up import warm_up
from modelpar.ownership.layout import MATRIX_LAYOUTS, UnitLayout
from modelpar.sync.reduction import BUCKET

SIZES: tuple[Size, ...] = ((100, 784, 500), (256, 784, 4096), (256, 4096, 4096))
STATISTICS = ("1", "3", "float")

GATHER_BITS, GATHER_FLOATS, REDUCE, ALLREDUCE = "gather bits", "gather floats", "reduce floats", "allreduce floats"

Bytes = dict[str, dict[str, dict[str, int]]]  # axis -> verb -> kind -> bytes


def run(sizes: Sequence[Size] | None = None, *, grid: Grid, repeats: int = 5, seconds: float = 0.05) -> dict[str, Any]:
    """``{"machine": {...}, "rows": [...], "steps": [...]}``, the same on every rank.  Collective.

    A row: ``size``, ``units`` (the visible ones), ``batch`` of a replica, ``what``, ``seconds``, ``bytes`` that had to
    cross between all ranks together, ``bandwidth`` in bytes a second.  Measured in turn: the gathering of states as
    bits and as float32, and the two ways to add up float32 sums over shards in the down pass of a column layout.

    A step: ``size``, ``layout``, ``statistics``, ``bytes`` of one update by CD-1 as the engine counted them, over all
    ranks, by axis, verb and kind; their ``total`` over the shards; ``expected`` by the closed form, and whether both
    ``agree``.

    Raises OutOfMemoryError on every rank where a size does not fit.
    """
    warm_up("float32")
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for size in sizes or SIZES:
        rows += _verbs(size, grid, repeats, seconds)
        for layout in MATRIX_LAYOUTS:
            for statistics in STATISTICS:
                steps.append(_step(size, layout, statistics, grid))
    shape = f"{grid.n_replicas} replica(s) x {grid.n_shards} model shard(s)"
    machine = {"ranks": grid.comm.size, "grid": shape, "model_shards": grid.n_shards, "replicas": grid.n_replicas}
    return {"machine": machine, "rows": rows, "steps": steps}


def _verbs(size: Size, grid: Grid, repeats: int, seconds: float) -> list[dict[str, Any]]:
    n_samples, n_visible, _ = size
    check_fits(16 * n_samples * n_visible, f"a benchmark of {'x'.join(map(str, size))}", grid.comm, grid.node_comm)
    mine = Minibatches.slice_of(n_samples, grid.replica, grid.n_replicas)
    batch = mine.stop - mine.start
    layout = UnitLayout.blocks(n_visible, grid.n_shards)
    traffic = Traffic()
    exchange = Exchange(grid.shard_comm, layout, traffic)
    rng = np.random.default_rng(0)
    owned = (rng.random((exchange.n_owned, batch), np.float32) < ONES).astype(np.float32)
    states = pack(owned)
    votes = rng.random((n_visible, batch), np.float32)
    sums = np.zeros_like(votes)
    works: dict[str, Work] = {
        GATHER_BITS: lambda: exchange.gather_packed(states),
        GATHER_FLOATS: lambda: exchange.gather(owned),
        REDUCE: lambda: exchange.reduce(votes),
        ALLREDUCE: lambda: exchange.sum_over_shards(sums),
    }
    crossed = {}
    for what, work in works.items():
        traffic.counts.clear()
        work()
        crossed[what] = _sum(traffic.total(grid.comm)["shard"])
    times = in_turn(works, repeats=repeats, seconds=seconds, comm=grid.comm)
    rows = []
    for what in works:
        once = median(times[what])
        rows.append(
            {
                "size": text_of(size), "units": n_visible, "batch": -(-n_samples // grid.n_replicas), "what": what,
                "seconds": once, "bytes": crossed[what], "bandwidth": crossed[what] / once,
            }
        )  # fmt: skip
    return rows


def _step(size: Size, layout: str, statistics: str, grid: Grid) -> dict[str, Any]:
    """One real update, counted."""
    bench = CD1(size, grid, layout=layout)
    bench.update(training_spec(statistics, size[0]))
    counted = bench.network.traffic.total(grid.comm)
    expected = bytes_of_step(size, layout, statistics, n_shards=grid.n_shards, n_replicas=grid.n_replicas)
    return {
        "size": text_of(size), "layout": layout, "statistics": statistics, "bytes": counted,
        "total": _sum(counted["shard"]), "expected": expected, "agree": counted == expected,
    }  # fmt: skip


def bytes_of_step(size: Size, layout: str, statistics: str, *, n_shards: int, n_replicas: int) -> Bytes:
    """Bytes of one update by CD-1 over all ranks, from the sizes alone; float32, packed data, sampled reconstructions.

    With P shards, a replica of B samples moves (P - 1) times the bytes of one layer's activations: for each unit
    8 ceil(B / 64) for a plane of bits and 4 B for sums or probabilities:

        column   sums of V; bits of v1
        row      sums of H twice; h0, and both hidden statistics
        dual     h0, v1, and both hidden statistics; no sums

    A statistic has k planes, or is float; that of 1 bit is the state, and has gone with h0 already.  v0 is read from
    the data.  Replicas sum integers in the smallest type that holds them, and the biases' in int64; the best
    all-reduce over R ranks moves 2 (R - 1) / R of the bytes to each (Rabenseifner 2004).
    """
    n_samples, n_visible, n_hidden = size
    planes = 0 if statistics == "float" else int(statistics)
    counts: Counter[tuple[str, str, str]] = Counter()
    for replica in range(n_replicas):
        mine = Minibatches.slice_of(n_samples, replica, n_replicas)
        plane, real = 8 * n_words(mine.stop - mine.start), 4 * (mine.stop - mine.start)
        if layout == "column":
            counts["shard", "reduce", "integers"] += (n_shards - 1) * n_visible * real
        if layout == "row":
            counts["shard", "reduce", "integers"] += (n_shards - 1) * 2 * n_hidden * real
        if layout != "row":
            counts["shard", "gather", "bits"] += (n_shards - 1) * n_visible * plane
        if layout != "column":
            bits = 2 if planes == 1 else 1 + 2 * planes  # h0, then s0 and s1
            counts["shard", "gather", "bits"] += (n_shards - 1) * n_hidden * bits * plane
            if not planes:
                counts["shard", "gather", "floats"] += (n_shards - 1) * 2 * n_hidden * real
    visible, hidden = UnitLayout.blocks(n_visible, n_shards).counts, UnitLayout.blocks(n_hidden, n_shards).counts
    largest = n_samples * ((1 << planes) - 1)
    itemsize = 4 if not planes else next(n for n in (1, 2, 4) if largest <= (1 << 8 * n - 1) - 1)
    for shard in range(n_shards):
        by_columns, by_rows = n_visible * int(hidden[shard]), int(visible[shard]) * n_hidden
        blocks = {"column": [by_columns], "row": [by_rows], "dual": [by_columns, by_rows]}[layout]
        buckets = [itemsize * min(BUCKET, n - at) for n in blocks for at in range(0, n, BUCKET)]
        for n_bytes in (*buckets, 8 * int(visible[shard]), 8 * int(hidden[shard])):
            counts["replica", "allreduce", "integers"] += n_replicas * (2 * (n_replicas - 1) * n_bytes // n_replicas)
    nested: Bytes = {"shard": {}, "replica": {}}
    for (axis, verb, kind), n_bytes in counts.items():
        if n_bytes:
            nested[axis].setdefault(verb, {})[kind] = n_bytes
    return nested


def _sum(verbs: dict[str, dict[str, int]]) -> int:
    return sum(n_bytes for kinds in verbs.values() for n_bytes in kinds.values())
