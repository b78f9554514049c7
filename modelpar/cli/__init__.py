"""The command line: it passes COMM_WORLD to the engine, keeps run directories, and writes to the terminal.

``main`` is the console command.  It imports mpi4py and the standard library only; NumPy is loaded when the number of
threads is known (``threads.prepare``).  An error ends in one of three ways: a mistake that the user can mend
is one line, printed once, and status 2 on every rank; an interruption is status 130; anything else is a traceback and
``MPI_Abort``, so that no rank is left waiting.  SIGTERM and SIGHUP end a process at once, and the launcher the job.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from modelpar.collective.agreement import agree
from modelpar.errors import ModelparError, ModelparWarning, described, one_line

if TYPE_CHECKING:
    from mpi4py import MPI

TOLERANCE = "OMPI_MCA_mpi_ft_enable"  # set by mpirun --with-ft ulfm
MISTAKE, UNEXPECTED, INTERRUPTED = 2, 1, 130
PATIENCE = 10.0  # seconds in which all ranks must reach the same error, else the job is aborted
INTERRUPT_PATIENCE = 1.0  # after an interruption: the other ranks mostly wait inside MPI and do not notice it


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command ``modelpar``; ``arguments`` are those of the process where None.  Ends the process.

    Collective over COMM_WORLD; one rank without mpirun works.
    """
    hangup = signal.getsignal(signal.SIGHUP)
    try:
        import mpi4py

        # reductions of Python objects would go through mpi4py's internal communicator, which cannot be revoked
        mpi4py.rc.fast_reduce = TOLERANCE not in os.environ
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())
        _print_error(f"MPI cannot be loaded ({why}); install one, for example with pip install 'modelpar[mpich]'")
        sys.exit(MISTAKE)
    if hangup in (signal.SIG_DFL, signal.SIG_IGN):
        # UCX, which some MPIs load, opens a debugger on a hangup and goes on; with nohup a hangup stays ignored
        signal.signal(signal.SIGHUP, hangup)
    comm = MPI.COMM_WORLD.Dup()
    if comm.rank > 0:  # only rank 0 prints, help and version included
        # never closed: it must outlive this function, as sys.stdout does
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    sys.exit(run(comm, sys.argv[1:] if arguments is None else arguments))


def run(comm: MPI.Comm, arguments: Sequence[str]) -> int:
    """Run one command on the ranks of ``comm`` and return its exit status, the same on every rank.  Collective."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the encoding lacks are escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        import click

        from modelpar.cli.commands import modelpar
    except BaseException:
        _abort(comm)
    try:
        agree(comm, "the command line", arguments=list(arguments))
        with _warnings_in_one_line(comm):
            modelpar.main(list(arguments), prog_name="modelpar", standalone_mode=False, obj=comm)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        return _end_together(comm, error.format_message(), MISTAKE)
    except (ModelparError, ModelparWarning, OSError, MemoryError) as error:  # python -W error raises warnings
        return _end_together(comm, _message(error), MISTAKE)
    except (KeyboardInterrupt, click.Abort):
        return _end_together(comm, "interrupted", INTERRUPTED)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else UNEXPECTED
    except BaseException:
        _abort(comm)
    return 0


@contextlib.contextmanager
def _warnings_in_one_line(comm: MPI.Comm) -> Iterator[None]:
    """ModelparWarnings as one line on the first rank's stderr, each message once; other warnings as usual."""
    with warnings.catch_warnings():
        shown, show_other = set(), warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, ModelparWarning):
                show_other(message, category, *where, **more)
            elif comm.rank == 0 and str(message) not in shown:
                shown.add(str(message))
                _print_error(str(message), "warning")

        warnings.showwarning = show
        yield


def _message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); use more ranks, fewer units or a smaller --batch-size"
    return described(error)


def _end_together(comm: MPI.Comm, message: str, status: int) -> int:
    """Print ``message`` once and return ``status`` when every rank has arrived; else abort.  Collective.

    An error that all ranks have detected, or agreed on, brings them all here almost at once.  Ranks that do not arrive
    wait for this rank in a collective that it will never enter.
    """
    arrived = comm.Ibarrier()
    deadline = time.monotonic() + (INTERRUPT_PATIENCE if status == INTERRUPTED else PATIENCE)
    while not arrived.Test():
        if time.monotonic() > deadline:
            _print_error(f"rank {comm.rank} of {comm.size}: {message}")
            comm.Abort(status)
        time.sleep(0.005)
    messages = comm.gather(message)
    if messages is not None:
        _print_error(messages[0])
    return status


def _print_error(message: str, kind: str = "error") -> None:
    with contextlib.suppress(OSError):
        print(f"modelpar: {kind}: {one_line(message)}", file=sys.stderr, flush=True)


def _abort(comm: MPI.Comm) -> NoReturn:
    """The traceback of a bug, and the end of all ranks: the others may be waiting for this one."""
    trace = traceback.format_exc()
    sys.stderr.write(f"modelpar: unexpected error on rank {comm.rank} of {comm.size}\n{trace}")
    sys.stderr.flush()
    comm.Abort(UNEXPECTED)
    os._exit(UNEXPECTED)  # not reached where MPI_Abort ends the process, as it must
