"""A lock file: who works in a folder, so that nobody else does at the same time.

The kernel locks the file (``flock``) while its process runs, and frees it however that ends.  Where the file system
does not carry such locks from host to host, or has none, what the file says decides: who holds it, and since when.

The file is removed when the lock is given back, and left behind by a process that is killed; such a *stale* lock is
taken over where it is certain that nobody holds it:

- the kernel gives the lock, and the file system shares it among all hosts, or is of this host alone;
- its process is one of this host, and has ended, or the host was started again since;
- it is an earlier start of the same job of Slurm, which has started it again.

Else it is believed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ELOOP
from pathlib import Path
from typing import Any

from modelpar.files.outputs import sync_folder
from modelpar.files.processes import Process

NAME = "lock"  # in the folder
SIZE = 1024  # bytes, written at once: readers see one holder or the other
SETTLING = 0.3  # seconds after which the last of those who wrote at the same time has won, without locks of the kernel
_RETRY = 0.1  # seconds
_TRIES = 100  # at a file that others remove just then
# file systems of one host; on others it depends on how they are mounted
_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "tmpfs", "ramfs", "overlay")
_SHARING = ("gpfs", "ceph", "ocfs2", "gfs2")


class HeldError(Exception):
    """Somebody else holds the lock.   holder: None where the file does not tell yet"""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__("it is held")
        self.holder = holder


class ForeignFileError(Exception):
    """What has the name of the lock is no lock; the message says what it is."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    process: Process
    since: str  # date and time
    key: str  # of this holder alone; its successor in the same job knows it
    job: str = ""  # number of a job of Slurm
    restarts: int = 0  # of that job

    @classmethod
    def now(cls, key: str) -> Holder:
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        return cls(
            Process.this(), datetime.now(UTC).isoformat(" ", "seconds"), key, os.environ.get("SLURM_JOB_ID", ""),
            int(restarts) if restarts.isdecimal() else 0,
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, content: bytes) -> Holder | None:
        """None for an empty file.  Raises ForeignFileError where it is not a lock's."""
        text = content.strip(b" \n\0")
        if not text:
            return None
        try:
            entry: dict[str, Any] = json.loads(text)
            return cls(
                Process.from_dict(entry["process"]), str(entry["since"]), str(entry["key"]), str(entry["job"]),
                int(entry["restarts"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ForeignFileError("it has another content") from None

    def as_bytes(self) -> bytes:
        """As many bytes for every holder."""
        return json.dumps({**vars(self), "process": self.process.as_dict()}).encode().ljust(SIZE - 1) + b"\n"

    def was_restarted_as(self, other: Holder) -> bool:
        """Whether ``other`` is a later start of the same job: no process of this one is left then."""
        return bool(self.job) and self.job == other.job and self.restarts < other.restarts

    def __str__(self) -> str:
        return f"process {self.process.number} on {self.process.host}, since {self.since}"


class FileLock:
    """A lock that this process holds until ``release``."""

    def __init__(self, path: Path, descriptor: int, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, *, predecessor: str = "", patience: float = 0.0) -> FileLock:
        """Take the lock of a folder.

        predecessor   the key of a holder whose work this process goes on with
        patience      seconds to wait for a holder, whose end may be under way

        Raises HeldError, ForeignFileError where a file of another kind is in its place, and OSError.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return cls._take(folder / NAME, predecessor)
            except HeldError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY)

    @classmethod
    def _take(cls, path: Path, predecessor: str) -> FileLock:
        me = Holder.now(secrets.token_hex(8))
        for _ in range(_TRIES):
            descriptor = _open(path)
            try:
                granted = _lock(descriptor)
                if granted is not False and not _is_at(path, descriptor):
                    os.close(descriptor)  # it was given back, and its file removed, in between
                    continue
                before = _read(descriptor)
                if granted is False or (
                    before is not None and before.key != predecessor and not _is_stale(before, me, granted, path)
                ):
                    raise HeldError(before)
                os.pwrite(descriptor, me.as_bytes(), 0)
                os.fsync(descriptor)
                sync_folder(path.parent)
                if granted is None:
                    time.sleep(SETTLING)
                    if (now := _read(descriptor)) is None or now.key != me.key:
                        raise HeldError(now)
            except BaseException:
                with suppress(OSError):
                    os.close(descriptor)
                raise
            return cls(path, descriptor, me)
        raise HeldError(None)

    def release(self) -> None:
        """Give the lock back.  Never raises; the second time nothing happens."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        with suppress(OSError, ForeignFileError):
            now = _read(descriptor)
            if now is not None and now.key == self.holder.key and _is_at(self.path, descriptor):
                self.path.unlink()
        with suppress(OSError):
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def _open(path: Path) -> int:
    """The file, made where there is none; no link is followed.  Raises ForeignFileError, OSError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == ELOOP:
            raise ForeignFileError("it is a symbolic link") from None
        if path.is_dir():
            raise ForeignFileError("it is a folder") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ForeignFileError("it is not a regular file")
    return descriptor


def _lock(descriptor: int) -> bool | None:
    """Whether the kernel gives the lock; None where it knows none on this file system."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read(descriptor: int) -> Holder | None:
    if os.fstat(descriptor).st_size > SIZE:
        raise ForeignFileError("it has another content")
    return Holder.from_bytes(os.pread(descriptor, SIZE, 0))


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_stale(holder: Holder, me: Holder, granted: bool | None, path: Path) -> bool:
    """Whether it is certain that this holder of a lock, which the kernel has granted or knows nothing of, has ended."""
    if granted and (holder.process.is_near or shares_locks(path.parent)):
        return True
    return holder.process.runs is False or holder.was_restarted_as(me)


def shares_locks(folder: Path) -> bool:
    """Whether all hosts that see a folder see its locks too; False where that is not known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        device = os.stat(folder).st_dev
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, system = line.partition(" - ")
        if mount.split()[2] == number and system:
            kind, _, *rest = system.split()
            return _shares_locks(kind, set(",".join(rest).split(",")))
    return False


def _shares_locks(kind: str, options: set[str]) -> bool:
    """As ``shares_locks``, for a file system of this kind, as it is mounted."""
    if kind in ("nfs", "nfs4"):
        return not options & {"nolock", "local_lock=all", "local_lock=flock"}
    if kind == "lustre":
        return "flock" in options
    return kind in _LOCAL or kind in _SHARING
