"""``modelpar evaluate``, ``sample`` and ``reconstruct``: measures, fantasies and reconstructions of a network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.chains.ladder import Level, Swaps
from modelpar.chains.tempering import ladder_of_kept, ladder_of_models, ladder_of_temperatures, tempered_fantasies
from modelpar.checkpoint import files
from modelpar.cli import pictures, sample_files
from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings
from modelpar.cli.overwriting import check_outputs, inputs
from modelpar.cli.own_data import check_labels_act, chosen_alphabet, open_to_evaluate
from modelpar.cli.progress import summary_table
from modelpar.cli.terminal import Say, make_console, speak
from modelpar.cli.trajectory import models_before
from modelpar.comm.grid import Grid
from modelpar.comm.memory import check_fits
from modelpar.data import Dataset, Split
from modelpar.errors import CheckpointError, DataError, SpecError, together
from modelpar.files.paths import in_one_line
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.placement import place
from modelpar.plan.memory import memory_bytes
from modelpar.plan.resolve import resolve
from modelpar.training import evaluation
from modelpar.training.feeds import in_data_units, real_values, sample_chunks
from modelpar.training.monitor import sum_of_errors, sum_of_likelihoods

Array = npt.NDArray[np.floating]

RARE = 0.1  # acceptance of swaps below which few states come up a ladder


def evaluate(comm: MPI.Comm, settings: Settings, where: str, split: str, *, as_json: bool) -> None:
    """Print the measures of a network on one split of some data.  Collective."""
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=False)
        network = open_network(path, grid, settings)
        say = speak(grid.comm)
        dataset, chosen = open_split(settings, network, split, with_labels=network.output is not None, say=say)
        measures: dict[str, Any] = {"checkpoint": str(path), "data": dataset.name, "split": split}
        measures["samples"] = len(chosen)
        if network.output is not None and chosen.labels is not None:
            measures |= evaluation.evaluate(network, dataset, chosen)
        elif network.output is not None:
            say(f"{dataset.name} has no labels: the accuracy is left out; see --labels, --test-labels")
        measures |= generative_measures(network, dataset, chosen)
    if as_json:
        print(json.dumps(measures), flush=True)
        return
    shown = {name.replace("_", " "): _shown(name, value) for name, value in measures.items()}
    make_console().print(summary_table(shown, ""))


def _shown(name: str, value: Any) -> str:
    if name == "accuracy":
        return f"{value:.2%}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def generative_measures(network: DeepBeliefNetwork, dataset: Dataset, split: Split) -> dict[str, float]:
    """``reconstruction_error``, mean squared, of the first RBM and (``network_``...) of one pass up and down the
    stack; ``pseudo_likelihood`` of the first RBM, in nats per sample, for Bernoulli units; by the weights of samples.
    Collective."""
    grid, rbm = network.grid, network.rbms[0]
    evaluation.check_split(network, dataset, split)
    feed = real_values(network, dataset, split)
    errors, likelihood = np.zeros(2), 0.0
    weights = np.ones(len(split)) if split.weights is None else split.weights
    for samples in sample_chunks(len(split), grid.replica, grid.n_replicas, network.samples_at_once):
        v = np.empty((feed.n_units, len(samples)), network.dtype)
        feed.fill(samples, int(samples[0]) if len(samples) else 0, v)
        of_piece = None if split.weights is None else weights[samples]
        errors[0] += sum_of_errors(v, rbm.visible_given_hidden(rbm.hidden_given_visible(v)), of_piece)
        errors[1] += sum_of_errors(v, network.reconstruct(v), of_piece)
        if not rbm.gaussian:
            likelihood += sum_of_likelihoods(rbm, v, samples, weights[samples])
    weight = float(weights.sum())
    first, stack = grid.comm.allreduce(errors) / (weight * network.spec.layers[0])
    measures = {"reconstruction_error": float(first), "network_reconstruction_error": float(stack)}
    return measures if rbm.gaussian else {**measures, "pseudo_likelihood": likelihood / weight}


def sample(
    comm: MPI.Comm, settings: Settings, where: str, *,
    count: int, steps: int, method: str, start: str, n_temperatures: int, seed: int, last: bool,
    image_shape: tuple[int, int] | None, alphabet: str | None, sites: str | None, out: str,
) -> None:  # fmt: skip
    """Write fantasies to a file.  Collective."""
    read = [] if sites is None else [("--sites", sites)]
    check_outputs(comm, settings, {"--out": out}, checkpoint=where, more=read)
    swaps: Swaps | None = None
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=True)
        network = open_network(path, grid, settings, last=last)
        n_visible = network.spec.layers[0]
        if image_shape is not None and math.prod(image_shape) != n_visible:
            rows, columns = image_shape
            raise SpecError(
                f"--image-shape {rows}x{columns} is of {rows * columns} values, but a sample has {n_visible}"
            )
        shape, of_field = image_shape or square(n_visible), out.endswith(sample_files.ENDINGS)
        with together(comm):
            alphabet = chosen_alphabet(network, alphabet)
        if of_field:
            with together(comm):
                if comm.rank == 0:
                    sample_files.check(network.spec, out, count, alphabet, sites)
        first = seed << 32  # each seed has its own 2**32 chains, or of a ladder draws of one level
        if method == "gibbs":
            chains = _chains_to_start_at(network, path, count) if start == "chains" else None
            parts = sample_files.chunks_of(n_visible, count, steps, network.dtype.itemsize)
            made = _fantasies(network, parts if of_field else [slice(0, count)], steps, first, chains)
        else:
            levels = _ladder(network, where, path, method, n_temperatures, count * steps, settings.run.verify)
            v, swaps = tempered_fantasies(network, levels, count, steps, first_draw=first)
            made = iter([(first, v)])
        if of_field:
            sample_files.write(network, Path(out), made, count, alphabet=alphabet, sites=sites, sources=(path,))
        else:
            [(_, v)] = made
            fantasies = network.whole_visible(in_data_units(network, v))
            write_samples(grid, Path(out), fantasies, None, shape, pictures.white_of(network), sources=(path,))
    ways = {"gibbs": "Gibbs sampling", "pt": "parallel tempering", "ptt": "tempering along the trajectory"}
    print(f"{count} fantasies after {steps} steps of {ways[method]}: {in_one_line(out)}", flush=True)
    if swaps is not None:
        print(_swaps_line(swaps), flush=True)
        if steps > 1 and np.nanmin(swaps.acceptance) < RARE:
            more = "--temperatures" if method == "pt" else "models (train --chain-temperatures), or --method pt"
            print(f"not to be trusted: neighbouring levels hardly ever swap; use more {more}", flush=True)


def _fantasies(
    network: DeepBeliefNetwork, parts: Iterable[slice], steps: int, first: int, chains: Activations | None
) -> Iterator[tuple[int, Array]]:
    """(draw counter of the first of them, means (n_visible_owned, fantasies)) of each part, by Gibbs sampling: the same
    whatever the parts are.   chains: where they start; None: at random states.  Collective."""
    for part in parts:
        start: Activations | None = None
        if isinstance(chains, Packed):
            start = chains.take(part.start, part.stop)
        elif chains is not None:
            start = np.ascontiguousarray(chains[:, part])
        counter = first + part.start
        yield counter, network.fantasies(part.stop - part.start, steps, first_draw=counter, start=start)


def _chains_to_start_at(network: DeepBeliefNetwork, path: Path, count: int) -> Activations:
    """Hidden states or values (n_top_owned, count) of the chains of a training, which come again where they are fewer.

    Collective.  Raises CheckpointError, on every rank, where the checkpoint has none.
    """
    states = checkpoint.read_states(path, network)
    if states is None:
        raise CheckpointError(
            f"{path} has no chains to start at: its training had none of its own (train --chains), or it was "
            "fine-tuned since; leave --start out"
        )
    chosen = np.ascontiguousarray(states[:, np.arange(count) % states.shape[1]])
    return pack(chosen) if network.rbms[-1].hidden_units is None else chosen


def _ladder(
    network: DeepBeliefNetwork, where: str, path: Path, method: str, n_temperatures: int, n_draws: int, verify: bool
) -> list[Level]:
    """The levels that a network is sampled through: of ``ptt`` those of its training, else models of its trajectory.

    verify   as for ``load``
    Collective.  Raises, on every rank, SpecError where draws run out, CheckpointError without models.
    """
    if n_draws > 2**32:
        raise SpecError(
            f"--count times --steps is {n_draws}, but a seed has draws for {2**32} of them with --method {method}; use "
            "fewer, and other values of --seed for more"
        )
    top = network.rbms[-1]
    if method == "pt":
        return ladder_of_temperatures(top, n_temperatures)
    if kept := checkpoint.read_ladder(path, network):
        return ladder_of_kept(top, kept)
    models = models_before(where, path, network)
    opened = (
        checkpoint.load(model.path, network.grid, network.layout, to_train=False, verify=verify) for model in models
    )
    return ladder_of_models(top, (top.with_parameters(other.rbms[top.index].parameters) for other in opened))


def _swaps_line(swaps: Swaps) -> str:
    acceptance = swaps.acceptance[swaps.tried > 0]
    rates = " ".join(f"{rate:.2f}" for rate in acceptance)
    return (
        f"{len(swaps.tried) + 1} levels, swaps between neighbours accepted, from the lowest up: {rates}; "
        f"{swaps.round_trips} round trips"
    )


def reconstruct(comm: MPI.Comm, settings: Settings, where: str, *, count: int, at_most: bool, out: str) -> None:
    """Write test samples and their reconstructions to a file.  Collective.

    at_most   whether fewer are accepted where there are no more; else SpecError on every rank
    """
    check_outputs(comm, settings, {"--out": out}, checkpoint=where)
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=True)
        network = open_network(path, grid, settings)
        dataset, split = open_split(settings, network, "test", with_labels=False, say=speak(grid.comm))
        if len(split) < count and not at_most:
            raise SpecError(f"--count is {count}, but the test set of {dataset.name} has {len(split)} samples")
        originals, reconstructed = pictures.reconstructions(network, dataset, split, count)
        white = pictures.white_of(network, dataset.scale)
        sources = [path, *(file for _, file in inputs(settings, None))]
        write_samples(grid, Path(out), originals, reconstructed, dataset.image_shape, white, sources=sources)
    print(f"{originals.shape[1]} samples and their reconstructions: {in_one_line(out)}", flush=True)


def write_samples(
    grid: Grid, path: Path, first: Array, second: Array | None, image_shape: tuple[int, int] | None,
    white: float | None, *, columns: int | None = None, sources: Iterable[str | Path] = (),
) -> None:  # fmt: skip
    """Write samples (n_visible, count), in the unit of the data, as a picture or as an array (count, n_visible).

    Of two, the picture has the tiles of the first above those of the second, the array is (2, count, n_visible).
    ``white`` and ``sources`` as in ``save_tiles``, and ``columns`` where there is no second.  Collective.  Raises
    SpecError on every rank where that is impossible, ModelparError where the file cannot be written.
    """
    values = first.T if second is None else np.stack([first.T, second.T])
    with together(grid.comm):
        if grid.comm.rank == 0 and path.suffix == ".npy":
            _save_array(path, np.ascontiguousarray(values), sources)
        elif grid.comm.rank == 0:
            if image_shape is None or math.prod(image_shape) != values.shape[-1]:
                raise SpecError(
                    f"a sample of {values.shape[-1]} values is not a picture; use --image-shape, or --out with .npy"
                )
            if not pictures.have_matplotlib():
                raise SpecError("matplotlib is not installed: pip install 'modelpar[plots]', or use --out with .npy")
            columns = columns if second is None else values.shape[1]
            pictures.save_tiles(path, values.reshape(-1, *image_shape), columns=columns, white=white, sources=sources)


def _save_array(path: Path, values: Array, sources: Iterable[str | Path] = ()) -> None:
    """As ``np.save``, but complete or not at all, and with the operating system's message where it fails."""
    with atomic_write(path, sources=sources) as partial, open(partial, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.reshape(-1).view(np.uint8).data)


# -- opening ---------------------------------------------------------------------------------------------------------


def make_grid(comm: MPI.Comm, settings: Settings) -> Grid:
    return Grid(comm, model_shards=settings.grid.model_shards, replicas=settings.grid.replicas)


def open_network(path: Path, grid: Grid, settings: Settings, *, last: bool = False) -> DeepBeliefNetwork:
    """The network of a checkpoint, after a check that it fits into memory.  Collective.

    last   its last parameters in place of their average, as ``load`` takes them
    """
    header = files.read_header(path, grid.comm)
    spec, asked = checkpoint.read_spec(path, header), settings.grid
    spec = replace(spec, layout=settings.tables.get("network", {}).get("layout") or spec.layout)
    check_fits(memory_bytes(spec, grid.n_shards, 1), f"the network of {path}", grid.comm, grid.node_comm)
    connections, owners = checkpoint.structure.read(path, header, spec, grid.comm), None
    if connections is not None or asked.partition or asked.partitioner:
        owners = place(
            spec, grid.n_shards, grid.comm, partitioner=asked.partitioner, file=asked.partition,
            connections=connections or [None] * (len(spec.layers) - 1),
        )  # fmt: skip
    return checkpoint.load(
        path, grid, resolve(spec, grid, owners), to_train=False, last=last, verify=settings.run.verify
    )


def open_split(
    settings: Settings, network: DeepBeliefNetwork, split: str, *, with_labels: bool, say: Say
) -> tuple[Dataset, Split]:
    """Raises SpecError without data, DataError where they have no such split; both on every rank."""
    dataset = open_to_evaluate(settings, network, split, with_labels=with_labels, say=say)
    n_visible = network.spec.layers[0]
    check_labels_act(settings, dataset, split)
    if dataset.n_visible != n_visible:
        raise DataError(
            f"{dataset.name} has {dataset.n_visible} values a sample, but the network was trained on {n_visible}; "
            f"give --data with {n_visible} values a sample"
        )
    chosen = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[split]
    if chosen is None or not len(chosen):
        available = ", ".join(name for name in ("train", "validation", "test") if getattr(dataset, name) is not None)
        raise DataError(f"{dataset.name} has no {split} samples; there are {available}: see --split")
    return dataset, chosen


def square(n_units: int) -> tuple[int, int] | None:
    side = math.isqrt(n_units)
    return (side, side) if side * side == n_units else None
