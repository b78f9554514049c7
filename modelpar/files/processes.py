"""Which process this is, such that another one, later or elsewhere, can tell whether it still runs.  Linux's ``/proc``
says most of it; without that, only processes of this host are judged, by their numbers.
"""

from __future__ import annotations

import os
import socket
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

_START_TIME = 19  # of the fields of /proc/PID/stat after the name of the program, whose own state is the first


@dataclass(frozen=True)
class Process:
    """A process of some host.  Numbers of processes are used again, so the time of its start belongs to it."""

    host: str
    boot: str  # drawn anew whenever a host starts; empty where unknown
    space: str  # containers count processes in spaces of their own; empty where unknown
    number: int
    started: int  # clock ticks after the start of the host; 0 where unknown

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        return cls(*_place(), os.getpid(), _started(os.getpid()) or 0)

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> Process:
        """What ``as_dict`` gave.  Raises KeyError, TypeError or ValueError for something else."""
        texts = [str(entry[name]) for name in ("host", "boot", "space")]
        return cls(texts[0], texts[1], texts[2], int(entry["number"]), int(entry["started"]))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def place(self) -> str:
        """8 hexadecimal digits that tell host, start of the host and space from others."""
        return f"{zlib.crc32(repr((self.host, self.boot, self.space)).encode()):08x}"

    @property
    def is_near(self) -> bool:
        """Whether this process can see whether it runs."""
        host, boot, space = _place()
        same_host = self.boot == boot if self.boot and boot else self.host == host
        return same_host and self.space == space

    @property
    def runs(self) -> bool | None:
        """Whether it still runs; None where that cannot be seen from here: on another host, in another container."""
        host, boot, _ = _place()
        if self.is_near:
            return is_running(self.number, self.started)
        if self.host == host and self.boot and boot and self.boot != boot:
            return False  # the host was started again since
        return None


def is_running(number: int, started: int) -> bool:
    """Whether the process of this number that was ``started`` then runs here (0: whenever); one that was killed, and
    whose parent has not heard of it, does not."""
    if Path("/proc/self/stat").exists():
        now = _started(number)
        return now is not None and started in (0, now)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's
    return True


@cache
def _place() -> tuple[str, str, str]:
    """Host, boot and space of this process."""
    boot = space = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return socket.gethostname(), boot, space


def _started(number: int) -> int | None:
    """When a process was started, in clock ticks after the start of the host; None where it does not run."""
    try:
        fields = Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[_START_TIME])
    except (OSError, IndexError, ValueError):
        return None
