"""Exceptions, and the one way to raise on all ranks together.

Everything that a user can get wrong ends in a :class:`ModelparError` whose text is one line: what came, what was
needed, how to mend it.  The command line prints it once and exits with status 2 on every rank.

What is probably a mistake, but may be intended, is a :class:`ModelparWarning` of the same form: :func:`warn`.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

if TYPE_CHECKING:
    from mpi4py import MPI


MOST_CHARACTERS = 300  # of a message
LONG_WORD = 80  # characters that are left of a word of a message that is too long
# line ends, escape sequences of terminals, and characters that are not seen or turn the direction of text
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def escaped(text: str) -> str:
    r"""The text with ``\n`` for line ends and escapes for other characters that a terminal does not show."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """The text as a message: escaped, and at most ``MOST_CHARACTERS`` long.

    Of a longer one the middles of long words are left out, as of paths, then the middle of the whole: it begins with
    what came, and ends with how to mend it.
    """
    # a message may hold the content of a whole file, so most of it goes before it is looked at
    text = escaped(_cut(text, 8 * MOST_CHARACTERS))
    excess, words = len(text) - MOST_CHARACTERS, text.split(" ")
    for i in sorted(range(len(words)), key=lambda i: -len(words[i])) if excess > 0 else ():
        before = len(words[i])
        words[i] = _cut(words[i], max(LONG_WORD, before - max(excess, 0)))
        excess -= before - len(words[i])
    return _cut(" ".join(words), MOST_CHARACTERS)


def _cut(text: str, most: int) -> str:
    """The beginning and the end of a text; the end is longer, as it is the name of a file."""
    if len(text) <= most:
        return text
    head = most // 2 - 10
    return f"{text[:head]}...{text[head + 3 - most :]}"


class ModelparError(Exception):
    """A mistake that the user can mend; the message is one line, whatever names and values of users it repeats.

    exit_status   of the command line that ends with it
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(one_line(arg) if isinstance(arg, str) else arg for arg in args))


class SpecError(ModelparError):
    """An option, or a combination of options, that is not possible."""


class GridError(ModelparError):
    """A grid that does not fit the ranks that were started."""


class LayoutError(ModelparError):
    """An ownership that does not fit its layer."""


class DataError(ModelparError):
    """A data set that cannot be found, read, or used with this network."""


class CheckpointError(ModelparError):
    """A checkpoint that cannot be written, read, or opened by this network."""


class OutOfMemoryError(ModelparError):
    """More memory would be needed than the node has; found before allocating."""


class TrainingError(ModelparError):
    """Training has broken down: NaN, exploding weights, dead or saturated units."""


class CorruptionError(TrainingError):
    """Memory or a processor has made an error: replicas that must be alike are not, or memory at rest has changed.

    Another try, from a checkpoint before it, may well end otherwise: the exit status is not that of a mistake.
    """

    exit_status = 1


class DisagreementError(ModelparError, ValueError):
    """Ranks that must bring the same bring different values, or make different calls."""


class StoppedError(ModelparError):
    """A run that was asked to end has done so, and saved a checkpoint first: no mistake of anybody."""


STOPPED = 4  # exit status of such a run
ALONE = 0  # a rank that raises, and is known to be the only one
_N_RANKS = "n_ranks_that_raise"  # attribute of an error
_E = TypeVar("_E", bound=BaseException)


def raised_by(error: _E, n_ranks: int) -> _E:
    """Note on an error that this many ranks are known to raise it together, or that this one is ALONE with it."""
    setattr(error, _N_RANKS, n_ranks)
    return error


def n_ranks_that_raise(error: BaseException) -> int:
    """How many ranks are known to raise this error, at least."""
    return getattr(error, _N_RANKS, 1)


class Call(NamedTuple):
    """A message to the other ranks at the start of a collective call (:func:`modelpar.collective.agreement.agree`)."""

    name: str
    digest: bytes  # hash of what must be the same on all ranks
    part: bytes  # of what must be the same on the shards of a replica


class ModelparWarning(UserWarning):
    """A setting that makes a result worth little, but may be intended; the message is one line."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(one_line(arg) if isinstance(arg, str) else arg for arg in args))


def warn(comm: MPI.Comm | None, message: str) -> None:
    """Issue a ModelparWarning for the calling line outside of modelpar, shown by the first rank of ``comm``.

    All ranks must come with the same message: where a filter makes it an error, it is raised on all of them.
    Without a communicator this rank shows it.
    """
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        depth, frame = depth + 1, frame.f_back
    if comm is None or comm.rank == 0:
        warnings.warn(message, ModelparWarning, stacklevel=depth)
        return
    with warnings.catch_warnings():
        warnings.showwarning = lambda *args, **keywords: None
        warnings.warn(message, ModelparWarning, stacklevel=depth)


def raise_together(comm: MPI.Comm, error: Exception | None) -> None:
    """Raise on every rank of ``comm`` if any rank brings an error.  Collective.

    All ranks raise the same: an error of the class and with the message of the lowest rank that brings one, so that
    all of them enter the same ``except`` clause.  An error of the operating system becomes a ModelparError.  An
    exception on one rank alone would leave the others waiting.
    """
    own = None
    if error is not None:
        plain = isinstance(error, ModelparError | ValueError | TypeError) and len(error.args) == 1
        own = (type(error) if plain else ModelparError, described(error))
    for rank, other in enumerate(comm.allgather(own)):
        if isinstance(other, Call):
            different = DisagreementError(
                f"rank {rank} makes another call, {other.name}, than rank {comm.rank}; every rank must make the same "
                "calls in the same order"
            )
            raise raised_by(different, comm.size)
        if other is not None:
            kind, message = other
            raise raised_by(kind(message), comm.size) from error


def described(error: BaseException) -> str:
    """The message of an error; of one of the operating system the file and the reason, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@contextmanager
def together(comm: MPI.Comm) -> Iterator[None]:
    """Run a block that may fail on one rank only (a file, a disk); a failure is raised on all.  Collective.

    Only :class:`ModelparError` and :class:`OSError` are agreed on; anything else is a bug and passes through.
    """
    error: Exception | None = None
    try:
        yield
    except (ModelparError, OSError) as caught:
        error = caught
    raise_together(comm, error)
