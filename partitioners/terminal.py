"""The console of the command line."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints any text literally: without markup in brackets or pictures for ``:name:``."""
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=width)
