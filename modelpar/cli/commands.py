"""The commands and their options: each chooses the threads, then loads the module that does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelpar import __version__
from modelpar.cli import config as configuration
from modelpar.cli.bench_commands import bench
from modelpar.cli.data_commands import data
from modelpar.cli.mutation_commands import mutations
from modelpar.cli.options import (
    COUNT,
    JSON,
    LAST,
    PATH,
    GroupedCommand,
    given,
    help_without_command,
    prepare,
    spec_options,
)
from modelpar.cli.plan_commands import plan
from modelpar.cli.report_commands import report
from modelpar.cli.sample_commands import reconstruct, sample
from modelpar.files.paths import absolute

if TYPE_CHECKING:
    from mpi4py import MPI


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="modelpar")
@click.pass_context
def modelpar(context: click.Context) -> None:
    """Train deep belief networks whose weights are split over the ranks of MPI.

    Start on several ranks with, for example:  mpirun -n 4 modelpar train --model-shards 2 --replicas 2
    """
    help_without_command(context)


@modelpar.command(cls=GroupedCommand)
@spec_options("network", "training", "finetune", "data", "grid", "sync", "run")
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint of --run-dir, at this or another grid")
@click.option("--overwrite", is_flag=True, help="replace the run that --run-dir holds")
@click.option("--accept-other-data", is_flag=True,
              help="with --resume: go on with other data than the run was started with")  # fmt: skip
@click.option("--max-restarts", type=click.IntRange(0), default=None, metavar="N",
              help="with --resume, for loops: start the run where there is none yet, and refuse to resume it more "
              "than N times")  # fmt: skip
@click.pass_obj
def train(
    comm: MPI.Comm, config: str | None, resume: bool, overwrite: bool, accept_other_data: bool,
    max_restarts: int | None, **values: Any,
) -> None:  # fmt: skip
    """Pre-train a network layer by layer, then fine-tune it where there are labels."""
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other: one keeps the run, the other replaces it")
    if max_restarts is not None and not resume:
        raise click.UsageError("--max-restarts counts how often a run is resumed; give --resume with it")
    if values["run__verify"] is False and not resume:
        raise click.UsageError("--no-verify is for the checkpoint of a run that is resumed; give --resume with it")
    if accept_other_data and not resume:
        raise click.UsageError("--accept-other-data is for a run that is resumed; give --resume with it")
    mine = given(values)
    settings = configuration.gather(comm, mine, config, resume=resume)
    placement = prepare(comm, settings.run.threads, settings.run.bind)
    from modelpar.cli.train import train as work

    work(
        comm, settings, placement, resume=resume, overwrite=overwrite, max_restarts=max_restarts,
        accept_other_data=accept_other_data,
    )  # fmt: skip


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("data", "grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@click.option("--split", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True,
              help="which samples of the data")  # fmt: skip
@JSON
@click.pass_obj
def evaluate(comm: MPI.Comm, checkpoint: str, config: str | None, split: str, as_json: bool, **values: Any) -> None:
    """Accuracy, cross-entropy, reconstruction error and pseudo-likelihood on a test set."""
    settings = configuration.gather(comm, given(values), config, beside=checkpoint)
    prepare(comm, settings.run.threads)
    from modelpar.cli.evaluate import evaluate as work

    work(comm, settings, checkpoint, split, as_json=as_json)


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("data", "grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@click.option("--split", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True,
              help="which samples of the data")  # fmt: skip
@click.option("--method", type=click.Choice(["auto", "exact", "ais", "reverse-ais", "trajectory"]), default="auto",
              show_default=True, help="exact by enumeration (one side of at most 25 units), annealed importance "
              "sampling (an optimistic value), the same from the data backwards (a pessimistic one); auto: exact up "
              "to 20 units, else both directions; trajectory: both directions through the models that train "
              "--keep-trajectory has kept")  # fmt: skip
@click.option("--chains", type=click.IntRange(2), default=100, show_default=True, metavar="N",
              help="chains of each direction")  # fmt: skip
@click.option("--temperatures", type=click.IntRange(2), default=10000, show_default=True, metavar="N",
              help="inverse temperatures that each chain goes through, or points of the trajectory")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**30), default=0, show_default=True, metavar="N",
              help="seed of the draws")  # fmt: skip
@LAST
@JSON
@click.pass_obj
def score(
    comm: MPI.Comm, checkpoint: str, config: str | None, split: str, method: str, chains: int, temperatures: int,
    seed: int, last: bool, as_json: bool, **values: Any,
) -> None:  # fmt: skip
    """Log-likelihood of data in nats a sample, with its interval; of a stack, the variational lower bound."""
    settings = configuration.gather(comm, given(values), config, beside=checkpoint)
    prepare(comm, settings.run.threads)
    from modelpar.cli.score import score as work

    work(
        comm, settings, checkpoint, split, method=method, n_chains=chains, n_betas=temperatures, seed=seed, last=last,
        as_json=as_json,
    )  # fmt: skip


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("data", "grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@click.option("--split", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True,
              help="which samples of the data")  # fmt: skip
@click.option("--chains", type=click.IntRange(2), default=500, show_default=True, metavar="N",
              help="chains of each start, at random and at the data")  # fmt: skip
@click.option("--sweeps", type=click.IntRange(2), default=1000, show_default=True, metavar="N",
              help="sweeps of Gibbs sampling that chains make, and again for their autocorrelation")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**30), default=0, show_default=True, metavar="N",
              help="seed of the draws")  # fmt: skip
@LAST
@click.option("--three-body", is_flag=True, help="compare correlations of triples of units too")
@click.option("--out", type=PATH, metavar="FILE", default=None, help="the page (.png)  [default: diagnosis.png]")
@JSON
@click.pass_obj
def diagnose(
    comm: MPI.Comm, checkpoint: str, config: str | None, split: str, chains: int, sweeps: int, seed: int, last: bool,
    three_body: bool, out: str | None, as_json: bool, **values: Any,
) -> None:  # fmt: skip
    """How good a generative model is, and whether its chains mix: measures, and a page of pictures."""
    out = out or absolute("diagnosis.png")
    if not out.endswith(".png"):
        raise click.UsageError(f"--out {out} has an ending that is not known; use .png")
    settings = configuration.gather(comm, given(values), config, beside=checkpoint)
    prepare(comm, settings.run.threads)
    from modelpar.cli.diagnose import diagnosis as work

    work(
        comm, settings, checkpoint, split, n_chains=chains, n_sweeps=sweeps, seed=seed, last=last,
        three_body=three_body, out=out, as_json=as_json,
    )  # fmt: skip


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@click.argument("out", type=PATH, metavar="OUT")
@spec_options("grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@click.option("--to-rbms", is_flag=True, help="write a file of the package rbms, as the ending .h5 does")
@click.option("--rbm", type=click.IntRange(0), default=None, metavar="I",
              help="for rbms: which RBM of a stack, from 0")  # fmt: skip
@LAST
@click.pass_obj
def export(
    comm: MPI.Comm, checkpoint: str, out: str, config: str | None, to_rbms: bool, rbm: int | None, last: bool,
    **values: Any,
) -> None:  # fmt: skip
    """Write the parameters for other programs.

    OUT.npz holds W0, b0, c0, W1, ... as plain arrays; OUT.safetensors is the state dict of a PyTorch nn.Sequential of
    Linear and Sigmoid layers, whose last Linear is the output layer; OUT.h5 is one RBM with its chains, as the package
    rbms keeps it.
    """
    to_rbms = to_rbms or out.endswith(".h5")
    if not to_rbms and not out.endswith((".npz", ".safetensors")):
        raise click.UsageError(f"{out} has an ending that is not known; use .npz, .safetensors or .h5")
    if to_rbms and out.endswith((".npz", ".safetensors")):
        raise click.UsageError(f"--to-rbms writes HDF5, but {out} has another ending; use .h5")
    if rbm is not None and not to_rbms:
        raise click.UsageError(f"--rbm {rbm} has no effect on {out}, which holds all RBMs; leave it out, or use .h5")
    settings = configuration.gather(comm, given(values), config)
    prepare(comm, settings.run.threads)
    if to_rbms:
        from modelpar.cli.rbms_export import export_rbms

        return export_rbms(comm, settings, checkpoint, out, index=rbm, last=last)
    from modelpar.cli.export import export as work

    work(comm, settings, checkpoint, out, last=last)


@modelpar.command("import", cls=GroupedCommand)
@click.argument("file", type=PATH, metavar="FILE.h5")
@click.argument("out", type=PATH, metavar="OUT_RUN_DIR_OR_CHECKPOINT")
@spec_options(
    "data.data", "data.binarise", "grid", "run.threads", "network.layout", without=("grid.servers", "grid.shape")
)
@click.option("--update", type=click.IntRange(0), default=None, metavar="N",
              help="the model after so many updates  [default: the last]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="replace the run that OUT_RUN_DIR holds")
@click.pass_obj
def import_(
    comm: MPI.Comm, file: str, out: str, config: str | None, update: int | None, overwrite: bool, **values: Any
) -> None:
    """Make a run directory, or a checkpoint (.safetensors), of a file of the package rbms.

    modelpar train --resume --run-dir OUT_RUN_DIR --data ... --epochs N goes on with its chains; what it had so far
    counts as one epoch. --data and --binarise are kept as those of the run.
    """
    settings = configuration.gather(comm, given(values), config)
    prepare(comm, settings.run.threads)
    from modelpar.cli.rbms_import import import_rbms as work

    work(comm, settings, file, out, update=update, overwrite=overwrite)


@modelpar.command(cls=GroupedCommand)
@click.argument("source", type=PATH, metavar="[CONFIG_OR_CHECKPOINT_OR_RUN_DIR]", required=False)
@spec_options("network.layers", "network.connections", "network.visible_grid", "network.seed")
@click.option("--parts", type=COUNT, required=True, metavar="N", help="model shards to place units on")
@click.option("--method", default="auto", show_default=True, metavar="NAME",
              help="of partitioners; an unknown name lists them all")  # fmt: skip
@click.option("--budget", type=float, default=None, metavar="SECONDS",
              help="for the search of auto and fastest  [default: by the size of the network]")  # fmt: skip
@click.option("--out", type=PATH, default="placement.npz", show_default=True, metavar="FILE",
              help="for train --partition")  # fmt: skip
@JSON
@click.pass_obj
def partition(
    comm: MPI.Comm, source: str | None, config: str | None, parts: int, method: str, budget: float | None, out: str,
    as_json: bool, **values: Any,
) -> None:  # fmt: skip
    """Decide which shard owns which unit of a network, and write it to a file.

    The network is that of a TOML file (as for train --config), of a checkpoint or run directory, or of the options.
    """
    if source is not None and source.endswith(".toml"):
        if config is not None:
            raise click.UsageError(f"{source} and --config {config} are both configurations; give one")
        source, config = None, source
    if source is not None:
        of_network = {"--config": config} | {
            f"--{name.replace('_', '-')}": values[f"network__{name}"]
            for name in ("layers", "connections", "visible_grid")
        }
        for flag, value in of_network.items():
            if value is not None:
                raise click.UsageError(
                    f"{flag} has no effect beside {source}, which has a network; leave one of them out"
                )
    settings = configuration.gather(comm, given(values), config)
    prepare(comm, 1)
    from modelpar.cli.partition import partition as work

    work(comm, settings, source, parts=parts, method=method, out=out, as_json=as_json, budget=budget)


@modelpar.command(cls=GroupedCommand)
@click.option("--networks", default="local28,smallworld", show_default=True, metavar="NAME,...",
              help="as for python -m partitioners compare; all for every one")  # fmt: skip
@click.option("--methods", default="block,strided,random,tiles,auto", show_default=True, metavar="NAME,...",
              help="partitioners")  # fmt: skip
@click.option("--parts", default=None, metavar="N,...", help="model shards  [default: 2 to the number of ranks]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="of the partitioners")
@click.option("--batch", type=COUNT, default=256, show_default=True, metavar="N", help="samples of a minibatch")
@click.option("--budget", type=float, default=None, metavar="SECONDS",
              help="for each search of auto and fastest  [default: by the size of the network]")  # fmt: skip
@click.option("--json", "json_file", type=PATH, default=None, metavar="FILE", help="write all results there")
@click.option("--html", "html_file", type=PATH, default=None, metavar="FILE", help="write a page with pictures there")
@click.pass_obj
def compare(comm: MPI.Comm, **values: Any) -> None:
    """Partitioners on networks: quality, seconds, and the bytes and step times that the engine measures.

    Start it on as many ranks as there are to be parts, as in  mpirun -n 4 modelpar compare
    """
    prepare(comm, 1)
    from modelpar.cli.compare import compare as work

    work(comm, **values)


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@click.argument("out", type=PATH, metavar="OUT_RUN_DIR")
@spec_options("grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@click.option(
    "--keep", type=float, required=True, metavar="X", help="fraction of each RBM's weights to keep, the largest"
)
@click.option("--overwrite", is_flag=True, help="replace the run that OUT_RUN_DIR holds")
@click.pass_obj
def prune(
    comm: MPI.Comm, checkpoint: str, out: str, config: str | None, keep: float, overwrite: bool, **values: Any
) -> None:
    """Keep the largest weights of a trained network, compressed.

    Writes a run directory: modelpar train --resume --run-dir OUT_RUN_DIR fine-tunes what is left.
    """
    settings = configuration.gather(comm, given(values), config)
    prepare(comm, settings.run.threads)
    from modelpar.cli.prune import prune as work

    work(comm, settings, checkpoint, out, keep=keep, overwrite=overwrite)


@modelpar.command(cls=GroupedCommand)
@click.argument("run_a", type=PATH, metavar="RUN_A")
@click.argument("run_b", type=PATH, metavar="RUN_B")
@JSON
@click.pass_obj
def diff(comm: MPI.Comm, run_a: str, run_b: str, as_json: bool) -> None:
    """The first difference of two runs, and the size of the differences.

    Compares the digests of every update (train --exact or train --digests records them), the configurations, and the
    checkpoints that both have. RUN_A and RUN_B are run directories, or two checkpoint files. The exit status is 0
    where nothing differs, 1 where something does, and 2 where they cannot be compared.
    """
    prepare(comm, 1)
    from modelpar.cli.diff import diff as work

    click.get_current_context().exit(work(comm, run_a, run_b, as_json=as_json))


@modelpar.command(cls=GroupedCommand)
@click.argument("path", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@JSON
@click.pass_obj
def verify(comm: MPI.Comm, path: str, as_json: bool) -> None:
    """Whether a checkpoint, or all files of a run, are whole and healthy; one rank is enough.

    Checks checksums, structure, values, versions, and what a training has noted of the health of its network. The exit
    status is 0 where all is whole and healthy, 1 where something is damaged or unhealthy, and 2 where it cannot be
    read.
    """
    prepare(comm, 1)
    from modelpar.cli.verify import verify as work

    click.get_current_context().exit(work(comm, path, as_json=as_json))


@modelpar.command(cls=GroupedCommand)
@spec_options("run.threads", "run.bind")
@click.option("--ranks", is_flag=True, help="a line for every node of the job, and in what the nodes differ")
@JSON
@click.pass_obj
def info(comm: MPI.Comm, config: str | None, ranks: bool, as_json: bool, **values: Any) -> None:
    """Versions, MPI, BLAS, instruction set, ranks, threads, environment variables, and what does not fit together."""
    settings = configuration.gather(comm, given(values), config)
    from modelpar.cli.info import given_environment

    environment = given_environment()  # before the threads are set in it
    placement = prepare(comm, settings.run.threads, settings.run.bind)
    if ranks:
        from modelpar.cli.info_ranks import show as show_ranks

        show_ranks(comm, placement, environment, as_json=as_json)
        return
    from modelpar.cli.info import show

    show(comm, placement, environment, as_json=as_json)


@modelpar.command(cls=GroupedCommand)
@click.option("--minutes", type=click.FloatRange(0), required=True, metavar="M",
              help="how long: no round begins later, and one is always played")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, metavar="N",
              help="of the moments, grids and settings")  # fmt: skip
@JSON
@click.pass_obj
def soak(comm: MPI.Comm, minutes: float, seed: int, as_json: bool) -> None:
    """Train, kill, resume at other grids, and compare with the uninterrupted run, over and over.

    Small exact trainings on digits; the whole job is killed at random moments, and resumed at other grids, layouts and
    settings of MPI. In between, this process opens, trains, saves, loads and closes. The exit status is 0 where every
    run ended in the same bytes and nothing was left or has grown, and 1 where not.
    """
    prepare(comm, 1)
    from modelpar.cli.soak import soak as work

    click.get_current_context().exit(work(comm, minutes=minutes, seed=seed, as_json=as_json))


for command in (bench, data, mutations, plan, report, sample, reconstruct):
    modelpar.add_command(command)
