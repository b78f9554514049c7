"""Calibrations in the user's cache, a file for each processor, number of cores, threads and ranks, and MPI."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpi4py import MPI

from modelpar.files.regular import read_bounded
from modelpar.kernels.products import dispatch
from modelpar.machine.caches import first_writable, kept_folders
from modelpar.plan.machine import Curve, Link, Machine
from modelpar.plan.rates import Rates, Table

VERSION = 6  # of what is measured: a change makes old calibrations invalid
MOST_BYTES = 1 << 20  # of a file that is kept


def kept_machine(comm: MPI.Comm, *, cores: int, threads: int, lists: bool, ranks: int | None = None) -> Machine | None:
    """The calibration that is kept for this machine and number of ranks; None where there is none.  Collective.

    lists   with rates of listed connections
    ranks   those of ``comm`` where None
    """
    machine = None
    if comm.rank == 0:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            machine = read(read_bounded(file_of(ranks or comm.size, cores, threads), MOST_BYTES).decode())
            if lists and not machine.rates.has_lists:
                machine = None
    return comm.bcast(machine)


def file_of(ranks: int, cores: int, threads: int) -> Path:
    """Where the calibration of so many ranks is kept: the first folder's that has it, else the preferred folder's."""
    library = MPI.Get_library_version().split("\n")[0].split(",")[0]
    identity = [dispatch.processor(), str(VERSION), str(cores), str(threads), str(ranks), library]
    name = f"{hashlib.sha256(chr(10).join(identity).encode()).hexdigest()[:16]}.json"
    files = [folder / "plan" / name for folder in kept_folders()]
    return next((file for file in files if os.path.isfile(file)), files[0])


def written(machine: Machine) -> str:
    """As ``read`` takes it."""
    fields = asdict(machine)
    fields["rates"] = {
        "source": machine.rates.source,
        "tables": [[*key, {work: asdict(table) for work, table in tables.items()}]
                   for key, tables in machine.rates.tables.items()],
        "calls": [[*key, seconds] for key, seconds in machine.rates.calls.items()],
    }  # fmt: skip
    return json.dumps(fields)


def read(text: str) -> Machine:
    """Raises ValueError, TypeError or KeyError where the text is damaged."""
    fields: dict[str, Any] = json.loads(text)
    rates = fields["rates"]
    tables = {
        (threads, at_once): {work: _table(table) for work, table in of_key.items()}
        for threads, at_once, of_key in rates["tables"]
    }
    calls = {(threads, at_once): float(seconds) for threads, at_once, seconds in rates["calls"]}
    fields["rates"] = Rates(tables, calls, rates["source"])
    fields["within"], fields["between"] = Link(**fields["within"]), Link(**fields["between"])
    fields["verbs"] = {
        verb: Curve(tuple(curve["received"]), tuple(curve["seconds"])) for verb, curve in fields["verbs"].items()
    }
    return Machine(**fields)


def _table(fields: dict[str, Any]) -> Table:
    table = Table(tuple(fields["sizes"]), tuple(fields["samples"]), tuple(map(tuple, fields["seconds"])))
    if len(table.seconds) != len(table.sizes) or any(len(row) != len(table.samples) for row in table.seconds):
        raise ValueError("a table whose rows do not fit its sizes")
    return table


def keep(machine: Machine, file: Path) -> None:
    folder, _ = first_writable("plan")
    if folder is None:
        return
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / file.name
        path.write_text(written(machine), encoding="utf-8")
        os.replace(path, folder / file.name)
