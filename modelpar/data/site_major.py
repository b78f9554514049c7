"""Tables of files that have site after site, all samples of each: kept as bits that are turned block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.bits import pick_bits, spread_bits
from modelpar.data.dataset import EagerTable
from modelpar.data.packed import PackedColumns, width
from modelpar.errors import DataError
from modelpar.machine.memory import check_room

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_TURNED = 1 << 22  # bytes of values that are packed and turned at once
Blocks = Callable[[int, int], Iterable[Array]]


class SiteMajorTable(EagerTable):
    """Codes of sites, of which each makes some units: those above a threshold, or one-hot.

    codes    of a site's units: unit k is on where the code is ``codes[k]``, or, with ``at_least``, that or more
    blocks   gives the codes (some sites, n_samples) uint8 of the sites from its first argument to before its second

    Raises DataError while it reads, where ``blocks`` does, and where there are other sites than before.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, name: str, n_samples: int, n_sites: int, codes: tuple[int, ...], blocks: Blocks, path: Path, *,
        at_least: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(name, n_samples, n_sites * len(codes), path)
        self.codes, self.blocks, self.at_least = np.array(codes, np.uint8), blocks, at_least

    def read(self, unit_ids: IntArray) -> PackedColumns:
        """The bits of ``unit_ids``; sites before the first and after the last of theirs are passed over."""
        check_room(self.n_samples * width(len(unit_ids)) * (1 if _ascends(unit_ids) else 2), self.name)
        wanted = np.unique(unit_ids)
        bits = np.empty((self.n_samples, width(len(wanted))), np.uint8)
        if len(wanted):
            self._fill(wanted, bits)
        if not _ascends(unit_ids):
            picked = np.empty((self.n_samples, width(len(unit_ids))), np.uint8)
            source = bits.view()
            source.flags.writeable = False
            pick_bits(source, np.searchsorted(wanted, unit_ids), picked)
            bits = picked
        return PackedColumns(bits, len(unit_ids))

    def _fill(self, wanted: IntArray, bits: Array) -> None:
        """bits = the units ``wanted``, which ascend."""
        per_site = len(self.codes)
        first, stop = int(wanted[0]) // per_site, int(wanted[-1]) // per_site + 1
        at_once = max(8, _TURNED // max(1, self.n_samples) // 8 * 8)
        left: Array = np.empty((0, self.n_samples), np.bool_)
        n_done, site = 0, first
        for block in self.blocks(first, stop):
            if site + len(block) > stop or block.shape[1] != self.n_samples:
                break
            mine = wanted[(wanted >= site * per_site) & (wanted < (site + len(block)) * per_site)] - site * per_site
            for start in range(0, len(mine), at_once):
                where, code = np.divmod(mine[start : start + at_once], per_site)
                codes = self.codes[code][:, None]
                on = block[where] >= codes if self.at_least else block[where] == codes
                on = np.concatenate([left, on]) if len(left) else on
                whole = len(on) // 8 * 8
                bits[:, n_done // 8 : (n_done + whole) // 8] = _turned(on[:whole])
                left, n_done = on[whole:], n_done + whole
            site += len(block)
        if site != stop:
            raise DataError(f"{self.name} was changed while it was read; leave it as it is until the run has ended")
        if len(left):
            bits[:, n_done // 8 :] = _turned(left)


def _turned(on: Array) -> Array:
    """Rows of bits (n_samples, units / 8 rounded up) of states (units, n_samples)."""
    n_units, n_samples = on.shape
    octets = np.zeros((n_units, -(-n_samples // 64) * 8), np.uint8)
    octets[:, : width(n_samples)] = np.packbits(on, axis=1, bitorder="little")
    bits = np.empty((n_samples, width(n_units)), np.uint8)
    spread_bits(octets.view(np.uint64), bits)
    return bits


def _ascends(unit_ids: IntArray) -> bool:
    return bool(np.all(np.diff(unit_ids) > 0))
