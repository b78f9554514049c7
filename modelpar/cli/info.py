"""``modelpar info``: the software, processors and settings of a run on this machine, and what does not fit together."""

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
from modelpar.comm import cores
from modelpar.comm.cores import VARIABLES, Placement
from modelpar.kernels import threads
from modelpar.kernels.llvm.tiles import allowed
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import bfloat16, dispatch
from modelpar.kernels.products.tiles import self_test
from modelpar.kernels.statistics import tiles
from modelpar.kernels.statistics.learning import kernel_of
from modelpar.machine import compilation
from modelpar.machine.memory import available_bytes

FEATURES = (
    "sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vpopcntdq", "avx512bf16",
    "amx-int8", "neon", "sve",
)  # fmt: skip
AVX512_CORES = ("skylakex", "cooperlake", "sapphirerapids")  # OpenBLAS's core types with AVX-512 kernels
AVX2_CORES = ("haswell", "zen", *AVX512_CORES)

# Every environment variable that modelpar or partitioners read, themselves or by the libraries whose behaviour matters.
ENVIRONMENT = (
    "MODELPAR_DATA", "MODELPAR_KERNELS", "MODELPAR_NO_CACHE",
    "MODELPAR_FAULT", "MODELPAR_FAULT_NOTE",  # of a rank that fails on demand
    "HOME", "XDG_CACHE_HOME", "TMPDIR", "TEMP", "TMP",  # caches
    "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES",
    "NUMBA_ENABLE_AVX",
    *VARIABLES, "OPENBLAS_CORETYPE", "OPENBLAS_THREAD_TIMEOUT",
    # of the launcher: number of ranks, the number of this one, ranks of the node, whether a lost rank is tolerated, its
    # own sockets
    "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS",
    "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID",
    "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_MCA_mpi_ft_enable", "PMI_FD", "PMI_PORT",
    # tasks of a step of Slurm on each node, and the processors of each
    "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND_LIST",
    "SLURM_JOB_ID", "SLURM_RESTART_COUNT",  # whose lock a run directory has
    # handed to the peers of bench cd1, or taken away from them
    "PYTHONPATH", "GLOO_SOCKET_IFNAME", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME",
)  # fmt: skip


def show(comm: MPI.Comm, placement: Placement, environment: dict[str, str], *, as_json: bool) -> None:
    """Print everything.  Collective."""
    facts = collect(comm, placement, environment)
    if as_json:
        print(json.dumps(facts, indent=1), flush=True)
        return
    shown = {name.replace("_", " "): _shown(value) for name, value in facts.items() if name != "warnings"}
    shown["calibration"] = _rates(facts["calibration"])
    shown["environment"] = _variables(facts["environment"])
    console = make_console()
    console.print(summary_table(shown, f"modelpar {facts['modelpar']}"))
    for warning in facts["warnings"]:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def collect(
    comm: MPI.Comm, placement: Placement, environment: dict[str, str], *, threads_ignored: bool = True
) -> dict[str, Any]:
    """The facts that ``info --json`` prints.  Collective.

    environment       variables of the process, as they were before the threads were set in it
    threads_ignored   whether those that set numbers of threads have no effect, of which the warnings then tell
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    firsts = comm.allgather(node.bcast(comm.rank))
    node.Free()
    features = instruction_set()
    libraries = blas()
    acting = {name: value for name, value in environment.items() if threads_ignored or name not in VARIABLES}
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
        "kernels": list(dispatch.trusted()),
        "statistics": f"{kernel_of(1)} for 1 bit, {kernel_of(2)} for more" if compiled() else "blas",
        "tiles_self_test": self_test() and tiles.self_test() if allowed() else None,
        "products_bf16": bfloat16.way(),
        "calibration": calibration(),
        "blas": libraries,
        "cores": placement.cores,
        "processors": placement.processors,
        "cores_of_this_rank": placement.own_cores,
        "bound_to": list(placement.bound) or None,
        "ranks": comm.size,
        "nodes": len(set(firsts)),
        "ranks_per_node": [firsts.count(first) for first in sorted(set(firsts))],
        "threads_per_rank": placement.threads,
        "memory_available": available_bytes(),
        "numba_cache": numba_cache(),
        "environment": {name: environment.get(name) for name in ENVIRONMENT},
        "warnings": warnings(placement, libraries, features, acting),
    }


def info(comm: MPI.Comm | None = None) -> dict[str, Any]:
    """Versions, MPI, BLAS, kernels, cores, threads, environment variables, and what does not fit together: as
    ``modelpar info --json`` prints them.  Collective over ``comm``; None: this rank alone.

    ``threads_per_rank`` is the number that this rank uses, or that the first :class:`modelpar.Grid` would choose.
    """
    comm = MPI.COMM_SELF if comm is None else comm
    placement = cores.placement(comm, None)
    chosen = threads.get_threads() if cores.is_settled() else cores.users_choice() or placement.threads
    return collect(comm, replace(placement, threads=chosen), given_environment(), threads_ignored=False)


def environment_of_run() -> dict[str, Any]:
    """The software and the processor of this process, as a summary keeps them: no measurements.  Not collective."""
    return {
        "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
        "numba": numba.__version__, "mpi4py": mpi4py.__version__, "mpi": mpi_library(), "cpu": cpu_name(),
        "instruction_set": instruction_set(), "kernels": list(dispatch.trusted()),
        "system": f"{platform.system()} {platform.release()}",
    }  # fmt: skip


def mpi_library() -> str:
    """Name and version of the MPI that is loaded."""
    return " ".join(MPI.Get_library_version().strip(" \0\n").splitlines()[0].split())


def blas() -> list[dict[str, Any]]:
    """The BLAS libraries that are loaded, and how many threads each has."""
    libraries = []
    for library in ThreadpoolController().info():
        if library["user_api"] == "blas":
            owner = Path(library["filepath"]).parent.name.removesuffix(".libs")
            libraries.append(
                {
                    "of": owner if owner in ("numpy", "scipy") else str(library["filepath"]),
                    "library": library["internal_api"],
                    "version": library["version"],
                    "core_type": library.get("architecture", "unknown"),
                    "threads": library["num_threads"],
                }
            )
    return libraries


def instruction_set() -> list[str]:
    """The extensions of this processor that speed depends on."""
    features = llvmlite.binding.get_host_cpu_features()
    return [name for name in FEATURES if features.get(name)]


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'unknown'} ({llvmlite.binding.get_host_cpu_name()})"


def numba_cache() -> str:
    """The folder of compiled kernels, for people."""
    folder = compilation.folder()
    return "nowhere: each process compiles for itself" if folder is None else str(folder)


def given_environment() -> dict[str, str]:
    """The variables of ``ENVIRONMENT`` that are set, with their values."""
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


def warnings(
    placement: Placement, libraries: list[dict[str, Any]], features: list[str], environment: dict[str, str]
) -> list[str]:
    """One line for each thing that does not fit together."""
    lines = []
    forced = environment.get("OPENBLAS_CORETYPE")
    why = f" because OPENBLAS_CORETYPE={forced}" if forced else ""
    for library in libraries:
        core, name = library["core_type"].lower(), f"{library['of']}'s BLAS uses kernels for {library['core_type']}"
        if library["library"] != "openblas":
            continue
        if "avx512vl" in features and core not in AVX512_CORES:
            lines.append(f"{name}{why}, but this processor has AVX-512: products take up to twice as long; unset it")
        elif "avx2" in features and core not in AVX2_CORES:
            lines.append(f"{name}{why}, but this processor has AVX2: products take longer than they need")
    if placement.threads * placement.ranks > placement.cores:
        lines.append(
            f"{placement.ranks} rank(s) x {placement.threads} thread(s) on a node of {placement.cores} core(s): they "
            "take turns; use fewer ranks or --threads"
        )
    if placement.own_cores < min(placement.threads, placement.cores // placement.ranks):
        lines.append(
            f"this rank is bound to {placement.own_cores} core(s), but has {placement.threads} threads; with Open MPI "
            "use mpirun --bind-to none"
        )
    elif placement.own_cores < placement.cores // placement.ranks:
        lines.append(
            f"this rank is bound to {placement.own_cores} of its {placement.cores // placement.ranks} cores; with Open "
            "MPI use mpirun --bind-to none"
        )
    many = [library["of"] for library in libraries if library["threads"] > 1]
    if len(many) > 1:
        lines.append(f"{' and '.join(many)} each bring a BLAS with several threads: the idle pool slows the other down")
    ignored = [f"{name}={environment[name]}" for name in VARIABLES if name in environment]
    if ignored:
        lines.append(f"{', '.join(ignored)} in the environment is not used: give --threads")
    if environment.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        lines.append("NUMBA_DISABLE_JIT is set: the kernels are not compiled, and very slow")
    return lines


def _shown(value: Any) -> str | list[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        line = "{of}: {library} {version}, kernels for {core_type}, {threads} thread(s)"
        return [line.format(**item) for item in value]
    if isinstance(value, list):
        return " ".join(map(str, value))
    return size_text(value) if isinstance(value, int) and value > 1 << 20 else str(value)


def _variables(environment: dict[str, str | None]) -> list[str]:
    """Those that are set, a line each, then the others."""
    lines = [f"{name}={value}" for name, value in environment.items() if value is not None]
    unset = [name for name, value in environment.items() if value is None]
    return [*lines, f"not set: {', '.join(unset)}"]


def _rates(calibration: dict[str, Any] | None) -> str | list[str]:
    """The rates by which kernels are chosen, for people."""
    if calibration is None:
        return "none yet: training measures it when it begins, and so does modelpar bench kernels --calibrate"
    line = "{}: {:.4g} ns a weight, {:.4g} ns a weight and sample"
    rates = [line.format(name, rate["weight"], rate["sample"]) for name, rate in calibration["rates"].items()]
    return [f"{calibration['file']}, of {calibration['threads']} thread(s)", *rates]
