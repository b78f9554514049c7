"""Samples in the formats of their fields: sequences in FASTA, haplotypes in VCF, states of any kind in HDF5.

These hold states, not means: a state of every unit, or of every site of categorical ones, is drawn from the means that
Gibbs sampling ends with, by unit and sample as all draws are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from modelpar.chains.drawing import drawn_states
from modelpar.cli.row_file import Hdf5RowFile, RowFile
from modelpar.data.alphabets import DNA, PROTEIN, own_alphabet
from modelpar.errors import SpecError, together
from modelpar.formats.hdf5 import h5py_module
from modelpar.formats.vcf import Site, read_sites
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec

Array = npt.NDArray[Any]

FASTA, VCF, HDF5 = (".fasta", ".fa"), (".vcf",), (".h5", ".hdf5")
ENDINGS = (*FASTA, *VCF, *HDF5)
COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
STEPS = (1 << 15) - 1  # of fantasies that have repeats of their own
CHUNK_BYTES = 256 << 20  # of the means that are drawn from at a time


def letters_of(n_states: int, alphabet: str | None, of: str) -> str:
    """The letters of the states, in their order.

    alphabet   its name or its letters; None: the one of proteins or DNA, where these have so many states
    of         what they are needed for, as ``--out x.fasta``
    Raises SpecError where there is not one for each state.
    """
    if alphabet is None:
        known = {len(one.letters): one.letters for one in (PROTEIN, DNA)}
        if n_states not in known:
            raise SpecError(f"{of} needs letters for {n_states} states; give --alphabet with {n_states} of them")
        return known[n_states]
    letters = own_alphabet(alphabet).letters
    if len(letters) != n_states:
        raise SpecError(f"--alphabet {alphabet} has {len(letters)} letters, but there are {n_states} states of a site")
    return letters


def check(spec: NetworkSpec, out: str, count: int, alphabet: str | None, sites: str | None) -> None:
    """Raise SpecError or DataError where such a file cannot be written.  Not collective: for all ranks, or rank 0."""
    q, ending = spec.visible_kind.categories, Path(out).suffix
    if ending in FASTA:
        if not q:
            raise SpecError(f"{out} holds letters, but the network has {spec.visible} visible units; use .npy or .h5")
        letters_of(q, alphabet, f"--out {Path(out).name}")
    elif ending in VCF:
        if spec.visible != "bernoulli":
            raise SpecError(f"{out} holds haplotypes, but the network has {spec.visible} visible units; use .h5")
        if count % 2:
            raise SpecError(
                f"--count is {count}, but a VCF file has two haplotypes of each individual; use {count + 1}"
            )
        if sites is not None:
            read_sites(Path(sites), spec.layers[0])
    else:
        h5py_module()


def write(
    network: DeepBeliefNetwork, path: Path, chunks: Iterable[tuple[int, Array]], count: int, *,
    alphabet: str | None, sites: str | None, sources: Sequence[str | Path] = (),
) -> None:  # fmt: skip
    """Draw states and write them.   ``sites`` and ``alphabet`` as for ``check``; ``sources`` as for ``Output``

    chunks   (draw counter of the first sample, means (n_visible_owned, samples)), all together ``count`` samples
    Collective.  Raises CheckpointError on every rank where the file cannot be written.
    """
    comm, file = network.grid.comm, None
    try:
        with together(comm):
            file = opened(network.spec, path if comm.rank == 0 else None, count, alphabet, sites, sources)
        assert file is not None
        for first, means in chunks:
            file.add(np.ascontiguousarray(network.whole_visible(drawn_states(network, means, first)).T))
        with together(comm):
            file.finish()
    except BaseException:
        if file is not None:
            file.give_up()
        raise
    comm.barrier()


def opened(
    spec: NetworkSpec, path: Path | None, count: int, alphabet: str | None, sites: str | None,
    sources: Sequence[str | Path] = (),
) -> SampleFile:  # fmt: skip
    """The file for samples of a network, begun.   path: None on other ranks than 0"""
    ending, q = "" if path is None else path.suffix, spec.visible_kind.categories
    if ending in FASTA:
        return FastaFile(path, sources, letters=letters_of(q, alphabet, f"--out {path}"))
    if ending in VCF:
        n = spec.layers[0]
        places = numbered(n) if sites is None else read_sites(Path(sites), n)
        return VcfFile(path, sources, sites=places)
    known = alphabet is not None or q in (len(PROTEIN.letters), len(DNA.letters))
    letters = letters_of(q, alphabet, f"--out {path}") if q and known else ""
    return Hdf5File(path, sources, shape=(count, spec.layers[0]), visible=spec.visible, letters=letters)


def chunks_of(n_visible: int, count: int, steps: int, itemsize: int) -> Iterator[slice]:
    """Samples of which the means are in memory together: all, where so many steps take the draws of further ones."""
    at_once = max(1, CHUNK_BYTES // max(n_visible * itemsize, 1)) if steps < STEPS else max(count, 1)
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


# -- formats -------------------------------------------------------------------------------------------------------


class SampleFile(RowFile):
    """A file that samples are added to, (samples, units) on every rank; rank 0 writes."""

    def add(self, rows: Array) -> None:
        self._attempt(lambda: self._add(rows))

    @abstractmethod
    def _add(self, rows: Array) -> None: ...


class FastaFile(SampleFile):
    """Aligned sequences, one line each, named ``sample_1`` and so on."""

    _file: TextIO | None = None
    _n = 0

    def __init__(self, target: Path | None, sources: Iterable[str | Path] = (), *, letters: str) -> None:
        self._letters = np.frombuffer(letters.encode("ascii"), np.uint8)
        super().__init__(target, sources)

    def _begin(self, partial: Path) -> None:
        self._file = open(partial, "w", encoding="ascii")  # noqa: SIM115

    def _add(self, rows: Array) -> None:
        assert self._file is not None
        for states in rows.reshape(len(rows), -1, len(self._letters)).argmax(axis=2):
            self._n += 1
            self._file.write(f">sample_{self._n}\n{self._letters[states].tobytes().decode('ascii')}\n")

    def _complete(self) -> None:
        assert self._file is not None
        self._file.close()

    def _abandon(self) -> None:
        if self._file is not None:
            self._file.close()


class VcfFile(SampleFile):
    """Phased haplotypes, two of an individual: samples 1 and 2 are the two of ``individual_1``.

    A line is a site, so all samples are kept until the end, as bits.
    """

    def __init__(self, target: Path | None, sources: Iterable[str | Path] = (), *, sites: Sequence[Site]) -> None:
        self._sites, self._rows = sites, list[Array]()
        super().__init__(target, sources)

    def _begin(self, partial: Path) -> None:
        self._partial = partial

    def _add(self, rows: Array) -> None:
        self._rows.append(np.packbits(rows.astype(bool), axis=1))

    def _complete(self) -> None:
        bits = np.concatenate(self._rows)
        pairs = np.array(["0|0", "0|1", "1|0", "1|1"])
        with open(self._partial, "w", encoding="utf-8") as file:
            file.write("##fileformat=VCFv4.2\n##source=modelpar sample\n")
            for chromosome in dict.fromkeys(site.chromosome for site in self._sites):
                file.write(f"##contig=<ID={chromosome}>\n")
            file.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n')
            names = [f"individual_{k + 1}" for k in range(len(bits) // 2)]
            file.write("\t".join([*COLUMNS, *names]) + "\n")
            for k, site in enumerate(self._sites):
                haplotypes = bits[:, k // 8] >> (7 - k % 8) & 1
                genotypes = pairs[2 * haplotypes[::2] + haplotypes[1::2]]
                file.write("\t".join([*map(str, site), ".", "PASS", ".", "GT", *genotypes]) + "\n")

    def _abandon(self) -> None:
        pass


class Hdf5File(SampleFile, Hdf5RowFile):
    """``samples`` (samples, units): states as bytes, Gaussian values as floats; ``visible`` and ``alphabet`` beside."""

    def __init__(
        self, target: Path | None, sources: Iterable[str | Path] = (), *, shape: tuple[int, int], visible: str,
        letters: str,
    ) -> None:  # fmt: skip
        self._shape, self._visible, self._letters = shape, visible, letters
        super().__init__(target, sources)

    def _begin(self, partial: Path) -> None:
        super()._begin(partial)
        kind = {"gaussian": np.float64, "spin": np.int8}.get(self._visible, np.uint8)
        self._data = self._file.create_dataset("samples", self._shape, kind)
        self._data.attrs["visible"] = self._visible
        if self._letters:
            self._data.attrs["alphabet"] = self._letters

    def _add(self, rows: Array) -> None:
        self._data[self._row : self._row + len(rows)] = rows
        self._row += len(rows)


def numbered(n: int) -> list[Site]:
    """Sites without known places: 1 to n of one chromosome."""
    return [Site("1", k + 1, ".", "A", "C") for k in range(n)]
