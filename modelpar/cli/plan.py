"""``modelpar plan``: what a training would take at every grid of a machine, before it is started."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpi4py import MPI
from rich.table import Table

from modelpar.bench import calibrate, check
from modelpar.bench.kept_machines import kept_machine
from modelpar.cli.config import Settings
from modelpar.cli.planned_job import Asked, asked_job
from modelpar.cli.progress import size_text
from modelpar.cli.terminal import make_console, speak
from modelpar.cli.threads import Placement
from modelpar.errors import OutOfMemoryError, SpecError, together
from modelpar.machine.memory import available_bytes
from modelpar.plan.choose import Choice, Job, best, choices, faster_on_fewer, what_fits
from modelpar.plan.machine import HERE, Machine, read_machine
from modelpar.plan.predict import WAITING
from modelpar.plan.steps import PARTS
from partitioners.columns import readable

SHOWN = 10  # rows for people; JSON has all


@dataclass(frozen=True)
class Place:
    """A machine, and the ranks that a job would have on it."""

    machine: Machine
    ranks: int
    ranks_per_node: int


def plan(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, machine: str, ranks: int | None, nodes: int | None,
    recalibrate: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print the best grids, or all of them as JSON.  Collective.

    Raises MachineError for a machine that is not known, OutOfMemoryError where no grid fits.
    """
    given = settings.tables
    known = "layers" in given.get("network", {})
    asked = asked_job(comm, settings, open_data=not known or "data" in given.get("data", {}))
    lists = asked.job.network.has_lists
    where = _place(comm, placement, machine, ranks, nodes, lists=lists, recalibrate=recalibrate)
    found: list[Choice] = []
    with together(comm):
        if comm.rank == 0:
            found = choices(asked.job, where.machine, where.ranks, where.ranks_per_node)
            check_fits(found, asked.job, where)
            _print(found, asked, where, as_json=as_json)


def check_predictions(comm: MPI.Comm, placement: Placement, *, recalibrate: bool, as_json: bool) -> None:
    """Print predictions beside measurements on the ranks at hand.  Collective."""
    rounds: list[list[dict[str, Any]]] = []
    of_networks: list[list[list[dict[str, Any]]]] = []
    say, asked = speak(comm), check.configurations(placement.cores, comm.size)
    for _ in range(check.ROUNDS):
        machine = calibrate.here(
            comm, cores=placement.cores, threads=placement.threads, lists=True, again=recalibrate, say=say
        )  # fmt: skip
        rounds.append([])
        for row in check.run(comm, machine, asked):
            rounds[-1].append(row)
            if comm.rank == 0 and len(rounds[-1]) % 10 == 0:
                say(f"{len(rounds[-1])} of {len(asked)} configurations, round {len(rounds)} of {check.ROUNDS}")
        of_networks.append(list(check.run_ranked(comm, machine, placement.cores)))
    rows = check.over_rounds(rounds)
    ranked = list(check.ranking(of_networks))
    if not rows:
        raise SpecError("no configuration of --check fits into the free memory of this machine")
    if comm.rank == 0:
        totals = check.totals(rows)
        if as_json:
            print(json.dumps({**totals, "rows": rows, "ranking": ranked}), flush=True)
        else:
            make_console().print(_table_of_check(rows))
            make_console().print(_table_of_ranking(ranked))
            print(
                f"error of the time: median {totals['median_error']:.1%}, worst {totals['worst_error']:.1%}; of "
                f"{sum(not row['fitted'] for row in rows)} configurations that were not fitted: median "
                f"{totals['median_error_not_fitted']:.1%}, worst {totals['worst_error_not_fitted']:.1%}; memory: worst "
                f"{totals['worst_memory_error']:.1%}; bytes {'exact' if totals['bytes_exact'] else 'NOT exact'}",
                flush=True,
            )


def _place(
    comm: MPI.Comm, placement: Placement, name: str, ranks: int | None, nodes: int | None, *, lists: bool,
    recalibrate: bool,
) -> Place:  # fmt: skip
    if name != HERE:
        if recalibrate:
            raise SpecError(f"--recalibrate measures this machine, but --machine is {name}; leave one of them out")
        machine = read_machine(name)
        n_nodes = nodes or machine.nodes
        n = ranks or n_nodes * (machine.ranks_per_node or 1)
        return Place(replace(machine, nodes=n_nodes), n, -(-n // n_nodes))
    n = ranks or (comm.size if comm.size > 1 else placement.cores)
    machine = here(comm, placement, n, lists=lists, recalibrate=recalibrate)
    n_nodes = nodes or machine.nodes
    return Place(replace(machine, nodes=n_nodes), n, -(-n // n_nodes))


def here(comm: MPI.Comm, placement: Placement, ranks: int, *, lists: bool, recalibrate: bool = False) -> Machine:
    """This machine as it is kept of so many ranks, else as it is measured with those at hand.  Collective."""
    machine = None
    if comm.size == 1 and ranks > 1 and not recalibrate:
        threads = max(1, placement.cores // ranks)
        machine = kept_machine(comm, cores=placement.cores, threads=threads, lists=lists, ranks=ranks)
    if machine is None:
        machine = calibrate.here(
            comm, cores=placement.cores, threads=placement.threads, lists=lists, again=recalibrate, say=speak(comm)
        )  # fmt: skip
    # planned are grids with other threads too, and the memory that is free now
    return replace(machine, memory_per_node=comm.bcast(available_bytes()), threads=None)


def check_fits(found: Sequence[Choice], job: Job, where: Place) -> None:
    """Raise OutOfMemoryError where no choice fits, with what would."""
    if any(choice.fits for choice in found):
        return
    least = min(sum(choice.memory.values()) * min(choice.ranks, where.ranks_per_node) for choice in found)
    room = what_fits(job, where.machine, where.ranks_per_node)
    would = "none of any size does" if room is None else f"{room[0]} model shards on {room[1]} such nodes would fit"
    raise OutOfMemoryError(
        f"no grid of {counted(where.ranks, 'rank')} fits: a node needs {size_text(least)} at least, but only "
        f"{size_text(where.machine.memory_per_node)} are free; {would}"
    )


# -- what is printed ---------------------------------------------------------------------------------------------------


def row_of(choice: Choice, updates: int) -> dict[str, Any]:
    """One choice by the names that scripts rely on."""
    return {
        "replicas": choice.replicas, "model_shards": choice.model_shards, "ranks": choice.ranks,
        "layout": ",".join(choice.layout), "threads": choice.threads, "step_seconds": choice.seconds,
        "epoch_seconds": updates * choice.seconds or None, "parts": choice.parts, "bytes": choice.bytes,
        "memory_per_rank": sum(choice.memory.values()), "memory": choice.memory, "fits": choice.fits,
        "efficiency": choice.efficiency,
    }  # fmt: skip


def _print(found: Sequence[Choice], asked: Asked, where: Place, *, as_json: bool) -> None:
    updates = math.ceil(asked.n_samples / asked.job.training.batch_size)
    chosen = best(found, where.ranks) if any(c.fits and c.ranks == where.ranks for c in found) else None
    if as_json:
        about = {
            "machine": where.machine.name, "rates": where.machine.rates.source, "nodes": where.machine.nodes,
            "ranks": where.ranks, "updates_of_epoch": updates or None,
        }  # fmt: skip
        rows = [row_of(choice, updates) for choice in found]
        print(json.dumps({**about, "choice": None if chosen is None else row_of(chosen, updates), "choices": rows}),
              flush=True)  # fmt: skip
        return
    make_console().print(_table(found, asked, where, updates))
    if chosen is not None:
        print(f"train --grid auto takes {described(chosen)}", flush=True)
    serial = faster_on_fewer(found, where.ranks)
    if serial is not None:
        print(f"faster on fewer ranks: {described(serial)}", flush=True)


def described(choice: Choice) -> str:
    """``2 replicas x 1 model shard, 1.93 ms an update``"""
    grid = f"{counted(choice.replicas, 'replica')} x {counted(choice.model_shards, 'model shard')}"
    if choice.ranks == 1:
        grid = "one rank"
    return f"{grid} with {counted(choice.threads, 'thread')}, {readable(1e3 * choice.seconds)} ms an update"


def counted(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _shown(found: Sequence[Choice], ranks: int) -> list[Choice]:
    """The best few, with one rank and pure replicas among them."""
    shown = list(found[:SHOWN])
    wanted = [
        next((c for c in found if c.ranks == 1), None),
        next((c for c in found if c.ranks == ranks and c.model_shards == 1), None),
    ]
    return shown + [choice for choice in wanted if choice is not None and choice not in shown]


def _table(found: Sequence[Choice], asked: Asked, where: Place, updates: int) -> Table:
    layers = "-".join(map(str, asked.job.network.layers))
    table = Table(
        title=f"{layers}, {asked.job.training.batch_size} samples an update, on {where.machine.name}: "
        f"{counted(where.ranks, 'rank')} on {counted(where.machine.nodes, 'node')}",
        title_justify="left",
    )  # fmt: skip
    for name in ("replicas x shards", "threads", "layout", "ms an update"):
        table.add_column(name, justify="left" if name == "layout" else "right")
    for name in (*(["s an epoch"] if updates else []), "computing", "exchange", "waiting", "moved", "memory a rank",
                 "efficiency"):  # fmt: skip
        table.add_column(name, justify="right")
    for choice in _shown(found, where.ranks):
        computing = sum(choice.parts[part] for part in PARTS)
        waiting = choice.parts.get(WAITING, 0.0)
        exchange = sum(choice.parts.values()) - computing - waiting
        moved = sum(n for axis in choice.bytes.values() for verb in axis.values() for n in verb.values())
        table.add_row(
            f"{choice.replicas} x {choice.model_shards}", str(choice.threads), ",".join(dict.fromkeys(choice.layout)),
            readable(1e3 * choice.seconds), *([readable(updates * choice.seconds)] if updates else []),
            *(f"{part / choice.seconds:.0%}" for part in (computing, exchange, waiting)), size_text(moved),
            size_text(sum(choice.memory.values())) + ("" if choice.fits else " (too much)"), f"{choice.efficiency:.0%}",
        )  # fmt: skip
    return table


def _table_of_check(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="predicted and measured updates", title_justify="left")
    for name in ("samples", "units", "connections", "bits", "replicas x shards", "threads", "layout", "fitted",
                 "predicted ms", "measured ms", "error", "memory error"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("connections", "layout", "fitted") else "right")
    for row in rows:
        table.add_row(
            str(row["samples"]), "-".join(map(str, row["layers"])), row["connections"], row["statistics"],
            f"{row['replicas']} x {row['model_shards']}", str(row["threads"]), row["layout"],
            "yes" if row["fitted"] else "no", readable(1e3 * row["predicted"]), readable(1e3 * row["measured"]),
            f"{row['error']:+.1%}", f"{row['memory_error']:+.1%}",
        )  # fmt: skip
    return table


def _table_of_ranking(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="the predicted choice and the fastest of all grids and layouts", title_justify="left")
    for name in ("samples", "units", "connections", "bits", "chosen", "fastest", "slower by"):
        table.add_column(name, justify="left" if name in ("connections", "chosen", "fastest") else "right")
    for row in rows:
        table.add_row(
            str(row["samples"]), "-".join(map(str, row["layers"])), row["connections"], row["statistics"],
            row["chosen"], row["fastest"], f"{row['lost']:.1%}",
        )  # fmt: skip
    return table
