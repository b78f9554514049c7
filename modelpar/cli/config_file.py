"""``config.toml`` of a run as a file: it says itself whether it is whole.

What is cut off at the end of a line is valid TOML, and what is empty is too; all that is missing would be taken as the
defaults.  So the first line of what is written here announces a last one.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from modelpar.files.paths import printable
from modelpar.files.regular import read_bounded

FIRST = "# The options of a run of modelpar, as --config takes them. The file is whole where its last line says so.\n"
LAST = "# This is the last line.\n"
MOST = 1 << 20  # bytes: such a file has a few thousand


def complete(text: str) -> str:
    """The file for a configuration in TOML."""
    return f"{FIRST}\n{printable(text)}\n{LAST}"


def damage(path: Path) -> str:
    """What is wrong with a run's own configuration, without a look at its options; empty for nothing.  Not collective.

    Those of other versions, and those that a user has written, need not have the first and last lines.
    """
    try:
        text = read_bounded(path, MOST).decode("utf-8-sig")
        tables = tomllib.loads(text)
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, RecursionError) as error:  # ValueError: also of integers with thousands of digits
        return "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else "it is not valid TOML"
    if not tables:
        return "it is empty"
    if text.startswith(FIRST) and not text.rstrip().endswith(LAST.rstrip()):
        return "its end is missing"
    return ""
