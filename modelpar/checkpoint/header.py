"""The head of a checkpoint: the JSON of the safetensors format, with checksums among its metadata.  No MPI here.

A safetensors file is the length of the header (8 bytes, little-endian), the header (JSON, padded with spaces), and the
tensors' bytes in C order without gaps.  A modelpar checkpoint is one of these with every choice fixed: metadata keys
sorted, tensors by decreasing element size and then by name (so that each is aligned to its elements), the data at a
multiple of 64 bytes.
Of a file that is read all of this is checked before any of it is used.
Added to the metadata: ``checksum.NAME`` for each tensor and ``header_checksum`` for the header itself, 16 hexadecimal
digits each; the latter is that of the header's bytes (type uint8, padding included) with its own digits written as 0.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelpar.checkpoint.checksum import checksum
from modelpar.errors import CheckpointError

EARLIER = "take an earlier checkpoint"
ALIGNMENT = 64
MAX_HEADER = 1 << 24  # bytes: a network of a thousand layers in the midst of training has a third of it
MAX_DIMENSIONS = 2  # of a tensor
CHECKSUM = "checksum."
HEADER_CHECKSUM = "header_checksum"
_MARKER = f'"{HEADER_CHECKSUM}":"'.encode()  # a quote inside a JSON string is escaped, so this occurs only as the key
_BLANK = b"0" * 16
_DIGITS = re.compile("[0-9a-f]{16}")
_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_TYPES = {code: np.dtype(name) for name, code in _CODES.items()}

Tensor = tuple[str, np.dtype[Any], tuple[int, ...]]  # name, dtype, shape


@dataclass(frozen=True)
class Header:
    """The header of a checkpoint; the same value on every rank."""

    path: str
    metadata: dict[str, str]  # as given to write(), without the checksums
    tensors: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]  # dtype, shape, first byte and end in the file
    checksums: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of the complete file."""
        return max((stop for _, _, _, stop in self.tensors.values()), default=0)


def in_file_order(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors as they follow each other in the file: large elements first, then by name."""
    return sorted(tensors, key=lambda tensor: (-tensor[1].itemsize, tensor[0]))


def encode(tensors: list[Tensor], metadata: dict[str, str], checksums: dict[str, int]) -> bytes:
    """The first bytes of the file, up to the data.

    The length does not depend on the checksums, so it is known before them.
    Raises CheckpointError where a name, a type or a piece of metadata cannot be written.
    """
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise CheckpointError(f"metadata {key!r} is {value!r}, but keys and values must be strings")
        if key.startswith(CHECKSUM) or key == HEADER_CHECKSUM:
            raise CheckpointError(f"metadata key {key!r} is kept for the checksums; use another name")
    sums = {CHECKSUM + name: f"{checksums.get(name, 0):016x}" for name, _, _ in tensors}
    entries: dict[str, Any] = {"__metadata__": dict(sorted({**metadata, **sums, HEADER_CHECKSUM: "0" * 16}.items()))}
    at = 0
    for name, dtype, shape in in_file_order(tensors):
        if name in entries:
            raise CheckpointError(f"tensor name {name!r} is used twice or reserved; use another name")
        if dtype.name not in _CODES:
            raise CheckpointError(f"tensor {name!r} is of type {dtype}, but only {', '.join(_CODES)} can be written")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        entries[name] = {"dtype": _CODES[dtype.name], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"the header has {len(text)} bytes, but at most {MAX_HEADER} fit; shorten the metadata")
    digits = f"{checksum(np.frombuffer(text, np.uint8)):016x}".encode()
    return len(text).to_bytes(8, "little") + text.replace(_MARKER + _BLANK, _MARKER + digits, 1)


def header_length(path: str, start: bytes, file_size: int) -> int:
    """Bytes of the JSON header, from the first 8 bytes of the file.  Raises CheckpointError where they are wrong."""
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= MAX_HEADER:
        raise CheckpointError(f"{path} is not a safetensors file; name a checkpoint that modelpar wrote")
    if 8 + length > file_size:
        raise CheckpointError(f"{path} is truncated inside its header, or not a safetensors file; {EARLIER}")
    return length


def decode(path: str, text: bytes, file_size: int) -> Header:
    """The header from its JSON bytes, checked against its checksum and the size of the file.

    Raises CheckpointError where it is damaged, was not written by modelpar, or does not fit the file.
    """
    entries = _parse(path, text)
    given = entries.pop("__metadata__", {})
    if HEADER_CHECKSUM not in given:
        raise CheckpointError(
            f"{path} has no header checksum, so modelpar did not write it, or it is damaged; {EARLIER}"
        )
    before, marker, rest = text.partition(_MARKER)
    blanked = before + marker + _BLANK + rest[len(_BLANK) :]
    if f"{checksum(np.frombuffer(blanked, np.uint8)):016x}" != given.pop(HEADER_CHECKSUM):
        raise CheckpointError(f"{path} is damaged: its header does not match its checksum; {EARLIER}")
    at = 8 + len(text)
    sums: dict[str, int] = {}
    tensors: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]] = {}
    try:
        _expect(at % ALIGNMENT == 0 and all(isinstance(value, str) for value in given.values()))
        for name, entry in entries.items():
            digits = given.pop(CHECKSUM + name)
            _expect(_DIGITS.fullmatch(digits) is not None)
            dtype, shape = _TYPES[entry["dtype"]], entry["shape"]
            _expect(_are_sizes(shape) and len(shape) <= MAX_DIMENSIONS and _are_sizes(entry["data_offsets"]))
            stop = at + math.prod(shape) * dtype.itemsize
            _expect(entry["data_offsets"] == [at - 8 - len(text), stop - 8 - len(text)])
            sums[name], tensors[name], at = int(digits, 16), (dtype, tuple(shape), at, stop), stop
        stored = [(name, dtype, shape) for name, (dtype, shape, _, _) in tensors.items()]
        _expect(stored == in_file_order(stored))  # so each is aligned to its elements
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path} has a header that modelpar does not write; name another checkpoint") from None
    if file_size != at:
        state = "truncated" if file_size < at else "followed by foreign bytes"
        raise CheckpointError(f"{path} is {state}: it has {file_size} bytes instead of {at}; {EARLIER}")
    return Header(path, given, tensors, sums)


def _expect(holds: bool) -> None:
    if not holds:
        raise ValueError


def _are_sizes(values: Any) -> bool:
    """Whether they are a list of integers from 0 up, of 63 bits: numbers that only equal such, as 2.0, are not."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _parse(path: str, text: bytes) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(text.decode())
        if isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values()):
            return entries
    except (ValueError, RecursionError):
        pass
    raise CheckpointError(f"{path} is damaged, or not a safetensors file: its header is not the right JSON; {EARLIER}")
