"""PLINK's binary genotypes (Purcell et al. 2007): ``.bed``, with a line for each individual in ``.fam`` and for each
variant in ``.bim``.

A ``.bed`` file holds variant after variant, two bits an individual, the first in the lowest bits of a byte: 00 and 11
for two copies of the first and of the second allele of the ``.bim``, 10 for one of each, 01 for not known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.reading import read_exactly, reading, unpacked

Array = npt.NDArray[Any]

BED_START = b"\x6c\x1b"
MISSING = 3  # in place of a number of copies
_MAGIC = 3  # bytes; the third tells that variants come one after another
_BLOCK = 1 << 21  # bytes that are read at once
_LONGEST = 1 << 20  # bytes of a line of .fam and .bim
_COPIES = np.array([2, MISSING, 1, 0], np.uint8)  # of the first allele, by two bits
_OF_BYTE = _COPIES[np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3].view(np.uint32)[:, 0]  # of four individuals


class Bed:
    """A ``.bed`` file and its companions.  Raises DataError where they are not there, or do not fit together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path), open_regular(path) as file:
            magic, size = file.read(_MAGIC), os.fstat(file.fileno()).st_size
        if magic[2:] != b"\x01":
            raise DataError(f"{path} is not a .bed of variants one after another; make one by plink --make-bed")
        self.fam, self.bim = path.with_suffix(".fam"), path.with_suffix(".bim")
        self.n_individuals, self.n_sites = _lines(self.fam, path), _lines(self.bim, path)
        self.width = -(-self.n_individuals // 4)
        needed = _MAGIC + self.n_sites * self.width
        if size != needed:
            raise DataError(
                f"{path} has {size} bytes, but {self.n_individuals} individuals ({self.fam.name}) and {self.n_sites} "
                f"variants ({self.bim.name}) need {needed}; it is truncated, or these are of another file"
            )

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[Array]:
        """Copies of the first allele (variants, individuals) uint8, 0 to 2 or ``MISSING``, some variants at a time.

        Of the variants from ``first`` to ``stop`` - 1.  Raises DataError.
        """
        stop, at_once = self.n_sites if stop is None else stop, max(1, _BLOCK // self.width)
        with reading(self.path), open_regular(self.path) as file:
            file.seek(_MAGIC + first * self.width)
            for start in range(first, stop, at_once):
                n = min(at_once, stop - start)
                packed = np.frombuffer(read_exactly(file, n * self.width), np.uint8)
                yield np.take(_OF_BYTE, packed).view(np.uint8).reshape(n, 4 * self.width)[:, : self.n_individuals]

    def place(self, site: int, individual: int) -> str:
        """How messages call a genotype."""
        variant, person = _line(self.bim, site), _line(self.fam, individual)
        name = variant[1] if len(variant) > 1 else f"variant {site + 1}"
        return f"variant {name[:40]} of {self.path} and individual {' '.join(person[:2])[:60]}"


def _lines(path: Path, bed: Path) -> int:
    """How many lines a file has that are not empty.  Raises DataError."""
    if not path.exists():
        raise DataError(f"{bed} needs {path.name} beside it, which is not there; copy all three files of PLINK")
    n, begins = 0, True
    with unpacked(path) as stream:
        while line := stream.readline(_LONGEST):
            if b"\0" in line:
                raise DataError(f"{path} has a zero byte in line {n + 1}, which no text has; get a new copy")
            n += begins and bool(line.strip())
            begins = line.endswith(b"\n")
    if not n:
        raise DataError(f"{path} is empty; get a new copy")
    return n


def _line(path: Path, number: int) -> list[str]:
    """The words of one line."""
    with unpacked(path) as stream:
        for line in stream:
            number -= bool(line.strip())
            if number < 0:
                return line[:1000].decode("utf-8", "replace").split()
    return []
