"""Samples and reconstructions by the models that a run has kept from the course of its pre-training."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli import pictures
from modelpar.cli.run_directory import KeptModel, RunDirectory
from modelpar.data import Dataset
from modelpar.errors import CheckpointError, together
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.feeds import in_data_units

Array = npt.NDArray[Any]
Load = Callable[[Path], DeepBeliefNetwork]

MOST_MOMENTS = 6
TILES = 10  # samples of a strip
STEPS = 100  # of Gibbs sampling from random states,
WORK = 2e9  # as far as these multiplications of one model go


@dataclass(frozen=True)
class Moment:
    """What one model makes, in grey values from 0 to 255.   samples, reconstructions (TILES, rows, columns)"""

    updates: int  # of the uppermost RBM
    samples: Array
    reconstructions: Array


@dataclass(frozen=True)
class Course:
    """Pictures over time.   originals: what is reconstructed; steps: of Gibbs sampling"""

    moments: list[Moment]
    originals: Array
    steps: int


def kept_models(directory: RunDirectory, end: int | None = None) -> list[tuple[int, Path]]:
    """(updates, file) of models of the uppermost RBM, at most ``MOST_MOMENTS``; the same on every rank.  Collective.

    end   updates after which its pre-training ended, as far as that is known
    """
    found: dict[int, Path] = {}
    with together(directory.comm):
        if directory.comm.rank == 0:
            steps = sorted(directory.checkpoints.glob("step-*.safetensors"))
            for path, kept in [*((path, None) for path in steps), *((k.path, k) for k in directory.trajectory())]:
                with suppress(CheckpointError):  # it was removed meanwhile, or is damaged: others are left
                    updates = _updates_of(path, kept)
                    if updates is not None:
                        found[updates] = path
            if end is not None and directory.pretrained.exists():
                found[end] = directory.pretrained
    ordered = sorted(directory.comm.bcast(found).items())
    if len(ordered) <= MOST_MOMENTS:
        return ordered
    # the first and the last, and between them by the logarithm of the updates: most happens early
    logs = np.log1p([updates for updates, _ in ordered])
    wanted = np.linspace(logs[0], logs[-1], MOST_MOMENTS)
    return [ordered[i] for i in sorted({int(np.abs(logs - at).argmin()) for at in wanted})]


def _updates_of(path: Path, kept: KeptModel | None) -> int | None:
    """Updates of the uppermost RBM that a checkpoint is from; None where another one was in training then."""
    header = files.read_header(path, MPI.COMM_SELF)
    top = len(checkpoint.read_spec(path, header).layers) - 2
    if kept is not None:
        return kept.update if kept.rbm == top else None
    position = checkpoint.read_position(header)
    if position is None or not position.batch_size or (position.stage, position.layer) != ("pretrain", top):
        return None
    return position.epoch * -(-position.n_samples // position.batch_size) + position.step


def course_of(directory: RunDirectory, dataset: Dataset, load: Load, end: int | None = None) -> Course | None:
    """What the kept models make of the same random states and of the same samples; None where there are fewer than two
    models, or where a sample is not a picture.

    load   opens a checkpoint on the grid of ``directory``, for no training;   end: as for :func:`kept_models`

    Collective.  Raises ModelparError on every rank.
    """
    shape, kept = dataset.image_shape, kept_models(directory, end)
    if shape is None or len(kept) < 2:
        return None
    split = dataset.test if dataset.test is not None and len(dataset.test) else dataset.train
    made: list[tuple[int, Array, Array]] = []
    originals: Array = np.zeros((0, *shape))
    steps, white = STEPS, None
    for updates, path in kept:
        network = load(path)
        steps = int(min(STEPS, max(WORK / (2.0 * TILES * network.n_weights[-1]), 1)))
        data, rebuilt = pictures.reconstructions(network, dataset, split, TILES)
        with network.traffic.measuring():
            fantasies = network.fantasies(TILES, steps)
        samples = network.whole_visible(in_data_units(network, fantasies, dataset.scale))
        white = pictures.white_of(network, dataset.scale)
        originals = data.T.reshape(-1, *shape)
        made.append((updates, samples.T.reshape(-1, *shape), rebuilt.T.reshape(-1, *shape)))
    low, high = (0.0, white) if white is not None else (float(originals.min()), float(originals.max()))

    def grey(values: Array) -> Array:
        return np.clip(255 * (values - low) / ((high - low) or 1.0), 0, 255).round().astype(np.uint8)

    moments = [Moment(updates, grey(samples), grey(rebuilt)) for updates, samples, rebuilt in made]
    return Course(moments, grey(originals), steps)


def strip(tiles: Array) -> bytes:
    """A PNG of tiles (n, rows, columns) of grey values in a row, a white pixel between them."""
    n, rows, columns = tiles.shape
    canvas = np.full((rows, n * (columns + 1) - 1), 255, np.uint8)
    for i, tile in enumerate(tiles):
        canvas[:, i * (columns + 1) : i * (columns + 1) + columns] = tile
    return grey_png(canvas)


def grey_png(values: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of 8 bits a pixel.   values (rows, columns)"""
    rows, columns = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = np.zeros((rows, columns + 1), np.uint8)  # the first byte of a line: no filter
    lines[:, 1:] = values
    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
