"""Data sets known by name whose files the user brings: MNIST and Fashion-MNIST.

Files are looked for in ``$MODELPAR_DATA`` and in the user's cache directory, each time in a folder of the set's name
first, gzip or plain, and told apart by their checksums, as both sets have the same file names.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from modelpar.data.dataset import Source
from modelpar.data.idx import open_idx, read_idx
from modelpar.data.reading import check_labels, reading
from modelpar.errors import DataError
from modelpar.machine.caches import temporary_folder, user_folder

VARIABLE = "MODELPAR_DATA"
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class NamedSet:
    """The md5 sums of :data:`FILES` and an address to get them from; () where sums are not known."""

    address: str
    compressed: tuple[str, ...]
    plain: tuple[str, ...] = ()


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
    ),
}  # fmt: skip


def find_named(name: str) -> Path:
    """The folder with the verified files of a named set.

    A place with files of other checksums is passed over; where no place is left, that is the error.

    Raises DataError, which says how to get the files.
    """
    wrong: DataError | None = None
    for place in places(name):
        if all(_either(place, file) for file in FILES):
            try:
                verify(name, place)
                return place
            except DataError as error:
                wrong = wrong or error
    if wrong is not None:
        raise wrong
    set_to = os.environ.get(VARIABLE)
    looked = f"${VARIABLE} ({set_to})" if set_to else f"${VARIABLE} (which is not set)"
    home = cache_folder() / name
    wanted = ", ".join(f"{file}.gz" for file in FILES)
    raise DataError(
        f"the files of {name} are neither in {looked} nor in {home}; download {wanted} from {SETS[name].address}/ "
        f"into {home}, or set {VARIABLE} to the folder that has them"
    )


def places(name: str) -> list[Path]:
    """Folders that may hold the files, in the order in which they are looked at."""
    roots = [Path(os.environ[VARIABLE]).expanduser()] if os.environ.get(VARIABLE) else []
    return [place for root in [*roots, cache_folder()] for place in (root / name, root)]


def cache_folder() -> Path:
    """Where this user's data sets lie on this system."""
    return user_folder() or temporary_folder()


def verify(name: str, folder: Path) -> None:
    """Check the md5 sums of the four files.

    A gzip file that was packed again has another sum: it passes where its content is right.  A plain file whose sum
    is not known passes unless it belongs to another set.

    Raises DataError.
    """
    own = SETS[name]
    for i, file in enumerate(FILES):
        path = _either(folder, file)
        assert path is not None
        compressed = path.suffix == ".gz"
        found = _md5(path)
        known = own.compressed if compressed else own.plain
        if known and found == known[i]:
            continue
        if compressed and own.plain and _md5(path, unpack=True) == own.plain[i]:
            continue
        for other, sums in SETS.items():
            if other != name and found in (*sums.compressed, *sums.plain):
                raise DataError(
                    f"{path} is a file of {other}, not of {name}; put the files of {name} into {cache_folder() / name}"
                )
        if known:
            raise DataError(
                f"{path} is not the file that {name} is known by: its md5 sum is {found}, but should be {known[i]}; "
                f"get a new copy from {own.address}/"
            )


def open_folder(folder: Path) -> Source:
    """The four IDX files of a folder: training set and test set with their labels.  Reads headers and labels.

    Raises DataError.
    """
    paths = [_either(folder, file) for file in FILES]
    for path, file in zip(paths, FILES, strict=True):
        if path is None:
            raise DataError(
                f"{folder} has no {file}, plain or .gz; a folder of data needs the four files named as those of MNIST"
            )
    images, labels, test_images, test_labels = cast(list[Path], paths)
    test = _with_labels(open_idx(test_images), test_labels)
    train = _with_labels(open_idx(images), labels)
    return Source(train.table, train.scale, train.image_shape, train.labels, test)


def _with_labels(source: Source, path: Path) -> Source:
    labels = check_labels(read_idx(path), source.table.n_samples, str(path))
    return Source(source.table, source.scale, source.image_shape, labels)


def _either(folder: Path, file: str) -> Path | None:
    """The file, compressed or plain."""
    return next((path for path in (folder / f"{file}.gz", folder / file) if os.path.isfile(path)), None)


def _md5(path: Path, *, unpack: bool = False) -> str:
    with reading(path), open(path, "rb") as file:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if unpack else file
        digest = hashlib.md5(usedforsecurity=False)
        while part := stream.read(1 << 20):
            digest.update(part)
        return digest.hexdigest()
