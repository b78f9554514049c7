"""Files that are either whole or not there, and errors that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelpar.errors import ModelparError

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; the file becomes ``path`` when the block ends well, and goes when not.

    Not collective.  Raises ModelparError, which names ``path``, where it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with naming(path):
            yield partial
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the operating system becomes a ModelparError that names ``path``.  Not collective."""
    try:
        yield
    except OSError as error:
        raise ModelparError(cannot_write(path, error)) from None


def cannot_write(path: Path, error: OSError) -> str:
    """The one line for a user."""
    return f"{path} cannot be written ({error.strerror or error}); make room for it, or name another place"
