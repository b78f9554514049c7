"""Compilation of kernels, and a cache in a folder whose name depends on everything that determines compiled code.

numba's own index checks only the file of the outermost function and the processor's name.  Here the folder's name is a
hash of the sources of all kernels, of the versions of Python, NumPy, numba, llvmlite and LLVM, of the processor for
which numba compiles, and of those settings of numba that change the code: a change leads to another folder, so that a
folder is never stale.  It is

1. in ``NUMBA_CACHE_DIR`` where that is set, as ``modelpar-HASH``;
2. in ``compiled/HASH`` of the user's cache directory;
3. in ``compiled/HASH`` of a folder of the user's own in ``TMPDIR``;

and where none of these can be written, every process compiles for itself.  Any choice but the first is reported once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
from numba import config
from numba.core import caching

from modelpar.machine.caches import first_writable, obstacle

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

# Modules and packages with compiled functions: all that may become part of a kernel's code.
SOURCES = (
    "modelpar.kernels",
    "modelpar.data.bits",
    "modelpar.data.drawn",
    "modelpar.data.gather_dense",
    "modelpar.data.pairs",
    "modelpar.data.column_summary",
    "modelpar.checkpoint.blocks",
    "modelpar.checkpoint.checksum",
)
# Settings of numba that change compiled code.
SETTINGS = (
    "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "DISABLE_INTEL_SVML", "BOUNDSCHECK", "DEBUGINFO_DEFAULT",
    "CAPTURED_ERRORS", "LLVM_PASS_TIMINGS",
)  # fmt: skip
KEPT = 4  # folders of other versions that are kept
PATIENCE = 120.0  # seconds that a process waits for another one that compiles what it needs
POLL = 0.01
UNUSED = 24 * 3600.0  # seconds after which further ones may be removed

_HASH = re.compile(r"(modelpar-)?[0-9a-f]{20}")


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with a cache in :func:`folder`; all kernels of the package use it.

    Kernels are not called from C, and are compiled without the wrapper for that.  Under NUMBA_DISABLE_JIT functions
    are not compiled.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(no_cfunc_wrapper=True, **options)(function)
        if cache and not config.DISABLE_JIT and folder() is not None:
            dispatcher._cache = _FunctionCache(function)
        return dispatcher

    return compiled


# -- the folder --------------------------------------------------------------------------------------------------------


@functools.cache
def folder() -> Path | None:
    """The folder in which this process keeps compiled kernels, made if need be; None where none can be written.

    Reports on stderr, once and on rank 0 only, any choice but the first.
    """
    given, reasons = config.CACHE_DIR, dict[Path, str]()
    chosen = Path(os.path.abspath(os.path.expanduser(given))) / f"modelpar-{key()}" if given else None
    if chosen is not None:
        reasons[chosen] = obstacle(chosen)
        if not reasons[chosen]:
            _remove_others(chosen)
            return chosen
    chosen, others = first_writable("compiled", key())
    reasons |= others
    if chosen is None:
        problem = _not_writable(reasons)
        report(f"{problem}: every process compiles them anew, which takes a minute; set NUMBA_CACHE_DIR")
        return None
    if reasons:
        report(f"{_not_writable(reasons)}; they are kept in {chosen.parent}")
    _remove_others(chosen)
    return chosen


def _not_writable(reasons: dict[Path, str]) -> str:
    folders = ", ".join(f"{folder.parent} ({reason})" for folder, reason in reasons.items())
    return f"compiled kernels cannot be kept in {folders}"


def report(text: str) -> None:
    """Print a line about kernels on standard error, once for a job: by its rank 0, whose processor stands for all."""
    if _reports():
        with suppress(OSError, ValueError):
            print(f"modelpar: {text}", file=sys.stderr, flush=True)


def _reports() -> bool:
    """Whether this is the one process of its job that reports: rank 0, as far as is known without MPI."""
    if "mpi4py.MPI" in sys.modules:
        MPI = sys.modules["mpi4py.MPI"]
        return not MPI.Is_initialized() or MPI.Is_finalized() or MPI.COMM_WORLD.rank == 0
    ranks = (os.environ.get(name) for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank), "0") == "0"


def _remove_others(current: Path) -> None:
    """Remove the folders of other versions beside ``current``, but for the few that were used last.

    A process that still uses a removed one compiles anew.
    """
    with suppress(OSError):
        os.utime(current)  # it is in use
        others = [other for other in current.parent.iterdir() if other != current and _HASH.fullmatch(other.name)]
        used = {other: other.stat().st_mtime for other in others}
        for other in sorted(used, key=lambda other: used[other], reverse=True)[KEPT:]:
            if time.time() - used[other] > UNUSED:
                shutil.rmtree(other, ignore_errors=True)


@functools.cache
def key() -> str:
    """A hash of everything that compiled kernels depend on, 20 hexadecimal digits.  Takes some milliseconds, once."""
    chosen, features = config.CPU_NAME, config.CPU_FEATURES
    host = llvmlite.binding.get_host_cpu_features()
    versions = [
        sys.version, np.__version__, numba.__version__, llvmlite.__version__, llvmlite.binding.llvm_version_info,
        llvmlite.binding.get_process_triple(), chosen or llvmlite.binding.get_host_cpu_name(),
        features if chosen or features is not None else sorted(name for name, present in host.items() if present),
        [(name, getattr(config, name, None)) for name in SETTINGS],
    ]  # fmt: skip
    total = hashlib.sha256(repr(versions).encode())
    for path in sources():
        total.update(f"\n{path.name}\n".encode())
        with suppress(OSError):  # without sources, as in a frozen program, the versions must suffice
            total.update(path.read_bytes())
    return total.hexdigest()[:20]


def sources() -> list[Path]:
    """The files of all kernels, in a fixed order."""
    package = Path(__file__).parents[1]
    files = [Path(__file__)]
    for name in SOURCES:
        path = package.joinpath(*name.split(".")[1:])
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return files


# -- hooks of numba ----------------------------------------------------------------------------------------------------


class _Locator(caching.UserProvidedCacheLocator):  # type: ignore[misc]
    """Keeps the files of one function in :func:`folder`; NUMBA_CACHE_DIR itself is left to the user's own functions."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._py_file, self._lineno = py_file, py_func.__code__.co_firstlineno
        self._cache_path = os.path.join(str(folder()), self.get_suitable_cache_subpath(py_file))

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator:
        return cls(py_func, py_file)

    def get_source_stamp(self) -> str:
        return key()


class _Files(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _FunctionCache(caching.FunctionCache):  # type: ignore[misc]
    """numba's cache of one function, which ignores damaged files and goes on when a disk is full."""

    _impl_class = _Files
    _lock: int | None = None  # the open file of a lock that this process has, from a failed load to the save

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As numba's; but where the function is not cached, one process at a time compiles it, and the others wait and
        load the result: ranks need the same function at the same moment."""
        overload = self._loaded(sig, target_context)
        if overload is None and self._enabled and self._lock is None and fcntl is not None:
            with suppress(OSError):
                self._take_lock()
                overload = self._loaded(sig, target_context)
            if overload is not None:
                self._free_lock()
        return overload

    def _loaded(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling damaged bytes may raise anything
            return None

    def _take_lock(self) -> None:
        """Wait until no other process compiles this function, at most PATIENCE: it may hang.  Raises OSError."""
        os.makedirs(self.cache_path, exist_ok=True)
        file = os.open(os.path.join(self.cache_path, f"{self._impl.filename_base}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(file)
                    return
                time.sleep(POLL)
            except OSError:  # a file system without locks
                os.close(file)
                raise
            else:
                self._lock = file
                return

    def _free_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            self._save(sig, data)
        finally:
            self._free_lock()

    def _save(self, sig: Any, data: Any) -> None:
        for attempt in range(2):
            try:
                os.makedirs(self.cache_path, exist_ok=True)
                super().save_overload(sig, data)
            except Exception as error:
                with suppress(Exception):
                    self.flush()  # an index that cannot be read
                if attempt:
                    self.disable()
                    _report_failure(error)
            else:
                return


@functools.cache
def _reported() -> None:
    """Remember, in its cache, that a failure to save was reported."""


def _report_failure(error: Exception) -> None:
    if not _reported.cache_info().currsize:
        _reported()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        parent = None if (current := folder()) is None else current.parent
        report(f"compiled kernels cannot be kept in {parent} ({reason}): this process compiles for itself")
