"""Files that are there whole or not at all, and stay what they are: links lead on, pipes and devices take the bytes.

The package has its own way of writing, as it has its own of everything.
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
def whole_file(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to, which becomes ``path`` when the block ends well.  Text is in UTF-8.

    A regular file is written beside its place and renamed, with the mode of the one that it replaces; what is no
    regular file gets the bytes when all of them are there.  Raises GraphError where it cannot be written.
    """
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    folder = partial = None
    try:
        place = None if _takes_bytes(path) else _place(path)
        folder = tempfile.mkdtemp() if place is None else None
        descriptor, partial = tempfile.mkstemp(dir=folder or place.parent, prefix=".partitioners-")  # type: ignore[union-attr]
        with open(descriptor, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if place is None:
            with open(partial, "rb") as source, _taking(path) as target:
                shutil.copyfileobj(source, target)
        else:
            os.chmod(partial, _mode(place))  # temporary files are their owner's alone
            os.replace(partial, place)
    except OSError as error:
        raise GraphError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if partial is not None:
            with suppress(OSError):
                os.unlink(partial)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Raises GraphError where it cannot be written."""
    with whole_file(path, "w") as file:
        file.write(text)


def check_targets(*paths: str | os.PathLike[str] | None) -> None:
    """Raise GraphError, before minutes of work, where a file could not be written or two are the same."""
    seen: dict[object, str] = {}
    for path in paths:
        if path is None:
            continue
        try:
            if _takes_bytes(path):
                continue
            place = _place(path)
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".partitioners-"):
                pass
        except OSError as error:
            raise GraphError(f"{path} cannot be written: {error.strerror or error}") from None
        found = os.stat(place) if place.exists() else None
        here = (found.st_dev, found.st_ino) if found is not None else os.path.realpath(place)
        if here in seen:
            raise GraphError(f"{seen[here]} and {path} are one file; name two")
        seen[here] = str(path)


def _place(path: str | os.PathLike[str]) -> Path:
    """The regular file that links lead to, which need not be there.  Raises GraphError for a directory, and OSError."""
    place = Path(os.path.realpath(path, strict=True)) if os.path.exists(path) else Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(ELOOP, os.strerror(ELOOP))
    if place.is_dir():
        raise GraphError(f"{path} is a directory; name a file in it")
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(EACCES, os.strerror(EACCES))
    return place


def _takes_bytes(path: str | os.PathLike[str]) -> bool:
    """Whether it is a pipe, a device, a socket, or an open file of this process such as ``/dev/stdout``."""
    if _own_descriptor(path) is not None:
        return True
    with suppress(OSError):
        mode = os.stat(path).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def _own_descriptor(path: str | os.PathLike[str]) -> int | None:
    found = Path(path)
    for _ in range(8):
        if os.path.realpath(found.parent) == f"/proc/{os.getpid()}/fd" and found.name.isdecimal():
            return int(found.name)
        if not found.is_symlink():
            return None
        found = found.parent / os.readlink(found)
    return None


def _taking(path: str | os.PathLike[str]) -> IO[bytes]:
    descriptor = _own_descriptor(path)
    if descriptor is None:
        return open(path, "wb")
    sys.stdout.flush()
    return os.fdopen(os.dup(descriptor), "wb")


def _mode(place: Path) -> int:
    """Of the file that is there, else as the user wants new ones."""
    if place.exists():
        return stat.S_IMODE(os.stat(place).st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
