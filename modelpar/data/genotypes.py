"""Genotypes and haplotypes: PLINK's ``.bed`` and VCF files, as bits of Bernoulli units or of categorical ones.

Haplotypes (all of a VCF's heterozygotes are phased, or its individuals haploid) are a unit a site.  Genotypes are 0, 1
or 2 copies of an allele: the alternative one of a VCF, the first one of a ``.bim``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import Source, check_shape
from modelpar.data.missing import with_mask
from modelpar.data.read_options import FILLED, ReadOptions
from modelpar.data.site_major import Blocks, SiteMajorTable
from modelpar.errors import DataError, SpecError
from modelpar.formats.plink import MISSING, Bed
from modelpar.formats.vcf import Variant, individual_name, individuals, variants

Array = npt.NDArray[Any]

GENOTYPES, HAPLOTYPES = "012", "01"  # letters of the states
_BLOCK = 1 << 22  # codes of some variants


@dataclass(frozen=True)
class _Coding:
    """Which units a site has: see :class:`SiteMajorTable`."""

    visible: str
    codes: tuple[int, ...]
    at_least: bool = False

    @property
    def alphabet(self) -> str:
        """Letters of the states of categorical units."""
        return "".join(map(str, self.codes)) if self.visible != "bernoulli" else ""


def _coding(path: Path, options: ReadOptions, *, haplotypes: bool) -> _Coding:
    """As the units need it that the data are for.  Raises DataError."""
    letters = HAPLOTYPES if haplotypes else GENOTYPES
    if options.n_states == len(letters) or (not options.visible and not haplotypes):
        return _Coding(f"categorical:{len(letters)}", tuple(range(len(letters))))
    if options.n_states:
        raise DataError(
            f"{path} has sites of {len(letters)} states, but --visible is {options.visible}; use --visible "
            f"categorical:{len(letters)} or bernoulli"
        )
    return _Coding("bernoulli", (1,)) if haplotypes else _Coding("bernoulli", (1, 2), at_least=True)


def _fills(path: Path, options: ReadOptions) -> bool:
    """Whether something stands for unknown genotypes: the most frequent one, or what is drawn.  Raises SpecError."""
    if options.missing == "gap":
        raise SpecError(f"--missing gap is for sequences, but {path} has genotypes; use error, most-frequent or sample")
    return options.missing in FILLED


def _filled(codes: Array) -> Array:
    """Unknown codes (sites, samples) as the most frequent of their site; the lowest where several are."""
    sites = np.flatnonzero((codes == MISSING).any(axis=1))
    if len(sites):
        codes = codes.copy()
        counts = np.stack([(codes[sites] == code).sum(axis=1) for code in range(MISSING)])
        codes[sites] = np.where(codes[sites] == MISSING, counts.argmax(axis=0)[:, None].astype(np.uint8), codes[sites])
    return codes


def _mend(n_missing: int) -> str:
    return (
        f"({n_missing} are not known in all); take the most frequent one of the site by --missing most-frequent, or "
        "have them drawn from the model by --missing sample"
    )


# -- PLINK -----------------------------------------------------------------------------------------------------------


def open_bed(path: Path, options: ReadOptions) -> Source:
    """Genotypes of a ``.bed`` file.  Looks through it once for unknown ones.  Raises DataError, SpecError."""
    fills, bed = _fills(path, options), Bed(path)
    coding = _coding(path, options, haplotypes=False)
    check_shape((bed.n_individuals, bed.n_sites * len(coding.codes)), str(path))
    n_missing, first, site = 0, "", 0
    for block in bed.blocks():
        unknown = block == MISSING
        if unknown.any() and not first:
            at, who = np.argwhere(unknown)[0]
            first = bed.place(site + int(at), int(who))
        n_missing, site = n_missing + int(unknown.sum()), site + len(block)
    if n_missing and not fills:
        raise DataError(f"the genotype of {first} is not known {_mend(n_missing)}")

    def blocks(start: int, stop: int) -> Iterable[Array]:
        return (_filled(block) if n_missing else block for block in bed.blocks(start, stop))

    table = SiteMajorTable(
        str(path), bed.n_individuals, bed.n_sites, coding.codes, blocks, path, at_least=coding.at_least
    )
    mask = _mask(table, bed.n_sites, bed.blocks)
    return _source(table, coding, "genotypes (PLINK)", n_missing, bed.n_sites, bed.n_individuals, mask, options.missing)


# -- VCF -------------------------------------------------------------------------------------------------------------


@dataclass
class _Scan:
    """What a first pass has found."""

    n_sites: int = 0
    ploidy: int = 0
    has_bars: bool = False
    is_phased: bool = True
    n_missing: int = 0
    first_missing: str = ""


def _scanned(path: Path) -> _Scan:
    scan = _Scan()
    for variant in variants(path):
        ploidy = 1 if variant.second is None else 2
        if ploidy == 1 and scan.ploidy == 2 and (variant.first == MISSING).all():
            ploidy = 2
        if scan.ploidy and ploidy != scan.ploidy:
            raise DataError(
                f"line {variant.line} of {path} ({variant.name}) has {ploidy} allele(s) an individual, but those "
                f"before it have {scan.ploidy}; keep the chromosomes apart"
            )
        scan.ploidy, scan.n_sites = ploidy, scan.n_sites + 1
        scan.has_bars, scan.is_phased = scan.has_bars or variant.has_bar, scan.is_phased and variant.is_phased
        for alleles in (variant.first, variant.second):
            unknown = None if alleles is None else np.flatnonzero(alleles == MISSING)
            if unknown is not None and len(unknown):
                scan.n_missing += len(unknown)
                who = individual_name(path, int(unknown[0])) if not scan.first_missing else ""
                scan.first_missing = scan.first_missing or f"individual {who} at {variant.name}, line {variant.line}"
    if not scan.n_sites:
        raise DataError(f"{path} has no variants; get a new copy")
    return scan


def open_vcf(path: Path, options: ReadOptions) -> Source:
    """Haplotypes of a VCF file where it has them, else genotypes.  Reads it once, to know.

    Haplotypes are two samples for each diploid individual, one after the other.  Raises DataError, SpecError.
    """
    fills, scan, n_individuals = _fills(path, options), _scanned(path), individuals(path)
    phased = scan.ploidy == 1 or (scan.has_bars and scan.is_phased)
    haplotypes = phased and (scan.ploidy == 1 or options.n_states != len(GENOTYPES))
    coding = _coding(path, options, haplotypes=haplotypes)
    n_samples = n_individuals * (scan.ploidy if haplotypes else 1)
    check_shape((n_samples, scan.n_sites * len(coding.codes)), str(path))
    if scan.n_missing and not fills:
        raise DataError(f"{path} has no allele of {scan.first_missing} {_mend(scan.n_missing)}")
    code = _haplotypes if haplotypes else _copies

    def codes(start: int, stop: int) -> Iterable[Array]:
        return _coded(path, start, stop, code, max(1, _BLOCK // n_samples))

    def blocks(start: int, stop: int) -> Iterable[Array]:
        return (_filled(block) if scan.n_missing else block for block in codes(start, stop))

    table = SiteMajorTable(str(path), n_samples, scan.n_sites, coding.codes, blocks, path, at_least=coding.at_least)
    kind = "haplotypes (VCF)" if haplotypes else "genotypes (VCF)"
    mask = _mask(table, scan.n_sites, codes)
    return _source(table, coding, kind, scan.n_missing, scan.n_sites, n_individuals, mask, options.missing)


def _coded(path: Path, start: int, stop: int, code: Callable[[Variant], Array], at_once: int) -> Iterator[Array]:
    rows: list[Array] = []
    for variant in variants(path, start, stop):
        rows.append(code(variant))
        if len(rows) == at_once:
            yield np.stack(rows)
            rows = []
    if rows:
        yield np.stack(rows)


def _haplotypes(variant: Variant) -> Array:
    if variant.second is None:
        return variant.first
    return np.stack([variant.first, variant.second], axis=1).reshape(-1)


def _copies(variant: Variant) -> Array:
    """Of the alternative allele; not known where one of the two is not."""
    second = variant.first if variant.second is None else variant.second
    unknown = (variant.first == MISSING) | (second == MISSING)
    return np.where(unknown, MISSING, variant.first + second).astype(np.uint8)


def _mask(table: SiteMajorTable, n_sites: int, codes: Blocks) -> SiteMajorTable:
    """A bit for each site and sample, 1 where the code is not known."""
    assert table.path is not None
    return SiteMajorTable(table.name, table.n_samples, n_sites, (MISSING,), codes, table.path)


def _source(
    table: SiteMajorTable, coding: _Coding, kind: str, n_missing: int, n_sites: int, n_individuals: int,
    mask: SiteMajorTable, missing: str,
) -> Source:  # fmt: skip
    notes: tuple[str, ...] = ()
    draws = n_missing > 0 and missing == "sample"
    if n_missing and not draws:
        notes = (
            f"{n_missing} unknown alleles or genotypes of {table.name} are read as the most frequent of their site",
        )
    facts = {"individuals": n_individuals, "sites": n_sites, "missing": n_missing}
    source = Source(
        table, 1.0, None, visible=coding.visible, alphabet=coding.alphabet, kind=kind, notes=notes, facts=facts,
        how=f"{coding.visible} {kind} {n_missing > 0}",
    )  # fmt: skip
    return with_mask(source, mask, n_missing, missing) if draws else source
