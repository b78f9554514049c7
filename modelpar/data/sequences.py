"""Aligned sequences, FASTA or A3M, plain or gzip, as one-hot bits: a pass to know letters and lengths, one to read.

Where a file has letters of both cases, the lower-case ones are insertions and are left out (A3M), and so are the dots
that fill the columns of insertions in other records (A2M) unless these are needed as gaps.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.alphabets import Alphabet, alphabet_of, own_alphabet
from modelpar.data.dataset import Source, check_shape
from modelpar.data.missing import site_tables, with_mask
from modelpar.data.one_hot import SiteTable, rows_at_once
from modelpar.data.read_options import ReadOptions
from modelpar.errors import DataError, SpecError
from modelpar.formats.fasta import Record, records

Array = npt.NDArray[Any]

_LOWER = string.ascii_lowercase.encode()
_LEFT_OUT = (b"", _LOWER, _LOWER + b".")  # the ways to read a record
_AS_IT_IS, _WITHOUT_LOWER, _WITHOUT_DOTS = range(3)
_COUNTED = 1 << 20  # letters that are counted at once
_WRONG, _VAGUE = 255, 254  # in place of a state


@dataclass
class _Scan:
    """What a first pass has found."""

    n_samples: int = 0
    counts: Array = field(default_factory=lambda: np.zeros(256, np.int64))
    lengths: list[int] = field(default_factory=list)  # of the first record, by way
    apart: list[Record | None] = field(default_factory=lambda: [None] * len(_LEFT_OUT))  # the first of another length


def _scanned(path: Path) -> _Scan:
    scan, parts, n = _Scan(), [], 0
    for record in records(path):
        lengths = [len(record.letters.translate(None, left_out)) for left_out in _LEFT_OUT]
        scan.lengths = scan.lengths or lengths
        for way, length in enumerate(lengths):
            if length != scan.lengths[way] and scan.apart[way] is None:
                scan.apart[way] = record
        scan.n_samples += 1
        parts.append(record.letters)
        n += len(record.letters)
        if n > _COUNTED:
            scan.counts += np.bincount(np.frombuffer(b"".join(parts), np.uint8), minlength=256)
            parts, n = [], 0
    scan.counts += np.bincount(np.frombuffer(b"".join(parts), np.uint8), minlength=256)
    return scan


@dataclass(frozen=True)
class _Reading:
    """How records become states: what is left out of them, and the state of each character."""

    path: Path
    alphabet: Alphabet
    left_out: bytes
    folds: bool  # lower-case letters are those of upper case
    vague_too: bool  # letters that say little are gaps
    draws: bool = False  # or they are not known

    def table(self) -> bytes:
        """(256,) the state of each character, ``_VAGUE`` or ``_WRONG``."""
        states = bytearray([_WRONG] * 256)
        for vague in self.alphabet.vague:
            states[ord(vague)] = self.alphabet.gap if self.vague_too else _VAGUE
        for state, letter in enumerate(self.alphabet.letters):
            states[ord(letter)] = state
        if self.alphabet.gap >= 0:
            states[ord(".")] = self.alphabet.gap
        if self.folds:
            for code in _LOWER:
                states[code] = states[code - 32]
        return bytes(states)

    def blocks(self, n_sites: int) -> Iterator[Array]:
        """The states of all records, some (n, n_sites) uint8 at a time.  Raises DataError for those that do not fit."""
        table, at_once, rows = self.table(), rows_at_once(n_sites * len(self.alphabet.letters)), []
        for record in records(self.path):
            row = record.letters.translate(table, self.left_out)
            if len(row) != n_sites:
                raise DataError(f"{self.path} was changed while it was read; leave it as it is until the run has ended")
            rows.append(row)
            if len(rows) == at_once:
                yield self._states(rows, n_sites)
                rows = []
        if rows:
            yield self._states(rows, n_sites)

    def _states(self, rows: list[bytes], n_sites: int) -> Array:
        states = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), n_sites)
        if states.max() >= (_WRONG if self.draws else _VAGUE):
            self.refuse()
        return states

    def refuse(self) -> None:
        """Raise DataError for the first letter that is no state."""
        table = self.table()
        for record in records(self.path):
            states = np.frombuffer(record.letters.translate(table, self.left_out), np.uint8)
            for state in (_WRONG, _VAGUE):
                if (states == state).any():
                    site = int(np.flatnonzero(states == state)[0])
                    raise DataError(self._refusal(record, site, is_vague=state == _VAGUE))

    def _refusal(self, record: Record, site: int, *, is_vague: bool) -> str:
        letter = chr(record.letters.translate(None, self.left_out)[site])
        where = f"{record.shown} of {self.path} has the letter {letter!r} at site {site + 1}"
        if is_vague:
            return f"{where}, which says little or nothing; read such letters as gaps (--missing gap), or remove them"
        letters = self.alphabet.letters
        return (
            f"{where}, but its letters are {self.alphabet.what} ({letters}); correct it, or name others by --alphabet"
        )


def open_sequences(path: Path, options: ReadOptions) -> Source:
    """An alignment: categorical units, one site after another.  Reads it once, for its letters and lengths.

    Raises DataError for what is no alignment, SpecError for options that cannot be.
    """
    asked = own_alphabet(options.alphabet) if options.alphabet else None
    if options.missing == "most-frequent":
        raise SpecError(f"--missing most-frequent is for genotypes, but {path} has sequences; use gap, error or sample")
    scan = _scanned(path)
    way, folds = _way(path, scan, asked is not None and asked.has_case)
    counts = scan.counts.copy()
    if folds:
        counts[65:91] += counts[97:123]
    counts[list(_LEFT_OUT[way])] = 0
    if folds:
        counts[97:123] = 0
    alphabet = alphabet_of(counts, options.alphabet)
    gaps, draws = options.missing in ("auto", "gap") and alphabet.gap >= 0, options.missing == "sample"
    reading = _Reading(path, alphabet, _LEFT_OUT[way], folds, gaps, draws)
    n_sites, n_states = scan.lengths[way], len(alphabet.letters)
    check_shape((scan.n_samples, n_sites * n_states), str(path))
    states = np.frombuffer(reading.table(), np.uint8)
    if (counts[states == _WRONG] > 0).any() or (not draws and (counts[states == _VAGUE] > 0).any()):
        reading.refuse()
    vague = {letter: int(counts[ord(letter)]) for letter in alphabet.vague if counts[ord(letter)]}
    notes: tuple[str, ...] = ()
    if vague and not draws:
        shown = ", ".join(f"{letter} {n}" for letter, n in vague.items())
        notes = (f"letters of {path} that say little ({shown}) are read as gaps; --missing error refuses them",)
    n_gaps = int(counts[[ord("-"), ord(".")]].sum()) if alphabet.gap >= 0 else 0
    facts = {
        "sites": n_sites, "states": n_states,
        "letters": {letter: n_gaps if letter == "-" else int(counts[ord(letter)]) for letter in alphabet.letters},
        "missing": sum(vague.values()), "left_out": int(scan.counts[list(_LEFT_OUT[way])].sum()),
    }  # fmt: skip
    sizes = scan.n_samples, n_sites, n_states
    table, mask, n_missing = SiteTable(str(path), *sizes, lambda: reading.blocks(n_sites), path), None, 0
    if draws and vague:
        table, mask, n_missing = site_tables(str(path), *sizes, lambda: reading.blocks(n_sites), _VAGUE, path)
    source = Source(
        table, 1.0, None, visible=f"categorical:{n_states}", alphabet=alphabet.letters, notes=notes, facts=facts,
        kind=f"aligned sequences of {alphabet.what}", how=f"{alphabet.letters} {way} {reading.vague_too}",
    )  # fmt: skip
    return source if mask is None else with_mask(source, mask, n_missing, options.missing)


def _way(path: Path, scan: _Scan, has_case: bool) -> tuple[int, bool]:
    """How records are read, and whether the case of letters means nothing.  Raises DataError where lengths differ."""
    upper, lower = scan.counts[65:91].sum(), scan.counts[97:123].sum()
    folds = bool(lower and not upper and not has_case)
    way, what = _AS_IT_IS, "letters"
    if lower and upper and not has_case:
        way, what = _WITHOUT_DOTS, "letters without insertions, which are of lower case"
        if scan.apart[_WITHOUT_DOTS] is not None or not scan.lengths[_WITHOUT_DOTS]:
            way = _WITHOUT_LOWER
    other = scan.apart[way]
    if other is not None:
        length = len(other.letters.translate(None, _LEFT_OUT[way]))
        raise DataError(
            f"{other.shown} of {path} has {length} {what}, but those before it have {scan.lengths[way]}; sequences "
            "must be aligned"
        )
    if not scan.lengths[way]:
        raise DataError(
            f"{path} has nothing but insertions, which are of lower case; write the sequences in upper case"
        )
    return way, folds
