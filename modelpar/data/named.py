"""Data sets known by name whose files the user brings: MNIST and Fashion-MNIST.

Files are looked for in ``$MODELPAR_DATA``, in the user's cache directory and where Linux distributions put data sets,
each time in a folder of the set's name first, gzip or plain.  They are known by the checksums of their content
after unpacking, as both sets have the same file names and anybody may pack them again.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import Source
from modelpar.data.idx import is_idx, open_idx, read_header, read_idx
from modelpar.data.reading import check_count, check_labels
from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.reading import is_gzip, reading
from modelpar.machine.caches import temporary_folder, user_folder

VARIABLE = "MODELPAR_DATA"
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SYSTEM = (Path("/usr/local/share/datasets"), Path("/usr/share/datasets"))  # Debian's dataset-fashion-mnist is there


@dataclass(frozen=True)
class NamedSet:
    """An address to get :data:`FILES` from, and their md5 sums: as they come from there, and of their content.

    What comes from there is only a way to know the content earlier.
    """

    address: str
    compressed: tuple[str, ...]
    plain: tuple[str, ...]


SETS = {
    "mnist": NamedSet(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
         "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
        ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
         "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion-mnist": NamedSet(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
         "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
        ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
         "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
}  # fmt: skip


def find_named(name: str) -> list[Path]:
    """The verified files of a named set, in the order of :data:`FILES`.

    A folder with files of another content is passed over; where no folder is left, that is the error.

    Raises DataError, which says what was found, or how to get the files.
    """
    wrong: DataError | None = None
    for folder in candidate_folders(name):
        if all(_candidates(folder, file) for file in FILES):
            try:
                return verified(name, folder)
            except DataError as error:
                wrong = wrong or error
    if wrong is not None:
        raise wrong
    set_to = os.environ.get(VARIABLE)
    looked = f"${VARIABLE} ({set_to})" if set_to else f"${VARIABLE} (which is not set)"
    home = cache_folder() / name
    elsewhere = " or ".join(str(root / name) for root in SYSTEM)
    raise DataError(
        f"the files of {name} are neither in {looked} nor in {home} nor in {elsewhere}; download {FILES[0]}.gz and the "
        f"{len(FILES) - 1} others from {SETS[name].address}/, or set {VARIABLE} to the folder that has them"
    )


def candidate_folders(name: str) -> list[Path]:
    """Folders that may hold the files, in the order in which they are looked at."""
    roots = [Path(os.path.expanduser(os.environ[VARIABLE]))] if os.environ.get(VARIABLE) else []
    return [folder for root in [*roots, cache_folder(), *SYSTEM] for folder in (root / name, root)]


def cache_folder() -> Path:
    """Where this user's data sets lie on this system."""
    return user_folder() or temporary_folder()


def verified(name: str, folder: Path) -> list[Path]:
    """The four files of a folder whose content is that of the named set.  Raises DataError, saying what they are."""
    return [_verified(name, folder, i) for i in range(len(FILES))]


def _verified(name: str, folder: Path, i: int) -> Path:
    """One of the files, gzip or plain: the first of the right content."""
    own, wrong = SETS[name], None
    for path in _candidates(folder, FILES[i]):
        try:
            checksum = _content_sum(path)
            if checksum == own.plain[i]:
                return path
            for other, known in SETS.items():
                if other != name and checksum in known.plain:
                    raise DataError(
                        f"{path} is a file of {other}, not of {name}; put the files of {name} into "
                        f"{cache_folder() / name}"
                    )
            header, _ = read_header(path)
            shape = " x ".join(map(str, header.shape))
            raise DataError(
                f"{path} is not that of {name}: unpacked it holds {shape} values whose md5 sum is {checksum}, not "
                f"{own.plain[i]}; get it from {own.address}/, or give --data {folder}"
            )
        except DataError as error:
            wrong = wrong or error
    assert wrong is not None  # find_named has seen that there are candidates
    raise wrong


def open_folder(folder: Path) -> Source:
    """The four IDX files of a folder: training set and test set with their labels.  Reads headers and labels.

    Raises DataError.
    """
    return open_files(files_of(folder))


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that has the four named as those of MNIST, in the order of :data:`FILES`.

    Raises DataError.
    """
    paths = []
    for file in FILES:
        candidates = _candidates(folder, file)
        if not candidates:
            raise DataError(
                f"{folder} has no {file}, plain or .gz; a folder of data needs the four files named as those of MNIST"
            )
        paths.append(candidates[0])
    return paths


def open_files(paths: Sequence[Path]) -> Source:
    """As :func:`open_folder`, for files in the order of :data:`FILES`.  Raises DataError."""
    images, labels, test_images, test_labels = paths
    return replace(_with_labels(images, labels), test=_with_labels(test_images, test_labels))


def _with_labels(images: Path, path: Path) -> Source:
    source = open_idx(images)
    return replace(source, labels=idx_labels(path, source.table.n_samples))


def idx_labels(path: Path, n_samples: int) -> npt.NDArray[np.int64]:
    """Labels in an IDX file, read where their number fits.  Raises DataError."""
    labels = read_idx(path, lambda header: check_count(header.shape, n_samples, str(path)))
    return check_labels(labels, n_samples, str(path))


def _candidates(folder: Path, file: str) -> list[Path]:
    """The files that may be meant, compressed ones first; some unpack to a name with a dot, train-images.idx3-ubyte."""
    names = (file, file.replace("-idx", ".idx"))
    paths = [folder / f"{name}{ending}" for ending in (".gz", "") for name in names]
    return [path for path in paths if os.path.isfile(path)]


def _content_sum(path: Path) -> str:
    """The md5 sum of a file's content, unpacked where it is gzip, whatever its name says."""
    with reading(path), open_regular(path) as file:
        start = file.read(4)
        packed = is_gzip(start) or (path.suffix == ".gz" and not is_idx(start))  # the latter is an error, below
        file.seek(0)
        checksum = _md5(file)
        if not packed:
            return checksum
        for known in SETS.values():
            if checksum in known.compressed:
                return known.plain[known.compressed.index(checksum)]
        file.seek(0)
        return _md5(cast(IO[bytes], gzip.GzipFile(fileobj=file)))


def _md5(stream: IO[bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while part := stream.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
