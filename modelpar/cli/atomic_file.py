"""Files that are either complete or not there, and errors that name them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelpar.errors import ModelparError
from modelpar.files.outputs import Output

__all__ = ["atomic_write", "cannot_write", "naming"]


@contextmanager
def atomic_write(path: Path, *, follow: bool = True, sources: Iterable[str | os.PathLike[str]] = ()) -> Iterator[Path]:
    """A name to write to: that file becomes ``path`` when the block succeeds (see ``Output``), else it is removed.

    Not collective.  Raises ModelparError, which names ``path``, where it cannot be written.
    """
    with naming(path):
        output = Output(path, follow=follow, sources=sources)
        try:
            output.open()
            yield output.partial
            output.finish()
        except BaseException:
            output.give_up()
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the operating system becomes a ModelparError that names ``path``.  Not collective."""
    try:
        yield
    except OSError as error:
        raise ModelparError(cannot_write(path, error)) from None


def cannot_write(path: Path, error: OSError) -> str:
    """The line for a user."""
    return f"{path} cannot be written ({error.strerror or error}); free some space, or name another path"
