"""Steps of training on two to four hosts with shaped links, measured, and simulated from what was measured below them.

    sudo python examples/scaling_measured.py [--out FILE.json]

For every number of hosts, rate and network the same program runs on the hosts (examples/hosts.py): first messages of
several sizes, which give latency and bandwidth of the links (as IMB's Sendrecv: every host sends to the next one at
the same time); then steps, with a clock at both ends of every exchange.  Of these the seconds *between* exchanges go
into the simulation, step by step, with the bytes of each exchange and the links; the seconds *in* exchanges do not.  So
what is compared is the time of a step as simulated (``modelpar.plan.simulate``) with that measured, means both.  Needs
what examples/hosts.py needs.  A table is printed, and written with all that it was made from.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

HERE = Path(__file__).resolve().parent
BURSTS = {"1gbit": "128kb"}  # a millisecond, which timers do not cut though all ranks keep the machine busy
BUFFER = "64k"  # of the system, for each connection and way
SIZES = (1024, 8192, 32768, 131072, 524288, 2097152)  # bytes of the messages that measure links
SHORT = 2  # so many of them are
USUAL = 0.9  # of the steps: in the others something else ran
PLACES = ((1, 4), (2, 1), (3, 1), (4, 1), (2, 2))  # (hosts, ranks on each)
RATES = ("1gbit", "100mbit")
# name: (batch, visible, hidden), layout or connections, replicas (None: as many as ranks)
CASES: dict[str, tuple[tuple[int, int, int], str, int | None]] = {
    "column": ((256, 4096, 512), "column", 1),
    "row": ((256, 512, 2048), "row", 1),
    "dual": ((512, 8192, 2048), "dual", 1),
    "local": ((256, 9216, 15488), "local:9", 1),
    "replicas": ((256, 1024, 1024), "column", None),
    "grid": ((512, 2048, 512), "column", 2),  # on four ranks
}


# -- on the hosts ------------------------------------------------------------------------------------------------------


class Clock:
    """When a rank waits, and when it has begun or made an exchange, of how many bytes from whom.

    waits  (begin, end); moves: (time, verb, axis, kind, bytes, {shard: bytes} of a halo)
    needed   (time, which move) of the halos, each when it is waited for: what can be done without it comes first
    """

    def __init__(self, network: Any) -> None:
        from modelpar.comm.halo import Halo

        self.waits: list[tuple[float, float]] = []
        self.moves: list[tuple[float, str, str, str, int, dict[int, int]]] = []
        self.needed: list[tuple[float, int]] = []
        self._halo: dict[int, int] = {}
        network.traffic.status.waiting = self._waiting
        network.traffic.add = self._add
        begin = Halo.begin

        def begun(halo: Any, owned: Any) -> Any:
            self._halo = dict(halo._receive)
            transfer, move = begin(halo, owned), len(self.moves) - 1
            wait = transfer.wait

            def waited() -> Any:
                if transfer.pending:
                    self.needed.append((time.perf_counter(), move))
                return wait()

            transfer.wait = waited
            return transfer

        Halo.begin = begun  # type: ignore[method-assign]

    @contextmanager
    def _waiting(self, verb: str) -> Any:
        began = time.perf_counter()
        yield
        self.waits.append((began, time.perf_counter()))

    def _add(self, axis: str, verb: str, values: Any, n_bytes: int, of_ranks: Any = None) -> None:
        kind = {"u": "bits", "i": "integers", "f": "floats"}[values.dtype.kind]
        row = values[0].nbytes if verb == "halo" else 0
        pairs = {shard: n * row for shard, n in self._halo.items()} if verb == "halo" else {}
        self.moves.append((time.perf_counter(), verb, axis, kind, int(n_bytes), pairs))

    def computing(self, starts: list[float]) -> tuple[list[tuple[int, bool]], Any, Any]:
        """The events of a step, seconds of computing before each and after the last (steps, events + 1), and of waiting
        (steps,).   An event is a move, or that it is needed: (which, needed)."""
        n, steps = len(self.moves) // (len(starts) - 1), len(starts) - 1
        events = sorted([
            *((move[0], i % n, False) for i, move in enumerate(self.moves)),
            *((time, i % n, True) for time, i in self.needed),
        ])  # fmt: skip
        order = [(move, needed) for _, move, needed in events[: len(events) // steps]]
        marks = [starts[0], *(time for time, *_ in events), starts[-1]]
        began, ended = (np.array(times) for times in zip(*self.waits, strict=True))
        waited = np.concatenate([[0.0], np.cumsum(ended - began)])
        clock = [t - waited[np.searchsorted(ended, t, side="right")] for t in marks]  # that stands still in a wait
        edges = np.array([t - waited[np.searchsorted(ended, t, side="right")] for t in starts])
        spans = np.diff(np.column_stack([edges[:-1], np.array(clock[1:-1]).reshape(steps, -1), edges[1:]]), axis=1)
        return order, spans, np.diff(starts) - np.diff(edges)


def worker(cases: list[str], seconds: float) -> None:
    """One rank: prints, on rank 0, a line of JSON with what was measured."""
    from mpi4py import MPI

    from modelpar.bench.step import CD1, training_spec
    from modelpar.comm.grid import Grid
    from modelpar.kernels.products import dispatch
    from modelpar.kernels.warm_up import warm_up
    from modelpar.ownership.placement import place
    from modelpar.spec import NetworkSpec

    comm = MPI.COMM_WORLD
    warm_up("float32")
    dispatch.prepare()
    here = os.stat("/proc/self/ns/net").st_ino
    result: dict[str, Any] = {"links": _links(comm, here), "add": _adding(comm), "cases": {}}
    for name in cases:
        size, kind, n_replicas = CASES[name]
        if n_replicas is not None and n_replicas > 1 and comm.size != 4:
            continue
        with Grid(comm, replicas=n_replicas or comm.size) as grid:
            if ":" in kind:
                spec = NetworkSpec(layers=size[1:], connections=kind, halo="receive")
                bench = CD1(size, grid, spec=spec, owners=place(spec, grid.n_shards, comm))
            else:
                bench = CD1(size, grid, layout=kind)
            training = training_spec("4", size[0])
            clock, starts = Clock(bench.network), []
            for _ in range(2):
                bench.update(training)
            comm.Barrier()
            began = time.perf_counter()
            bench.update(training)
            once = comm.allreduce(time.perf_counter() - began, MPI.MAX)
            steps = max(5, min(200, int(seconds / once)))
            comm.Barrier()
            clock.waits.clear()
            clock.moves.clear()
            clock.needed.clear()
            for _ in range(steps):
                starts.append(time.perf_counter())
                bench.update(training)
            starts.append(time.perf_counter())
            n = len(clock.moves) // steps
            moves = [move[1:] for move in clock.moves[:n]]
            told = grid.comm.gather((here, moves, *clock.computing(starts), np.diff(starts)))
            if grid.comm.rank == 0:
                nodes, events = [ns for ns, *_ in told], told[0][2]
                of_steps = np.mean([spent for *_, spent in told], 0)
                usual = of_steps <= np.quantile(of_steps, USUAL)  # the same steps of all ranks, whose means add up
                spans = [of_rank for _, _, _, of_rank, *_ in told]
                result["cases"][name] = {
                    "nodes": [sorted(set(nodes), key=nodes.index).index(ns) for ns in nodes],
                    "replicas": grid.n_replicas,
                    "moves": [
                        [*told[0][1][i][:3], _passed(events, i), [of_rank[i][3] for _, of_rank, *_ in told],
                         [of_rank[i][4] for _, of_rank, *_ in told]]
                        for i in range(n)
                    ],
                    "events": events,
                    "compute": [of_rank[usual].tolist() for of_rank in spans],  # (ranks, steps, events + 1)
                    "waiting": [float(waited[usual].mean()) for *_, waited, _ in told],
                    "step": float(of_steps[usual].mean()),
                    "steps": steps,
                }  # fmt: skip
    if comm.rank == 0:
        print("MEASURED " + json.dumps(result), flush=True)


def _passed(events: list[tuple[int, bool]], move: int) -> int:
    """Computations that pass from the beginning of a move until it is needed; 0 of one that a rank waits for."""
    return events.index((move, True)) - events.index((move, False)) if (move, True) in events else 0


def _adding(comm: Any) -> float:
    """Seconds to add a byte that has come to one that is there, while all ranks do so."""
    from mpi4py import MPI

    received, values = np.ones(1 << 18, np.int32), np.ones(1 << 18, np.int32)
    comm.Barrier()
    began = time.perf_counter()
    for _ in range(50):
        MPI.SUM.Reduce_local(received, values)
    return float(comm.allreduce(time.perf_counter() - began) / comm.size / 50 / values.nbytes)


def _links(comm: Any, here: int) -> dict[str, list[list[float]]]:
    """``{"between": [[bytes, seconds], ...], "within": ...}``: each sends to the next and receives, all together."""
    hosts = comm.allgather(here)
    first = [hosts.index(host) for host in dict.fromkeys(hosts)]
    measured = {"between": _ring(comm, first)} if len(first) > 1 else {}
    if len(first) < comm.size:
        measured["within"] = _ring(comm, [rank for rank in range(comm.size) if hosts[rank] == hosts[0]])
    return measured


def _ring(comm: Any, ranks: list[int]) -> list[list[float]]:
    group = comm.Split(0 if comm.rank in ranks else 1, comm.rank)
    measured = []
    if comm.rank in ranks:
        to, fro = (group.rank + 1) % group.size, (group.rank - 1) % group.size
        for size in SIZES:
            sent, received, means = np.zeros(size, np.uint8), np.empty(size, np.uint8), []
            repeats = 50 if size < 50000 else 12 if size < 1 << 20 else 4
            for _ in range(3):
                for repeat in range(-2, repeats):  # one after the other: a link has no pause to save up a burst
                    if repeat == 0:
                        group.Barrier()
                        began = time.perf_counter()
                    group.Sendrecv(sent, to, 0, received, fro, 0)
                means.append(np.mean(group.allgather((time.perf_counter() - began) / repeats)))
            measured.append([size, float(np.median(means))])
    group.Free()
    comm.Barrier()
    return comm.bcast(measured, ranks[0])


BOTH = (("between", "within"), ("within", "between"))


# -- here --------------------------------------------------------------------------------------------------------------


def link_of(measured: list[list[float]]) -> Any:
    """latency + bytes / bandwidth: the slope of the longest two, and what short ones take beyond it."""
    from modelpar.plan.machine import Link

    sizes, seconds = np.array(measured).T
    a_byte = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
    return Link(max(float(np.mean(seconds[:SHORT] - sizes[:SHORT] * a_byte)), 1e-7), 1 / a_byte)


def simulated(links: dict[str, Any], add: float, case: dict[str, Any]) -> Any:
    """The mean step of a case from the computing of its steps, its bytes, the links, and the time to add a byte."""
    from modelpar.plan.collectives import Placement
    from modelpar.plan.machine import Machine
    from modelpar.plan.simulate import simulate
    from modelpar.plan.steps import Compute, Move

    replicas = case["replicas"]
    placement = Placement(np.array(case["nodes"]).reshape(replicas, -1))
    between, within = (link_of(links[name if name in links else other]) for name, other in BOTH)
    machine = Machine("measured", placement.n_nodes, 1, 1, within, between, scatter=0.0)
    moves = []
    for verb, axis, kind, behind, received, sources in case["moves"]:
        of_shards = np.array(received, float).reshape(replicas, -1)[0]
        moves.append(Move(verb, axis, kind, of_shards, _pairs(sources[: len(of_shards)]), behind))
    steps = []
    for of_step in np.array(case["compute"]).swapaxes(0, 1):  # (ranks, events + 1)
        step: list[Any] = []
        for event, seconds in zip([*case["events"], None], of_step.T, strict=True):
            step.append(Compute("products", seconds.reshape(replicas, -1)))
            if event and not event[1]:
                step.append(moves[event[0]])
        steps.append(tuple(step))
    return simulate(steps, machine, placement, repeats=1, add=add)


def _pairs(sources: list[dict[str, int]]) -> Any:
    """(shards, shards) bytes of a halo from what each shard receives from the others; None of other moves."""
    if not any(sources):
        return None
    pairs = np.zeros((len(sources),) * 2)
    for target, of_shard in enumerate(sources):
        for source, n_bytes in of_shard.items():
            pairs[int(source), target] = n_bytes
    return sparse.csr_array(pairs)


def measure(n_hosts: int, ranks: int, rate: str, cases: list[str], seconds: float) -> dict[str, Any]:
    """Run the cases on hosts.  Raises SystemExit where that fails."""
    made = runpy.run_path(str(HERE / "hosts.py"))
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    os.environ.update(OPENBLAS_NUM_THREADS="1", PYTHONPATH=path)
    # what a connection has handed to the system travels beside the next one's, for longer than both would one by one
    environment = {"UCX_TLS": "tcp,self", "UCX_TCP_SNDBUF": BUFFER, "UCX_TCP_RCVBUF": BUFFER}
    # there are more ranks than cores: one that waits and polls on would keep the one that it waits for from its core
    environment |= {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "50"}
    with made["hosts"](n_hosts, rate if n_hosts > 1 else "1gbit", burst=BURSTS.get(rate)) as there:
        command = [sys.executable, __file__, "--worker", ",".join(cases), "--seconds", str(seconds)]
        launched = made["command_on"](there, ranks, command)
        done = subprocess.run(launched, capture_output=True, text=True, env={**os.environ, **environment})
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if done.returncode or not lines:
        sys.exit(f"the ranks on the hosts failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return json.loads(lines[0].removeprefix("MEASURED "))


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown: measured and simulated milliseconds of a step."""
    lines = ["| hosts x ranks | links | " + " | ".join(CASES) + " |", "|---" * (len(CASES) + 2) + "|"]
    for place, rate in dict.fromkeys((row["place"], row["rate"]) for row in rows):
        line = {row["case"]: row for row in rows if (row["place"], row["rate"]) == (place, rate)}
        cells = [
            f"{1e3 * line[name]['measured']:.1f}, {1e3 * line[name]['simulated']:.1f}" if name in line else ""
            for name in CASES
        ]
        lines.append(f"| {place.replace('x', ' x ')} | {rate} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line; measure, simulate, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="file of JSON for all that was measured")
    parser.add_argument("--seconds", type=float, default=4.0, help="of steps for each case [4]")
    parser.add_argument("--places", default=",".join(f"{h}x{r}" for h, r in PLACES), help="hosts x ranks on each")
    parser.add_argument("--rates", default=",".join(RATES), help="of the links")
    parser.add_argument("--cases", default=",".join(CASES), help="networks")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker.split(","), options.seconds)
        return
    rows = []
    print("hosts x ranks, rate, network: measured and simulated ms of a step (of these computing), error")
    for place in options.places.split(","):
        n_hosts, ranks = map(int, place.split("x"))
        for rate in options.rates.split(",") if n_hosts > 1 else ["no link"]:
            told = measure(n_hosts, ranks, rate, options.cases.split(","), options.seconds)
            for which, points in told["links"].items():
                link = link_of(points)
                print(f"{place} {rate}: {1e6 * link.latency:.0f} us, {link.bandwidth / 1e6:.1f} MB/s {which} hosts")
            for name, case in told["cases"].items():
                result = simulated(told["links"], told["add"], case)
                error = result.step / case["step"] - 1
                rows.append({"place": place, "rate": rate, "case": name, "measured": case["step"],
                             "simulated": result.step, "parts": result.parts, "error": error, **case,
                             "links": told["links"], "add": told["add"]})  # fmt: skip
                print(f"    {name:9} {1e3 * case['step']:8.1f} {1e3 * result.step:8.1f} "
                      f"({1e3 * result.compute:6.1f}) {100 * error:+6.1f} %", flush=True)  # fmt: skip
    print(table(rows))
    for name, of_kind in {
        "over links": [row for row in rows if row["rate"] in RATES],
        "on one host": [row for row in rows if row["rate"] not in RATES],
    }.items():
        if of_kind:
            errors = 100 * np.abs([row["error"] for row in of_kind])
            print(f"{len(errors)} steps {name}: median error {np.median(errors):.1f} %, largest {errors.max():.1f} %,"
                  f" {np.sum(errors <= 15)} within 15 %")  # fmt: skip
    if options.out:
        Path(options.out).write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
