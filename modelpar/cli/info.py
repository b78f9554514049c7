"""``modelpar info``: what a run on this machine would stand on, and what does not fit together."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding  # type: ignore[import-untyped]
import mpi4py
import numba
import numpy as np
import scipy
from mpi4py import MPI
from threadpoolctl import ThreadpoolController

import modelpar
from modelpar.bench.kernels import calibration
from modelpar.cli.progress import size_text, summary_table
from modelpar.cli.terminal import make_console
from modelpar.comm.cores import VARIABLES, Placement, is_settled, placement, users_choice
from modelpar.comm.memory import available_bytes
from modelpar.kernels import threads
from modelpar.kernels.products import dispatch
from modelpar.machine import compilation

FEATURES = (
    "sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vpopcntdq", "avx512bf16",
    "neon", "sve",
)  # fmt: skip
AVX512_CORES = ("skylakex", "cooperlake", "sapphirerapids")  # OpenBLAS's core types with AVX-512 kernels
AVX2_CORES = ("haswell", "zen", *AVX512_CORES)


def show(comm: MPI.Comm, place: Placement, environment: dict[str, str], *, as_json: bool) -> None:
    """Print everything.  Collective."""
    found = collect(comm, place, environment)
    if as_json:
        print(json.dumps(found, indent=1), flush=True)
        return
    shown = {name.replace("_", " "): _text(value) for name, value in found.items() if name != "warnings"}
    shown["calibration"] = _rates(found["calibration"])
    console = make_console()
    console.print(summary_table(shown, f"modelpar {found['modelpar']}"))
    for warning in found["warnings"]:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def collect(comm: MPI.Comm, place: Placement, environment: dict[str, str]) -> dict[str, Any]:
    """What ``info --json`` prints.  Collective.

    environment   that of the process before the threads were set in it
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    firsts = comm.allgather(node.bcast(comm.rank))
    node.Free()
    features = instruction_set()
    libraries = blas()
    return {
        "modelpar": modelpar.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "mpi4py": mpi4py.__version__,
        "mpi": mpi_library(),
        "mpi_standard": ".".join(map(str, MPI.Get_version())),
        "cpu": cpu_name(),
        "instruction_set": features,
        "kernels": list(dispatch.available()),
        "calibration": calibration(),
        "blas": libraries,
        "cores": place.cores,
        "cores_of_this_rank": place.own_cores,
        "ranks": comm.size,
        "nodes": len(set(firsts)),
        "ranks_per_node": [firsts.count(first) for first in sorted(set(firsts))],
        "threads_per_rank": place.threads,
        "memory_available": available_bytes(),
        "numba_cache": numba_cache(),
        "warnings": warnings(place, libraries, features, environment),
    }


def info(comm: MPI.Comm | None = None) -> dict[str, Any]:
    """Versions, MPI, BLAS, instruction set, kernels, cores and threads, and what does not fit together: as
    ``modelpar info --json`` prints them.  Collective over ``comm``; None: this rank alone.

    ``threads_per_rank`` is the number that this rank uses, or that the first :class:`modelpar.Grid` would choose.
    """
    place = placement(MPI.COMM_SELF if comm is None else comm, None)
    chosen = threads.get_threads() if is_settled() else users_choice() or place.threads
    kept = {name: value for name, value in given_environment().items() if name not in VARIABLES}  # those are respected
    return collect(MPI.COMM_SELF if comm is None else comm, replace(place, threads=chosen), kept)


def mpi_library() -> str:
    """Name and version of the MPI that is loaded."""
    return " ".join(MPI.Get_library_version().strip(" \0\n").splitlines()[0].split())


def blas() -> list[dict[str, Any]]:
    """The BLAS libraries that are loaded, and how many threads each has."""
    found = []
    for library in ThreadpoolController().info():
        if library["user_api"] == "blas":
            owner = Path(library["filepath"]).parent.name.removesuffix(".libs")
            found.append(
                {
                    "of": owner if owner in ("numpy", "scipy") else str(library["filepath"]),
                    "library": library["internal_api"],
                    "version": library["version"],
                    "core_type": library.get("architecture", "unknown"),
                    "threads": library["num_threads"],
                }
            )
    return found


def instruction_set() -> list[str]:
    """What this processor can do, of what matters here."""
    features = llvmlite.binding.get_host_cpu_features()
    return [name for name in FEATURES if features.get(name)]


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor() or 'unknown'} ({llvmlite.binding.get_host_cpu_name()})"


def numba_cache() -> str:
    """Where compiled kernels are kept."""
    place = compilation.folder()
    return "nowhere: each process compiles for itself" if place is None else str(place)


def given_environment() -> dict[str, str]:
    """The variables that the user's environment sets, of those that matter."""
    names = (*VARIABLES, "OPENBLAS_CORETYPE", "NUMBA_DISABLE_JIT", "NUMBA_CACHE_DIR")
    return {name: os.environ[name] for name in names if name in os.environ}


def warnings(
    place: Placement, libraries: list[dict[str, Any]], features: list[str], environment: dict[str, str]
) -> list[str]:
    """What does not fit together, one line each."""
    found = []
    forced = environment.get("OPENBLAS_CORETYPE")
    why = f" because OPENBLAS_CORETYPE={forced}" if forced else ""
    for library in libraries:
        core, name = library["core_type"].lower(), f"{library['of']}'s BLAS uses kernels for {library['core_type']}"
        if library["library"] != "openblas":
            continue
        if "avx512vl" in features and core not in AVX512_CORES:
            found.append(f"{name}{why}, but this processor has AVX-512: products take up to twice as long; unset it")
        elif "avx2" in features and core not in AVX2_CORES:
            found.append(f"{name}{why}, but this processor has AVX2: products take longer than they need")
    if place.threads * place.ranks > place.cores:
        found.append(
            f"{place.ranks} rank(s) x {place.threads} thread(s) on a node of {place.cores} core(s): they take turns; "
            "use fewer ranks or --threads"
        )
    if place.own_cores < min(place.threads, place.cores // place.ranks):
        found.append(
            f"this rank is bound to {place.own_cores} core(s), but has {place.threads} threads; with Open MPI use "
            "mpirun --bind-to none"
        )
    elif place.own_cores < place.cores // place.ranks:
        found.append(
            f"this rank is bound to {place.own_cores} of its {place.cores // place.ranks} cores; with Open MPI use "
            "mpirun --bind-to none"
        )
    many = [library["of"] for library in libraries if library["threads"] > 1]
    if len(many) > 1:
        found.append(f"{' and '.join(many)} each bring a BLAS with several threads: the idle pool slows the other down")
    ignored = [f"{name}={environment[name]}" for name in VARIABLES if name in environment]
    if ignored:
        found.append(f"{', '.join(ignored)} in the environment is not used: give --threads")
    if environment.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        found.append("NUMBA_DISABLE_JIT is set: the kernels are not compiled, and very slow")
    return found


def _text(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        line = "{of}: {library} {version}, kernels for {core_type}, {threads} thread(s)"
        return "\n".join(line.format(**item) for item in value)
    if isinstance(value, list):
        return " ".join(map(str, value))
    return size_text(value) if isinstance(value, int) and value > 1 << 20 else str(value)


def _rates(found: dict[str, Any] | None) -> str:
    """The rates by which kernels are chosen, for people."""
    if found is None:
        return "none yet: training measures it when it begins, and so does modelpar bench kernels --calibrate"
    line = "{}: {:.4g} ns a weight, {:.4g} ns a weight and sample"
    rates = [line.format(name, rate["weight"], rate["sample"]) for name, rate in found["rates"].items()]
    return "\n".join([f"{found['file']}, of {found['threads']} thread(s)", *rates])
