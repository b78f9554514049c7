"""Files that are written completely or not at all.  Links are followed; pipes and devices get the bytes.

As ``modelpar.files.outputs``, but independent of modelpar.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, ELOOP
from pathlib import Path
from typing import IO, Any

from partitioners.graph import GraphError


@contextmanager
def atomic_file(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to, which becomes ``path`` when the block ends well.  Text is in UTF-8.

    A regular file is written under another name in its folder and renamed, with the mode of the one that it replaces;
    pipes and devices get the bytes when all of them are written.  Raises GraphError where it cannot be written.
    """
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    folder = partial = None
    try:
        target = None if _is_stream(path) else _target(path)
        folder = tempfile.mkdtemp() if target is None else None
        descriptor, partial = tempfile.mkstemp(dir=folder or target.parent, prefix=".partitioners-")  # type: ignore[union-attr]
        with open(descriptor, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target is None:
            with open(partial, "rb") as source, _opened_stream(path) as stream:
                shutil.copyfileobj(source, stream)
        else:
            os.chmod(partial, _mode(target))  # temporary files are private to their owner
            os.replace(partial, target)
            _sync_folder(target.parent)
    except OSError as error:
        raise GraphError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if partial is not None:
            with suppress(OSError):
                os.unlink(partial)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _sync_folder(path: Path) -> None:
    """Make new names in a folder survive a loss of power, where it can be done."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8.  Raises GraphError where it cannot be written."""
    with atomic_file(path, "w") as file:
        file.write(text)


def check_targets(*paths: str | os.PathLike[str] | None) -> None:
    """Raise GraphError, before minutes of work, where a file could not be written or two are the same."""
    seen: dict[object, str] = {}
    for path in paths:
        if path is None:
            continue
        try:
            if _is_stream(path):
                continue
            target = _target(path)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partitioners-"):
                pass
        except OSError as error:
            raise GraphError(f"{path} cannot be written: {error.strerror or error}") from None
        status = os.stat(target) if target.exists() else None
        identity = (status.st_dev, status.st_ino) if status is not None else os.path.realpath(target)
        if identity in seen:
            raise GraphError(f"{seen[identity]} and {path} are one file; name two")
        seen[identity] = str(path)


def _target(path: str | os.PathLike[str]) -> Path:
    """The regular file that links lead to, which need not exist.  Raises GraphError for a directory, and OSError."""
    target = Path(os.path.realpath(path, strict=True)) if os.path.exists(path) else Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(ELOOP, os.strerror(ELOOP))
    if target.is_dir():
        raise GraphError(f"{path} is a directory; name a file in it")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(EACCES, os.strerror(EACCES))
    return target


def _is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether it is a pipe, a device, a socket, or an open file of this process such as ``/dev/stdout``."""
    if _own_descriptor(path) is not None:
        return True
    with suppress(OSError):
        mode = os.stat(path).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def _own_descriptor(path: str | os.PathLike[str]) -> int | None:
    target = Path(path)
    for _ in range(8):
        if os.path.realpath(target.parent) == f"/proc/{os.getpid()}/fd" and target.name.isdecimal():
            return int(target.name)
        if not target.is_symlink():
            return None
        target = target.parent / os.readlink(target)
    return None


def _opened_stream(path: str | os.PathLike[str]) -> IO[bytes]:
    descriptor = _own_descriptor(path)
    if descriptor is None:
        return open(path, "wb")
    sys.stdout.flush()
    return os.fdopen(os.dup(descriptor), "wb")


def _mode(target: Path) -> int:
    """The mode of the file that is replaced, else the user's default for new files."""
    if target.exists():
        return stat.S_IMODE(os.stat(target).st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
