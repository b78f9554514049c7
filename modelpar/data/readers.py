"""From a name or a path to the reader of its format, which is known by its first bytes."""

from __future__ import annotations

import difflib
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modelpar.data.arrays import LABEL_KEYS, labels_in, open_npy, open_npz
from modelpar.data.dataset import Source
from modelpar.data.digits import open_digits
from modelpar.data.genotypes import open_bed, open_vcf
from modelpar.data.idx import is_idx, open_idx
from modelpar.data.named import SETS, find_named, idx_labels, open_files, open_folder
from modelpar.data.packed_files import is_packed, open_packed
from modelpar.data.read_options import ReadOptions
from modelpar.data.reading import check_count, check_labels
from modelpar.data.sample_weights import weights_in
from modelpar.data.sequences import open_sequences
from modelpar.data.sparse import open_sparse
from modelpar.data.stored_arrays import open_csv, open_hdf5, open_parquet, open_zarr
from modelpar.data.synthetic import KINDS, open_synthetic
from modelpar.errors import DataError
from modelpar.files.paths import in_one_line, split_inner
from modelpar.files.regular import open_regular
from modelpar.formats.archive import ZIP_START, Archive
from modelpar.formats.arrow import PARQUET_START, delimiter_of
from modelpar.formats.fasta import is_fasta
from modelpar.formats.hdf5 import HDF5_START
from modelpar.formats.npy import NPY_START, load_npy
from modelpar.formats.plink import BED_START
from modelpar.formats.reading import is_gzip, reading
from modelpar.formats.sparse import is_sparse
from modelpar.formats.vcf import is_vcf
from modelpar.formats.zarr import is_zarr
from modelpar.values.forms import AnyPath

IntArray = npt.NDArray[np.int64]
Reader = Callable[[Path, ReadOptions], Source]

FORMATS = ".npy, .npz, IDX, FASTA, A3M, HDF5, Zarr, PLINK .bed, VCF, Parquet and (by name) .csv"
_LOOKED_AT = 1024  # bytes, in which a gzip file has more than its own header

# by the first bytes, unpacked where the file is gzip
_TEXTS: tuple[tuple[Callable[[bytes], bool], Reader], ...] = ((is_fasta, open_sequences), (is_vcf, open_vcf))


def is_name(data: str) -> bool:
    """Whether ``data`` is the name of a data set."""
    return data == "digits" or data in SETS or data.partition(":")[0] in KINDS


def open_source(data: str, options: ReadOptions) -> Source:
    """Open what a name or path stands for.  Raises DataError, SpecError for options that cannot be."""
    if data == "digits":
        return open_digits()
    if data in SETS:
        return open_files(find_named(data))
    if data.partition(":")[0] in KINDS and not Path(data).exists():
        return open_synthetic(data)
    file, inner_name = split_inner(data)
    path = Path(os.path.expanduser(file))
    if path.is_dir():
        return open_zarr(path, inner_name, options) if is_zarr(path) else open_folder(path)
    if not path.exists():
        raise DataError(_unknown(file, path))
    start = _first_bytes(path)
    if start.startswith(HDF5_START):
        return open_hdf5(path, inner_name, options)
    if start.startswith(BED_START):
        return open_bed(path, options)
    if inner_name:
        raise DataError(f"{data} names {inner_name!r} in a file that has no parts; give {file} alone")
    if start.startswith(NPY_START):
        return open_npy(path)
    if start.startswith(ZIP_START):
        archive = Archive(path)
        opened = open_packed if is_packed(archive) else open_sparse if is_sparse(archive) else open_npz
        source = opened(archive)
        return replace(source, weights=weights_in(archive, source.table.n_samples))
    if start.startswith(PARQUET_START):
        return open_parquet(path, options)
    inner = _unpacked(start) if is_gzip(start) else start
    for fits, reader in _TEXTS:
        if fits(inner):
            return reader(path, options)
    if delimiter_of(path) and b"\0" not in inner:
        return open_csv(path, options)
    if is_idx(inner) or not inner:  # a damaged gzip file unpacks to nothing, which this reader says
        return open_idx(path)
    raise DataError(_foreign(path, inner, gzip=is_gzip(start)))


def read_labels(path: AnyPath, n_samples: int) -> IntArray:
    """Labels from a file of any known format, int64 (n_samples,).  Raises DataError."""
    path = Path(os.path.expanduser(os.fsdecode(path)))
    start = _first_bytes(path)
    if start.startswith(NPY_START):
        labels = load_npy(path, lambda header: check_count(header.shape, n_samples, str(path)))
        return check_labels(labels, n_samples, str(path))
    if start.startswith(ZIP_START):
        archive = Archive(path)
        key = archive.key_of(LABEL_KEYS) or (next(iter(archive.headers)) if len(archive.headers) == 1 else None)
        if key is None:
            raise DataError(
                f"{path} has the arrays {', '.join(sorted(archive.headers)) or 'none'}, so it is not clear which are "
                "the labels; name them labels"
            )
        return labels_in(archive, key, n_samples)
    if is_gzip(start) or is_idx(start):
        return idx_labels(path, n_samples)
    raise DataError(_foreign(path, start, "none of .npy, .npz and IDX (plain or gzip)"))


def _first_bytes(path: Path) -> bytes:
    with reading(path), open_regular(path) as file:
        start = file.read(_LOOKED_AT)
    if not start:
        raise DataError(f"{path} is empty; get a new copy")
    return start


def _unpacked(start: bytes) -> bytes:
    """What the first bytes of a gzip file begin with; nothing where it is damaged there, which its reader will say."""
    try:
        return zlib.decompressobj(wbits=31).decompress(start, _LOOKED_AT)
    except zlib.error:
        return b""


def _foreign(path: Path, start: bytes, known: str = f"none of {FORMATS}", *, gzip: bool = False) -> str:
    begins = "unpacks to" if gzip else "begins with"
    return f"{path} {begins} {start[:4].hex(' ')}, which is {known}; convert it with numpy.save"


def _unknown(data: str, path: Path) -> str:
    """The message about a name that is neither a data set nor a file."""
    names = ["digits", *SETS, *(f"{kind}:8" for kind in KINDS)]
    looks_like_path = path.suffix != "" or len(path.parts) > 1
    if looks_like_path:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [in_one_line(str(path.parent / match)) for match in difflib.get_close_matches(path.name, beside)]
        looked = "" if path.is_absolute() else f" in {Path.cwd()}"
        return f"{data} does not exist{looked}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    near = difflib.get_close_matches(data.lower(), names + list(KINDS), cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{data!r} is neither a data set nor a file in {Path.cwd()}; {hint}Data sets are {', '.join(names)}"
