"""Names of files as users give them: ``~`` stands for a home, other folders and links for the same file.

No file is opened here.  A name that is not text in UTF-8 is kept as Python has it, with a lone surrogate for each odd
byte; ``printable`` and ``from_printable`` change it into text that any file can hold, and back.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ODD = re.compile(r"\\x([89a-f][0-9a-f])")  # a byte that is no text, as ``printable`` shows it


def expanded(path: str | os.PathLike[str]) -> str:
    """With the home that ``~`` or ``~user`` at the beginning stands for.  Raises ValueError for what names no file."""
    text = os.fspath(path)
    if not text:
        raise ValueError("it is empty, but must name a file or folder")
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero byte, which no name of a file has")
    return os.path.expanduser(text)


def absolute(path: str | os.PathLike[str]) -> str:
    """As ``expanded``, and from the root; ``..`` stays, since the way up from a link is not the way that led there."""
    return str(Path(expanded(path)).absolute())


def printable(text: str) -> str:
    r"""With ``\xff`` for the odd byte 0xff, so that it is text in UTF-8, whatever the locale's encoding."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # other surrogates, which no name of a file has
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def from_printable(text: str) -> str:
    """The name that ``printable`` has changed into ``text``, as Python has it in this locale."""
    return os.fsdecode(_ODD.sub(lambda odd: chr(0xDC00 + int(odd[1], 16)), text).encode("utf-8", "surrogateescape"))


def in_one_line(text: str) -> str:
    r"""With ``\n`` for the end of a line, and escapes for all that a terminal would not show: names may have them."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The same for all names of one file or folder, links of both kinds included; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
