"""Pictures of a run: filters, reconstructions, curves.  Rank 0 draws values that all ranks collect.

matplotlib is optional, and a run is worth more than its pictures: where it is not there, or whatever goes wrong while
it draws or while a picture is written, a run prints one line and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import faults
from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.terminal import Say
from modelpar.data import Dataset, Split
from modelpar.errors import described
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.feeds import in_data_units, visible_feed
from modelpar.training.state import TrainingRun

Array = npt.NDArray[np.floating]

N_FILTERS, N_SAMPLES, N_FANTASIES = 100, 20, 100
STEPS, LEAST_STEPS = 300, 50  # of Gibbs sampling for the fantasies of a run,
WORK = 2e11  # as far as these multiplications of weights with states go
OF_NETWORK = ("filters.png", "reconstructions.png", "samples.png")
WITHOUT = "no pictures: matplotlib is not installed; pip install 'modelpar[plots]'"


def have_matplotlib() -> bool:
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    return True


def can_draw(comm: MPI.Comm, say: Say) -> bool:
    """Whether rank 0 has a matplotlib that can be loaded; else one line says why there are no pictures.  Collective."""
    obstacle = ""
    if comm.rank == 0:
        try:
            obstacle = "" if have_matplotlib() else WITHOUT
        except Exception as error:  # one that was built for another NumPy, or that cannot make its folders
            obstacle = failed(error)
    obstacle = comm.bcast(obstacle)
    if obstacle:
        say(obstacle)
    return not obstacle


@contextmanager
def optional(say: Say) -> Iterator[None]:
    """A block of rank 0 alone that draws: a failure is one line, and no error."""
    try:
        yield
    except Exception as error:
        say(failed(error))


def failed(error: Exception) -> str:
    return f"warning: no pictures, or not all: {described(error) or type(error).__name__}"


def draw_network(network: DeepBeliefNetwork, dataset: Dataset, directory: RunDirectory, say: Say) -> None:
    """``filters.png``, ``reconstructions.png`` and ``samples.png`` of a network that still generates.  Collective.

    What fails on rank 0 alone, which draws and writes, is said and not raised.
    """
    if not can_draw(network.grid.comm, say):
        return None
    shape = dataset.image_shape
    if shape is None:
        return say("no pictures of filters, reconstructions and samples: a sample of these data is not a picture")
    filters = network.filters(range(min(N_FILTERS, network.spec.layers[1])))
    originals, reconstructed = reconstructions(network, dataset, dataset.test or dataset.train, N_SAMPLES)
    fantasies = fantasies_of(network, dataset.scale)
    white = white_of(network, dataset.scale)  # collective: before the part of rank 0
    if network.grid.comm.rank == 0:
        with optional(say):
            faults.at("draw")
            save = partial(save_tiles, follow=False, sources=directory.private)
            save(directory.path / "filters.png", filters.reshape(-1, *shape), signed=True)
            pairs = np.stack([originals.T, reconstructed.T]).reshape(2 * originals.shape[1], *shape)
            save(directory.path / "reconstructions.png", pairs, columns=originals.shape[1], white=white)
            save(directory.path / "samples.png", fantasies.T.reshape(-1, *shape), white=white)


def reconstructions(network: DeepBeliefNetwork, dataset: Dataset, split: Split, count: int) -> tuple[Array, Array]:
    """The first samples of a split and their reconstructions, (n_visible, count) each, in the unit of the data, on
    every rank.  Collective."""
    run = TrainingRun.of(network)
    binarise = "none" if run.binarise == "stochastic" else run.binarise
    feed = visible_feed(network, dataset, split, binarise)
    samples = np.arange(min(count, len(split)))
    v = np.empty((feed.n_units, len(samples)), network.dtype)
    feed.fill(samples, 0, v)
    originals = network.whole_visible(in_data_units(network, v, dataset.scale))
    return originals, network.whole_visible(in_data_units(network, network.reconstruct(v), dataset.scale))


def fantasies_of(network: DeepBeliefNetwork, scale: float) -> Array:
    """100 fantasies (n_visible, 100) in the unit of the data, on every rank, after as many steps of Gibbs sampling as a
    picture is worth.  Collective."""
    work = 2.0 * N_FANTASIES * network.n_weights[-1]
    with network.traffic.measuring():
        fantasies = network.fantasies(N_FANTASIES, int(min(max(WORK / work, LEAST_STEPS), STEPS)))
    return network.whole_visible(in_data_units(network, fantasies, scale))


def white_of(network: DeepBeliefNetwork, scale: float | None = None) -> float | None:
    """The value of the data that a picture shows as white; None for real values, which have no maximum.  Collective.

    scale   the raw value that means 1.0, that of the training data where None
    """
    if network.spec.visible in ("gaussian", "spin"):
        return None
    highest = network.grid.shard_comm.allreduce(float(network.input_scale.max(initial=0.0)), MPI.MAX)
    return highest if scale is None else scale


def save_tiles(
    path: Path, images: Array, *, columns: int | None = None, signed: bool = False, white: float | None = None,
    follow: bool = True, sources: Iterable[str | Path] = (),
) -> None:  # fmt: skip
    """Grey tiles (n, rows, columns) side by side in one PNG.  Not collective.

    ``signed``: each tile has its own scale with 0 in the middle; else all have the same, from 0 to ``white``, or from
    the smallest to the largest value where that is None.  ``follow`` and ``sources`` as for ``Output``.
    Raises ModelparError where the file cannot be written; an incomplete file is removed.
    """
    import matplotlib.image

    n, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    if signed:
        largest = np.abs(images).max(axis=(1, 2), keepdims=True)
        grey = 0.5 + 0.5 * images / np.maximum(largest, 1e-12)
    else:
        low, high = (0.0, white) if white is not None else (float(images.min()), float(images.max()))
        grey = (images - low) / ((high - low) or 1.0)
    zoom = max(1, min(8, 1600 // max(columns * (width + 1), rows * (height + 1))))
    canvas = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1))
    for i, tile in enumerate(grey):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = tile
    zoomed = np.kron(canvas, np.ones((zoom, zoom)))
    with atomic_write(path, follow=follow, sources=sources) as unfinished:
        matplotlib.image.imsave(unfinished, zoomed, cmap="gray", vmin=0.0, vmax=1.0, format="png")


def draw_curves(history: list[dict[str, Any]], directory: RunDirectory, say: Say) -> None:
    """``curves.png``: reconstruction error and log-likelihood of each RBM, loss and accuracies over the epochs.

    Collective.  What fails is said and not raised.
    """
    if can_draw(directory.comm, say) and directory.comm.rank == 0:
        with optional(say):
            faults.at("draw curves")
            epochs = [line for line in history if line["kind"] == "epoch"]
            save_curves(directory.path / "curves.png", epochs, follow=False, sources=directory.private)


def save_curves(
    path: Path, epochs: list[dict[str, Any]], *, follow: bool = True, sources: Iterable[str | Path] = ()
) -> None:
    """``follow`` and ``sources`` as for ``Output``.

    Not collective.  Raises ModelparError where the file cannot be written; an incomplete file is removed.
    """
    from matplotlib.figure import Figure

    scored = any("log_likelihood" in line for line in epochs)
    figure = Figure(figsize=(16 if scored else 12, 3.6), layout="constrained")
    errors, losses, accuracies, *scores = figure.subplots(1, 4 if scored else 3)
    titles = [(errors, "reconstruction error"), (losses, "loss"), (accuracies, "accuracy")]
    for layer in sorted({line["layer"] for line in epochs if line["stage"] == "pretrain"}):
        of_layer = [line for line in epochs if line["layer"] == layer]
        _curve(errors, of_layer, "reconstruction_error", f"RBM {layer}")
        for axes in scores:
            _curve(axes, of_layer, "log_likelihood", f"RBM {layer}")
            _band(axes, of_layer, "log_likelihood")
    tuned = [line for line in epochs if line["stage"] == "finetune"]
    _curve(losses, tuned, "loss", "cross-entropy")
    for name in ("train_accuracy", "validation_accuracy", "test_accuracy"):
        _curve(accuracies, tuned, name, name.split("_")[0])
    for axes, title in [*titles, *((axes, "log-likelihood (nats)") for axes in scores)]:
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with atomic_write(path, follow=follow, sources=sources) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")


def _curve(axes: Any, lines: list[dict[str, Any]], measure: str, label: str) -> None:
    points = [(line["epoch"], line[measure]) for line in lines if measure in line]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", label=label)


def _band(axes: Any, lines: list[dict[str, Any]], measure: str) -> None:
    """The interval of a measure, from ``_low`` to ``_high``, behind its curve."""
    low, high = f"{measure}_low", f"{measure}_high"
    points = [(line["epoch"], line[low], line[high]) for line in lines if low in line and high in line]
    if points:
        axes.fill_between(*zip(*points, strict=True), alpha=0.2, color=axes.lines[-1].get_color())
