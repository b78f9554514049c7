"""``modelpar data``: what a data file holds, how it would be read, and the packed file that is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar.cli.config import Settings
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.progress import size_text, summary_table
from modelpar.cli.terminal import make_console
from modelpar.data.data_means import states_taken_for_grey
from modelpar.data.dataset import Source, Split, Table
from modelpar.data.description import Values, describe, look_at
from modelpar.data.opening import open_whole
from modelpar.data.packed import packed_rows
from modelpar.data.packed_files import PackedTable, write_packed
from modelpar.errors import SpecError, together
from modelpar.files.paths import in_one_line, split_inner

_MOST_LETTERS = 30  # that are shown to people


def report(
    comm: MPI.Comm, settings: Settings, data: str, *, visible: str, n_shards: int, out: str | None, as_json: bool
) -> None:
    """Print it, and write the packed file.  Rank 0 reads.  Collective.

    Raises DataError and SpecError, on every rank; nothing is written then.
    """
    spec = replace(settings.data, data=data)
    if spec.binarise == "stochastic":
        raise SpecError("--binarise stochastic draws states anew in training; a threshold such as 0.5 makes them here")
    check_outputs(comm, settings, {"--out": out}, more=(("the data", split_inner(data)[0]),))
    with together(comm):
        if comm.rank == 0:
            source = open_whole(spec, visible)
            if out is not None and source.missing is not None:
                raise SpecError(
                    "--out writes states without a mask of those that are missing; use --missing most-frequent, or "
                    "leave --out away and give --missing sample to train"
                )
            values = look_at(source.table)
            found = describe(source, values, level=spec.threshold, n_shards=n_shards)
            if out is not None:
                _write(out, source, values, spec.threshold)
            found["out"] = out
            name = in_one_line(source.table.name)
            found["warning"] = (
                states_taken_for_grey(name, source.scale, values.high, given=spec.scale is not None) or None
            )
            if as_json:
                print(json.dumps(_plain(found), indent=1), flush=True)
            else:
                warning, console = found.pop("warning"), make_console()
                console.print(summary_table(_shown(found), name))
                if warning:  # which ``train`` refuses
                    console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def _write(out: str, source: Source, values: Values, level: float | None) -> None:
    """The packed file.  Raises SpecError where there are no states, DataError where it cannot be written."""
    table: Table = source.table
    rows = np.arange(table.n_samples)
    if level is not None:
        columns = table.columns(np.arange(table.n_units))
        bits = packed_rows(columns, rows, scale=np.full(table.n_units, source.scale), level=level)
        assert bits is not None  # a threshold makes states of any values
        original = getattr(table, "path", None) or table.name
        table = PackedTable(str(original), table.n_samples, table.n_units, lambda: (bits, None))
    elif not values.are_states:
        raise SpecError(
            f"--out writes states, but {table.name} has values from {values.low:g} to {values.high:g}, not only 0 and "
            "one other; make states of them by --binarise 0.5"
        )
    write_packed(
        out, Split(table, rows), source.labels, source.image_shape, visible=source.visible, alphabet=source.alphabet,
        weights=source.weights,
    )  # fmt: skip


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Numbers that JSON does not have are null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()
    }


def _shown(found: dict[str, Any]) -> dict[str, object]:
    """For people, without what there is not."""
    shown: dict[str, object] = {}
    for name, value in found.items():
        if value is None or name in ("path", "model_shards"):
            continue
        words = name.replace("_", " ")
        if name == "letters":
            shown[words] = _letters(value)
        elif name == "bytes_of_rank":
            shown[f"memory of a rank, {found['model_shards']} model shard(s)"] = size_text(value)
        elif name == "mask_bytes_of_rank":
            shown["memory for what is missing"] = size_text(value)
        elif name == "not_zero":
            shown[words] = f"{value:.2%}"
        elif isinstance(value, float):
            shown[words] = f"{value:g}"
        else:
            shown[words] = " x ".join(map(str, value)) if isinstance(value, list) else value
    return shown


def _letters(counts: dict[str, int]) -> str:
    total = max(1, sum(counts.values()))
    some: Iterable[tuple[str, int]] = list(counts.items())[:_MOST_LETTERS]
    return " ".join(f"{letter} {n / total:.1%}" for letter, n in some) + (" ..." if len(counts) > _MOST_LETTERS else "")
