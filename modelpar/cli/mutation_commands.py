"""The command that scores mutations, and its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelpar.cli import config as configuration
from modelpar.cli.options import LAST, PATH, GroupedCommand, given, prepare, spec_options
from modelpar.cli.sample_commands import ALPHABET

if TYPE_CHECKING:
    from mpi4py import MPI


@click.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@click.option("--wild-type", type=PATH, required=True, metavar="FILE",
              help="FASTA or A3M file whose first sequence, as long as the alignment of training, is the wild "
              "type")  # fmt: skip
@click.option("--out", type=PATH, required=True, metavar="FILE", help="table of the variants (.csv)")
@ALPHABET
@spec_options("grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@LAST
@click.pass_obj
def mutations(
    comm: MPI.Comm, checkpoint: str, config: str | None, wild_type: str, out: str, alphabet: str | None, last: bool,
    **values: Any,
) -> None:  # fmt: skip
    """Score every variant of a sequence that differs at one site, by its free energy less that of the sequence.

    The table has the columns site (from 1), from, to and delta; a delta above 0 is a variant that the model finds less
    probable, by so many nats.
    """
    if not out.endswith(".csv"):
        raise click.UsageError(f"--out {out} has an ending that is not known; use .csv")
    settings = configuration.gather(comm, given(values), config)
    prepare(comm, settings.run.threads)
    from modelpar.cli.mutations import mutations as work

    work(comm, settings, checkpoint, wild_type=wild_type, out=out, alphabet=alphabet, last=last)
