"""The command that makes a page of a run, and its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelpar.cli.options import PATH, GroupedCommand, prepare
from modelpar.files.paths import absolute

if TYPE_CHECKING:
    from mpi4py import MPI


@click.command(cls=GroupedCommand)
@click.argument("runs", type=PATH, metavar="RUN_DIR [RUN_DIR]", nargs=-1, required=True)
@click.option("--out", type=PATH, metavar="FILE", default=None, help="the page (.html)  [default: report.html]")
@click.option("--tensorboard", type=PATH, metavar="DIR", default=None,
              help="write the records as event files of TensorBoard too, into a folder of the run in DIR")  # fmt: skip
@click.pass_obj
def report(comm: MPI.Comm, runs: tuple[str, ...], out: str | None, tensorboard: str | None) -> None:
    """One page that shows a run, or two runs side by side; one rank is enough.

    Curves, pictures, weights, time, bytes, memory, options and environment, in one file of HTML that stands alone. The
    run may be going on: the page has what there is so far, and the run does not notice.
    """
    out = out or absolute("report.html")
    if len(runs) > 2:
        raise click.UsageError(f"{len(runs)} runs were given, but a page shows one run, or two side by side")
    if not out.endswith((".html", ".htm")):
        raise click.UsageError(f"--out {out} has an ending that is not known; use .html")
    prepare(comm, 1)
    from modelpar.cli.report.command import report as work

    work(comm, runs, out=out, tensorboard=tensorboard)
