"""Values that must be alike on all ranks are compared before work starts: a difference means a hang or wrong results.

Every rank brings the name of the call that it makes and one digest of all that must be alike; only where these differ
do the ranks exchange the values themselves, in order to say what differs, and between which ranks.  Nothing is
exchanged or digested on a single rank.
"""

from __future__ import annotations

import enum
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from modelpar.errors import Call, DataError, DisagreementError, SpecError, raised_by
from modelpar.values import plain

if TYPE_CHECKING:
    from mpi4py import MPI

MENTIONED = 4  # ranks, and differences, that a message names
PIECE = 1 << 22  # bytes of an array that are made contiguous at a time
SAMPLE = 1 << 20  # bytes of a mapped file that are compared: reading it all would take longer than the call
SHORT = 16  # numbers of a list that a message shows


class Leaf(NamedTuple):
    """One value that must be alike: its text in a message, and its digest where the text does not say all."""

    name: str
    text: str
    digest: int = 0


def agree(
    comm: MPI.Comm | Sequence[MPI.Comm], call: str, /, *, in_replica: Mapping[str, Any] | None = None, **what: Any
) -> None:
    """Compare ``call`` and what it is given over the ranks of ``comm``.  Collective.

    comm   a communicator, or the two of a grid whose product is all its ranks: that of the shards, that of the replicas
    call   its name in messages
    what   names and values: numbers, texts, arrays, sparse matrices, specs, and lists, mappings and dataclasses of
           these.  Numbers and arrays of the same value are alike whatever they came in.  An object with a method
           ``alike()`` stands for what that returns; of any other, the type is compared.
    in_replica   the same, for values that must be alike on the shards of a replica only

    Raises DisagreementError, a ValueError, on all ranks with the same message, where ranks make different calls, or
    bring different values; SpecError where ``comm`` is not a communicator.
    """
    comms = tuple(comm) if isinstance(comm, Sequence) else (comm,)
    try:
        alone = all(axis.size == 1 for axis in comms)
    except Exception:  # MPI's own for COMM_NULL, AttributeError for other things
        came = "COMM_NULL" if hasattr(comm, "allgather") else plain.shown(comm)
        raise SpecError(f"comm is {came}, but must be a communicator of mpi4py to which this rank belongs") from None
    if alone:
        return
    leaves, of_replica = list(_leaves(what)), list(_leaves(in_replica or {}))
    calls = _allgather(comms, Call(call, _digest(leaves), _digest(of_replica)))
    names = [their.name if isinstance(their, Call) else "something else" for their in calls]
    if len(set(names)) > 1:
        raise _on_all(
            calls,
            f"the ranks make different calls: {_by_rank(names)}; every rank must make the same calls in the same order",
        )
    head = f"{call}: arguments differ between the ranks: "
    if len({their.digest for their in calls}) > 1:
        raise _on_all(calls, head + _difference(_allgather(comms, leaves)))
    n = comms[0].size  # shards of a replica, whose ranks follow each other
    for first in range(0, len(calls), n):
        if len({their.part for their in calls[first : first + n]}) > 1:
            raise _on_all(calls, head + _difference(_allgather(comms, of_replica)[first : first + n], first))


def _on_all(calls: Sequence[object], message: str) -> DisagreementError:
    return raised_by(DisagreementError(message), len(calls))


def _digest(leaves: list[Leaf]) -> bytes:
    return hashlib.sha256(repr(leaves).encode("utf-8", "surrogatepass")).digest()


def _allgather(comms: tuple[MPI.Comm, ...], mine: Any) -> list[Any]:
    """The values of all ranks, the shards of one replica after those of the other.  Collective."""
    gathered: list[Any] = comms[0].allgather(mine)
    for axis in comms[1:]:
        gathered = [value for values in axis.allgather(gathered) for value in values]
    return gathered


# -- what to compare ---------------------------------------------------------------------------------------------------


def _leaves(what: Mapping[str, Any]) -> Iterator[Leaf]:
    seen: dict[int, Any] = {}  # arrays of several names are digested once; kept, so that no id is used again
    for name, value in what.items():
        yield from _leaves_of(name, value, seen)


def _leaves_of(name: str, value: Any, seen: dict[int, Any]) -> Iterator[Leaf]:
    number = plain.real(value)
    if value is None or plain.is_truth(value) or number is not None:
        if number is not None and number.is_integer() and plain.integer(value) is None:
            value = int(number)  # 1.0 is 1
        yield Leaf(name, plain.shown(value))
    elif isinstance(value, enum.Enum):
        yield Leaf(name, value.name)
    elif isinstance(value, str | bytes | os.PathLike):
        path = os.fspath(value)
        yield Leaf(
            name,
            plain.shown(path),
            zlib.crc32(path.encode("utf-8", "surrogatepass") if isinstance(path, str) else path),
        )
    elif hasattr(value, "alike"):
        yield from _leaves_of(name, value.alike(), seen)
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            if f.init:
                yield from _leaves_of(f"{name}.{f.name}", getattr(value, f.name), seen)
    elif isinstance(value, Mapping):
        for key in value:
            yield from _leaves_of(f"{name}.{key}" if name else str(key), value[key], seen)
    elif hasattr(value, "tocsr") or hasattr(value, "__array__"):
        yield _array_leaf(name, value, seen)
    elif isinstance(value, list | tuple | range):
        yield from _of_sequence(name, value, seen)
    else:
        yield Leaf(name, f"of type {type(value).__name__}")


def _of_sequence(name: str, values: Sequence[Any], seen: dict[int, Any]) -> Iterator[Leaf]:
    if all(plain.real(value) is not None for value in values):
        if len(values) > SHORT:
            import numpy as np

            yield _array_leaf(name, np.asarray(values), seen)
        else:
            yield Leaf(name, f"({', '.join(leaf.text for value in values for leaf in _leaves_of('', value, seen))})")
    else:
        for i, value in enumerate(values):
            yield from _leaves_of(f"{name}[{i}]", value, seen)


def _array_leaf(name: str, value: Any, seen: dict[int, Any]) -> Leaf:
    import numpy as np

    if id(value) in seen:
        return Leaf(name, *seen[id(value)][1:])
    if hasattr(value, "tocsr"):
        text, digest = _of_sparse(value)
    else:
        array = np.asarray(value)
        if array.ndim == 1 and len(array) <= SHORT and array.dtype.kind in "iuf":
            text, digest = next(_of_sequence(name, array.tolist(), seen)).text, 0
        elif array.dtype.kind in "biufc":
            text, digest = f"{_kind(array.dtype)} {_size(array.shape)}", checksum(_sample(array))
        else:  # texts and objects, whose bytes in memory are not those of their values
            text = f"{'texts' if array.dtype.kind == 'U' else 'objects'} {_size(array.shape)}"
            digest = zlib.crc32(repr(array.tolist()).encode("utf-8", "surrogatepass"))
    seen[id(value)] = value, text, digest
    return Leaf(name, text, digest)


def _of_sparse(matrix: Any) -> tuple[str, int]:
    """Text and digest of its rows; of a damaged one a text, as whoever uses it raises the error."""
    import numpy as np

    from modelpar.values.forms import plain_rows

    try:
        rows = plain_rows(matrix, "the matrix")
    except DataError:
        return f"a damaged sparse matrix of {_size(matrix.shape)}", 0
    digest = checksum(rows.values)
    for ids in (rows.columns, rows.starts):
        digest = checksum(ids, digest, np.dtype(np.int64))
    return f"a sparse matrix of {_kind(rows.values.dtype)} {_size(rows.shape)}", digest


def _kind(dtype: Any) -> str:
    return dtype.newbyteorder("=").name  # type: ignore[no-any-return]


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "alone"


def _sample(array: Any) -> Any:
    """The array itself; of one in a mapped file some rows, spread over it, the first and the last among them."""
    import numpy as np

    if not is_mapped(array) or array.nbytes <= SAMPLE:
        return array
    n = max(2, SAMPLE // max(1, array.nbytes // len(array)))
    return array[np.unique(np.linspace(0, len(array) - 1, min(n, len(array))).astype(np.int64))]


def is_mapped(array: Any) -> bool:
    """Whether an array is, or is a view of, a memory-mapped file."""
    memmap = sys.modules["numpy"].memmap
    while array is not None and not isinstance(array, memmap):
        array = getattr(array, "base", None)
    return array is not None


def checksum(array: Any, start: int = 0, dtype: Any = None) -> int:
    """A checksum of the values in C order, whatever the order and the byte order in memory.

    start   the checksum of what comes before;  dtype: type in which the values are compared, None: their own
    """
    import numpy as np

    dtype = dtype or array.dtype.newbyteorder("=")
    if array.ndim == 0:
        array = array.reshape(1)
    rows = max(1, PIECE // max(1, array.nbytes // max(1, len(array))))
    for first in range(0, len(array), rows):
        piece = np.ascontiguousarray(array[first : first + rows], dtype)
        start = zlib.crc32(piece.reshape(-1).view(np.uint8).data, start)
    return start


# -- what to say -------------------------------------------------------------------------------------------------------


def _difference(leaves_of_ranks: list[list[Leaf]], start: int = 0) -> str:
    """The first value that differs, as text, and the names of others.   start: the first of these ranks"""
    by_name = [{leaf.name: leaf for leaf in leaves} for leaves in leaves_of_ranks]
    names = list(dict.fromkeys(leaf.name for leaves in leaves_of_ranks for leaf in leaves))
    differing = [name for name in names if any(theirs.get(name) != by_name[0].get(name) for theirs in by_name)]
    first = [theirs.get(differing[0]) for theirs in by_name]
    texts = ["missing" if leaf is None else leaf.text for leaf in first]
    if len(set(texts)) > 1:
        what = f"{differing[0]} is {_by_rank(texts, start)}"
    else:
        others = [start + rank for rank, leaf in enumerate(first) if leaf != first[0]]
        what = f"the values of {differing[0]} ({texts[0]}) on rank {start} are not those on {_ranks(others)}"
    more = differing[1 : 1 + MENTIONED]
    also = f" ({', '.join(more)}{' and others differ' if len(differing) > 1 + MENTIONED else ' too'})" if more else ""
    return f"{what}{also}; every rank must bring the same"


def _by_rank(texts: list[str], start: int = 0) -> str:
    """``a on rank 0, but b on ranks 1 and 2``"""
    ranks: dict[str, list[int]] = {}
    for rank, text in enumerate(texts, start):
        ranks.setdefault(text, []).append(rank)
    phrases = [f"{text} on {_ranks(which)}" for text, which in ranks.items()]
    if len(phrases) > MENTIONED:
        phrases = [*phrases[:MENTIONED], "others elsewhere"]
    return ", but ".join([phrases[0], ", ".join(phrases[1:])])


def _ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    named = [str(rank) for rank in ranks[:MENTIONED]]
    last = f"{len(ranks) - MENTIONED} more" if len(ranks) > MENTIONED else named.pop()
    return f"ranks {', '.join(named)} and {last}"
