"""Files that are written completely or not at all; every output goes through this module.

A regular file is written under another name in the same folder (``partials``), and when it is complete it is synced to
the disk and renamed; it keeps the mode of the file that it replaces.  A symbolic link that a user has named stays, and
its target is written; in a run directory, which may come from somebody else, it is replaced.  Pipes, devices and the
process's own outputs (``/dev/stdout``) cannot be replaced: they get the bytes once these are complete.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from errno import EACCES, EDQUOT, EIO, EISDIR, ELOOP, ENOSPC
from pathlib import Path
from typing import BinaryIO

from modelpar.files import partials

_MOST_LINKS = 40  # as the kernel allows
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FAILED = (EIO, ENOSPC, EDQUOT)  # what a folder that cannot be synced may say; others mean that it need not be


class Output:
    """One file being written: ``open``, write to ``partial``, then ``finish`` or ``give_up``.  Not collective.

    path      as it was named
    follow    write what symbolic links lead to, and into pipes and devices; else whatever has the name is replaced
    sources   files that the output is made from: where one of them is private, a new file is
    target    the file that is written
    streamed  whether the target is a pipe, a device or the like, which is kept and gets the bytes
    partial   the file that is written meanwhile, which no other process writes

    Raises OSError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, follow: bool = True, sources: Iterable[str | os.PathLike[str]] = ()
    ) -> None:
        self.path, self.follow, self.sources = Path(path), follow, tuple(sources)
        self.target = followed(path) if follow else self.path
        self.streamed = follow and is_stream(path)
        self._folder: str | None = None  # folder of the temporary file, if streamed
        self._begun = False
        self.partial = partials.partial_path(self.target)

    def open(self) -> None:
        """Begin with an empty file; what processes that have died left of the same target is removed."""
        self._check_target()
        if self.streamed:
            self._folder = tempfile.mkdtemp(prefix="modelpar-")
            self.partial = Path(self._folder) / "output"
        else:
            partials.clear(self.target)
        os.close(os.open(self.partial, _NEW, self._mode()))
        self._begun = True

    def check(self) -> None:
        """Raise OSError where it is clear already that the file cannot be written.  Leaves no file."""
        self._check_target()
        if not self.streamed:
            os.close(os.open(self.partial, _NEW, self._mode()))
            self.partial.unlink()

    def _mode(self) -> int:
        """Of a new file; no more can be read of it while it is written than when it is complete."""
        before = _status(self.target) if not self.streamed else None
        return 0o666 & (_common_mode(self.sources) if before is None else stat.S_IMODE(before.st_mode) | stat.S_IRWXU)

    def _check_target(self) -> None:
        if not self.follow:
            before = _status(self.target)
            if before is not None and stat.S_ISDIR(before.st_mode):
                raise IsADirectoryError(EISDIR, "it is a directory; name a file in it", str(self.path))
            return
        descriptor = _own_descriptor(self.path)
        if descriptor is not None:
            os.fstat(descriptor)
        elif self.target.is_dir():
            raise IsADirectoryError(EISDIR, "it is a directory; name a file in it", str(self.path))
        elif self.target.exists() and not os.access(self.target, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(self.path))

    def finish(self) -> None:
        """Make the partial file the output, durably."""
        if self.streamed:
            with open(self.partial, "rb") as source, _opened_stream(self.path) as target:
                shutil.copyfileobj(source, target)
            self._forget()
            return
        before = _status(self.target)
        if before is not None and stat.S_ISREG(before.st_mode):
            _keep_mode(before, self.partial)
        sync(self.partial)
        os.replace(self.partial, self.target)
        self._begun = False
        sync_folder(self.target.parent)

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


def sync(path: str | os.PathLike[str]) -> None:
    """Bring what was written to a file onto the disk.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make new names in a folder, and the end of old ones, survive a loss of power, where it can be done.

    Raises OSError where the disk fails or is full.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _FAILED:
            raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably, unless they are there.  Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def _status(path: Path) -> os.stat_result | None:
    """Of the file itself, should it be a link; None where there is none."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _common_mode(sources: Iterable[str | os.PathLike[str]]) -> int:
    """What everybody may do with all of these files, and the owner with any."""
    mode = 0o777
    for source in sources:
        with suppress(OSError, ValueError):
            of_source = os.stat(source).st_mode
            mode &= of_source | stat.S_IRWXU if stat.S_ISREG(of_source) else 0o777
    return mode


def _keep_mode(before: os.stat_result, new: Path) -> None:
    """Give a file the mode and, where this user may, the owner of the one that it replaces."""
    with suppress(OSError):
        os.chown(new, before.st_uid, before.st_gid)
    os.chmod(new, stat.S_IMODE(before.st_mode))
