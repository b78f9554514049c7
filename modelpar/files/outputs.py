"""Files that are written completely or not at all; every output goes through this module.

A regular file is written under another name in the same folder, and renamed when it is complete; it keeps the mode of
the file that it replaces.  A symbolic link stays, and its target is written.  Pipes, devices and the process's own
outputs (``/dev/stdout``) cannot be replaced: they get the bytes once these are complete.
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
    """One file being written: ``open``, write to ``partial``, then ``finish`` or ``give_up``.  Not collective.

    path      as it was named
    target    the file that links lead to
    streamed  whether the target is a pipe, a device or the like, which is kept and gets the bytes
    partial   the file that is written meanwhile: the target's name plus ``ending``, or a temporary file if streamed

    Raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str], ending: str = PARTIAL) -> None:
        self.path, self.target = Path(path), followed(path)
        self.streamed = is_stream(path)
        self._folder: str | None = None  # folder of the temporary file, if streamed
        self._begun = False
        self.partial = self.target.with_name(self.target.name + ending)

    def open(self) -> None:
        """Begin with an empty file; what an earlier attempt has left is removed."""
        self._check_target()
        if self.streamed:
            self._folder = tempfile.mkdtemp(prefix="modelpar-")
            self.partial = Path(self._folder) / "output"
        with suppress(FileNotFoundError):
            self.partial.unlink()
        os.close(os.open(self.partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        self._begun = True

    def check(self) -> None:
        """Raise OSError where it is clear already that the file cannot be written.  Leaves no file."""
        self._check_target()
        if not self.streamed:
            with tempfile.TemporaryDirectory(dir=self.target.parent, prefix=".modelpar-"):
                pass

    def _check_target(self) -> None:
        descriptor = _own_descriptor(self.path)
        if descriptor is not None:
            os.fstat(descriptor)
        elif self.target.is_dir():
            raise IsADirectoryError(EISDIR, "it is a directory; name a file in it", str(self.path))
        elif self.target.exists() and not os.access(self.target, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(self.path))

    def finish(self) -> None:
        """Make the partial file the output."""
        if self.streamed:
            with open(self.partial, "rb") as source, _opened_stream(self.path) as target:
                shutil.copyfileobj(source, target)
            self._forget()
            return
        with suppress(FileNotFoundError):
            _keep_mode(self.target, self.partial)
        os.replace(self.partial, self.target)

    def give_up(self) -> None:
        """Remove the partial file.  Never raises."""
        if self._begun:
            with suppress(OSError):
                self.partial.unlink(missing_ok=True)
        self._forget()

    def _forget(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def followed(path: str | os.PathLike[str]) -> Path:
    """The end of a chain of symbolic links, which need not exist.  Raises OSError where the links form a circle."""
    target = Path(path)
    for _ in range(_MOST_LINKS):
        if not target.is_symlink():
            return target
        target = target.parent / os.readlink(target)
    raise OSError(ELOOP, os.strerror(ELOOP), str(path))


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a pipe, a device, a socket, or one of this process's own open files."""
    if _own_descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _own_descriptor(path: str | os.PathLike[str]) -> int | None:
    """1 for ``/dev/stdout``, 5 for ``/dev/fd/5``; None for an ordinary file."""
    target, own_folders = Path(path), (f"/proc/{os.getpid()}/fd", f"/proc/{os.getpid()}/task/")
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(target.parent)
        if folder.startswith(own_folders) and folder.endswith("/fd") and target.name.isdecimal():
            return int(target.name)
        if not target.is_symlink():
            return None
        target = target.parent / os.readlink(target)
    return None


def _opened_stream(path: Path) -> BinaryIO:
    """A stream open for writing; the process's own files are continued at their positions, not truncated."""
    descriptor = _own_descriptor(path)
    if descriptor is None:
        return open(path, "wb")
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fdopen(os.dup(descriptor), "wb")


def _keep_mode(old: Path, new: Path) -> None:
    """Copy the mode and, where this user may, the owner of the file that is replaced."""
    before = os.stat(old)
    with suppress(OSError):
        os.chown(new, before.st_uid, before.st_gid)
    os.chmod(new, stat.S_IMODE(before.st_mode))
