"""Arrays in Zarr stores, folders of chunks in format 2 or 3, read by the package zarr (the extra ``zarr``) some rows
and some columns at a time.

What the metadata say is checked before the library sees them: numbers only, codecs that are known and run no code of
the store, chunks within bounds, regular files, and no more values than the bytes that there are can unpack to.  A chunk
that is not there has the store's fill value, as the format has it: writers leave out those that hold nothing else.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.regular import check_regular, read_bounded
from modelpar.formats.reading import reading

Array = npt.NDArray[Any]

ARRAY_2, GROUP_2, NODE_3 = ".zarray", ".zgroup", "zarr.json"  # names of metadata, by format
_MOST_METADATA = 1 << 24  # bytes
_MOST_PACKED = 2000  # bytes that a byte of the store may become, as of HDF5
_MOST_AT_ONCE = 1 << 30  # bytes of a chunk
_MOST_FILES = 5_000_000  # of an array
_MOST_OBJECTS, _DEEPEST, _SHOWN = 10_000, 30, 8  # that are looked through for arrays; names in messages
_BLOCK = 1 << 24  # bytes that are read at once, where chunks allow
_TYPE_2 = re.compile(r"[|<>](b1|[iu][1248]|f[248])")
_TYPE_3 = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")
_CODECS = {  # those that make bytes of numbers and nothing else
    "blosc", "zstd", "zlib", "gzip", "lz4", "lzma", "bz2", "delta", "shuffle", "bitround", "packbits",
    "fixedscaleoffset", "quantize", "astype", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3", "bytes",
    "endian", "transpose", "sharding_indexed",
}  # fmt: skip


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store, or a part of one."""
    return any(os.path.lexists(path / name) for name in (ARRAY_2, GROUP_2, NODE_3))


def array_folder(store: Path, inner: str = "") -> Path:
    """The folder of an array of a store; without a name that of the only one with two dimensions or more.

    Raises DataError where there is none, or several.
    """
    words = [word for word in inner.split("/") if word]
    if any(word in (".", "..") for word in words):
        raise DataError(f"{store} has no array {inner!r}: names in a store have no dots alone")
    if words:
        folder = store.joinpath(*words)
        if _kind(folder) == "array":
            return folder
        what = f"has {inner!r} as a group; name an array in it" if _kind(folder) else f"has no array {inner!r}"
        raise DataError(f"{store} {what}: it has {_names(store)}")
    if _kind(store) == "array":
        return store
    wide = [folder for folder, n_dimensions in _arrays(store) if n_dimensions >= 2]
    if len(wide) != 1:
        one = f"; name one, as in {store.name}:{wide[0].relative_to(store)}" if wide else ""
        raise DataError(f"{store} has {_names(store)}{one}")
    return wide[0]


class ZarrArray:
    """An array of a store, which is opened anew for each pass over it.   path: its folder

    Raises DataError where it cannot be read within bounds, or zarr is not installed.
    """

    def __init__(self, store: Path, inner: str = "") -> None:
        self.path = array_folder(store, inner)
        part = str(self.path.relative_to(store)) if self.path != store else ""
        self.name = f"{store}:{part}" if part else str(store)
        about = _metadata(self.path)
        _check_codecs(about, self.name)
        n_stored = _stored_bytes(self.path)
        with self._opened() as array:
            self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
            self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        chunk = _chunk_of(about, self.name)
        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        if n_bytes > _MOST_PACKED * n_stored or math.prod(chunk) * self.dtype.itemsize > _MOST_AT_ONCE:
            raise DataError(f"{self.name} has the shape {self.shape}, but not the bytes for it; get a new copy")
        self.chunk_rows = chunk[0] if chunk else 1

    def blocks(self, units: slice) -> Iterator[Array]:
        """The values ``units`` of all samples (n, values of a sample), some samples at a time.  Raises DataError."""
        n_units = math.prod(self.shape[1:])
        read = units.stop - units.start if len(self.shape) == 2 else n_units
        at_once = max(1, _BLOCK // max(1, read * self.dtype.itemsize))
        at_once = max(1, at_once // self.chunk_rows) * self.chunk_rows  # no chunk is unpacked twice
        for start in range(0, self.shape[0], at_once):
            with self._opened() as array:
                if tuple(array.shape) != self.shape or np.dtype(array.dtype) != self.dtype:
                    raise DataError(f"{self.name} was changed while it was read; leave it as it is until the end")
                some = array[start : start + at_once, units] if len(self.shape) == 2 else array[start : start + at_once]
                rows = np.asarray(some, self.dtype).reshape(len(some), -1)
            yield rows if len(self.shape) == 2 else rows[:, units]

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The library's own words are of no help to those who do not know it."""
        zarr = zarr_module()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield zarr.open_array(store=zarr.storage.LocalStore(self.path, read_only=True), mode="r")
        except DataError:
            raise
        except Exception as error:  # of the library and of all codecs, some of which have classes of their own
            codec = "codec" in str(error).lower() or isinstance(error, NotImplementedError)
            why = "its values are packed in a way that is not known here" if codec else "it is damaged or cut off"
            raise DataError(f"{self.name} cannot be read as Zarr: {why}; get a new copy") from None


def _metadata(folder: Path) -> dict[str, Any]:
    """Of an array or a group, of either format.  Raises DataError."""
    for name in (NODE_3, ARRAY_2, GROUP_2):
        if os.path.lexists(folder / name):
            with reading(folder / name):
                content = read_bounded(folder / name, _MOST_METADATA)
            try:
                about = json.loads(content)
            except (ValueError, RecursionError):
                about = None
            if not isinstance(about, dict):
                raise DataError(f"{folder / name} is damaged, it is no JSON object; get a new copy")
            return about if name != GROUP_2 else {"node_type": "group"}
    return {}


def _kind(folder: Path) -> str:
    """``array``, ``group``, or nothing."""
    if not folder.is_dir():
        return ""
    about = _metadata(folder)
    return "array" if "shape" in about else "group" if about else ""


def _arrays(store: Path) -> Iterator[tuple[Path, int]]:
    """(Folder, number of dimensions) of the arrays of a store; folders by links are not followed."""
    left, folders = _MOST_OBJECTS, [(store, 0)]
    while folders:
        folder, depth = folders.pop()
        with reading(folder), os.scandir(folder) as found:
            entries = sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
        for name in entries:
            left -= 1
            if left < 0:
                return
            about = _metadata(folder / name)
            if isinstance(about.get("shape"), list):
                yield folder / name, len(about["shape"])
            elif about and depth < _DEEPEST:
                folders.append((folder / name, depth + 1))


def _names(store: Path) -> str:
    wide = [str(folder.relative_to(store)) for folder, n_dimensions in _arrays(store) if n_dimensions >= 2]
    shown = ", ".join(wide[:_SHOWN]) + (", ..." if len(wide) > _SHOWN else "")
    return f"the arrays {shown}" if wide else "no arrays of two dimensions"


# -- bounds ------------------------------------------------------------------------------------------------------------


def _check_codecs(about: Mapping[str, Any], name: str) -> None:
    """Raise DataError for values that are no numbers, or packed by what is not known to be harmless."""
    kind = about.get("dtype", about.get("data_type"))
    known = _TYPE_2 if "dtype" in about else _TYPE_3
    if not isinstance(kind, str) or not known.fullmatch(kind):
        shown = kind[:40] if isinstance(kind, str) else "another kind"
        raise DataError(f"{name} holds values of type {shown}, but numbers are needed; convert it by .astype('f4')")
    codecs = [about.get("compressor"), *_listed(about.get("filters")), *_listed(about.get("codecs"))]
    codecs += _listed(about.get("storage_transformers"))  # of which there are none so far
    while codecs:
        codec = codecs.pop()
        if codec is None:
            continue
        word = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
        if not isinstance(word, str) or word.removeprefix("numcodecs.") not in _CODECS:
            shown = word[:40] if isinstance(word, str) else "something odd"
            raise DataError(f"{name} is packed by {shown!r}, which is not read here; save it with zstd or blosc")
        inner = codec.get("configuration") if isinstance(codec, dict) else None
        if isinstance(inner, dict):
            codecs += [*_listed(inner.get("codecs")), *_listed(inner.get("index_codecs"))]


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [] if values is None else [values]


def _chunk_of(about: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Values of a chunk, or of a shard of chunks, along each dimension.  Raises DataError."""
    grid = about.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    chunk = about.get("chunks", configuration.get("chunk_shape") if isinstance(configuration, dict) else None)
    if not isinstance(chunk, list) or not all(type(n) is int and 0 < n < 1 << 62 for n in chunk):
        raise DataError(f"{name} does not say how large its chunks are; get a new copy")
    return tuple(chunk)


def _stored_bytes(folder: Path) -> int:
    """Of all files of an array.  Raises DataError where one is no regular file, which would be waited for."""
    total, left, folders = 0, _MOST_FILES, [folder]
    while folders:
        here = folders.pop()
        with reading(here), os.scandir(here) as found:
            for entry in found:
                left -= 1
                if left < 0:
                    raise DataError(f"{folder} has more than {_MOST_FILES} files; write it with larger chunks")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(here / entry.name)
                else:
                    total += check_regular(entry.path).st_size
    return total


def zarr_module() -> Any:
    """Raises DataError where zarr is not installed."""
    try:
        import zarr
        import zarr.storage
    except ImportError:
        raise DataError("Zarr stores need zarr, which is not installed: pip install 'modelpar[zarr]'") from None
    return zarr
