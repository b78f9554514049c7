"""Output for people: a console for stdout, and lines on stderr.

A rank prints through ``mpirun``, so its own stdout does not show whether the output goes to a terminal.
Open MPI gives its ranks pseudo-terminals even where its own output goes to a file, and MPICH gives them pipes even
where its own output goes to a terminal.  So the launcher's output is what counts.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import psutil
from rich.console import Console

from modelpar.errors import described
from modelpar.files.paths import in_one_line

if TYPE_CHECKING:
    from mpi4py import MPI

Say = Callable[[str], None]

WIDTH = 120  # of what is not a terminal
LAUNCHERS = ("mpirun", "mpiexec", "prterun", "orterun", "hydra", "srun")
LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")  # a launcher sets one of these for its ranks


def plain_console(*, width: int | None = None, force_terminal: bool | None = None) -> Console:
    """A console for any text: brackets are not markup, and ``:name:`` is not an emoji.  Plain in notebooks, too."""
    return Console(
        markup=False, emoji=False, highlight=False, width=width, force_terminal=force_terminal, force_jupyter=False
    )  # fmt: skip


class Unfailing(io.TextIOBase):
    """Text for people that may get lost: where ``file`` fails (a closed pipe, a full disk), one line on stderr says so,
    and all else that is written to it is dropped.

    A run must not end because nobody reads what it prints.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file, self._failed = file, False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._file, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if not self._failed:
            try:
                self._file.write(text)
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        if not self._failed:
            try:
                self._file.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def close(self) -> None:
        """Nothing: the file belongs to others, who may have closed it before this object is collected."""

    def isatty(self) -> bool:
        return not self._failed and self._file.isatty()

    def fileno(self) -> int:
        return self._file.fileno()

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        with suppress(OSError, ValueError):  # what is left in its buffer must not fail when the interpreter ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)
        with suppress(OSError, ValueError):
            reason = in_one_line(described(error))
            print(
                f"modelpar: warning: what is printed is lost ({reason}); the run goes on", file=sys.stderr, flush=True
            )


def make_console() -> Console:
    """For stdout: with a live bar where a terminal is at its end, plain and wide elsewhere."""
    if sys.stdout is not sys.__stdout__:  # a rank whose output is discarded, or a program that collects it
        # else rich takes FORCE_COLOR for a terminal, which kernels of notebooks set
        return plain_console(width=WIDTH, force_terminal=False)
    if not any(name in os.environ for name in LAUNCHED):
        console = plain_console()
        return console if console.is_terminal else plain_console(width=WIDTH)
    width = _width_of_launcher()
    return plain_console(width=width or WIDTH, force_terminal=width is not None)


def _width_of_launcher() -> int | None:
    """Columns of the terminal that the launcher writes to; None where it writes elsewhere, or is not known."""
    try:
        launchers = [p for p in psutil.Process().parents() if p.name().startswith(LAUNCHERS)]
        path = os.readlink(f"/proc/{launchers[-1].pid}/fd/1") if launchers else ""
        if not path.startswith(("/dev/pts/", "/dev/tty")):
            return None
        terminal = os.open(path, os.O_RDONLY | os.O_NOCTTY)
    except (OSError, psutil.Error, RuntimeError):  # the last one of psutil, without the system's files
        return None
    try:
        return os.get_terminal_size(terminal).columns or WIDTH
    except OSError:
        return WIDTH
    finally:
        os.close(terminal)


def speak(comm: MPI.Comm) -> Say:
    """A function that prints a line to standard error, on the first rank only."""

    def say(text: str) -> None:
        if comm.rank == 0:
            print(f"modelpar: {in_one_line(text)}", file=sys.stderr, flush=True)

    return say
