"""Files that are read: regular ones, whose content is believed only where memory has room for it.

As ``modelpar.files.regular``, but independent of modelpar.
"""

from __future__ import annotations

import os
import resource
import stat
from typing import BinaryIO

import psutil

from partitioners.arguments import GraphError

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading.  Raises GraphError where it is none, or cannot be read; never waits."""
    try:
        _check(os.stat(path), path)  # before it is opened: that alone may do something to a device
        # another file may have come under this name since: without O_NONBLOCK a pipe would wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from None
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def cannot_read(path: str | os.PathLike[str], error: Exception) -> GraphError:
    """The line for a user.   error: an OSError, or a ValueError for what is no name of a file"""
    if isinstance(error, GraphError):
        return error
    return GraphError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def check_room(path: str | os.PathLike[str], needed: int) -> None:
    """Raise GraphError where the content of a file needs more memory than is free."""
    free = _free()
    if needed > free:
        raise GraphError(
            f"{path} needs {needed / 2**30:.1f} GiB of memory, but only {free / 2**30:.1f} GiB are free; use a machine "
            "with more"
        )


def _free() -> int:
    """Memory that this process may still take: what is free, or what a limit of its address space leaves if less."""
    free, (most, _) = int(psutil.virtual_memory().available), resource.getrlimit(resource.RLIMIT_AS)
    return free if most == resource.RLIM_INFINITY else min(free, max(0, most - int(psutil.Process().memory_info().vms)))


def _check(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise GraphError(f"{path} cannot be read: it is a directory; name a file in it")
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
    raise GraphError(
        f"{path} cannot be read: it is {kind}, not a regular file; write the content to a file and name that"
    )
