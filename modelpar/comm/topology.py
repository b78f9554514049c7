"""Which processors of the operating system are one core: hyperthreads share its units, and its speed.

This module loads neither NumPy nor MPI.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_PROCESSORS = Path("/sys/devices/system/cpu")

Core = frozenset[int]  # processors


def cores_of(processors: Iterable[int], root: Path = _PROCESSORS) -> list[Core]:
    """The processors grouped by core, those of a package next to each other, each core by its lowest number.

    A processor whose topology cannot be read is a core of its own, as all are where the system tells nothing.
    """
    left = set(processors)
    found: list[tuple[int, int, Core]] = []
    for processor in sorted(left):
        if processor in left:
            core = frozenset(left & (_siblings(root, processor) | {processor}))
            left -= core
            found.append((_package(root, processor), processor, core))
    return [core for _, _, core in sorted(found, key=lambda of: of[:2])]


def _siblings(root: Path, processor: int) -> set[int]:
    """The processors of one core, as the system lists them: ``0-1,8``."""
    text = _read(root / f"cpu{processor}" / "topology" / "thread_siblings_list")
    siblings: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            siblings.update(range(int(first), int(last or first) + 1))
    return siblings


def _package(root: Path, processor: int) -> int:
    text = _read(root / f"cpu{processor}" / "topology" / "physical_package_id")
    return int(text) if text.isdecimal() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
