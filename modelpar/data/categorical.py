"""Samples of categorical units: arrays of states of sites as one-hot bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import LoadedTable, MappedTable, Source, Table, check_shape
from modelpar.data.missing import site_tables, with_mask
from modelpar.data.one_hot import SiteTable, rows_at_once
from modelpar.data.packed_files import PackedTable
from modelpar.data.read_options import FILLED
from modelpar.data.reading import RowTable, rows_of
from modelpar.errors import DataError

Array = npt.NDArray[Any]


def as_categorical(source: Source, n_states: int, missing: str = "auto") -> Source:
    """The samples as one-hot bits of sites of ``n_states`` states, of a source that does not say so itself.

    Integers (n, sites) of any type, in a dense array, are states from 0 to ``n_states`` - 1, or -1 where a state is
    missing and ``missing`` says what becomes of it.  Whatever else there is
    (bool, floats, sparse matrices, packed bits) is one-hot already.  Raises DataError where its units are not whole
    sites; integers that are no states are found when they are read.
    """
    if source.visible:
        return source
    table, visible = source.table, f"categorical:{n_states}"
    test = None if source.test is None else as_categorical(source.test, n_states, missing)
    dtype = _dtype_of(table)
    if dtype is None or dtype.kind not in "ui":
        if table.n_units % n_states:
            raise DataError(
                f"{table.name} has {table.n_units} units, which are not whole sites of {n_states} states; give states "
                "one-hot, site after site, or as integers"
            )
        scale = source.scale if isinstance(table, PackedTable) else 1.0
        return replace(source, scale=scale, image_shape=None, visible=visible, test=test)
    n_samples, n_sites = table.n_samples, table.n_units
    check_shape((n_samples, n_sites * n_states), table.name)
    path = getattr(table, "path", None)
    plain = replace(source, scale=1.0, image_shape=None, visible=visible, how=visible, test=test)
    if missing not in FILLED or dtype.kind == "u":
        sites = SiteTable(table.name, n_samples, n_sites, n_states, lambda: _states(table, n_states), path)
        return replace(plain, table=sites)
    values, mask, n_missing = site_tables(
        table.name, n_samples, n_sites, n_states, lambda: _states(table, n_states, or_unknown=True),
        np.iinfo(_dtype_of_states(n_states)).max, path,
    )  # fmt: skip
    return with_mask(replace(plain, table=values), mask, n_missing, missing)


def _dtype_of(table: Table) -> np.dtype[Any] | None:
    """Of the values as they came; None where the table is sparse, or of another kind."""
    if isinstance(table, MappedTable):
        return np.dtype(np.bool_) if table.was_bool else table.array.dtype
    if isinstance(table, RowTable):
        return table.dtype
    if isinstance(table, LoadedTable):
        return table.given
    return None


def _dtype_of_states(n_states: int) -> type[np.uint8 | np.uint32]:
    return np.uint8 if n_states < 256 else np.uint32


def _states(table: Table, n_states: int, *, or_unknown: bool = False) -> Iterator[Array]:
    """Blocks (n, n_sites) of states, as few bytes as they need.  Raises DataError for integers that are none.

    or_unknown   -1 is none that is known, and becomes the largest integer
    """
    dtype, first, least = _dtype_of_states(n_states), 0, -1 if or_unknown else 0
    for block in rows_of(table, rows_at_once(table.n_units * n_states)):
        wrong = (block < least) | (block >= n_states)
        if wrong.any():
            sample, site = np.argwhere(wrong)[0]
            raise DataError(
                f"{table.name} has the state {int(block[sample, site])} (sample {first + int(sample)}, site {int(site)}"
                f"), but categorical:{n_states} has states from 0 to {n_states - 1}"
            )
        yield block.astype(dtype)
        first += len(block)
