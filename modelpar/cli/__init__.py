"""The command line: it passes COMM_WORLD to the engine, keeps run directories, and writes to the terminal.

``main`` is the console command.  It imports mpi4py and the standard library only; NumPy is loaded when the number of
threads is known (``threads.prepare``).  An error ends in one of three ways: a mistake that the user can mend
is one line, printed once, and status 2 on every rank; an interruption is status 130; anything else is a traceback and
``MPI_Abort``, so that no rank is left waiting.  SIGHUP ends a process at once, and the launcher the job; so does
SIGTERM, but for a run that is in training (``stopping``), which saves what it has and ends with status 4.
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

from modelpar import faults
from modelpar.collective.agreement import agree
from modelpar.collective.ending import AGREED_PATIENCE, LAUNCHER, PATIENCE, all_come, end_job, is_reporter
from modelpar.comm.launch import Mistake, alone_by_mistake, not_spoken
from modelpar.errors import (
    ALONE,
    STOPPED,
    ModelparError,
    ModelparWarning,
    StoppedError,
    described,
    n_ranks_that_raise,
    one_line,
)

if TYPE_CHECKING:
    from mpi4py import MPI

TOLERANCE = "OMPI_MCA_mpi_ft_enable"  # set by mpirun --with-ft ulfm
MISTAKE, UNEXPECTED, INTERRUPTED = 2, 1, 130
INTERRUPT_PATIENCE = 1.0  # seconds for all to come to an interruption: most wait inside MPI and do not notice it


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command ``modelpar``; ``arguments`` are those of the process where None.  Ends the process.

    Collective over COMM_WORLD; one rank without mpirun works.
    """
    hangup = signal.getsignal(signal.SIGHUP)
    if mistake := not_spoken():
        _leave_launcher(mistake)
    try:
        import mpi4py

        # reductions of Python objects would go through mpi4py's internal communicator, which cannot be revoked
        mpi4py.rc.fast_reduce = TOLERANCE not in os.environ
        with warnings.catch_warnings():  # another launcher's processes are told of below, once
            warnings.filterwarnings("ignore", "suspicious MPI execution", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())
        _print_error(f"MPI cannot be loaded ({why}); install one, for example with pip install 'modelpar[mpich]'")
        sys.exit(MISTAKE)
    if hangup in (signal.SIG_DFL, signal.SIG_IGN):
        # UCX, which some MPIs load, opens a debugger on a hangup and goes on; with nohup a hangup stays ignored
        signal.signal(signal.SIGHUP, hangup)
    if mistake := alone_by_mistake(MPI.COMM_WORLD):
        _leave_launcher(mistake)
    comm = MPI.COMM_WORLD.Dup()
    if comm.rank > 0:  # only rank 0 prints, help and version included
        # never closed: it must outlive this function, as sys.stdout does
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    sys.exit(run(comm, sys.argv[1:] if arguments is None else arguments))


def _leave_launcher(mistake: Mistake) -> NoReturn:
    """End this process; its launcher's others, which MPI does not know of, do the same, and one of them says why."""
    if mistake.is_reporter:
        _print_error(mistake.message)
    else:
        time.sleep(LAUNCHER)  # some launchers end all processes when the first has ended
    sys.exit(MISTAKE)


def run(comm: MPI.Comm, arguments: Sequence[str]) -> int:
    """Run one command on the ranks of ``comm`` and return its exit status, the same on every rank.  Collective."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the encoding lacks are escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        from modelpar.cli.commands import modelpar

        faults.at("import")
        agree(comm, "the command line", arguments=list(arguments))
        with _warnings_in_one_line(comm):
            status = modelpar.main(list(arguments), prog_name="modelpar", standalone_mode=False, obj=comm)
            faults.at("leave")
    except BaseException as error:
        return _ended(comm, error)
    return status if isinstance(status, int) else 0  # of a command whose answer is a status; others return nothing


def _ended(comm: MPI.Comm, error: BaseException) -> int:
    """The exit status after an error, which is said once; ends all ranks where they do not all come here."""
    import click

    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.ClickException():
            return _end_together(comm, error, error.format_message(), MISTAKE)
        case StoppedError():
            return _end_together(comm, error, _message(error), STOPPED, "stopped")
        case ModelparError() | ModelparWarning() | OSError() | MemoryError():  # python -W error raises warnings
            return _end_together(comm, error, _message(error), getattr(error, "exit_status", MISTAKE))
        case KeyboardInterrupt() | click.Abort():
            return _end_together(comm, error, "interrupted", INTERRUPTED)
        case SystemExit():
            return _exit_together(comm, error)
        case _:
            _abort(comm, error)


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


def _end_together(comm: MPI.Comm, error: BaseException, message: str, status: int, kind: str = "error") -> int:
    """Print ``message`` once and return ``status`` when every rank has arrived; else abort.  Collective.

    An error that all ranks have detected, or agreed on, brings them all here almost at once.  Ranks that do not arrive
    wait for this rank in a collective that it will never enter.
    """
    known = n_ranks_that_raise(error)
    patience = AGREED_PATIENCE if known >= comm.size else INTERRUPT_PATIENCE if status == INTERRUPTED else PATIENCE
    if known != ALONE and all_come(comm, patience):
        if comm.rank == 0 and message:
            _print_error(message, kind)
        return status
    _end_alone(comm, f"modelpar: error: {one_line(f'rank {comm.rank} of {comm.size}: {message}')}\n", status)


def _exit_together(comm: MPI.Comm, error: SystemExit) -> int:
    """The status that code which exits the interpreter asks for, where it does so on all ranks; else an error."""
    status = error.code if isinstance(error.code, int) and error.code else UNEXPECTED
    if all_come(comm, PATIENCE):
        if error.code in (None, 0):
            return 0
        if comm.rank == 0:
            _print_error(f"exited, with {error.code!r}")
        return status
    _end_alone(comm, f"modelpar: error: rank {comm.rank} of {comm.size} exited alone, with {error.code!r}\n", status)


def _end_alone(comm: MPI.Comm, text: str, status: int) -> NoReturn:
    """Say why, once, and end all ranks: the others may be waiting for this one."""
    if is_reporter(comm):
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()
    else:
        time.sleep(LAUNCHER)  # another rank is about to end the job
    end_job(comm, status)


def _print_error(message: str, kind: str = "error") -> None:
    with contextlib.suppress(OSError):
        print(f"modelpar: {kind}: {one_line(message)}", file=sys.stderr, flush=True)


def _abort(comm: MPI.Comm, error: BaseException) -> NoReturn:
    """The traceback of a bug, and the end of all ranks."""
    head = f"modelpar: unexpected error on rank {comm.rank} of {comm.size}\n"
    _end_alone(comm, head + "".join(traceback.format_exception(error)), UNEXPECTED)
