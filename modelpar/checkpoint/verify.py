"""Whether a checkpoint is whole and healthy: its checksums, its structure, its values and what it says of itself.

One process reads it piece by piece, whatever its size and whatever grid wrote it.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import metadata, structure
from modelpar.checkpoint.checksum import MODULUS, checksum
from modelpar.checkpoint.header import Header, decode, header_length
from modelpar.errors import CheckpointError, ModelparError
from modelpar.spec import NetworkSpec
from modelpar.units.hidden import hidden_units

HEALTHY, UNHEALTHY, DAMAGED, UNREADABLE = STATUSES = ("healthy", "unhealthy", "damaged", "unreadable")
HEALTH = "health"  # key of the metadata: the verdict of the training that wrote the file, as JSON
PIECE = 1 << 20  # elements that are read at a time


@dataclass(frozen=True)
class Verdict:
    """What was found of one file.   status: one of STATUSES, from good to bad"""

    path: str
    status: str = HEALTHY
    reasons: tuple[str, ...] = ()


def worst(verdicts: list[Verdict]) -> str:
    """The status of all of them together."""
    return max((verdict.status for verdict in verdicts), key=STATUSES.index, default=HEALTHY)


def verify_checkpoint(path: str | Path) -> Verdict:
    """Read all of a checkpoint, or of a ``.safetensors`` of ``modelpar export``.  Not collective, raises nothing."""
    name = os.fspath(path)
    try:
        with _opened(path) as file:
            return _verify(name, file)
    except OSError as error:
        return Verdict(name, UNREADABLE, (error.strerror or str(error),))


def _opened(path: str | Path) -> BinaryIO:
    """A regular file; a pipe is not waited for.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file


def _verify(name: str, file: BinaryIO) -> Verdict:
    size = os.fstat(file.fileno()).st_size
    try:
        text = file.read(header_length(name, file.read(8), size))
        header = decode(name, text, size)
    except CheckpointError as error:
        return Verdict(name, DAMAGED if name.endswith(".safetensors") else UNREADABLE, (_without(name, error),))
    damage, doubts = [], []
    if "modelpar" in header.metadata:  # the rest was exported for other programs
        if header.metadata["modelpar"] != checkpoint.FORMAT:
            return Verdict(name, UNREADABLE, (_other_format(header.metadata["modelpar"]),))
        damage += _structure(name, header)
    for tensor in header.tensors:
        matches, finite = _values(file, header, tensor)
        if not matches:
            damage.append(f"tensor {tensor!r} does not match its checksum")
        elif not finite:
            doubts.append(f"tensor {tensor!r} has values that are not finite")
    if damage:
        return Verdict(name, DAMAGED, tuple(damage))
    doubts += _own_verdict(header)
    return Verdict(name, UNHEALTHY if doubts else HEALTHY, tuple(doubts))


def _other_format(version: str) -> str:
    return (
        f"it is of format {version[:20]}, but this version reads {checkpoint.FORMAT}; use the version of modelpar that "
        "wrote it, or a later one"
    )


def _structure(name: str, header: Header) -> list[str]:
    """What is wrong with the network, its tensors, and where its training stood."""
    try:
        spec = checkpoint.read_spec(name, header)
        metadata.training_of(name, header, spec)
        structure.read(name, header, spec, MPI.COMM_SELF)
    except ModelparError as error:
        return [_without(name, error)]
    missing = [tensor for tensor in _needed(spec) if tensor not in header.tensors]
    return [f"tensor {missing[0]!r} is missing"] if missing else []


def _needed(spec: NetworkSpec) -> list[str]:
    names = []
    for i in range(len(spec.layers) - 1):
        units = hidden_units(spec.hidden_of(i))
        of_each = "W", "b", "c", *(units.learned if units else ()), "mean_activation"
        names += [f"rbm.{i}.{name}" for name in of_each]
    names += [f"rbm.0.{name}" for name in spec.visible_kind.learned]
    return [*names, "input.offset", "input.scale", *(("output.W", "output.c") if spec.classes else ())]


def _values(file: BinaryIO, header: Header, tensor: str) -> tuple[bool, bool]:
    """Whether a tensor matches its checksum, and whether its values are finite."""
    dtype, _, start, stop = header.tensors[tensor]
    total, first, finite = 0, 0, True
    file.seek(start)
    while first < (stop - start) // dtype.itemsize:
        n = min(PIECE, (stop - start) // dtype.itemsize - first)
        content = _read(file, n * dtype.itemsize)
        if len(content) < n * dtype.itemsize:
            return False, finite  # it became shorter meanwhile
        values = np.frombuffer(content, dtype)
        total += checksum(values, first)
        finite = finite and (dtype.kind != "f" or bool(np.isfinite(values).all()))
        first += n
    return total % MODULUS == header.checksums[tensor], finite


def _read(file: BinaryIO, n: int) -> bytes:
    """So many bytes, fewer at the end of the file."""
    parts: list[bytes] = []
    while n > 0 and (part := file.read(n)):
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _own_verdict(header: Header) -> list[str]:
    """Why the training that wrote a file found the network unhealthy, if it did."""
    if HEALTH not in header.metadata:
        return []
    try:
        said = json.loads(header.metadata[HEALTH])
        if said["healthy"] is True:
            return []
        return [str(reason) for reason in said["reasons"]] or ["its training called it unhealthy"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ["what its training says of its health cannot be read"]


def _without(name: str, error: Exception) -> str:
    """The message of an error without the file, which a verdict has anyway."""
    return str(error).removeprefix(f"{name} ").removeprefix("is damaged: ")
