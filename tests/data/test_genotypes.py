"""PLINK and VCF files: genotypes and haplotypes against arrays, and against the field's own library where it is there.

Modules: modelpar/data/site_major, modelpar/formats/plink, modelpar/formats/vcf
"""

from __future__ import annotations

import gzip
import importlib.util
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelpar.data import Dataset, open_dataset
from modelpar.errors import ModelparError, ModelparWarning

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(4)
N, SITES, UNKNOWN = 23, 37, 3
COPIES = RNG.integers(0, 3, (N, SITES))
ALLELES = (RNG.random((N, SITES, 2)) < 0.4).astype(int)


def opened(path: Any, **options: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelparWarning)
        return open_dataset(str(path), test_fraction=0.0, **options)


def values_of(data: Dataset, units: Array | None = None) -> Array:
    ids = np.arange(data.n_visible) if units is None else units
    values = np.empty((len(ids), data.train.table.n_samples), np.float32)
    data.train.table.columns(ids).fill(np.arange(values.shape[1]), values)
    return values.T


def problem(path: Any, **options: Any) -> str:
    with pytest.raises(ModelparError) as caught:
        values_of(opened(path, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one_hot(copies: Array, n_states: int = 3) -> Array:
    return (copies[:, :, None] == np.arange(n_states)).reshape(len(copies), -1)


def most_frequent(codes: Array) -> Array:
    """Column by column."""
    result = codes.copy()
    for site in range(codes.shape[1]):
        known = codes[:, site][codes[:, site] != UNKNOWN]
        result[codes[:, site] == UNKNOWN, site] = np.bincount(known, minlength=3).argmax()
    return result


def spoiled(codes: Array) -> Array:
    result = codes.copy()
    result[RNG.random(codes.shape) < 0.1] = UNKNOWN
    return result


def bed(path: Path, copies: Array) -> Path:
    """By the definition of the format: two bits an individual, four to a byte, variant after variant."""
    bits = np.array([0b11, 0b10, 0b00, 0b01])[copies]  # no copy of the first allele, one, two, not known
    content = bytearray(b"\x6c\x1b\x01")
    for variant in bits.T:
        octets = [0] * -(-len(variant) // 4)
        for i, two in enumerate(variant.tolist()):
            octets[i // 4] |= two << 2 * (i % 4)
        content += bytes(octets)
    path.write_bytes(content)
    path.with_suffix(".fam").write_text("".join(f"F{i} I{i} 0 0 0 -9\n" for i in range(len(copies))))
    path.with_suffix(".bim").write_text("".join(f"1\trs{s}\t0\t{s + 1}\tA\tC\n" for s in range(copies.shape[1])))
    return path


def vcf(path: Path, genotypes: list[list[str]], alternatives: str = "C", form: str = "GT") -> Path:
    """genotypes: of each variant, of each individual"""
    names = "\t".join(f"i{i}" for i in range(len(genotypes[0])))
    lines = ["##fileformat=VCFv4.2", f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{names}"]
    for site, row in enumerate(genotypes):
        lines.append(f"1\t{site + 1}\t.\tA\t{alternatives}\t.\t.\t.\t{form}\t" + "\t".join(row))
    text = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def written(alleles: Array, sign: str, more: str = "") -> list[list[str]]:
    """As a VCF has them."""
    return [
        [sign.join("." if allele == UNKNOWN else str(allele) for allele in one) + more for one in alleles[:, site]]
        for site in range(alleles.shape[1])
    ]


# -- PLINK


def test_genotypes_of_plink(tmp_path: Path) -> None:
    path = bed(tmp_path / "x.bed", COPIES)
    data = opened(path)
    assert (data.visible, data.alphabet, data.n_visible) == ("categorical:3", "012", 3 * SITES)
    assert np.array_equal(values_of(data), one_hot(COPIES))
    for units in (RNG.permutation(3 * SITES)[:29], np.arange(10, 44), np.array([7, 7, 3])):
        assert np.array_equal(values_of(data, units), one_hot(COPIES)[:, units])
    bits = opened(path, visible="bernoulli")
    assert (bits.visible, bits.alphabet, bits.n_visible) == ("bernoulli", "", 2 * SITES)
    expected = np.stack([COPIES >= 1, COPIES == 2], axis=2).reshape(N, -1)
    assert np.array_equal(values_of(bits), expected)
    assert "use --visible categorical:3 or bernoulli" in problem(path, visible="categorical:4")


def test_plink_as_the_library_of_the_field_reads_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("bed_reader") is None:
        pytest.skip("bed-reader is not installed")
    from bed_reader import open_bed

    path = bed(tmp_path / "x.bed", COPIES)
    with open_bed(path, iid_count=N, sid_count=SITES, num_threads=1) as file:
        theirs = file.read(dtype="int8")
    assert np.array_equal(values_of(opened(path)), one_hot(theirs))


def test_unknown_genotypes_of_plink(tmp_path: Path) -> None:
    codes = spoiled(COPIES)
    codes[2, 0], codes[:2, 0] = UNKNOWN, 1
    path = bed(tmp_path / "x.bed", codes)
    assert "variant rs0 of" in problem(path)
    assert f"individual F2 I2 is not known ({(codes == UNKNOWN).sum()} are" in problem(path, missing="error")
    assert np.array_equal(values_of(opened(path, missing="most-frequent")), one_hot(most_frequent(codes)))
    assert "--missing gap is for sequences" in problem(path, missing="gap")


def test_what_is_no_plink(tmp_path: Path) -> None:
    path = bed(tmp_path / "x.bed", COPIES)
    content = path.read_bytes()
    for changed, wanted in (
        (content[:-1], "is truncated"), (content + b"x", f"need {len(content)}"),
        (b"\x6c\x1b\x00" + content[3:], "make-bed"), (b"\x6c\x1b", "make-bed"), (b"chr1\t5\t9\n", "none of"),
    ):  # fmt: skip
        path.write_bytes(changed)
        assert wanted in problem(path)
    path.write_bytes(content)
    path.with_suffix(".bim").write_text("1 rs0 0 1 A C\n")
    assert "1 variants (x.bim)" in problem(path)
    path.with_suffix(".bim").unlink()
    assert "needs x.bim beside it" in problem(path)


# -- VCF


@pytest.mark.parametrize("name", ["x.vcf", "x.vcf.gz"])
@pytest.mark.parametrize("more", ["", ":12:3,4"])
def test_haplotypes(tmp_path: Path, name: str, more: str) -> None:
    """Two samples an individual, one after the other."""
    path = vcf(tmp_path / name, written(ALLELES, "|", more), form="GT:DP:AD" if more else "GT")
    data = opened(path)
    expected = ALLELES.transpose(0, 2, 1).reshape(2 * N, SITES)
    assert (data.visible, data.alphabet, data.n_visible) == ("bernoulli", "", SITES)
    assert np.array_equal(values_of(data), expected)
    units = RNG.permutation(SITES)[:11]
    assert np.array_equal(values_of(data, units), expected[:, units])
    assert np.array_equal(values_of(data, np.arange(9, 20)), expected[:, 9:20])
    copies = opened(path, visible="categorical:3")
    assert copies.visible == "categorical:3"
    assert np.array_equal(values_of(copies), one_hot(ALLELES.sum(axis=2)))
    assert np.array_equal(values_of(opened(path, visible="categorical:2")), one_hot(expected, 2))


def test_genotypes_without_phase(tmp_path: Path) -> None:
    genotypes = written(ALLELES, "|")
    where = np.argwhere(ALLELES[:, :, 0] != ALLELES[:, :, 1])[5]
    genotypes[where[1]][where[0]] = genotypes[where[1]][where[0]].replace("|", "/")
    data = opened(vcf(tmp_path / "x.vcf", genotypes))
    assert (data.visible, data.alphabet) == ("categorical:3", "012")
    assert np.array_equal(values_of(data), one_hot(ALLELES.sum(axis=2)))
    bits = opened(tmp_path / "x.vcf", visible="bernoulli")
    copies = ALLELES.sum(axis=2)
    assert np.array_equal(values_of(bits), np.stack([copies >= 1, copies == 2], axis=2).reshape(N, -1))


def test_haploid_individuals(tmp_path: Path) -> None:
    data = opened(vcf(tmp_path / "x.vcf", written(ALLELES[:, :, :1], "|")))
    assert np.array_equal(values_of(data), ALLELES[:, :, 0])


@pytest.mark.parametrize("sign", ["|", "/"])
def test_unknown_alleles(tmp_path: Path, sign: str) -> None:
    codes = spoiled(ALLELES)
    genotypes = written(codes, sign)
    codes[4, 9] = UNKNOWN
    genotypes[9][4] = "."
    path = vcf(tmp_path / "x.vcf", genotypes)
    first = int(np.argwhere((codes == UNKNOWN).any(axis=(0, 2)))[0, 0])
    assert f"1:{first + 1}, line {first + 3}" in problem(path)
    data = opened(path, missing="most-frequent")
    if sign == "|":
        haplotypes = codes.transpose(0, 2, 1).reshape(2 * N, SITES)
        assert np.array_equal(values_of(data), most_frequent(haplotypes))
    else:
        copies = np.where((codes == UNKNOWN).any(axis=2), UNKNOWN, codes.sum(axis=2))
        assert np.array_equal(values_of(data), one_hot(most_frequent(copies)))


HAPLOID = "1\t99\t.\tA\tC\t.\t.\t.\tGT" + "\t0" * N + "\n"


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [("\tA\tC\t", "\tA\tC,G\t", "line 3 of"), ("\tA\tC\t", "\tA\tC,G\t", "2 alternative alleles"),
     ("\tA\tC\t", "\tA\t.\t", "0 alternative alleles"), ("\tGT\t", "\tDP\t", "FORMAT"),
     ("0|1", "0|2", "has the genotype '0|2' of i"), ("0|1", "0", "two of 0, 1"), ("0|1", "", "has the genotype ''"),
     ("0|1", "0|10", "'0|10'"), ("\t0|1\t", "\t", "columns, but the header"), ("#CHROM", "#CHR", "has no line #CHROM"),
     ("\ti", " i", "has no individuals"), ("$", HAPLOID, "1 allele(s) an individual"), ("^1.*", "", "has no variants")],
    ids=str,
)  # fmt: skip
def test_what_is_no_vcf_of_two_alleles(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    path = vcf(tmp_path / "x.vcf", written(ALLELES, "|"))
    text = path.read_text()
    if old == "$":
        text += new
    elif old == "^1.*":
        text = text[: text.index("\n1\t") + 1]
    else:
        text = text.replace(old, new, -1 if old == "\ti" else 1)
    path.write_text(text)
    assert wanted in problem(path)
    (tmp_path / "x.vcf.gz").write_bytes(gzip.compress(text.encode()))
    assert wanted in problem(tmp_path / "x.vcf.gz")


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    path = vcf(tmp_path / "x.vcf.gz", written(ALLELES, "|"))
    path.write_bytes(path.read_bytes()[:-40])
    assert "truncated" in problem(path)


def test_reading_takes_little_more_memory_than_the_bits(tmp_path: Path) -> None:
    """Of 2000 haplotypes and 20 000 sites: 5 MB as bits, 40 MB as bytes."""
    path = tmp_path / "x.bed"
    octets = np.random.default_rng(1).choice(np.array([0, 2, 3], np.uint8), (20_000, 500, 4))
    packed = (octets << np.arange(0, 8, 2, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    path.write_bytes(b"\x6c\x1b\x01" + packed.tobytes())
    path.with_suffix(".fam").write_text("x\n" * 2000)
    path.with_suffix(".bim").write_text("x\n" * 20_000)
    data = opened(path, visible="bernoulli")
    tracemalloc.start()
    try:
        columns: Any = data.train.table.columns(np.arange(data.n_visible))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < columns.bits.nbytes + (40 << 20)
    some = np.unpackbits(columns.bits, axis=1, count=data.n_visible, bitorder="little")[:, 39_990:]
    copies = np.array([2, 9, 1, 0])[octets[-5:]].reshape(5, 2000).T
    assert np.array_equal(some, np.stack([copies >= 1, copies == 2], axis=2).reshape(2000, -1))
