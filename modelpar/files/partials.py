"""Names of files that are not complete yet: no two processes share one, and it tells whose it is.

``NAME.PLACE-PROCESS-START-RANDOM.partial`` stands beside ``NAME``, and whoever writes ``NAME`` next removes what
processes that have died left.  Earlier versions wrote ``NAME.partial``.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from modelpar.files.processes import Process, is_running

PARTIAL = ".partial"
_TOKEN = re.compile(r"\.([0-9a-f]{8})-([0-9a-f]{1,8})-([0-9a-f]{1,16})-[0-9a-f]{8}$")
_LONGEST_NAME = 255  # bytes, as most file systems have it
_LONGEST_TOKEN = 44 + len(PARTIAL)


def partial_path(target: Path) -> Path:
    """A new name beside ``target``, for this process."""
    me = Process.this()
    token = f".{me.place}-{me.number:x}-{me.started:x}-{secrets.token_hex(4)}"
    return target.with_name(_stem(target.name) + token + PARTIAL)


def completed_name(name: str) -> str | None:
    """The name that a partial file was to get (its beginning, if it is very long); None for any other file."""
    if not name.endswith(PARTIAL):
        return None
    return _TOKEN.sub("", name.removesuffix(PARTIAL))


def is_at_work(name: str) -> bool:
    """Whether a process that can be seen from here is writing a partial file of this name."""
    token = _TOKEN.search(name.removesuffix(PARTIAL))
    if token is None:
        return False
    return token[1] == Process.this().place and is_running(int(token[2], 16), int(token[3], 16))


def clear(target: Path) -> None:
    """Remove what processes of this host that have died left of ``target``.  Never raises."""
    place = Process.this().place
    with suppress(OSError):
        for name in _partials(target):
            token = _TOKEN.search(name.removesuffix(PARTIAL))
            if token is not None and token[1] == place and not is_at_work(name):
                with suppress(OSError):
                    target.with_name(name).unlink()


def _partials(target: Path) -> Iterator[str]:
    stem = _stem(target.name)
    with os.scandir(target.parent) as entries:
        yield from [entry.name for entry in entries if completed_name(entry.name) == stem]


def _stem(name: str) -> str:
    """The beginning of a name to which a token can be added."""
    return os.fsdecode(os.fsencode(name)[: _LONGEST_NAME - _LONGEST_TOKEN])
