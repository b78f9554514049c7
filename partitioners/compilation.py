"""Compiling of searches, kept where there is room: beside the sources or in the user's cache directory, as numba does,
else in a folder of the user's own in TMPDIR, else not at all.  What is not numba's own choice is said once.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba
from numba import config

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")  # a launcher sets one of these


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` that keeps what it has compiled, where that can be kept."""

    def compiled(function: Callable[..., Any]) -> Any:
        with suppress(RuntimeError, OSError):  # what numba says where it finds no place
            return numba.njit(cache=True, **options)(function)
        place = _spare_folder()
        if place is not None:
            with suppress(RuntimeError, OSError), _kept_in(place):
                return numba.njit(cache=True, **options)(function)
        return numba.njit(**options)(function)

    return compiled


@functools.cache
def _spare_folder() -> Path | None:
    """A folder that nobody else can write to, as what lies there is run; None where there is none."""
    named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    place = Path(os.path.abspath(named[0] if named else "/tmp")) / f"partitioners-{user}"
    found: Path | None = None
    with suppress(OSError, ValueError):
        place.mkdir(mode=0o700, exist_ok=True)
        status = place.lstat()
        foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
        if stat.S_ISDIR(status.st_mode) and not foreign and not status.st_mode & 0o022:
            tempfile.TemporaryFile(dir=place).close()
            found = place
    where = f"kept in {found}" if found is not None else "compiled anew by every process; set NUMBA_CACHE_DIR"
    # whoever uses these searches may have said it of kernels of their own
    if "modelpar" not in sys.modules and next((os.environ[r] for r in RANKS if os.environ.get(r)), "0") == "0":
        with suppress(OSError, ValueError):
            print(
                f"partitioners: the user's cache directory cannot be written: searches are {where}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return found


@contextmanager
def _kept_in(place: Path) -> Iterator[None]:
    """numba takes the folder as it makes a function, and others' functions are not to follow."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(place)
    try:
        yield
    finally:
        config.CACHE_DIR = before
