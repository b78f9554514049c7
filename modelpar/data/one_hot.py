"""States of sites as one-hot bits: site s in state q is the unit ``s * Q + q``, and of a site's Q units one is on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import EagerTable
from modelpar.data.packed import PackedColumns, width
from modelpar.errors import DataError
from modelpar.machine.memory import check_room

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_VALUES = 1 << 23  # bytes of values before they are packed: they stay near the cache
Blocks = Callable[[], Iterable[Array]]


def one_hot_bits(states: Array, n_states: int, unit_ids: IntArray) -> Array:
    """Rows of bits (n, units / 8 rounded up) of ``unit_ids``.   states (n, n_sites) unsigned integers below n_states"""
    site, state = np.divmod(unit_ids, n_states)
    on = np.take(states, site, axis=1) == state.astype(states.dtype)
    return np.packbits(on, axis=1, bitorder="little")


def rows_at_once(n_units: int, most: int = 1 << 14) -> int:
    """Rows of a block, so that their values stay few."""
    return max(1, min(most, _VALUES // max(1, n_units)))


class SiteTable(EagerTable):
    """Samples that are read from first to last as states of sites, and kept as bits.

    n_states  of a site, whose units are one-hot; 1: the sites are units themselves, of states 0 and 1
    blocks    gives all samples in order, some (n, n_sites) of unsigned integers below ``n_states`` at a time

    Raises DataError while it reads, where ``blocks`` does, and where there are other samples than before.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, name: str, n_samples: int, n_sites: int, n_states: int, blocks: Blocks, path: Path | None = None
    ) -> None:
        super().__init__(name, n_samples, n_sites * n_states, path)
        self.n_sites, self.n_states, self.blocks = n_sites, n_states, blocks

    def read(self, unit_ids: IntArray) -> PackedColumns:
        """The bits of ``unit_ids``: those of other units are dropped block by block."""
        check_room(self.n_samples * width(len(unit_ids)) + 32 * self.n_units, self.name)
        bits, start = np.empty((self.n_samples, width(len(unit_ids))), np.uint8), 0
        for block in self._checked():
            bits[start : start + len(block)] = self._bits(block, unit_ids)
            start += len(block)
        return PackedColumns(bits, len(unit_ids))

    def pieces(self) -> Iterator[tuple[int, PackedColumns]]:
        """See :meth:`EagerTable.pieces`."""
        every = np.arange(self.n_units)
        for block in self._checked():
            yield len(block), PackedColumns(self._bits(block, every), self.n_units)

    def _bits(self, block: Array, unit_ids: IntArray) -> Array:
        if self.n_states == 1:
            return np.packbits(block[:, unit_ids], axis=1, bitorder="little")
        return one_hot_bits(block, self.n_states, unit_ids)

    def _checked(self) -> Iterator[Array]:
        n = 0
        for block in self.blocks():
            n += len(block)
            if n > self.n_samples or block.shape[1] != self.n_sites:
                break
            yield block
        if n != self.n_samples:
            raise DataError(f"{self.name} was changed while it was read; leave it as it is until the run has ended")
