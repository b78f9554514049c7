"""Genotypes in VCF files, plain or gzip (BGZF is gzip), line after line; what is not a genotype is passed over."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.formats.reading import unpacked
from modelpar.machine.memory import check_room

Array = npt.NDArray[Any]

VCF_START = b"##fileformat=VCF"
MISSING = 3  # in place of an allele
_LONGEST = 1 << 26  # bytes of a line
_LONGEST_PLACE = 1 << 16  # bytes of its first five columns
_LONGEST_NUMBER = 18  # digits of a position
_FIXED = 9  # columns before the first individual's
_BYTES_OF_INDIVIDUAL = 64  # that arrays of a line take
_TAB, _BAR, _SLASH, _COLON = b"\t|/:"
_WRONG = 255  # in place of an allele that is none
_ALLELES = np.full(256, _WRONG, np.uint8)
_ALLELES[[ord("0"), ord("1"), ord(".")]] = 0, 1, MISSING


# of each individual: the first allele, what follows it, the second (None of haploids), and whether they are none
_Alleles = tuple[Array, Array, Array | None, Array]


class Site(NamedTuple):
    """The first five columns of a line."""

    chromosome: str
    position: int
    name: str
    reference: str
    alternative: str


class Variant(NamedTuple):
    """One line.   first, second (n_individuals,) uint8 alleles 0 and 1, or ``MISSING``; second is None of haploids"""

    line: int  # from 1
    name: str
    first: Array
    second: Array | None
    has_bar: bool  # whether an allele is known to come first
    is_phased: bool  # whether that is so wherever the two differ


def is_vcf(start: bytes) -> bool:
    """Whether these first (unpacked) bytes begin a VCF file."""
    return start.startswith(VCF_START)


def variants(path: Path, first: int = 0, stop: int | None = None) -> Iterator[Variant]:
    """The variants of a file from ``first`` to ``stop`` - 1, all where they are not given.

    Raises DataError, with the number of the line, for what is not: lines that are not complete, variants without
    genotypes, or with more than one alternative allele, alleles that are not 0, 1 or unknown; and where all is cut off,
    damaged, or has no individuals.
    """
    with unpacked(path) as stream:
        n_individuals, number = _header(path, stream)
        check_room(_BYTES_OF_INDIVIDUAL * n_individuals, str(path))
        n = 0
        while (stop is None or n < stop) and (line := stream.readline(_LONGEST)):
            number += 1
            if not line.strip():
                continue
            n += 1
            if n > first:
                yield _variant(path, number, line, n_individuals)


def read_sites(path: Path, n: int) -> list[Site]:
    """The ``n`` sites of a file, which may be without individuals.

    Raises DataError where it has another number of them, is no VCF file, or cannot be read.
    """
    sites: list[Site] = []
    with unpacked(path) as stream:
        if not is_vcf(stream.readline(_LONGEST)):
            raise DataError(f"{path} is not a VCF file: its first line is not ##fileformat=VCF...")
        number = 1
        while line := stream.readline(_LONGEST):
            number += 1
            if line.startswith(b"#") or not line.strip():
                continue
            words = line[:_LONGEST_PLACE].rstrip(b"\r\n").split(b"\t", 5)
            has_place = len(words) >= 5 and words[1].isdigit() and len(words[1]) <= _LONGEST_NUMBER
            if not has_place or (len(words) == 5 and len(line) > _LONGEST_PLACE):
                raise DataError(
                    f"line {number} of {path} is not one of a VCF file: chromosome, position, name and two alleles "
                    "between tabs are needed"
                )
            if len(sites) == n:
                raise DataError(f"{path} has more than the {n} sites of the network; give the file it was trained on")
            chromosome, _, name, reference, alternative = (word.decode("utf-8", "replace") for word in words[:5])
            sites.append(Site(chromosome, int(words[1]), name, reference, alternative))
    if len(sites) != n:
        raise DataError(f"{path} has {len(sites)} sites, but the network has {n}; give the file it was trained on")
    return sites


def individuals(path: Path) -> int:
    """How many there are.  Raises DataError."""
    with unpacked(path) as stream:
        return _header(path, stream)[0]


def individual_name(path: Path, individual: int) -> str:
    """The name of one.  Raises DataError."""
    with unpacked(path) as stream:
        while line := stream.readline(_LONGEST):
            if line.startswith(b"#CHROM"):
                return line.rstrip(b"\r\n").split(b"\t")[_FIXED + individual][:40].decode("utf-8", "replace")
    return str(individual + 1)


def _header(path: Path, stream: io.BufferedReader) -> tuple[int, int]:
    """(individuals, lines) of the header, behind which the stream then stands."""
    number = 0
    while line := stream.readline(_LONGEST):
        number += 1
        if line.startswith(b"#CHROM\t"):
            n = line.count(b"\t") + 1 - _FIXED
            if n < 1:
                raise DataError(
                    f"{path} has no individuals: line {number} names none after FORMAT; use one with genotypes"
                )
            return n, number
        if not line.startswith(b"##"):
            break
    raise DataError(f"{path} has no line #CHROM before line {number} to name its individuals; get a new copy")


def _variant(path: Path, number: int, line: bytes, n_individuals: int) -> Variant:
    where = f"line {number} of {path}"
    if line.count(b"\t") + 1 != _FIXED + n_individuals:
        n = line.count(b"\t") + 1
        raise DataError(f"{where} has {n} columns, but the header {_FIXED + n_individuals}; it is damaged or cut off")
    chromosome, position, name, _, alternative, _, _, _, form, rest = line.rstrip(b"\r\n").split(b"\t", _FIXED)
    shown = (b"%s:%s" % (chromosome, position) if name == b"." else name)[:40].decode("utf-8", "replace")
    if b"," in alternative or alternative in (b".", b"", b"*"):
        n = 0 if alternative in (b".", b"") else alternative.count(b",") + 1
        raise DataError(
            f"{where} ({shown}) has {n} alternative alleles, but variants must have one; keep those that do, as by "
            "bcftools view -m2 -M2"
        )
    if form.split(b":", 1)[0] != b"GT":
        raise DataError(f"{where} ({shown}) has no genotypes: its FORMAT does not begin with GT")
    first, sign, second, wrong = _plain_alleles(rest, n_individuals) or _alleles(rest)
    if wrong.any():
        who = int(np.flatnonzero(wrong)[0])
        came = rest.split(b"\t")[who].split(b":")[0][:20].decode("utf-8", "replace")
        needed = "0, 1 or ." if second is None else "two of 0, 1 and . as in 0|1"
        raise DataError(
            f"{where} ({shown}) has the genotype {came!r} of {individual_name(path, who)}, but needs {needed}"
        )
    has_bar = bool((sign == _BAR).any())
    is_phased = second is None or not ((sign == _SLASH) & (first != second)).any()
    return Variant(number, shown, first, second, has_bar, is_phased)


def _plain_alleles(rest: bytes, n_individuals: int) -> _Alleles | None:
    """Those of a line of nothing but two alleles an individual, as in 0|1, in a fifth of the time; None for others."""
    if len(rest) != 4 * n_individuals - 1:
        return None
    table = np.frombuffer(rest + b"\t", np.uint8).reshape(n_individuals, 4)
    sign = table[:, 1]
    if (table[:, 3] != _TAB).any() or ((sign != _BAR) & (sign != _SLASH)).any():
        return None
    first, second = _ALLELES[table[:, 0]], _ALLELES[table[:, 2]]
    return first, sign, second, (first == _WRONG) | (second == _WRONG)


def _alleles(rest: bytes) -> _Alleles:
    """Those of the columns of the individuals; what follows a colon is passed over."""
    text = np.frombuffer(rest + b"\t\t\t", np.uint8)
    ends = np.flatnonzero(text[:-2] == _TAB)
    starts = np.concatenate([[0], ends[:-1] + 1])
    first, sign = _ALLELES[text[starts]], text[starts + 1]
    diploid = (sign == _BAR) | (sign == _SLASH)
    alone = (sign == _TAB) | (sign == _COLON)
    if not diploid.any():
        return first, sign, None, (first == _WRONG) | ~alone
    # some write one point for a diploid individual of whom nothing is known
    unknown = alone & (first == MISSING)
    second = np.where(unknown, MISSING, _ALLELES[text[np.minimum(starts + 2, len(text) - 1)]]).astype(np.uint8)
    after = text[np.minimum(starts + 3, len(text) - 1)]
    ended = unknown | (after == _TAB) | (after == _COLON)
    return first, sign, second, (first == _WRONG) | (second == _WRONG) | ~(diploid | unknown) | ~ended
