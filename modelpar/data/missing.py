"""Values that are not known: which they are, as bits, and what stands in their place until they are drawn.

A source with such values has two tables of the same samples: the values, where the most frequent one of its site (of
real values the mean) stands for each that is missing, and a mask with a bit for each site of each sample.  Training
draws the missing ones from the model (:mod:`modelpar.training.completion`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import EagerTable, Source, Split, Table
from modelpar.data.one_hot import SiteTable
from modelpar.data.packed import PackedColumns, width
from modelpar.kernels.states import Packed

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class MissingValues:
    """The missing values of one rank's units, in all samples of a split.

    Bits are held for sites, not for their units, and of those samples only that miss something.
    """

    def __init__(self, split: Split, unit_ids: IntArray) -> None:
        """Reads the mask.  Raises DataError where it cannot be read."""
        assert isinstance(split.missing, EagerTable)
        per_site = split.table.n_units // split.missing.n_units
        sites, self._site_of = np.unique(unit_ids // per_site, return_inverse=True)
        read = split.missing.read(sites)  # not ``columns``, which would keep all of it
        assert isinstance(read, PackedColumns)
        bits = read.bits[split.rows]
        some = np.flatnonzero(bits.any(axis=1))
        self._row_of = np.zeros(len(split), np.int32)
        self._row_of[some] = np.arange(1, len(some) + 1)
        self._bits = PackedColumns(np.concatenate([np.zeros_like(bits[:1]), bits[some]]), len(sites))

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self._bits.nbytes + self._row_of.nbytes)

    def of(self, samples: IntArray) -> Packed:
        """A bit (n_units, len(samples)) for each value of samples, positions in the split: 1 where it is missing."""
        sites = self._bits.states(self._row_of[samples].astype(np.int64))
        return Packed(sites.words[self._site_of], sites.batch)


# -- sites with states -------------------------------------------------------------------------------------------------


def site_tables(
    name: str, n_samples: int, n_sites: int, n_states: int, blocks: Callable[[], Iterable[Array]], unknown: int,
    path: Path | None = None,
) -> tuple[SiteTable, SiteTable, int]:  # fmt: skip
    """(Values, mask, number of missing values) of samples whose ``blocks`` hold ``unknown`` in place of some states.

    Reads all samples once.  Raises DataError where ``blocks`` does.
    """
    counts, n_missing = np.zeros((n_states, n_sites), np.int64), 0
    for block in blocks():
        n_missing += int((block == unknown).sum())
        for state in range(n_states):
            counts[state] += (block == state).sum(axis=0)
    frequent = counts.argmax(axis=0)

    def filled() -> Iterator[Array]:
        for block in blocks():
            yield np.where(block == unknown, frequent.astype(block.dtype), block)

    def masks() -> Iterator[Array]:
        return ((block == unknown).astype(np.uint8) for block in blocks())

    values = SiteTable(name, n_samples, n_sites, n_states, filled if n_missing else blocks, path)
    return values, SiteTable(name, n_samples, n_sites, 1, masks), n_missing


def with_mask(source: Source, mask: Table, n_missing: int, missing: str) -> Source:
    """A source of filled values, with what is said of them and, where they are drawn, the mask.

    missing   ``most-frequent`` or ``sample``
    """
    facts = {**source.facts, "missing": n_missing}
    how = f"{source.how} {missing}".strip()  # other data than with values of other kinds in their place
    if not n_missing:
        return replace(source, facts=facts)
    name, n_samples, n_sites = source.table.name, mask.n_samples, mask.n_units
    if missing != "sample":
        note = f"{n_missing} values of {name} that are not known are read as the most frequent ones"
        return replace(source, facts=facts, how=how, notes=(*source.notes, note))
    size = n_samples * width(n_sites)
    facts["mask_bytes"] = size
    note = (
        f"{n_missing} values of {name} are not known and are drawn from the model while it is trained; a mask of them "
        f"takes up to {max(0.1, size / (1 << 20)):.1f} MiB of each replica's memory"
    )
    return replace(source, facts=facts, how=how, notes=(*source.notes, note), missing=mask)
