"""Compilation of searches, with a cache: beside the sources or in the user's cache directory, as numba chooses, else in
the user's own folder in TMPDIR, else none.  A choice other than numba's is reported once.

numba takes a cached function for stale when the file of that function has changed, but not when a function that it
calls, in another file, has: here any change of this package's sources counts, and so does llvmlite's version.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba import config

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")  # a launcher sets one of these


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with a cache, where one can be written."""

    def compiled(function: Callable[..., Any]) -> Any:
        if config.CACHE_DIR or _has_home():
            with suppress(RuntimeError, OSError):  # raised by numba where no folder can be written
                return _stamped(numba.njit(cache=True, **options)(function))
        folder = _spare_folder()
        if folder is not None:
            with suppress(RuntimeError, OSError), _cached_in(folder):
                return _stamped(numba.njit(cache=True, **options)(function))
        return numba.njit(**options)(function)

    return compiled


def _has_home() -> bool:
    """Whether the user's cache directory is known; else numba would make one called ``~`` in the working directory."""
    return os.path.isabs(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~"))


def _stamped(function: Any) -> Any:
    """The same compiled function, whose cache is of these sources; it is plain Python under NUMBA_DISABLE_JIT."""
    if not config.DISABLE_JIT:
        function._cache._cache_file._source_stamp = _stamp()  # compared with that of the file when it is read
    return function


@functools.cache
def _stamp() -> str:
    """A hash of all that compiled searches depend on, but for the processor, which numba looks at itself."""
    total = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        with suppress(OSError):  # without sources, as in a frozen program, the versions must suffice
            total.update(path.read_bytes())
    return total.hexdigest()


@functools.cache
def _spare_folder() -> Path | None:
    """A folder that nobody else can write to, since its contents are executed; None where there is none."""
    named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    folder = Path(os.path.abspath(named[0] if named else "/tmp")) / f"partitioners-{user}"
    usable: Path | None = None
    with suppress(OSError, ValueError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
        if stat.S_ISDIR(status.st_mode) and not foreign and not status.st_mode & 0o022:
            tempfile.TemporaryFile(dir=folder).close()
            usable = folder
    where = f"kept in {usable}" if usable is not None else "compiled anew by every process; set NUMBA_CACHE_DIR"
    # modelpar reports the same about its own kernels
    if "modelpar" not in sys.modules and next((os.environ[r] for r in RANKS if os.environ.get(r)), "0") == "0":
        with suppress(OSError, ValueError):
            print(
                f"partitioners: the user's cache directory cannot be written: searches are {where}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return usable


@contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """Set numba's folder, which it reads when a function is declared, for this block only."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before
