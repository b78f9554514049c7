"""FASTA and A3M files, plain or gzip: record after record, in memory that does not grow with the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from modelpar.errors import DataError
from modelpar.formats.reading import unpacked

MOST_LETTERS = 1 << 24  # of a record: more than any alignment has sites
_LONGEST = 1 << 18  # bytes of a line that are read at once
_SHOWN = 40  # characters of a record's name in messages
_SPACES = b" \t\r\n\v\f"


class Record(NamedTuple):
    """One sequence as it stands in the file, insertions and gaps included."""

    number: int  # from 1
    name: bytes  # the rest of the line that begins with >
    letters: bytes

    @property
    def shown(self) -> str:
        """How messages call it."""
        words = self.name.decode("utf-8", "replace").split()
        name = words[0][:_SHOWN] if words else ""
        return f"record {self.number} ({name})" if name else f"record {self.number}"


def is_fasta(start: bytes) -> bool:
    """Whether these first (unpacked) bytes begin a FASTA or A3M file: a record, or the comment that A3M may have."""
    start = start.lstrip()
    return start.startswith((b">", b"#A3M"))


def records(path: Path) -> Iterator[Record]:
    """All records of a file, in its order.

    Raises DataError for what is no FASTA: text before the first record, a record without a sequence or with more than
    ``MOST_LETTERS`` letters, a file without records, one that is cut off or damaged.
    """
    number, name, n_letters = 0, b"", 0
    parts: list[bytes] = []

    def finished() -> Record:
        record = Record(number, name, b"".join(parts))
        if not record.letters:
            raise DataError(
                f"{record.shown} of {path} has no sequence; the file is damaged, or the record is one to remove"
            )
        return record

    with unpacked(path) as stream:
        in_name, begins = False, True  # whether a line goes on that is a name; whether the next bytes begin a line
        while line := stream.readline(_LONGEST):
            if begins and line.startswith(b">"):
                if number:
                    yield finished()
                number, name, parts, n_letters, in_name = number + 1, line[1:].strip()[:200], [], 0, True
            elif not in_name and not (begins and line.startswith(b"#") and not number):
                letters = line.translate(None, _SPACES)
                if letters and not number:
                    raise DataError(f"{path} has text before its first record, which begins with >; remove it")
                parts.append(letters)
                n_letters += len(letters)
                if n_letters > MOST_LETTERS:
                    raise DataError(f"record {number} of {path} has more than {MOST_LETTERS} letters, the most for one")
            begins = line.endswith(b"\n")
            in_name = in_name and not begins
    if not number:
        raise DataError(f"{path} has no records; get a new copy")
    yield finished()
