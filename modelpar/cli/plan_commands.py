"""The command ``plan`` and its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelpar.cli import config as configuration
from modelpar.cli.options import COUNT, JSON, PATH, GroupedCommand, PathType, given, prepare, spec_options

if TYPE_CHECKING:
    from mpi4py import MPI


@click.command(cls=GroupedCommand)
@click.argument("source", type=PATH, metavar="[CONFIG]", required=False)
@spec_options("network", "training", "finetune", "data", "grid", "sync", "run")
@click.option("--machine", type=PathType("machine"), default="here", show_default=True, metavar="NAME_OR_FILE",
              help="here: this one, measured once in about 14 seconds; ethernet-10g, infiniband-200g, or a TOML file "
              "that describes one")  # fmt: skip
@click.option("--ranks", type=COUNT, default=None, metavar="N",
              help="ranks of the job  [default: those that were started; of one, as many as there are "
              "cores]")  # fmt: skip
@click.option("--nodes", type=COUNT, default=None, metavar="N",
              help="nodes of the job  [default: those of the machine]")  # fmt: skip
@click.option("--recalibrate", is_flag=True, help="measure this machine again")
@click.option("--check", is_flag=True, help="measure updates of many networks here, beside what is predicted of them")
@JSON
@click.pass_obj
def plan(
    comm: MPI.Comm, source: str | None, config: str | None, machine: str, ranks: int | None, nodes: int | None,
    recalibrate: bool, check: bool, as_json: bool, **values: Any,
) -> None:  # fmt: skip
    """Predict the time and memory of a training at every grid, before it is started.

    The training is that of a TOML file (as for train --config), or of the options, which are those of train.
    """
    if source is not None and config is not None:
        raise click.UsageError(f"{source} and --config {config} are both configurations; give one")
    if check and machine != "here":
        raise click.UsageError(f"--check measures this machine, but --machine is {machine}; leave one of them out")
    settings = configuration.gather(comm, given(values), source or config)
    placement = prepare(comm, settings.run.threads, settings.run.bind)
    from modelpar.cli import plan as work

    if check:
        work.check_predictions(comm, placement, recalibrate=recalibrate, as_json=as_json)
        return
    work.plan(
        comm, settings, placement, machine=machine, ranks=ranks, nodes=nodes, recalibrate=recalibrate, as_json=as_json
    )
