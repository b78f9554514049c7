"""Training on up to 4096 ranks, simulated: every number and picture of docs/scaling.md that is not measured.

    python examples/scaling.py --out FOLDER [--most 1024]

Steps of CD-1 (256 samples a replica, plain gradients) of dense, local and random sparse networks are replayed rank by
rank (``modelpar.plan.simulate``) on the two machines that are shipped, with as many of their nodes as it takes and one
rank a core, unless it is said otherwise.  Efficiency is the time of one rank with the work of all ranks over what all
ranks take: T(1) / (P T(P)) in strong scaling, T(1) / T(P) where every rank has as much as the one.  One rank holds one
block, so the second block of a dual layout counts as loss.  Writes rows.json, tables.md and three pictures; takes a few
minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from scaled import pages

from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.collectives import Placement
from modelpar.plan.described import Described
from modelpar.plan.machine import Link, Machine, read_machine
from modelpar.plan.simulate import Simulated, cycle_of, simulate
from modelpar.plan.steps import Compute, Move, Step, step_of
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec

MACHINES = ("ethernet-10g", "infiniband-200g")
RANKS = (1, 4, 16, 64, 256, 1024, 4096)
LAYOUTS = ("column", "row", "dual")
BITS = (1, 4, 8)  # of statistics
BATCH = 256
SHARD = 8192  # weights of a shard are SHARD x SHARD where every rank has the same work
STRONG = 65536  # units of both layers of the dense network that is cut into ever smaller parts
FIELD, MAPS, SIDE = 10, 466, 200  # 1.7 billion connections: fields of 10x10 on an image of 200x200 (Dean et al. 2012)
TILE = 22  # pixels of a shard's side where every rank has the same work: those of 81 shards of the above
DEGREE = 64  # of the random sparse networks, in which every shard needs units of all others
PERIOD = 10  # steps between averages, fetches and pushes
WIDTH = 4096  # units of both layers of the network that replicas have
SPEECH = (440, 2560, 2560, 2560, 2560, 8192)  # 42 million weights (Dean et al. 2012)

Row = dict[str, Any]


# -- steps -------------------------------------------------------------------------------------------------------------


def training(bits: int, batch: int = BATCH, sweeps: int = 1) -> TrainingSpec:
    return TrainingSpec(
        batch_size=batch, statistics=str(bits), gibbs_steps=sweeps, reconstruction="states", centred=False
    )  # fmt: skip


def dense(
    machine: Machine,
    sizes: tuple[int, int],
    shards: int,
    layout: str,
    bits: int,
    *,
    threads: int = 1,
    at_once: int = 1,
    sweeps: int = 1,
) -> Step:
    owners = NetworkLayout.blocks(sizes, shards, layout)
    spec = NetworkSpec(layers=sizes, layout=layout)
    return step_of(
        spec, 0, training(bits, sweeps=sweeps), SyncSpec(), owners, 1, machine.rates, threads, at_once=at_once
    )


def seconds_alone(step: Step) -> float:
    """Of a step of one rank."""
    return sum(float(piece.seconds.sum()) for piece in step if isinstance(piece, Compute))


def run(step: Step | Sequence[Step], machine: Machine, where: Placement, **options: Any) -> Simulated:
    """Large grids are replayed once: everything in a dense step waits for everything else."""
    many = where.nodes.size > 1024
    steps = [step] if step and isinstance(step[0], Compute | Move) else step
    return simulate(steps, machine, where, **{"repeats": 1 if many else 3, "warm_up": 0 if many else 1, **options})  # type: ignore[arg-type]


def row(study: str, machine: Machine, network: str, ranks: int, ideal: float, result: Simulated, **more: Any) -> Row:
    """ideal   seconds of a step without any loss"""
    return {
        "study": study, "machine": machine.name, "network": network, "ranks": ranks, "seconds": result.step,
        "efficiency": ideal / result.step, "parts": result.parts, **more,
    }  # fmt: skip


# -- studies -----------------------------------------------------------------------------------------------------------


def dense_networks(machine: Machine, most: int) -> Iterator[Row]:
    per_node = machine.cores_per_node
    for study in ("weak", "strong"):
        for bits in BITS:
            if study == "weak":
                sizes_of, whole = (lambda p: (SHARD * math.isqrt(p),) * 2), (SHARD, SHARD)
            else:
                sizes_of, whole = (lambda p: (STRONG, STRONG)), (STRONG, STRONG)
            alone = seconds_alone(dense(machine, whole, 1, "column", bits, at_once=per_node))
            for layout in LAYOUTS:
                for p in RANKS[:-1] if bits != 4 else RANKS:
                    if p > most or (bits != 4 and p < 64):
                        continue
                    step = dense(machine, sizes_of(p), p, layout, bits, at_once=min(p, per_node))
                    result = run(step, machine, Placement.blocks(1, p, per_node))
                    ideal = alone if study == "weak" else alone / p
                    yield row(study, machine, "dense", p, ideal, result, layout=layout, bits=bits)


def listed_networks(machine: Machine, most: int) -> Iterator[Row]:
    per_node, rates = machine.cores_per_node, machine.rates.of(1, machine.cores_per_node)
    alone = {
        ("local", "weak"): Described.tiles(TILE + FIELD - 1, FIELD, MAPS, 1, 1),
        ("local", "strong"): Described.tiles(SIDE, FIELD, MAPS, 1, 1),
        ("random", "weak"): Described.random(SHARD, SHARD, DEGREE, 1),
        ("random", "strong"): Described.random(STRONG * 16, STRONG * 16, DEGREE, 1),
    }
    for (network, study), one in alone.items():
        for bits in BITS:
            whole = seconds_alone(one.step(rates, bits, BATCH))
            for p in RANKS:
                # every pair of ranks of a random network has a message
                if p > most or (bits != 4 and not 64 <= p <= 1024) or (network == "random" and p > 1024):
                    continue
                n = math.isqrt(p)
                if network == "local":
                    side = TILE * n + FIELD - 1 if study == "weak" else SIDE
                    described = Described.tiles(side, FIELD, MAPS, n, n)
                else:
                    units = SHARD * p if study == "weak" else STRONG * 16
                    described = Described.random(units, units, DEGREE, p)
                # the ranks of a node have tiles side by side in a row
                result = run(described.step(rates, bits, BATCH, behind=True), machine, Placement.blocks(1, p, per_node))
                ideal = whole / p if study == "strong" else whole * described.n_connections / p / one.n_connections
                yield row(study, machine, network, p, ideal, result, layout="sparse", bits=bits)


def replicas(machine: Machine, most: int) -> Iterator[Row]:
    """Replicas of one rank each; a node's share its device."""
    per_node, spec = machine.cores_per_node, NetworkSpec(layers=(WIDTH, WIDTH))
    layout = NetworkLayout.blocks((WIDTH, WIDTH), 1, "column")
    local, server = (
        SyncSpec(sync="local", period=PERIOD),
        SyncSpec(sync="server", fetch_every=PERIOD, push_every=PERIOD),
    )
    strategies: dict[str, tuple[SyncSpec, int, int, bool]] = {  # period, servers, whether sums travel behind computing
        "all-reduce": (SyncSpec(), 1, 0, True),
        "all-reduce, nothing behind": (SyncSpec(), 1, 0, False),
        f"local, every {PERIOD}": (local, PERIOD, 0, True),
        f"server, every {PERIOD}, 1 node": (server, PERIOD, 1, True),
        f"server, every {PERIOD}, 8 nodes": (server, PERIOD, 8, True),
    }
    for name, (sync, period, servers, behind) in strategies.items():
        for r in RANKS:
            if r > most:
                continue
            step = step_of(
                spec, 0, training(4, BATCH * r), sync, layout, r, machine.rates, 1, at_once=min(r, per_node),
                replicas_far=behind and r > per_node, servers=servers,
            )  # fmt: skip
            if r == 1:
                alone = seconds_alone(step)
            cycle = cycle_of(step, period, ("average", "fetch", "push"))
            where = Placement.blocks(r, 1, per_node, servers if r > 1 else 0)
            result = run(cycle, machine, where, warm_up=4 if servers else 1, repeats=2)
            yield row("replicas", machine, name, r, alone, result)


def what_would_help(machine: Machine) -> Iterator[Row]:
    """1024 ranks with 8192-wide shards, dual, 4 bits; and what changes its efficiency."""
    p, per_node = 1024, machine.cores_per_node

    def at(
        name: str, *, shard: int = SHARD, bits: int = 4, machine: Machine = machine, layout: str = "dual",
        groups: int = 1, per_node: int = per_node, threads: int = 1, mpi: str = "mpich", behind: bool = False,
        sweeps: int = 1,
    ) -> Row:  # fmt: skip
        shards = p // groups
        sizes = (shard * math.isqrt(shards),) * 2
        options: dict[str, Any] = {"threads": threads, "at_once": per_node, "sweeps": sweeps}
        alone = seconds_alone(dense(machine, (shard, shard), 1, "column", bits, **options))
        step = dense(machine, sizes, shards, layout, bits, **options)
        if behind:  # the statistic of the data is needed in the end, and may travel behind the products
            first = next(i for i, piece in enumerate(step) if isinstance(piece, Move))
            step = (*step[: first + 1], replace(step[first + 1], behind=True), *step[first + 2 :])  # type: ignore[arg-type]
        return row(
            "1024", machine, name, p, alone, run(step, machine, Placement.blocks(1, shards, per_node), mpi=mpi)
        )  # fmt: skip

    yield at("as it is")
    yield at("column layout", layout="column")
    yield at("statistics of 1 bit", bits=1)
    yield at("16384-wide shards", shard=2 * SHARD)
    yield at("16384-wide shards, 1 bit", shard=2 * SHARD, bits=1)
    yield at("32768-wide shards", shard=4 * SHARD)
    yield at("statistics behind the products", behind=True)
    yield at("4 replicas of 256 shards, before their sums", groups=4)
    faster = replace(machine, between=Link(machine.between.latency, 2.97e9))
    yield at("25-Gbit/s Ethernet", machine=faster)
    yield at("25 Gbit/s, statistics behind the products", machine=faster, behind=True)
    yield at("10 sweeps an update (CD-10)", sweeps=10)
    yield at("10 sweeps, 1 bit", sweeps=10, bits=1)
    yield at("10 sweeps, 1 bit, 25 Gbit/s", sweeps=10, bits=1, machine=faster)
    yield at("10 sweeps, 1 bit, 16384-wide shards", sweeps=10, bits=1, shard=2 * SHARD)
    yield at("10 sweeps, 1 bit, 16384-wide shards, 25 Gbit/s", sweeps=10, bits=1, shard=2 * SHARD, machine=faster)
    steady = replace(machine, scatter=0.01)
    yield at("scatter of 1 %", machine=steady)
    yield at("10 sweeps, 1 bit, 16384-wide shards, scatter of 1 %", sweeps=10, bits=1, shard=2 * SHARD, machine=steady)
    other = read_machine(MACHINES[1])
    yield at("200-Gbit/s InfiniBand, 64 ranks a node", machine=other, per_node=other.cores_per_node)
    yield at("10 sweeps, 1 bit, InfiniBand", sweeps=10, bits=1, machine=other, per_node=other.cores_per_node)
    yield at("latency of 5 us", machine=replace(machine, between=Link(5e-6, machine.between.bandwidth)))
    yield at("no scatter", machine=replace(machine, scatter=0.0))
    yield at("oversubscription of 4", machine=replace(machine, oversubscription=4.0))
    yield at("one rank a node, 16 threads", per_node=1, threads=per_node)
    yield at("Open MPI's collectives", mpi="openmpi")


def distbelief(machine: Machine) -> Iterator[Row]:
    """Networks of the shapes of Dean et al. (2012, figure 3), one rank a machine, with all its cores or one."""
    slow = replace(machine, name="1-Gbit/s Ethernet", between=Link(50e-6, machine.between.bandwidth / 10))
    for one in (machine, slow):
        for threads in (one.cores_per_node, 1):
            more: Row = {"threads": threads}
            for n in (1, 2, 4, 6, 9, 12):
                step = Described.tiles(SIDE, FIELD, MAPS, n, n).step(one.rates.of(threads), 4, BATCH, behind=True)
                if n == 1:
                    alone = seconds_alone(step)
                result = run(step, one, Placement.blocks(1, n * n, 1))
                more["speedup"] = alone / result.step
                yield row("distbelief", one, "local, 1.7 billion", n * n, alone / n**2, result, **more)
            for p in (1, 2, 4, 8, 16, 32):
                where, total = Placement.blocks(1, p, 1), 0.0
                for sizes in pairwise(SPEECH):
                    steps = [dense(one, sizes, p, layout, 4, threads=threads) for layout in LAYOUTS]
                    results = [run(step, one, where) for step in steps]
                    total += min(result.step for result in results)
                if p == 1:
                    alone = total
                more["speedup"] = alone / total
                result = replace(results[0], step=total)
                yield row("distbelief", one, "fully connected, 42 million", p, alone / p, result, **more)


def main() -> None:
    """Read the command line, run all studies, write files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for rows.json, tables.md and pictures")
    parser.add_argument("--most", type=int, default=max(RANKS), help=f"ranks [{max(RANKS)}]")
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    started = time.process_time()
    for name in MACHINES:
        machine = read_machine(name)
        for study in (dense_networks, listed_networks, replicas):
            rows += study(machine, options.most)
            print(f"{name}: {study.__name__}, {time.process_time() - started:.0f} s", flush=True)
    ethernet = read_machine(MACHINES[0])
    if options.most >= 1024:
        rows += what_would_help(ethernet)
    rows += distbelief(ethernet)
    (out / "rows.json").write_text(json.dumps(rows))
    (out / "tables.md").write_text(pages.tables(rows))
    pages.pictures(rows, out)
    print(f"{len(rows)} rows in {time.process_time() - started:.0f} s of one core")


if __name__ == "__main__":
    main()
