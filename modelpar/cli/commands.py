"""The commands and their options.  Thin: each chooses the threads, then loads what it needs and hands over."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from modelpar import __version__
from modelpar.cli import config as configuration
from modelpar.cli.options import GroupedCommand, given, spec_options

if TYPE_CHECKING:
    from mpi4py import MPI

COUNT = click.IntRange(1)
JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object instead of a table")
OUT = click.option("--out", metavar="FILE", default=None, help="a picture (.png) or an array (.npy), samples x units")


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
    _help_without_command(context)


@modelpar.command(cls=GroupedCommand)
@spec_options("network", "training", "finetune", "data", "grid", "run")
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint of --run-dir, at this or another grid")
@click.option("--overwrite", is_flag=True, help="replace the run that --run-dir holds")
@click.pass_obj
def train(comm: MPI.Comm, config: str | None, resume: bool, overwrite: bool, **values: Any) -> None:
    """Pre-train a network layer by layer, then fine-tune it where there are labels."""
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other: one keeps the run, the other replaces it")
    mine = given(values)
    settings = configuration.gather(comm, mine, config, resume=resume)
    place = _prepare(comm, settings.run.threads)
    from modelpar.cli.train import train as work

    work(comm, settings, place, resume=resume, overwrite=overwrite)


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("data", "grid", "run.threads", "network.layout")
@click.option("--split", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True,
              help="which samples of the data")  # fmt: skip
@JSON
@click.pass_obj
def evaluate(comm: MPI.Comm, checkpoint: str, config: str | None, split: str, as_json: bool, **values: Any) -> None:
    """Accuracy, cross-entropy, reconstruction error and pseudo-likelihood on a test set."""
    settings = configuration.gather(comm, given(values), config, beside=checkpoint)
    _prepare(comm, settings.run.threads)
    from modelpar.cli.judge import evaluate as work

    work(comm, settings, checkpoint, split, as_json=as_json)


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("grid", "run.threads", "network.layout")
@click.option("--count", type=COUNT, default=100, show_default=True, metavar="N", help="fantasies")
@click.option("--steps", type=click.IntRange(0), default=1000, show_default=True, metavar="N",
              help="steps of Gibbs sampling in the top RBM")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**30), default=0, show_default=True, metavar="N",
              help="other seeds, other fantasies")  # fmt: skip
@click.option("--image-shape", metavar="ROWSxCOLUMNS", default=None, help="of one sample, where it is no square")
@OUT
@click.pass_obj
def sample(
    comm: MPI.Comm, checkpoint: str, config: str | None, count: int, steps: int, seed: int,
    image_shape: str | None, out: str | None, **values: Any,
) -> None:  # fmt: skip
    """Fantasies of the network by Gibbs sampling from its top RBM (samples.png unless --out says otherwise)."""
    settings = configuration.gather(comm, given(values), config)
    shape, out = _image_shape(image_shape), _picture_or_array(out or "samples.png")
    _prepare(comm, settings.run.threads)
    from modelpar.cli.judge import sample as work

    work(comm, settings, checkpoint, count=count, steps=steps, seed=seed, image_shape=shape, out=out)


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("data", "grid", "run.threads", "network.layout")
@click.option("--count", type=COUNT, default=20, show_default=True, metavar="N", help="samples of the test set")
@OUT
@click.pass_obj
def reconstruct(
    comm: MPI.Comm, checkpoint: str, config: str | None, count: int, out: str | None, **values: Any
) -> None:
    """Test samples above what the network makes of them (reconstructions.png unless --out says otherwise)."""
    settings = configuration.gather(comm, given(values), config, beside=checkpoint)
    out = _picture_or_array(out or "reconstructions.png")
    _prepare(comm, settings.run.threads)
    from modelpar.cli.judge import reconstruct as work

    work(comm, settings, checkpoint, count=count, out=out)


@modelpar.command(cls=GroupedCommand)
@click.argument("checkpoint", metavar="CHECKPOINT_OR_RUN_DIR")
@click.argument("out", metavar="OUT")
@spec_options("grid", "run.threads", "network.layout")
@click.pass_obj
def export(comm: MPI.Comm, checkpoint: str, out: str, config: str | None, **values: Any) -> None:
    """Write the parameters for other programs.

    OUT.npz holds W0, b0, c0, W1, ... as plain arrays; OUT.safetensors is the state dict of a PyTorch nn.Sequential of
    Linear and Sigmoid layers, whose last Linear is the output layer.
    """
    if not out.endswith((".npz", ".safetensors")):
        raise click.UsageError(f"{out} has an ending that is not known; use .npz or .safetensors")
    settings = configuration.gather(comm, given(values), config)
    _prepare(comm, settings.run.threads)
    from modelpar.cli.export import export as work

    work(comm, settings, checkpoint, out)


@modelpar.command(cls=GroupedCommand)
@click.argument("run_a", metavar="RUN_A")
@click.argument("run_b", metavar="RUN_B")
@JSON
@click.pass_obj
def diff(comm: MPI.Comm, run_a: str, run_b: str, as_json: bool) -> None:
    """Where two runs part, and how far apart they have come.

    Compares the digests of every update (train --exact or train --digests records them), the configurations, and the
    checkpoints that both have. RUN_A and RUN_B are run directories, or two checkpoint files. The exit status is 0
    where nothing differs, 1 where something does, and 2 where they cannot be compared.
    """
    _prepare(comm, 1)
    from modelpar.cli.diff import diff as work

    sys.exit(work(comm, run_a, run_b, as_json=as_json))


@modelpar.command(cls=GroupedCommand)
@spec_options("run.threads")
@JSON
@click.pass_obj
def info(comm: MPI.Comm, config: str | None, as_json: bool, **values: Any) -> None:
    """Versions, MPI, BLAS, instruction set, ranks and threads, and what does not fit together."""
    settings = configuration.gather(comm, given(values), config)
    from modelpar.cli.info import given_environment

    environment = given_environment()  # before the threads are set in it
    place = _prepare(comm, settings.run.threads)
    from modelpar.cli.info import show

    show(comm, place, environment, as_json=as_json)


@modelpar.group(invoke_without_command=True)
@click.pass_context
def bench(context: click.Context) -> None:
    """Measure this machine."""
    _help_without_command(context)


def _help_without_command(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@bench.command(cls=GroupedCommand)
@spec_options("run.threads", "grid", "network.dtype")
@click.option(
    "--sizes",
    metavar="BxVxH,...",
    default=None,
    help="batch x visible units x hidden units  [default: five sizes from 100x784x500 to 512x8192x8192]",
)
@click.option("--repeats", type=COUNT, default=5, show_default=True, metavar="N",
              help="measurements, of which the median counts")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True, metavar="X",
              help="least time of one measurement")  # fmt: skip
@JSON
@click.pass_obj
def cd1(
    comm: MPI.Comm, config: str | None, sizes: str | None, repeats: int, seconds: float, as_json: bool, **values: Any
) -> None:
    """Updates by CD-1 beside products of dense matrices of the same sizes (SGEMM), measured in turn."""
    settings = configuration.gather(comm, given(values), config)
    wanted = _sizes(sizes)
    place = _prepare(comm, settings.run.threads, clear_core_type=True)
    from modelpar.cli.info import show_bench

    show_bench(comm, settings, place, sizes=wanted, repeats=repeats, seconds=seconds, as_json=as_json)


def _prepare(comm: MPI.Comm, asked: int | None, *, clear_core_type: bool = False) -> Any:
    from modelpar.cli.threads import prepare

    return prepare(comm, asked, clear_core_type=clear_core_type)


def _sizes(text: str | None) -> list[tuple[int, int, int]] | None:
    if text is None:
        return None
    found = []
    for word in text.split(","):
        parts = word.strip().lower().split("x")
        if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise click.UsageError(f"--sizes has {word!r}, but needs batch x visible x hidden, as in 100x784x500")
        batch, visible, hidden = map(int, parts)
        found.append((batch, visible, hidden))
    return found


def _picture_or_array(out: str) -> str:
    if not out.endswith((".png", ".npy")):
        raise click.UsageError(f"--out {out} has an ending that is not known; use .png or .npy")
    return out


def _image_shape(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--image-shape is {text!r}, but needs rows x columns, as in 28x28")
    return int(parts[0]), int(parts[1])
