"""Predictions beside measurements: updates of many networks on the ranks at hand, as ``modelpar plan --check`` shows.

A configuration is *fitted* where its matrix and its samples are points at which works or whole updates were measured,
and its network is complete, on one rank; all others were never measured before they are predicted.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from mpi4py import MPI

from modelpar.bench import calibrate
from modelpar.bench.exchanges import medians
from modelpar.bench.step import CD1, training_spec
from modelpar.comm.cores import limited
from modelpar.comm.grid import Grid
from modelpar.machine.memory import available_bytes
from modelpar.ownership.layout import NetworkLayout
from modelpar.ownership.placement import place
from modelpar.plan.collectives import Placement
from modelpar.plan.machine import Machine
from modelpar.plan.memory import memory_by_kind
from modelpar.plan.predict import predict
from modelpar.plan.resolve import resolve
from modelpar.plan.steps import received, step_of
from modelpar.spec import NetworkSpec, SyncSpec

DRAWN = 11  # bytes of a value while the check draws its data, as reals and as bits
LEAST = 0.02  # seconds of a repeat
ROUNDS = 5  # of measuring everything: what a machine is like changes from one minute to the next
SHARE = 0.7  # of the free memory that a configuration may take
MAPPED, MAPPED_LATER = 1 << 20, 32 << 20  # bytes; the second is the most to which glibc raises it by itself
_RANKS = ("model_shards", "replicas", "threads")
_MEASURED = ("predicted", "measured", "memory", "memory_measured")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Configuration:
    """One update: what is trained on which grid."""

    samples: int
    layers: tuple[int, int]
    statistics: str = "4"
    model_shards: int = 1
    replicas: int = 1
    threads: int = 1
    layout: str = "column"
    connections: str = "dense"
    gibbs_steps: int = 1

    @property
    def ranks(self) -> int:
        return self.model_shards * self.replicas

    @property
    def network(self) -> NetworkSpec:
        return NetworkSpec(self.layers, layout=self.layout, connections=self.connections)

    @property
    def fitted(self) -> bool:
        points = self.layers in calibrate.SIZES and self.samples in calibrate.SAMPLES
        points |= (self.layers, self.samples) in zip(calibrate.SIZES, calibrate.UPDATES, strict=True)
        return points and self.ranks == 1 and self.connections == "dense"


def configurations(cores: int, ranks: int) -> list[Configuration]:
    """Those that fit so many cores and ranks: of one rank with one thread and with all, and of all ranks."""
    small, wide, odd, huge = (784, 500), (784, 2048), (3000, 1200), (8192, 8192)
    middle, large = (2048, 2048), (4096, 4096)
    one = [
        Configuration(samples, layers, bits)
        for samples, layers in (
            (100, small), (128, (784, 512)), (256, wide), (300, odd), (512, (1024, 2048)),
            (128, (1536, 3072)), (256, large), (512, huge),
        )
        for bits in ("1", "4", "float")
    ]  # fmt: skip
    one += [
        Configuration(samples, layers, connections=connections, statistics=bits)
        for samples, layers, connections, bits in (
            (256, (784, 2304), "local:5", "4"), (100, (4096, 6272), "local:9", "4"),
            (100, (4096, 6272), "local:9", "1"),
            (256, (2000, 3000), "random:40", "4"),
        )
    ]  # fmt: skip
    if cores > 1:
        one += [
            Configuration(samples, layers, bits, threads=cores)
            for samples, layers, bits in (
                (100, small, "4"), (256, middle, "4"), (512, large, "4"), (300, odd, "4"), (300, odd, "float"),
                (256, middle, "1"),
            )
        ]  # fmt: skip
    if ranks == 1:
        return one
    several = [
        Configuration(samples, layers, bits, ranks, layout=layout)
        for samples, layers, bits in (
            (100, small, "4"), (256, middle, "4"), (300, odd, "4"), (256, large, "4"), (256, middle, "1"),
            (300, odd, "float"),
        )
        for layout in ("column", "row", "dual")
    ]  # fmt: skip
    several += [Configuration(512, huge, "4", ranks, layout=layout) for layout in ("column", "dual")]
    several += [
        Configuration(samples, layers, bits, replicas=ranks)
        for samples, layers, bits in ((100, small, "4"), (256, middle, "4"), (300, odd, "4"), (256, middle, "1"))
    ]
    several += [
        Configuration(100, (4096, 6272), "4", ranks, connections="local:9"),
        Configuration(256, (2000, 3000), "4", ranks, connections="random:40"),
    ]
    return one + several


def run(
    comm: MPI.Comm, machine: Machine, asked: Sequence[Configuration], *, seconds: float = 0.0
) -> Iterator[dict[str, Any]]:
    """A row for each configuration that fits this machine, the same on every rank.  Collective.

    ``predicted`` and ``measured`` seconds of an update, ``error`` of the prediction as a part of what was measured,
    ``fitted``, and the same of ``bytes`` (all ranks) and ``memory`` (of the rank that needs most); ``parts`` as
    predicted.  One rank measures by itself where the configuration has one, and the others sleep.
    """
    team = comm.Split(0 if comm.rank < 1 else MPI.UNDEFINED, comm.rank)
    try:
        for one in asked:
            if comm.size % one.ranks or one.ranks not in (1, comm.size) or not _fits(one, comm):
                continue
            row: dict[str, Any] | None = None
            if one.ranks == comm.size:
                row = _row(one, machine, comm)
            elif comm.rank == 0:
                row = _row(one, machine, team)
            calibrate.rest(comm)
            yield comm.bcast(row)
    finally:
        if team != MPI.COMM_NULL:
            team.Free()


def over_rounds(rounds: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each configuration that was measured in every round, with the means of what was measured.

    A training lasts longer than what a machine is like for a moment, so it takes the mean of all such moments; and a
    median of few would be that of one or of another.  ``parts`` are those of the first round.
    """
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in (row for rows in rounds for row in rows):
        key = tuple(row[name] for name in ("samples", "connections", "statistics", "layout", *_RANKS))
        found.setdefault((*key, *row["layers"]), []).append(row)
    rows = []
    for same in (same for same in found.values() if len(same) == len(rounds)):
        means = {name: statistics.fmean(row[name] for row in same) for name in _MEASURED}
        errors = {
            "error": means["predicted"] / means["measured"] - 1,
            "memory_error": means["memory"] / means["memory_measured"] - 1,
        }
        of_rounds = [{name: row[name] for name in _MEASURED} for row in same]
        rows.append({**same[0], **means, **errors, "of_rounds": of_rounds})
    return rows


def networks_to_rank() -> list[tuple[int, tuple[int, int], str, str]]:
    """(samples, layers, connections, statistics) of networks whose grids and layouts are all measured."""
    return [
        (samples, layers, connections, bits)
        for samples, layers, connections, bits in (
            (100, (784, 500), "dense", "4"), (100, (500, 784), "dense", "4"), (64, (256, 256), "dense", "4"),
            (256, (784, 2048), "dense", "1"), (256, (2048, 784), "dense", "4"), (512, (1024, 1024), "dense", "4"),
            (300, (3000, 1200), "dense", "float"), (256, (2048, 2048), "dense", "4"),
            (1000, (784, 1000), "dense", "4"),
            (128, (4096, 4096), "dense", "1"), (100, (4096, 6272), "local:9", "4"),
            (256, (2000, 3000), "random:40", "4"),
        )
    ]  # fmt: skip


def run_ranked(comm: MPI.Comm, machine: Machine, cores: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of all grids and layouts of the ranks at hand, and of one rank with one thread and with all cores, for
    each of ``networks_to_rank``.  Collective.
    """
    for samples, layers, connections, bits in networks_to_rank():
        common = Configuration(samples, layers, bits, connections=connections)
        # hosts that share this machine have its cores in turn, so that one alone is faster than each of several
        by_itself = machine.nodes == 1 or comm.size == 1
        asked = [replace(common, threads=n) for n in sorted({1, cores})] if by_itself else []
        for shards in (n for n in range(1, comm.size + 1) if comm.size % n == 0 and comm.size > 1):
            words = ("column", "row", "dual") if shards > 1 and connections == "dense" else ("column",)
            of_grid = replace(common, model_shards=shards, replicas=comm.size // shards)
            asked += [replace(of_grid, layout=word) for word in words]
        yield list(run(comm, machine, asked))


def ranking(rounds: Sequence[Sequence[Sequence[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    """For each network of ``run_ranked`` how its predicted choice does, beside the best of all that were measured.

    ``lost``: seconds of the choice over those of the fastest, less 1; means over the rounds.
    """
    for of_network in zip(*rounds, strict=True):
        rows = over_rounds(of_network)
        if not rows:  # it does not fit into the free memory
            continue
        chosen, fastest = min(rows, key=lambda row: row["predicted"]), min(rows, key=lambda row: row["measured"])
        first = rows[0]
        yield {
            **{name: first[name] for name in ("samples", "layers", "connections", "statistics")},
            "chosen": name_of(chosen), "fastest": name_of(fastest),
            "lost": chosen["measured"] / fastest["measured"] - 1, "rows": rows,
        }  # fmt: skip


def name_of(row: dict[str, Any]) -> str:
    """``1 x 2 dual, 1 thread(s)``"""
    return f"{row['replicas']} x {row['model_shards']} {row['layout']}, {row['threads']} thread(s)"


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``median_error`` and ``worst_error`` of the times, over all rows and over those that were not fitted; the same of
    memory; and whether all bytes are exact."""
    errors = [abs(row["error"]) for row in rows]
    new = [abs(row["error"]) for row in rows if not row["fitted"]]
    return {
        "median_error": statistics.median(errors), "worst_error": max(errors),
        "median_error_not_fitted": statistics.median(new), "worst_error_not_fitted": max(new),
        "worst_memory_error": max(abs(row["memory_error"]) for row in rows),
        "bytes_exact": all(row["bytes"] == row["bytes_measured"] for row in rows),
    }  # fmt: skip


def _fits(one: Configuration, comm: MPI.Comm) -> bool:
    words = "sparse" if one.connections != "dense" else one.layout
    memory = memory_by_kind(
        one.network, (words,), training_spec(one.statistics, one.samples), n_shards=one.model_shards,
        n_replicas=one.replicas,
    )  # fmt: skip
    return bool(comm.bcast(sum(memory.values()) * one.ranks < SHARE * available_bytes()))


def _row(one: Configuration, machine: Machine, comm: MPI.Comm) -> dict[str, Any]:
    """Collective over the ranks of the configuration."""
    training = replace(training_spec(one.statistics, one.samples), gibbs_steps=one.gibbs_steps)
    with Grid(comm, model_shards=one.model_shards, replicas=one.replicas) as grid, limited(one.threads, one.threads):
        owners = None
        if one.connections != "dense":
            owners = place(one.network, grid.n_shards, comm)
        layout = resolve(one.network, grid, owners)
        before = _resident(reset=True)
        _mapped_from(MAPPED)
        bench = CD1((one.samples, *one.layers), grid, spec=one.network, owners=layout)
        _mapped_from(MAPPED_LATER)

        def update() -> None:
            bench.update(training, centred=True)

        update()
        counted = Counter(bench.network.traffic.counts)
        update()
        moved = sum((Counter(bench.network.traffic.counts) - counted).values())
        measured = medians({"": update}, comm, least=LEAST)[""]
        peak = _resident()
        predicted, parts, n_bytes = _predicted(one, layout, machine)
        memory = _memory(one, layout, before)
        rows = comm.allgather((peak, before))
        peak = max(of_rank for of_rank, _ in rows)
        return {
            "samples": one.samples, "layers": list(one.layers), "connections": one.connections,
            "statistics": one.statistics, "layout": layout.matrix_layouts[0], "model_shards": one.model_shards,
            "replicas": one.replicas, "threads": one.threads, "fitted": one.fitted, "predicted": predicted,
            "measured": measured, "error": predicted / measured - 1, "parts": parts, "bytes": n_bytes,
            "bytes_measured": comm.allreduce(moved), "memory": memory, "memory_measured": peak,
            "memory_error": memory / peak - 1,
        }  # fmt: skip


def _predicted(one: Configuration, layout: NetworkLayout, machine: Machine) -> tuple[float, dict[str, float], int]:
    training, total = replace(training_spec(one.statistics, one.samples), gibbs_steps=one.gibbs_steps), 0.0
    on_node = max(1, one.ranks // machine.nodes)
    placement = Placement.blocks(one.replicas, one.model_shards, on_node)
    far, shards_far = placement.n_nodes > 1, bool((placement.nodes != placement.nodes[:, :1]).any())
    for replica in range(one.replicas):
        step = step_of(
            one.network, 0, training, SyncSpec(), layout, one.replicas, machine.rates, one.threads, at_once=on_node,
            replica=replica, replicas_far=far, shards_far=shards_far,
        )  # fmt: skip
        verbs = (verb for axis in received(step).values() for verb in axis.values())
        total += sum(n for verb in verbs for n in verb.values())
    found = predict(step, placement, machine)  # of the replica with the largest share
    return found.seconds, dict(found.parts), round(total)


def _memory(one: Configuration, layout: NetworkLayout, before: int) -> int:
    kinds = memory_by_kind(
        one.network, layout.matrix_layouts, training_spec(one.statistics, one.samples), n_shards=one.model_shards,
        n_replicas=one.replicas,
    )  # fmt: skip
    data = DRAWN * one.layers[0] * -(-one.samples // one.replicas)
    return before + data + sum(n for kind, n in kinds.items() if kind != "libraries")


def _mapped_from(n_bytes: int) -> None:
    """Let arrays of so many bytes be mapped one by one, where the C library is glibc, and go back when they are freed.

    Else they are put into holes of its heap, and how much that grows depends on what was measured before.
    """
    with suppress(OSError, AttributeError):
        malloc = ctypes.CDLL(None)
        malloc.mallopt(_M_MMAP_THRESHOLD, n_bytes)
        malloc.mallopt(_M_TRIM_THRESHOLD, 2 * n_bytes)  # as glibc does when it raises the first by itself


def _resident(*, reset: bool = False) -> int:
    """Bytes of memory that this process has at most had since the last reset (Linux), or has now."""
    if reset:
        gc.collect()
        with suppress(OSError, AttributeError):  # what was freed goes back to the system, where the C library is glibc
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            _CLEAR.write_text("5")
    else:
        with suppress(OSError, ValueError, StopIteration):
            line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)
