"""The grid of a training that was asked for none: the planner's, the same on all ranks, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpi4py import MPI

from modelpar.bench import calibrate
from modelpar.bench.kept_machines import kept_machine
from modelpar.cli.config import Settings
from modelpar.cli.plan import Place, check_fits, counted, described
from modelpar.cli.planned_job import asked_job
from modelpar.cli.terminal import speak
from modelpar.cli.threads import Placement
from modelpar.comm.grid import Grid, check_servers
from modelpar.errors import together
from modelpar.machine.memory import available_bytes
from modelpar.ownership.layout import AUTO, SPARSE, NetworkLayout
from modelpar.plan.choose import Choice, best, choices, faster_on_fewer
from modelpar.spec import NetworkSpec
from partitioners.columns import readable


@dataclass(frozen=True)
class ChosenGrid:
    """Shards and replicas as they were asked for or chosen; None where the other one, or the ranks, fix them.

    layout   how the matrices are held, where the planner chose it too
    """

    model_shards: int | None
    replicas: int | None
    layout: tuple[str, ...] | None = None


def grid_of(comm: MPI.Comm, settings: Settings, placement: Placement) -> ChosenGrid:
    """The grid of a training.  Collective.

    With ``--grid auto``, or where several ranks are started and neither size is given, rank 0 plans and tells its
    choice: by the rates that ``modelpar plan`` has kept of this machine, else by those of a usual core, as fast as one
    kernel is here.  Raises OutOfMemoryError on every rank where no grid fits.
    """
    asked = settings.grid
    n_ranks = comm.size - asked.servers
    check_servers(comm.size, asked.servers, asked.model_shards)
    sizes = asked.model_shards, asked.replicas
    if sizes != (None, None) or n_ranks == 1 or asked.partition:  # a file of placements is of as many shards
        return ChosenGrid(*sizes)
    job = asked_job(comm, settings, open_data=False).job
    machine = kept_machine(comm, cores=placement.cores, threads=placement.threads, lists=job.network.has_lists)
    machine = machine or calibrate.guessed(comm, cores=placement.cores)
    machine = replace(machine, memory_per_node=comm.bcast(available_bytes()), threads=placement.threads)
    say, chosen = speak(comm), None
    with together(comm):
        if comm.rank == 0:
            on_node = -(-n_ranks // machine.nodes)
            found = choices(job, machine, n_ranks, on_node)
            check_fits([c for c in found if c.ranks == n_ranks], job, Place(machine, n_ranks, on_node))
            usable = [c for c in found if c.model_shards >= 1 and _allowed(c, settings, n_ranks)] or found
            chosen = best(usable, n_ranks)
            say(_reason(chosen, found, machine.rates.source, settings))
    chosen = comm.bcast(chosen)
    assert chosen is not None
    return ChosenGrid(chosen.model_shards, chosen.replicas, chosen.layout if chosen.model_shards > 1 else None)


def _allowed(choice: Choice, settings: Settings, n_ranks: int) -> bool:
    """Whether a strategy for replicas has some, and servers enough for the shards."""
    if choice.ranks == n_ranks and settings.grid.servers and choice.model_shards > settings.grid.servers:
        return False
    return settings.sync.sync == "allreduce" or choice.replicas > 1


def _reason(chosen: Choice, found: list[Choice], source: str, settings: Settings) -> str:
    """One line: the choice, what else there was, and whether it decides what is learned."""
    fastest: dict[tuple[int, int], Choice] = {}
    for one in found:
        if one.fits and one.ranks == chosen.ranks:
            fastest.setdefault((one.replicas, one.model_shards), one)
    others = [
        f"{counted(c.replicas, 'replica')} x {counted(c.model_shards, 'model shard')} {readable(1e3 * c.seconds)} ms"
        for grid, c in fastest.items()
        if grid != (chosen.replicas, chosen.model_shards)
    ]
    line = f"grid chosen: {described(chosen)}"
    line += f" ({', '.join(others[:2])})" if others else ", the only one that fits"
    line += f", by rates {source}"
    serial = faster_on_fewer(found, chosen.ranks)
    if serial is not None:
        line += f"; {counted(serial.ranks, 'rank')} alone would be faster, {readable(1e3 * serial.seconds)} ms"
    if settings.sync.sync != "allreduce":
        line += (
            f"; with --sync {settings.sync.sync} the number of replicas changes what is learned: --replicas fixes it"
        )
    return line


def with_layout(
    spec: NetworkSpec, grid: Grid, layout: tuple[str, ...] | None
) -> tuple[NetworkSpec, NetworkLayout | None]:
    """(the spec that asks for this layout, blocks of units that are held so); the spec, and None, without one."""
    if layout is None:
        return spec, None
    words = ",".join(AUTO if word == SPARSE else word for word in layout)
    together = spec.visible_kind.unit_of_layout
    asked = f"{words},{AUTO}" if spec.classes else words
    return replace(spec, layout=asked), NetworkLayout.blocks(spec.layers, grid.n_shards, words, together=together)
