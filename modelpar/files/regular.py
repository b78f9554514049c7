"""Files that are read: regular ones, and of texts no more than a bound.

A pipe would be waited for, a device never ends, and a link may lead to either.  What is refused is an ``OSError`` whose
``strerror`` says what it is, so readers report it in the words that they have for any file that cannot be read.
"""

from __future__ import annotations

import os
import stat
from errno import EFBIG, EINVAL, EISDIR
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
}  # fmt: skip

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def check_regular(path: AnyPath) -> os.stat_result:
    """The status of a regular file, links followed.  Raises OSError where it is none; nothing is opened."""
    try:
        status = os.stat(path)
    except ValueError:  # a zero byte, or characters that no name has here
        raise OSError(EINVAL, "it is not the name of a file", os.fsdecode(path)) from None
    _check(status, path)
    return status


def open_regular(path: AnyPath) -> BinaryIO:
    """A regular file, open for reading.  Raises OSError where it is none, or cannot be read; never waits."""
    check_regular(path)
    # another file may have come under this name since: without O_NONBLOCK a pipe would wait for its writer
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: AnyPath, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.  Raises OSError, before reading a larger one."""
    with open_regular(path) as file:
        content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if content is None or len(content) > most:
        raise OSError(EFBIG, f"it has more than {most} bytes, the most that such a file may have", os.fsdecode(path))
    return content


def _check(status: os.stat_result, path: AnyPath) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    name = os.fsdecode(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(EISDIR, "it is a directory; name a file in it", name)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
    raise OSError(EINVAL, f"it is {kind}, not a regular file; write the content to a file and name that", name)
