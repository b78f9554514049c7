"""``modelpar data`` and its options; ``data_report`` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelpar.cli import config as configuration
from modelpar.cli.options import COUNT, JSON, PATH, GroupedCommand, PathType, given, prepare, spec_options

if TYPE_CHECKING:
    from mpi4py import MPI


@click.command(cls=GroupedCommand)
@click.argument("source", type=PathType("data"), metavar="FILE_OR_NAME")
@spec_options("data.alphabet", "data.missing", "data.labels", "data.scale", "data.binarise")
@click.option("--visible", metavar="KIND", default="",
              help="the kind of visible units that the data are for, as for train; integers are states of "
              "categorical:Q")  # fmt: skip
@click.option("--model-shards", type=COUNT, default=1, show_default=True, metavar="N",
              help="ranks that hold one model together: of how much memory one of them needs")  # fmt: skip
@click.option("--out", type=PATH, metavar="FILE.npz", default=None, help="write the states there, packed")
@JSON
@click.pass_obj
def data(
    comm: MPI.Comm, source: str, config: str | None, visible: str, model_shards: int, out: str | None, as_json: bool,
    **values: Any,
) -> None:  # fmt: skip
    """What a data file holds, how it would be read, and how much memory a rank needs; one rank is enough.

    With --out, states are written to a packed file, which train --data opens at once: an eighth of a byte a value,
    with the kind of units that they are for.
    """
    if out is not None and not out.endswith(".npz"):
        raise click.UsageError(f"--out {out} has an ending that is not known; use .npz")
    settings = configuration.gather(comm, given(values), config)
    prepare(comm, 1)
    from modelpar.cli.data_report import report

    report(comm, settings, source, visible=visible, n_shards=model_shards, out=out, as_json=as_json)
