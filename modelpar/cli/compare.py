"""``modelpar compare``: partitioners on networks, compared by measurements of the engine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext

from mpi4py import MPI
from rich.text import Text

from modelpar.bench.placements import run
from modelpar.cli.config import Settings
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.terminal import make_console, plain_console
from modelpar.errors import SpecError, together
from modelpar.kernels.products import dispatch
from partitioners import GraphError, method
from partitioners.__main__ import listed
from partitioners.auto import Progress, Search
from partitioners.columns import PIPED
from partitioners.compare import Result, standing, table, write_json
from partitioners.networks import NETWORKS, network
from partitioners.report import write_report


def compare(
    comm: MPI.Comm, *, networks: str, methods: str, parts: str | None, seed: int, batch: int,
    budget: float | None, json_file: str | None, html_file: str | None,
) -> None:  # fmt: skip
    """Print the table, and write the files that are asked for.  Collective.

    Raises SpecError on every rank for unknown names and invalid numbers, and where a file cannot be written.
    """
    numbers = _numbers(parts, comm.size)
    names = listed(networks, list(NETWORKS))
    chosen = listed(methods, [])
    if not names or not chosen:
        raise SpecError("--networks and --methods need at least one name each")
    try:
        for name in chosen:
            method(name)
        graphs = [network(name) for name in names]
        Search(budget).checked()
    except GraphError as error:
        raise SpecError(str(error)) from None
    rates = [("the machine's calibration", dispatch.calibration_file())]
    check_outputs(comm, Settings({}), {"--json": json_file, "--html": html_file}, more=rates)
    console = make_console()
    results: list[Result] = []
    with console.status(Text("starting")) if comm.rank == 0 and console.is_terminal else nullcontext() as status:

        def tell(name: str, n_parts: int, how: str, now: Progress | None) -> None:
            if status is not None:
                status.update(Text(standing(name, n_parts, how, now)))

        results += run(names, chosen, numbers, comm=comm, seed=seed, batch=batch, budget=budget, progress=tell)

    def show() -> None:
        if console.is_terminal:
            console.print(table(results, console.width))
        else:
            plain_console(width=PIPED).print(table(results))
        if json_file is not None:
            write_json(json_file, results)
        if html_file is not None:
            write_report(html_file, graphs, results, shlex.join(["modelpar", *sys.argv[1:]]))

    _on_rank_0(comm, show)


def _on_rank_0(comm: MPI.Comm, work: Callable[[], None]) -> None:
    """Raises SpecError on every rank where the work, on the first, raises GraphError.  Collective."""
    with together(comm):
        if comm.rank == 0:
            try:
                work()
            except GraphError as error:
                raise SpecError(str(error)) from None


def _numbers(text: str | None, n_ranks: int) -> list[int]:
    if text is None:
        return list(range(2, n_ranks + 1)) or [1]
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 0 < int(word) <= n_ranks for word in words):
        raise SpecError(
            f"--parts is {text!r}, but must be numbers from 1 to {n_ranks}, the ranks that were started, with commas"
        )
    return [int(word) for word in words]
