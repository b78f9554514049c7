"""Names of files as users give them: ``~`` for a home, and different names of one file.

No file is opened here.  A name that is not valid UTF-8 is kept as Python represents it, with a lone surrogate for each
invalid byte; ``printable`` and ``from_printable`` convert it to text that can be written to any file, and back.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from modelpar.errors import escaped

_WITH_PARTS = (".h5", ".hdf5", ".zarr")  # endings of files with parts that have names
_ODD = re.compile(r"\\x([89a-f][0-9a-f])")  # an invalid byte, as ``printable`` shows it


def expanded(path: str | os.PathLike[str]) -> str:
    """The path with a leading ``~`` or ``~user`` expanded.  Raises ValueError for what cannot be the name of a file."""
    text = os.fspath(path)
    if not text:
        raise ValueError("it is empty, but must name a file or folder")
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero byte, which no name of a file has")
    return os.path.expanduser(text)


def absolute(path: str | os.PathLike[str]) -> str:
    """As ``expanded``, and absolute; ``..`` is kept, since the parent of a link is not that of its target."""
    return str(Path(expanded(path)).absolute())


def split_inner(data: str | os.PathLike[str]) -> tuple[str, str]:
    """``FILE.h5:PATH`` as the file and what is meant in it, which is empty where only a file is named.

    A file whose own name has a colon comes first.  Nothing is looked for in the file.
    """
    text = os.fspath(data)
    if os.path.exists(os.path.expanduser(text)):
        return text, ""
    for at in (match.start() for match in re.finditer(":", text)):
        file = text[:at]
        if file.lower().endswith(_WITH_PARTS) or os.path.isfile(os.path.expanduser(file)):
            return file, text[at + 1 :]
    return text, ""


def printable(text: str) -> str:
    r"""The text with ``\xff`` for the invalid byte 0xff, so that it is valid UTF-8 in any locale."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # other surrogates, which no name of a file has
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def from_printable(text: str) -> str:
    """The name that ``printable`` has converted to ``text``, as Python represents it in this locale."""
    return os.fsdecode(_ODD.sub(lambda match: chr(0xDC00 + int(match[1], 16)), text).encode("utf-8", "surrogateescape"))


def in_one_line(text: str) -> str:
    r"""The text with ``\n`` for line ends and escapes for other characters that a terminal does not show, uncut."""
    return escaped(text)


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """A pair that is the same for all names of one file or folder, links of both kinds included; else None."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
