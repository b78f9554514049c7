"""The one door for files that are written: whole or not at all, in the place that their names stand for.

A regular file is written beside its place under another name, and renamed when it is whole; it keeps the mode of the
file that it replaces.  A symbolic link stays, and what it leads to is written.  Pipes, devices and the process's own
outputs (``/dev/stdout``) are no places for another file: what is whole is then poured into them.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from errno import EACCES, EISDIR, ELOOP
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
_MOST_LINKS = 40  # as the kernel allows


class Output:
    """One file on its way: ``open``, write to ``partial``, then ``finish`` or ``give_up``.  Not collective.

    path      as it was named
    place     where that leads to
    poured    whether what is there stays what it is, and takes the bytes
    partial   what is written meanwhile: ``ending`` behind the place's name, or a file elsewhere where it is poured

    Raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str], ending: str = PARTIAL) -> None:
        self.path, self.place = Path(path), followed(path)
        self.poured = is_poured(path)
        self._folder: str | None = None  # of a file that is to be poured
        self._begun = False
        self.partial = self.place.with_name(self.place.name + ending)

    def open(self) -> None:
        """Begin with an empty file; what an earlier attempt has left there makes way."""
        self._check_place()
        if self.poured:
            self._folder = tempfile.mkdtemp(prefix="modelpar-")
            self.partial = Path(self._folder) / "output"
        with suppress(FileNotFoundError):
            self.partial.unlink()
        os.close(os.open(self.partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        self._begun = True

    def check(self) -> None:
        """Raise OSError where it is clear already that the file cannot be written.  Leaves nothing behind."""
        self._check_place()
        if not self.poured:
            with tempfile.TemporaryDirectory(dir=self.place.parent, prefix=".modelpar-"):
                pass

    def _check_place(self) -> None:
        descriptor = _own_descriptor(self.path)
        if descriptor is not None:
            os.fstat(descriptor)
        elif self.place.is_dir():
            raise IsADirectoryError(EISDIR, "it is a directory; name a file in it", str(self.path))
        elif self.place.exists() and not os.access(self.place, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(self.path))

    def finish(self) -> None:
        """Make the partial file the output."""
        if self.poured:
            with open(self.partial, "rb") as source, _taking(self.path) as target:
                shutil.copyfileobj(source, target)
            self._forget()
            return
        with suppress(FileNotFoundError):
            _keep_mode(self.place, self.partial)
        os.replace(self.partial, self.place)

    def give_up(self) -> None:
        """Leave nothing behind.  Raises nothing."""
        if self._begun:
            with suppress(OSError):
                self.partial.unlink(missing_ok=True)
        self._forget()

    def _forget(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def followed(path: str | os.PathLike[str]) -> Path:
    """What a chain of symbolic links ends in, which need not be there.  Raises OSError where it has no end."""
    found = Path(path)
    for _ in range(_MOST_LINKS):
        if not found.is_symlink():
            return found
        found = found.parent / os.readlink(found)
    raise OSError(ELOOP, os.strerror(ELOOP), str(path))


def is_poured(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a pipe, a device, a socket, or one of this process's own open files."""
    if _own_descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _own_descriptor(path: str | os.PathLike[str]) -> int | None:
    """1 for ``/dev/stdout``, 5 for ``/dev/fd/5``; None for a file of its own."""
    found, mine = Path(path), (f"/proc/{os.getpid()}/fd", f"/proc/{os.getpid()}/task/")
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(found.parent)
        if folder.startswith(mine) and folder.endswith("/fd") and found.name.isdecimal():
            return int(found.name)
        if not found.is_symlink():
            return None
        found = found.parent / os.readlink(found)
    return None


def _taking(path: Path) -> BinaryIO:
    """A file that takes what is poured; the process's own ones go on where they are, and are not cut off."""
    descriptor = _own_descriptor(path)
    if descriptor is None:
        return open(path, "wb")
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fdopen(os.dup(descriptor), "wb")


def _keep_mode(old: Path, new: Path) -> None:
    """Mode and, where this user may, owner of the file that is replaced."""
    before = os.stat(old)
    with suppress(OSError):
        os.chown(new, before.st_uid, before.st_gid)
    os.chmod(new, stat.S_IMODE(before.st_mode))
