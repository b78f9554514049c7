"""Compiling of kernels, and where what was compiled is kept: in a folder whose name tells all that it depends on.

numba's own index watches the file of the outermost function alone, and the processor's name.  Here the folder's name
is a hash of the sources of all kernels, of the versions of Python, NumPy, numba, llvmlite and LLVM, of the processor
for which numba compiles, and of what else of numba's settings changes the code: whatever differs is another folder, and
what is found in a folder fits.  It lies

1. in ``NUMBA_CACHE_DIR`` where that is set, as ``modelpar-HASH``;
2. in ``compiled/HASH`` of the user's cache directory;
3. in ``compiled/HASH`` of a folder of the user's own in ``TMPDIR``;

and where none of these can be written, every process compiles for itself.  Whatever but the first choice is said once.
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

# Modules with compiled functions, and packages that consist of such: what may end up in a kernel's code.
SOURCES = (
    "modelpar.kernels",
    "modelpar.data.bits",
    "modelpar.data.drawn",
    "modelpar.data.fill",
    "modelpar.data.pairs",
    "modelpar.data.survey",
    "modelpar.checkpoint.blocks",
    "modelpar.checkpoint.checksum",
)
# Settings of numba that change what it makes of a function.
SETTINGS = (
    "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "DISABLE_INTEL_SVML", "BOUNDSCHECK", "DEBUGINFO_DEFAULT",
    "CAPTURED_ERRORS", "LLVM_PASS_TIMINGS",
)  # fmt: skip
KEPT = 4  # folders of other versions that stay
PATIENCE = 120.0  # seconds that a process waits for another one that compiles what it needs
POLL = 0.01
UNUSED = 24 * 3600.0  # seconds after which a further one may go

_HASH = re.compile(r"(modelpar-)?[0-9a-f]{20}")


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with a cache in :func:`folder`; every kernel of the package is made by it.

    Nothing calls kernels from C: they are compiled without the wrapper for that.  Under NUMBA_DISABLE_JIT the function
    stays what it is.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        made = numba.njit(no_cfunc_wrapper=True, **options)(function)
        if cache and not config.DISABLE_JIT and folder() is not None:
            made._cache = _Kept(function)
        return made

    return compiled


# -- where it is kept --------------------------------------------------------------------------------------------------


@functools.cache
def folder() -> Path | None:
    """Where this process keeps compiled kernels, made if need be; None where nothing can be kept.

    Says on stderr, once and on rank 0 alone, where it is not the first choice.
    """
    given, why = config.CACHE_DIR, dict[Path, str]()
    place = Path(os.path.abspath(os.path.expanduser(given))) / f"modelpar-{key()}" if given else None
    if place is not None:
        why[place] = obstacle(place)
        if not why[place]:
            _forget_others(place)
            return place
    place, others = first_writable("compiled", key())
    why |= others
    if place is None:
        _say(f"{_reasons(why)}: every process compiles them anew, which takes a minute; set NUMBA_CACHE_DIR")
        return None
    if why:
        _say(f"{_reasons(why)}; they are kept in {place.parent}")
    _forget_others(place)
    return place


def _reasons(why: dict[Path, str]) -> str:
    told = ", ".join(f"{place.parent} ({reason})" for place, reason in why.items())
    return f"compiled kernels cannot be kept in {told}"


def _say(text: str) -> None:
    if _speaks():
        with suppress(OSError, ValueError):
            print(f"modelpar: {text}", file=sys.stderr, flush=True)


def _speaks() -> bool:
    """Whether this is the one process of its job that tells: rank 0, as far as can be known without MPI."""
    if "mpi4py.MPI" in sys.modules:
        MPI = sys.modules["mpi4py.MPI"]
        return not MPI.Is_initialized() or MPI.Is_finalized() or MPI.COMM_WORLD.rank == 0
    ranks = (os.environ.get(name) for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank), "0") == "0"


def _forget_others(place: Path) -> None:
    """Remove what other versions have left beside ``place``, but for the last used few.

    A process that still uses one loses nothing but what it has kept.
    """
    with suppress(OSError):
        os.utime(place)  # it is in use
        beside = [other for other in place.parent.iterdir() if other != place and _HASH.fullmatch(other.name)]
        used = {other: other.stat().st_mtime for other in beside}
        for other in sorted(used, key=lambda other: used[other], reverse=True)[KEPT:]:
            if time.time() - used[other] > UNUSED:
                shutil.rmtree(other, ignore_errors=True)


@functools.cache
def key() -> str:
    """A hash of all that compiled kernels depend on, 20 hexadecimal digits.  Takes some milliseconds, once."""
    chosen, features = config.CPU_NAME, config.CPU_FEATURES
    host = llvmlite.binding.get_host_cpu_features()
    about = [
        sys.version, np.__version__, numba.__version__, llvmlite.__version__, llvmlite.binding.llvm_version_info,
        llvmlite.binding.get_process_triple(), chosen or llvmlite.binding.get_host_cpu_name(),
        features if chosen or features is not None else sorted(name for name, there in host.items() if there),
        [(name, getattr(config, name, None)) for name in SETTINGS],
    ]  # fmt: skip
    total = hashlib.sha256(repr(about).encode())
    for path in sources():
        total.update(f"\n{path.name}\n".encode())
        with suppress(OSError):  # without sources, as in a frozen program, the versions have to do
            total.update(path.read_bytes())
    return total.hexdigest()[:20]


def sources() -> list[Path]:
    """The files of all kernels, in a fixed order."""
    package = Path(__file__).parents[1]
    found = [Path(__file__)]
    for name in SOURCES:
        place = package.joinpath(*name.split(".")[1:])
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return found


# -- numba's side ------------------------------------------------------------------------------------------------------


class _Locator(caching.UserProvidedCacheLocator):  # type: ignore[misc]
    """Files of one function in :func:`folder`, whatever NUMBA_CACHE_DIR is: that stays for the user's own functions."""

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


class _Kept(caching.FunctionCache):  # type: ignore[misc]
    """numba's cache of one function, for which a damaged file is none, and a full disk no reason to end."""

    _impl_class = _Files
    _lock: int | None = None  # the open file of a lock that this process has, from a load in vain to the save

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As numba's; but where nothing is there, one process at a time goes on to compile this function, and the
        others load what it has made: ranks come to the same function at the same moment."""
        found = self._loaded(sig, target_context)
        if found is None and self._enabled and self._lock is None and fcntl is not None:
            with suppress(OSError):
                self._take_lock()
                found = self._loaded(sig, target_context)
            if found is not None:
                self._free_lock()
        return found

    def _loaded(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever the unpickling of damaged bytes ends in
            return None

    def _take_lock(self) -> None:
        """Wait until no other process compiles this function, but not for ever: it may hang.  Raises OSError."""
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
                    _give_up(error)
            else:
                return


@functools.cache
def _warned() -> None:
    """Remembers that something was said."""


def _give_up(error: Exception) -> None:
    if not _warned.cache_info().currsize:
        _warned()
        told = error.strerror if isinstance(error, OSError) and error.strerror else error
        place = folder()
        _say(f"compiled kernels cannot be kept in {place and place.parent} ({told}): this process compiles for itself")
