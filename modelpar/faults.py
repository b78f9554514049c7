"""Faults on demand, so that it can be tested what becomes of a job when one rank fails at some place.

``MODELPAR_FAULT=RANK:PLACE:KIND`` makes that rank fail when it comes to that place, or, as ``RANK:PLACE:KIND:N``, when
it comes there for the N-th time.  Places are named by calls of :func:`at` in the code, which cost nothing else.
``python -m tests.faults`` goes over all of them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from modelpar.errors import ModelparError

VARIABLE = "MODELPAR_FAULT"
NOTE = "MODELPAR_FAULT_NOTE"  # names a file that is made at the moment of the fault, for who measures
RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")  # of launchers

# In the order in which a run comes to them.
PLACES = (
    "import", "grid", "open data", "place units", "compile", "make network", "read checkpoint", "begin directory",
    "read data", "step", "record", "score", "write checkpoint", "finish checkpoint", "draw", "draw curves",
    "summarise", "leave",
)  # fmt: skip


def _mistake() -> NoReturn:
    raise ModelparError("a fault that was asked for")


def _bug() -> NoReturn:
    raise RuntimeError("a fault that was asked for")


def _disk() -> NoReturn:
    raise OSError(28, "No space left on device", "a fault that was asked for")


def _memory() -> NoReturn:
    raise MemoryError("a fault that was asked for")


def _exit() -> NoReturn:
    sys.exit(7)


def _hang() -> NoReturn:
    while True:
        time.sleep(60)


def _signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


KINDS: dict[str, Callable[[], None]] = {
    "error": _mistake, "bug": _bug, "disk": _disk, "memory": _memory, "exit": _exit, "hang": _hang,
    "interrupt": _signal(signal.SIGINT), "term": _signal(signal.SIGTERM), "kill": _signal(signal.SIGKILL),
}  # fmt: skip


class Fault:
    """What MODELPAR_FAULT asks for, of this process.  Raises ModelparError where it cannot be understood."""

    def __init__(self, text: str) -> None:
        words = text.split(":")
        known = len(words) in (3, 4) and words[1] in PLACES and words[2] in KINDS
        if not known or not all(word.isdecimal() for word in (words[0], *words[3:])):
            raise ModelparError(
                f"{VARIABLE} is {text!r}, but must be RANK:PLACE:KIND or RANK:PLACE:KIND:N, with a place of "
                f"{', '.join(PLACES)} and a kind of {', '.join(KINDS)}"
            )
        self.place, self._left = words[1], int(words[3]) if len(words) == 4 else 1
        rank = next((os.environ[name] for name in RANKS if os.environ.get(name)), "0")
        self._fail = KINDS[words[2]] if int(words[0]) == int(rank) else None

    def come(self) -> None:
        self._left -= 1
        if self._left == 0 and self._fail is not None:
            if NOTE in os.environ:
                Path(os.environ[NOTE]).touch()
            self._fail()


_fault: Fault | None = None
_is_armed = VARIABLE in os.environ


def at(place: str) -> None:
    """Fail here, where this was asked for."""
    global _fault
    if not _is_armed:
        return
    if _fault is None:
        _fault = Fault(os.environ[VARIABLE])
    if place == _fault.place:
        _fault.come()
