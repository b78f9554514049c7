"""``modelpar bench``: reads its options, runs the benchmarks, and prints, draws or writes their rows.

All options are checked before anything is measured, on every rank alike.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI
from rich.table import Table

from modelpar.bench import cd1 as cd1_benchmark
from modelpar.bench import exchange as exchange_benchmark
from modelpar.bench import finetune as finetune_benchmark
from modelpar.bench import kernels as kernels_benchmark
from modelpar.bench import pcd as pcd_benchmark
from modelpar.bench import peers as peer_processes
from modelpar.bench import sparse as sparse_benchmark
from modelpar.bench import tables
from modelpar.bench.timing import Size
from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.config import Settings
from modelpar.cli.info import blas, cpu_name, instruction_set, mpi_library
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.pictures import have_matplotlib
from modelpar.cli.terminal import make_console
from modelpar.cli.threads import Placement, limit_loaded
from modelpar.comm.grid import Grid
from modelpar.errors import SpecError, together
from modelpar.kernels import threads as pool
from modelpar.spec import TrainingSpec

KINDS = (*"12345678", "float")  # of statistics
SPARSE_NETWORK = {"layers": (128 * 128, 4 * 120 * 120), "connections": "local:9"}  # the default
PRODUCT_OPERANDS = 3  # batch, visible, hidden


def cd1(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, sizes: str | None, repeats: int, seconds: float,
    as_json: bool, statistics: str | None, profile: bool, peers: Sequence[str], picture: str | None,
) -> None:  # fmt: skip
    """``bench cd1``.  Collective.  Raises SpecError and others on every rank."""
    chosen_sizes, kinds = parse_sizes(sizes), parse_statistics(statistics)
    spec = settings.network()
    names = parse_peers(peers, ranks=comm.size)
    if names and spec.dtype != "float32":
        raise SpecError(f"--peer measures single precision, but --dtype is {spec.dtype}; leave one of them out")
    _check_picture(comm, settings, picture)
    with _grid(comm, settings) as grid:
        results = cd1_benchmark.run(
            chosen_sizes, grid=grid, threads=placement.threads, dtype=spec.dtype, repeats=repeats, seconds=seconds,
            statistics=kinds, layout=spec.layout, profile=profile, peers=names,
        )  # fmt: skip
    results["machine"] = {**_machine(placement), **results["machine"]}
    machine = results["machine"]
    header = f"CD-1 on {machine['cpu']}: {machine['grid']}, {machine['threads']} thread(s) a rank, {machine['dtype']}"
    _show(results, header, tables.cd1_tables, tables.cd1_notes(results), as_json=as_json)
    _draw(comm, picture, "cd1_figure", results)


def pcd(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, sizes: str | None, repeats: int, seconds: float,
    as_json: bool, chains: int, chain_steps: int, statistics: str | None, centred: bool, categories: int,
    peers: Sequence[str],
) -> None:  # fmt: skip
    """``bench pcd``.  Collective.  Raises SpecError and others on every rank."""
    chosen_sizes, (kind, *more) = parse_sizes(sizes), parse_statistics(statistics)
    if more:
        raise SpecError(f"--statistics {statistics} names several, but one is measured here; give one of them")
    names = parse_peers(peers, ranks=comm.size, step="pcd")
    if categories and "pcd-numpy" in names:
        raise SpecError("--peer numpy has no categorical units (--categories); use rbms or torch")
    with _grid(comm, settings) as grid:
        results = pcd_benchmark.run(
            chosen_sizes, grid=grid, chains=chains, chain_steps=chain_steps, threads=placement.threads,
            repeats=repeats, seconds=seconds, statistics=kind, centred=centred, layout=settings.network().layout,
            categories=categories, peers=names,
        )  # fmt: skip
    results["machine"] = {**_machine(placement), **results["machine"]}
    machine = results["machine"]
    header = f"PCD on {machine['cpu']}: {machine['grid']}, {machine['threads']} thread(s) a rank"
    _show(results, header, tables.pcd_tables, _of_contests(results), as_json=as_json)


def _of_contests(results: dict[str, Any]) -> list[str]:
    """Remarks on the peers' rounds, one a line."""
    contests = [row["contest"] for row in results["rows"] if "contest" in row]
    notes = [line for contest in contests for line in contest["failed"].values()]
    if any(contest["engine"] is None for contest in contests):
        notes.append("peers were left out: two threads got no more than one's work done, so the machine is busy")
    return list(dict.fromkeys(notes))


def finetune(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, batches: str, repeats: int, seconds: float,
    as_json: bool, peers: Sequence[str],
) -> None:  # fmt: skip
    """``bench finetune``.  Collective.  Raises SpecError and others on every rank."""
    asked = settings.tables.get("network", {})
    usual = {"layers": finetune_benchmark.LAYERS, "classes": finetune_benchmark.CLASSES}
    spec = settings.network(**{name: value for name, value in usual.items() if not asked.get(name)})
    chosen, names = parse_counts("--batches", batches), parse_peers(peers, ranks=comm.size, step="finetune")
    with _grid(comm, settings) as grid:
        results = finetune_benchmark.run(
            chosen, grid=grid, spec=spec, threads=placement.threads, repeats=repeats, seconds=seconds, peers=names
        )
    results["machine"] = {**_machine(placement), **results["machine"]}
    machine = results["machine"]
    header = (
        f"Fine-tuning of {machine['layers']} on {machine['cpu']}: {machine['grid']}, {machine['threads']} thread(s) a "
        "rank"
    )
    _show(results, header, tables.finetune_tables, _of_contests(results), as_json=as_json)


def kernels(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, sizes: str | None, repeats: int, seconds: float,
    as_json: bool, calibrate: bool, picture: str | None,
) -> None:  # fmt: skip
    """``bench kernels``.  Collective.  Raises SpecError and others on every rank."""
    chosen_sizes = parse_sizes(sizes)
    _check_picture(comm, settings, picture)

    def set_threads(n: int) -> None:
        limit_loaded(n)
        pool.set_threads(n)

    try:
        results = kernels_benchmark.run(
            chosen_sizes, comm=comm, set_threads=set_threads, threads=sorted({1, placement.threads}), repeats=repeats,
            seconds=seconds, calibrate=calibrate,
        )  # fmt: skip
    finally:
        set_threads(placement.threads)
    results["machine"] = {**_machine(placement), **results["machine"]}
    machine = results["machine"]
    header = f"Kernels on {machine['cpu']}, {machine['ranks']} rank(s) at once"
    notes = [f"{n} thread(s): rates of {c['file']}" for n, c in machine["calibrations"].items() if c is not None]
    _show(results, header, tables.kernel_tables, notes, as_json=as_json)
    _draw(comm, picture, "kernel_figure", results)


def exchange(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, sizes: str | None, repeats: int, seconds: float,
    as_json: bool,
) -> None:  # fmt: skip
    """``bench exchange``.  Collective.  Raises SpecError and others on every rank."""
    chosen_sizes = parse_sizes(sizes)
    with _grid(comm, settings) as grid:
        results = exchange_benchmark.run(chosen_sizes, grid=grid, repeats=repeats, seconds=seconds)
    results["machine"] = {**_machine(placement), **results["machine"]}
    machine, notes = results["machine"], []
    if machine["model_shards"] == 1:
        notes.append("one model shard: nothing travels between shards; start more ranks, as in mpirun -n 2")
    if not all(step["agree"] for step in results["steps"]):
        notes.append("warning: the engine counted other bytes than the closed form says; please report this")
    _show(results, f"Exchange by {machine['mpi']}: {machine['grid']}", tables.exchange_tables, notes, as_json=as_json)


def sparse(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, batch: int, repeats: int, seconds: float,
    as_json: bool, statistics: str | None, partitioners: str | None, peers: bool | None,
) -> None:  # fmt: skip
    """``bench sparse``.  Collective.  Raises SpecError and others on every rank."""
    asked = settings.tables.get("network", {})
    spec = settings.network(**({} if "layers" in asked else SPARSE_NETWORK))
    kind, *more = parse_statistics(statistics)
    if more:
        raise SpecError(f"--statistics {statistics} names several, but one is measured here; give one of them")
    if peers and comm.size > 1:
        raise SpecError(f"--peers has no effect on {comm.size} ranks: scipy.sparse and SGEMM are measured on one")
    names: list[str | None] = [word.strip() for word in partitioners.split(",")] if partitioners else [None]
    with _grid(comm, settings) as grid:
        results = sparse_benchmark.run(
            spec, batch, names, grid=grid, threads=placement.threads, repeats=repeats, seconds=seconds, statistics=kind,
            peers=peers is not False,
        )  # fmt: skip
        shape = f"{grid.n_replicas} replica(s) x {grid.n_shards} model shard(s)"
    results["machine"] = {**_machine(placement), "grid": shape, "threads": placement.threads}
    layers = "-".join(map(str, spec.layers))
    header = (
        f"CD-1 on {results['machine']['cpu']}: {shape}, {placement.threads} thread(s) a rank; {layers}, "
        f"{spec.connections}: {results['connections']:,} connections, batch {batch}"
    )
    _show(results, header, tables.sparse_tables, [], as_json=as_json)


def parse_sizes(text: str | None) -> list[Size] | None:
    """``100x784x500,...``; None for the defaults.  Raises SpecError."""
    if text is None:
        return None
    chosen_sizes = []
    for word in text.split(","):
        parts = word.strip().lower().split("x")
        if len(parts) != PRODUCT_OPERANDS or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise SpecError(f"--sizes has {word!r}, but needs batch x visible x hidden, as in 100x784x500")
        batch, visible, hidden = map(int, parts)
        chosen_sizes.append((batch, visible, hidden))
    return chosen_sizes


def parse_counts(flag: str, text: str) -> list[int]:
    """``100,1000``.  Raises SpecError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise SpecError(f"{flag} is {text!r}, but needs positive integers, separated by commas, as in 100,1000")
    return [int(word) for word in words]


def parse_statistics(text: str | None) -> list[str]:
    """``3``, ``1,float``, ``all``; the default of training for None.  Raises SpecError."""
    names: list[str] = []
    for word in (text or TrainingSpec.statistics).split(","):
        kind = word.strip().lower()
        if kind not in (*KINDS, "all"):
            raise SpecError(f"--statistics has {word!r}, but needs 1 to 8, float or all, separated by commas")
        names += cd1_benchmark.ALL_STATISTICS if kind == "all" else [kind]
    return _once(names)


def parse_peers(words: Iterable[str], *, ranks: int, step: str = "cd1") -> list[str]:
    """Names of peers from ``numpy``, ``torch,sklearn``, ``all``, given once or several times.  Raises SpecError."""
    names: list[str] = []
    for word in (part.strip().lower() for words_here in words for part in words_here.split(",")):
        known = peer_processes.WORDS_OF[step]
        if word not in known:
            raise SpecError(f"--peer has {word!r}, but needs one of {', '.join(known)}")
        names += peer_processes.names_of(word, ranks=ranks, step=step)
    return _once(names)


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _check_picture(comm: MPI.Comm, settings: Settings, picture: str | None) -> None:
    """Raise SpecError, on every rank, where the picture cannot be drawn.  Collective."""
    if picture is None:
        return
    if not picture.endswith(".png"):
        raise SpecError(f"--picture {picture} has an ending that is not known; use .png")
    if not comm.bcast(have_matplotlib()):
        raise SpecError("--picture needs matplotlib, which is not installed; pip install 'modelpar[plots]'")
    check_outputs(comm, settings, {"--picture": picture})


def _draw(comm: MPI.Comm, picture: str | None, figure: str, results: dict[str, Any]) -> None:
    """Rank 0 draws.  Collective.  Raises ModelparError, on every rank, where the file cannot be written."""
    if picture is None:
        return
    with together(comm):
        if comm.rank == 0:
            drawn = getattr(importlib.import_module("modelpar.bench.figures"), figure)(results)
            with atomic_write(Path(picture)) as partial:
                drawn.savefig(partial, dpi=110, format="png")


def _grid(comm: MPI.Comm, settings: Settings) -> Grid:
    return Grid(comm, model_shards=settings.grid.model_shards, replicas=settings.grid.replicas)


def _machine(placement: Placement) -> dict[str, Any]:
    libraries = {library["of"]: library["core_type"] for library in blas()}
    return {
        "cpu": cpu_name(), "cores": placement.cores, "instruction_set": instruction_set(),
        "blas_core_type": libraries.get("scipy", next(iter(libraries.values()), "unknown")),
        "mpi": mpi_library(), "python": sys.version.split()[0],
    }  # fmt: skip


def _show(
    results: dict[str, Any], header: str, tables_of: Callable[[dict[str, Any]], list[Table]], notes: list[str], *,
    as_json: bool,
) -> None:  # fmt: skip
    """One JSON object, or a header, tables and notes."""
    if as_json:
        print(json.dumps(results), flush=True)
        return
    console = make_console()
    console.print(header, markup=False, soft_wrap=True)
    for table in tables_of(results):
        console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
