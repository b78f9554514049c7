"""The memory that this process may still take, and a check of what a file asks for before it is taken."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from modelpar.errors import DataError

UNKNOWN = 1 << 62
_CGROUP = Path("/sys/fs/cgroup")
_SHARED = "/dev/shm"
UNCHECKED = 1 << 20  # bytes that are there in any case: to ask what is free takes longer than to read so many


def available_bytes() -> int:
    """Memory that this process may still take: the free memory of the node, or what a container or a limit of its
    address space leaves, if that is less.

    Where the system tells none of it, as in a container without ``/proc``, as much as there can be.
    """
    return min([UNKNOWN, *_left_by_node(), *_left_by_containers(), *_left_by_limit()])


def shared_memory_left() -> int:
    """Bytes that this node has left for memory that processes share: 64 MiB in many containers."""
    try:
        status = os.statvfs(_SHARED)
    except OSError:  # there is no such folder, and MPI has memory from elsewhere
        return UNKNOWN
    return status.f_bavail * status.f_frsize


def check_room(needed: int, name: str, error: type[Exception] = DataError) -> None:
    """Raise ``error`` unless ``needed`` bytes, which the file or array ``name`` asks for, are free.

    Other ranks of the node that ask at the same moment are not counted.
    """
    if needed <= UNCHECKED:
        return
    free = available_bytes()
    if needed > free:
        raise error(
            f"{name} needs {_gib(needed)} GiB of memory, but {_gib(free)} GiB are free; look at its shape, use fewer "
            "samples, or a larger machine"
        )


def _gib(n_bytes: int) -> str:
    return f"{n_bytes >> 30}" if n_bytes >> 70 else f"{math.ceil(n_bytes / 2**30 * 100) / 100:g}"


def _left_by_node() -> Iterator[int]:
    with suppress(Exception):  # psutil raises whatever a missing or empty file of the system leads it to
        yield int(psutil.virtual_memory().available)


def _left_by_containers() -> Iterator[int]:
    """Limit less use of each control group that has a limit, versions 2 and 1; cached files do not count as used."""
    for folder, limit, used, cached in (
        (_CGROUP, "memory.max", "memory.current", "inactive_file"),
        (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            if most != "max":
                yield max(0, int(most) - taken + int(statistics.get(cached, 0)))
        except (OSError, ValueError):
            continue  # there is no such group


def _left_by_limit() -> Iterator[int]:
    """What ``ulimit -v`` leaves of the address space, where it is set."""
    with suppress(Exception):  # of psutil, as above
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            yield max(0, most - int(psutil.Process().memory_info().vms))


def size_text(n_bytes: float) -> str:
    """``1.5 MiB``"""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"
