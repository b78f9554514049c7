"""Runs the code blocks of one page:   python tests/pages.py docs/tutorial.md   (in the current folder)

The convention is written down in docs/contributing.md.  Blocks run in the order of the page; its python blocks
share one namespace, each bash or console block is one shell that stops at the first failing command.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(r"(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
NOT_RUN = re.compile(r"<!--\s*not run:\s*(?P<reason>.*?)\s*-->")
RUN = ("python", "bash", "console")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    line: int  # of its first line of code, counted from 1
    language: str
    code: str
    not_run: str | None  # why, where the page exempts it


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a page, in order."""
    lines = text.splitlines()
    reason: str | None = None
    i = 0
    while i < len(lines):
        opening = FENCE.match(lines[i])
        if opening is None:
            exempt = NOT_RUN.search(lines[i])
            if exempt:
                reason = exempt["reason"]
            elif lines[i].strip():
                reason = None  # it holds for the next block only, blank lines apart
            i += 1
            continue
        start = i = i + 1
        while i < len(lines) and lines[i].strip() != opening["fence"]:
            i += 1
        yield Block(start + 1, opening["language"], textwrap.dedent("\n".join(lines[start:i])) + "\n", reason)
        reason = None
        i += 1


def commands(code: str) -> str:
    """Of a console block: the lines after ``$ ``, and what continues them after a backslash; the rest is output."""
    kept: list[str] = []
    goes_on = False
    for line in code.splitlines():
        if goes_on or line.startswith("$ "):
            kept.append(line if goes_on else line[2:])
            goes_on = line.endswith("\\")
    return "\n".join(kept) + "\n"


def run_page(path: Path) -> None:
    """Run every block of a page that it does not exempt; the first failure ends it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language not in RUN or block.not_run is not None:
            continue
        print(f"---- {path.name}, line {block.line}, {block.language}\n{block.code}----", flush=True)
        if block.language == "python":
            # blank lines before the code, so that a traceback names the lines of the page
            exec(compile("\n" * (block.line - 1) + block.code, str(path), "exec"), namespace)
        else:
            script = commands(block.code) if block.language == "console" else block.code
            status = subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=False).returncode
            if status != 0:
                sys.exit(f"{path}, line {block.line}: this block ended with status {status}")


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
