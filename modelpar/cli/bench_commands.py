"""The commands of ``modelpar bench`` and their options; ``bench`` does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from modelpar.cli import config as configuration
from modelpar.cli.options import COUNT, JSON, PATH, GroupedCommand, given, help_without_command, spec_options
from modelpar.spec import TrainingSpec

if TYPE_CHECKING:
    from mpi4py import MPI


@click.group(invoke_without_command=True)
@click.pass_context
def bench(context: click.Context) -> None:
    """Measure this machine."""
    help_without_command(context)


def _measurements(repeats: int, seconds: float, sizes: str) -> Callable[[Any], Any]:
    """The options that all benchmarks share, with their defaults."""
    options = (
        click.option("--sizes", metavar="BxVxH,...", default=None,
                     help=f"batch x visible units x hidden units, separated by commas  [default: {sizes}]"),
        click.option("--repeats", type=COUNT, default=repeats, show_default=True, metavar="N",
                     help="measurements, of which the median counts"),
        click.option("--seconds", type=click.FloatRange(0, 3600, min_open=True), default=seconds, show_default=True,
                     metavar="X", help="least time of one measurement"),
        JSON,
    )  # fmt: skip

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PICTURE = click.option(
    "--picture", type=PATH, metavar="FILE.png", default=None, help="also draw the rates over SGEMM's"
)


@bench.command(cls=GroupedCommand)
@spec_options("run.threads", "run.bind", "grid", "network.dtype", "network.layout",
              without=("grid.servers", "grid.shape", "grid.partitioner", "grid.partition"))  # fmt: skip
@_measurements(5, 0.5, "five from 100x784x500 to 512x8192x8192")
@click.option("--statistics", metavar="K|float|all", default=None,
              help="1 to 8 bits, float, or several separated by commas; all for 1,3,float"
              f"  [default: {TrainingSpec.statistics}]")  # fmt: skip
@click.option("--profile", is_flag=True, help="show where the time of a step goes")
@click.option("--peer", "peers", metavar="NAME", multiple=True,
              help="run the same step in numpy, torch, sklearn or all of them too, where these are installed;"
              " may be repeated")  # fmt: skip
@PICTURE
@click.pass_obj
def cd1(comm: MPI.Comm, config: str | None, **values: Any) -> None:
    """Updates by CD-1 and products of dense matrices of the same sizes (SGEMM), measured in turn."""
    _bench(comm, "cd1", config, values)


@bench.command(cls=GroupedCommand)
@spec_options("run.threads", "run.bind", "grid", "network.layout",
              without=("grid.servers", "grid.shape", "grid.partitioner", "grid.partition"))  # fmt: skip
@_measurements(3, 1.0, "2000x784x500")
@click.option("--chains", type=COUNT, default=2000, show_default=True, metavar="N", help="persistent chains")
@click.option("--chain-steps", type=click.IntRange(1, 30000), default=100, show_default=True, metavar="K",
              help="sweeps of the chains for each update")  # fmt: skip
@click.option("--statistics", metavar="K|float", default=None,
              help=f"1 to 8 bits, or float  [default: {TrainingSpec.statistics}]")  # fmt: skip
@click.option("--centred/--no-centred", default=True, show_default=True, help="the centred gradient")
@click.option("--categories", type=click.IntRange(0, 1024), default=0, metavar="Q",
              help="categorical visible units, in sites of Q each  [default: Bernoulli units]")  # fmt: skip
@click.option("--peer", "peers", metavar="NAME", multiple=True,
              help="run the same updates in rbms, torch, numpy or all of them too, where these are installed;"
              " may be repeated")  # fmt: skip
@click.pass_obj
def pcd(comm: MPI.Comm, config: str | None, **values: Any) -> None:
    """Updates by persistent chains of many sweeps (PCD-k), and products of dense matrices (SGEMM), in turn."""
    _bench(comm, "pcd", config, values)


@bench.command(cls=GroupedCommand)
@spec_options("run.threads", "run.bind", "grid", "network.layers", "network.classes", "network.layout",
              without=("grid.servers", "grid.shape", "grid.partitioner", "grid.partition"))  # fmt: skip
@click.option("--batches", metavar="N,...", default="100,1000", show_default=True, help="samples of a minibatch")
@click.option("--repeats", type=COUNT, default=5, show_default=True, metavar="N",
              help="measurements, of which the median counts")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, 3600, min_open=True), default=0.5, show_default=True, metavar="X",
              help="least time of one measurement")  # fmt: skip
@click.option("--peer", "peers", metavar="NAME", multiple=True,
              help="run the same updates in torch (or all) too, eager and with products in bfloat16, where it is "
              "installed")  # fmt: skip
@JSON
@click.pass_obj
def finetune(comm: MPI.Comm, config: str | None, **values: Any) -> None:
    """Updates of fine-tuning, with products in full and in bfloat16, beside SGEMM: default: 784-500-500-2000-10."""
    _bench(comm, "finetune", config, values)


@bench.command(cls=GroupedCommand)
@spec_options("run.threads", "run.bind")
@_measurements(3, 0.02, "100x784x500,256x784x4096")
@click.option("--calibrate", is_flag=True, help="measure the rates by which kernels are chosen again, and save them")
@PICTURE
@click.pass_obj
def kernels(comm: MPI.Comm, config: str | None, **values: Any) -> None:
    """Each kernel on packed states beside SGEMM, with one thread and with all, by density of the states."""
    _bench(comm, "kernels", config, values)


@bench.command(cls=GroupedCommand)
@spec_options("run.threads", "run.bind", "grid", "network.layers", "network.connections", "network.visible_grid",
              "network.halo", without=("grid.servers", "grid.shape", "grid.partitioner", "grid.partition"))  # fmt: skip
@click.option("--batch", type=COUNT, default=256, show_default=True, metavar="N", help="samples of a minibatch")
@click.option(
    "--partitioners",
    metavar="NAME,...",
    default=None,
    help="methods that place units, compared where several are given",
)
@click.option("--statistics", metavar="K|float", default=None, help="1 to 8 bits, or float  [default: "
              f"{TrainingSpec.statistics}]")  # fmt: skip
@click.option("--peers/--no-peers", default=None, help="on one rank, measure scipy.sparse and SGEMM too")
@click.option("--repeats", type=COUNT, default=5, show_default=True, metavar="N",
              help="measurements, of which the median counts")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, 3600, min_open=True), default=0.5, show_default=True, metavar="X",
              help="least time of one measurement")  # fmt: skip
@JSON
@click.pass_obj
def sparse(comm: MPI.Comm, config: str | None, **values: Any) -> None:
    """Updates by CD-1 of an RBM whose connections are listed: default: 128x128 -> 4 maps by fields of 9x9."""
    _bench(comm, "sparse", config, values)


@bench.command(cls=GroupedCommand)
@spec_options(
    "run.threads", "run.bind", "grid", without=("grid.servers", "grid.shape", "grid.partitioner", "grid.partition")
)
@_measurements(5, 0.05, "100x784x500,256x784x4096,256x4096x4096")
@click.pass_obj
def exchange(comm: MPI.Comm, config: str | None, **values: Any) -> None:
    """Traffic between model shards: bits against floats, and the bytes of a step in every layout."""
    _bench(comm, "exchange", config, values)


def _bench(comm: MPI.Comm, name: str, config: str | None, values: dict[str, Any]) -> None:
    settings = configuration.gather(comm, given(values), config)
    from modelpar.cli.threads import prepare

    placement = prepare(comm, settings.run.threads, settings.run.bind, clear_core_type=True)
    from modelpar.cli import bench as work

    asked = {key: value for key, value in values.items() if "__" not in key}
    getattr(work, name)(comm, settings, placement, **asked)
