"""The commands that write samples and reconstructions, and their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelpar.cli import config as configuration
from modelpar.cli.options import COUNT, LAST, PATH, GroupedCommand, given, prepare, spec_options
from modelpar.files.paths import absolute

if TYPE_CHECKING:
    from mpi4py import MPI

OUT = click.option(
    "--out", type=PATH, metavar="FILE", default=None, help="a picture (.png) or an array (.npy), samples x units"
)
ALPHABET = click.option("--alphabet", metavar="LETTERS", default=None,
                        help="letters of the states, for sequences: protein, dna, rna, or their own in their order  "
                        "[default: those of the training data, else protein for 21 states, dna for 5]")  # fmt: skip
SAMPLES_OUT = click.option("--out", type=PATH, metavar="FILE", default=None,
                           help="a picture (.png) or an array (.npy), samples x units; of fantasies also their states: "
                           "sequences (.fasta), haplotypes (.vcf), or any (.h5)")  # fmt: skip
FIELDS = (".fasta", ".fa", ".vcf", ".h5", ".hdf5")  # endings of the files that hold states, see ``sample_files``


@click.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@click.option("--count", type=COUNT, default=None, metavar="N",
              help="fantasies, or completions of each given sample  [default: 100, or 1]")  # fmt: skip
@click.option("--steps", type=click.IntRange(0), default=1000, show_default=True, metavar="N",
              help="steps of Gibbs sampling in the top RBM")  # fmt: skip
@click.option("--method", type=click.Choice(["gibbs", "pt", "ptt"]), default="gibbs", show_default=True,
              help="Gibbs sampling alone, or with swaps along a ladder of temperatures (parallel tempering), or of the "
              "models that train --chain-method ptt or --keep-trajectory has kept (parallel trajectory "
              "tempering)")  # fmt: skip
@click.option("--start", type=click.Choice(["random", "chains"]), default=None,
              help="where Gibbs sampling starts: at random visible states, or at the chains that training carried to "
              "its end  [default: random]")  # fmt: skip
@click.option("--temperatures", type=click.IntRange(2, 10000), default=None, metavar="N",
              help="of --method pt  [default: 20]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**30), default=0, show_default=True, metavar="N",
              help="seed of the draws")  # fmt: skip
@LAST
@click.option("--image-shape", metavar="ROWSxCOLUMNS", default=None, help="of one sample, where it is not a square")
@click.option("--given", "samples", type=PATH, metavar="FILE", default=None,
              help="samples to complete, in a data file; --mask says which of their units are given")  # fmt: skip
@click.option("--mask", type=PATH, metavar="FILE", default=None,
              help="1 for units that are held as --given has them, 0 for those that are sampled: .npy or .npz, units "
              "or samples x units")  # fmt: skip
@click.option("--states", is_flag=True, help="with --given: write states of the others in place of their means")
@ALPHABET
@click.option("--sites", type=PATH, metavar="FILE", default=None,
              help="VCF file whose places and alleles the sites of --out FILE.vcf have")  # fmt: skip
@click.option("--mean-over", type=click.IntRange(1), default=None, metavar="N",
              help="with --given: average the means of the last N steps  [default: 1]")  # fmt: skip
@SAMPLES_OUT
@click.pass_obj
def sample(
    comm: MPI.Comm, checkpoint: str, config: str | None, count: int | None, steps: int, method: str,
    start: str | None, temperatures: int | None, seed: int, last: bool, image_shape: str | None, samples: str | None,
    mask: str | None, states: bool, alphabet: str | None, sites: str | None, mean_over: int | None, out: str | None,
    **values: Any,
) -> None:  # fmt: skip
    """Fantasies of the network by Gibbs sampling from its top RBM (default: samples.png).

    With --given and --mask, completions of samples of which some units are given.
    """
    if (samples is None) != (mask is None):
        there, missing = ("--mask", "--given") if samples is None else ("--given", "--mask")
        raise click.UsageError(
            f"{there} came without {missing}: one has values, the other says which of them are given"
        )
    if states and samples is None:
        raise click.UsageError("--states has no effect on fantasies, which are means; give --given and --mask with it")
    if mean_over is not None:
        if samples is None:
            raise click.UsageError(
                f"--mean-over {mean_over} has no effect on fantasies; give --given and --mask with it, or leave it out"
            )
        if states:
            raise click.UsageError(f"--mean-over {mean_over} has no effect on --states; leave one of them out")
        if mean_over > (most := max(steps, 1)):
            raise click.UsageError(f"--mean-over is {mean_over}, but --steps is {steps}; it can be {most} at most")
    if samples is not None and method != "gibbs":
        raise click.UsageError(f"--method {method} has no effect on completions (--given); leave it out")
    if start is not None and (samples is not None or method != "gibbs"):
        where = "completions (--given)" if samples is not None else f"--method {method}"
        raise click.UsageError(f"--start has no effect on {where}; leave it out")
    if temperatures is not None and method != "pt":
        raise click.UsageError(f"--temperatures has no effect with --method {method}; leave it out, or use --method pt")
    if method != "gibbs" and steps == 0:
        raise click.UsageError(f"--steps is 0, but --method {method} needs at least one")
    settings = configuration.gather(comm, given(values), config)
    shape, out = _image_shape(image_shape), out or absolute("samples.png")
    if samples is not None or not out.endswith(FIELDS):
        _picture_or_array(out)
    for option, value, endings in (("--alphabet", alphabet, FIELDS[:2]), ("--sites", sites, FIELDS[2:3])):
        if value is not None and not out.endswith(endings):
            raise click.UsageError(f"{option} has no effect on {out}; leave it out, or use {endings[0]}")
    if shape is not None and not out.endswith(".png"):
        what = "array" if out.endswith(".npy") else "file"
        raise click.UsageError(f"--image-shape has no effect on the {what} {out}; leave it out, or use .png")
    prepare(comm, settings.run.threads)
    if samples is not None and mask is not None:
        from modelpar.cli.complete import complete

        return complete(
            comm, settings, checkpoint, given=samples, mask=mask, count=count or 1, steps=steps, seed=seed, last=last,
            states=states, mean_over=mean_over or 1, image_shape=shape, out=out,
        )  # fmt: skip
    from modelpar.cli.evaluate import sample as work

    work(
        comm, settings, checkpoint, count=count or 100, steps=steps, method=method, start=start or "random",
        n_temperatures=temperatures or 20, seed=seed, last=last, image_shape=shape, alphabet=alphabet, sites=sites,
        out=out,
    )  # fmt: skip


@click.command(cls=GroupedCommand)
@click.argument("checkpoint", type=PATH, metavar="CHECKPOINT_OR_RUN_DIR")
@spec_options("data", "grid", "run.threads", "run.verify", "network.layout", without=("grid.servers", "grid.shape"))
@click.option("--count", type=COUNT, default=None, metavar="N",
              help="samples of the test set  [default: 20, or all where there are fewer]")  # fmt: skip
@OUT
@click.pass_obj
def reconstruct(
    comm: MPI.Comm, checkpoint: str, config: str | None, count: int | None, out: str | None, **values: Any
) -> None:
    """Test samples above their reconstructions by the network (default: reconstructions.png)."""
    settings = configuration.gather(comm, given(values), config, beside=checkpoint)
    out = _picture_or_array(out or absolute("reconstructions.png"))
    prepare(comm, settings.run.threads)
    from modelpar.cli.evaluate import reconstruct as work

    work(comm, settings, checkpoint, count=count or 20, at_most=count is None, out=out)


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
