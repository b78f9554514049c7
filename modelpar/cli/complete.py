"""``modelpar sample --given --mask``: samples of which some units are given, completed by the network."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.chains.clamped import complete as completions
from modelpar.chains.clamped import mask_of
from modelpar.cli import pictures
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings
from modelpar.cli.evaluate import make_grid, open_network, square, write_samples
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.own_data import check_letters
from modelpar.data import Dataset, Split, open_dataset
from modelpar.data.doubts import check_fills_range
from modelpar.errors import DataError, SpecError, together
from modelpar.files.paths import in_one_line
from modelpar.files.regular import open_regular
from modelpar.formats.archive import ZIP_START, Archive
from modelpar.formats.npy import NPY_START, Header, load_npy
from modelpar.formats.reading import reading
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import DataSpec
from modelpar.training.feeds import in_data_units
from modelpar.training.state import TrainingRun

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

BYTES = 255.0  # raw value that means 1.0 in bytes, where they are not only 0 and 1
COLUMNS = 40  # samples that a picture has side by side, with one completion below the other


def complete(
    comm: MPI.Comm, settings: Settings, where: str, *, given: str, mask: str, count: int, steps: int, seed: int,
    last: bool, states: bool, mean_over: int, image_shape: tuple[int, int] | None, out: str,
) -> None:  # fmt: skip
    """Write completions to a file: all samples once, then all once more, up to ``count``.  Collective."""
    more = (("the file of --given", given), ("the file of --mask", mask))
    check_outputs(comm, settings, {"--out": out}, checkpoint=where, more=more)
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=True)
        network = open_network(path, grid, settings, last=last)
        spec = DataSpec(given, test_fraction=0.0, alphabet=TrainingRun.of(network).alphabet)
        dataset = open_dataset(spec, comm, visible=network.spec.visible, seed=network.spec.seed)
        check_letters(network, dataset)
        split = dataset.test or dataset.train
        n_visible = network.spec.layers[0]
        if dataset.n_visible != n_visible:
            raise DataError(
                f"--given {given} has {dataset.n_visible} values a sample, but the network has {n_visible} visible "
                f"units; give samples of {n_visible} values"
            )
        shape = image_shape or dataset.image_shape or square(n_visible)
        if image_shape is not None and math.prod(image_shape) != n_visible:
            raise SpecError(
                f"--image-shape {image_shape[0]}x{image_shape[1]} is of {math.prod(image_shape)} values, but a sample "
                f"has {n_visible}"
            )
        raw = np.empty((len(network.visible_ids), len(split)))
        with together(comm):
            split.table.columns(network.visible_ids).fill(split.rows, raw)
        highest = comm.allreduce(float(raw.max(initial=0.0)), MPI.MAX)
        if (dataset.scale, highest) == (BYTES, 1.0) and network.spec.visible != "gaussian":
            dataset = replace(dataset, scale=1.0)  # states: at 1/255 no unit can be held
        with together(comm):
            known = np.broadcast_to(read_mask(mask, len(split), n_visible)[network.visible_ids], raw.shape)
            v = visible_values(network, dataset, split, raw, known)
            held = raw[known]
        if network.spec.visible != "gaussian":
            ends = comm.allgather((held.min(initial=np.inf), held.max(initial=-np.inf)))
            no_option = replace(dataset, has_options=False)  # this command has no --scale
            check_fills_range(no_option, min(low for low, _ in ends), max(high for _, high in ends), comm)
        v = completions(
            network, v, known, count=count, steps=steps, states=states, mean_over=mean_over, first_draw=seed << 32
        )  # fmt: skip
        completed = in_data_units(network, v, dataset.scale)
        # as the file has them: standardised values do not come back to the last bit
        as_given = np.tile(known, count)
        completed[as_given] = np.tile(raw, count)[as_given]
        completed = network.whole_visible(completed)
        columns = len(split) if count > 1 and len(split) <= COLUMNS else None
        white = pictures.white_of(network, dataset.scale)
        write_samples(grid, Path(out), completed, None, shape, white, columns=columns, sources=(path, given))
    what = f"{len(split)} samples" if count == 1 else f"{count} completions of each of {len(split)} samples"
    print(f"{what}, completed by {steps} steps of Gibbs sampling: {in_one_line(out)}", flush=True)


def visible_values(network: DeepBeliefNetwork, dataset: Dataset, split: Split, raw: Array, known: Mask) -> Array:
    """Raw values (n_visible_owned, samples) as the network sees them, 0 where they are not known.

    Raises DataError, on this rank, where a known one is none that its unit can be held at.
    """
    raw = np.where(known, raw, network.input_offset[:, None])  # of spins -1, which is state 0
    if network.spec.visible == "gaussian":
        return np.asarray((raw - network.input_offset[:, None]) / network.input_scale[:, None])
    spin = network.spec.visible == "spin"
    scaled = ((raw + dataset.scale) / (2 * dataset.scale) if spin else raw / dataset.scale).astype(np.float32)
    binarise = TrainingRun.of(network).binarise
    if binarise not in ("none", "stochastic"):
        return np.asarray(known & (scaled > float(binarise)), np.float32)
    wrong = raw[(scaled != 0) & (scaled != 1)]
    if len(wrong):
        unit = "" if dataset.scale == 1 else f" or {dataset.scale:g}, which means 1 in values of this type"
        raise DataError(
            f"--given {split.table.name} has the value {wrong[0]:g} where the mask is 1, but a unit can only be held "
            f"at {-dataset.scale if spin else 0:g}{unit or ' or 1'}; make states of the values, as by values > 0.5"
        )
    return scaled


def _loaded(path: Path, most: int) -> Array:
    """The array of a .npy file, or the one in a .npz that is called mask or alone, of at most ``most`` values."""

    def check(header: Header) -> None:
        if math.prod(header.shape) > most:
            raise DataError(f"--mask {path} has {' x '.join(map(str, header.shape))} values, but {most} are the most")

    with reading(path), open_regular(path) as file:
        start = file.read(len(NPY_START))
    if start == NPY_START:
        return load_npy(path, check)
    if not start.startswith(ZIP_START):
        raise DataError(f"--mask {path} is not a whole array of NumPy; save it by numpy.save")
    archive = Archive(path)
    key = "mask" if "mask" in archive.headers else next(iter(archive.headers), "")
    if key != "mask" and len(archive.headers) != 1:
        raise DataError(
            f"--mask {path} has the arrays {', '.join(archive.headers) or 'none'}, so it is not clear which is the "
            "mask; name it mask"
        )
    check(archive.headers[key])
    return archive.load(key)


def read_mask(path: str, n_samples: int, n_units: int) -> Mask:
    """(n_units, 1) of a mask for all samples, (n_units, n_samples) of one for each.  Raises DataError."""
    known = mask_of(_loaded(Path(path), n_samples * n_units), f"--mask {path}")
    if known.size == n_units and known.shape[:1] != (n_samples,):
        return known.reshape(n_units, 1)
    if known.shape == (n_units,):
        return known[:, None]
    if known.ndim > 1 and len(known) == n_samples and known.size == n_samples * n_units:
        return known.reshape(n_samples, n_units).T
    raise DataError(
        f"--mask {path} has {' x '.join(map(str, known.shape))} values, but {n_units} are needed, or {n_samples} x "
        f"{n_units} for masks of each sample"
    )
