"""The console of the command line."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console for text that is not ours: brackets are no markup, and ``:name:`` is no picture."""
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=width)
