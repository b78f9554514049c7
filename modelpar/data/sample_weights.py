"""Weights of samples: how much each counts, beside the others.  Their scale has no meaning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.paths import in_one_line
from modelpar.files.regular import open_regular
from modelpar.formats.archive import ZIP_START, Archive
from modelpar.formats.npy import NPY_START, load_npy
from modelpar.formats.reading import reading
from modelpar.spec import WEIGHT_WORDS
from modelpar.values.forms import AnyPath, is_path, plain_array

Doubles = npt.NDArray[np.float64]

WEIGHTS_KEY = "weights"
_LONGEST = 64  # characters of a number and its end of line


def check_weights(weights: Any, n_samples: int, name: str) -> Doubles:
    """Weights as float64 (n_samples,), out of numbers of any type, in one column or dimension.

    Raises DataError where they are not one for each sample, from 0 on, and not all zero.
    """
    weights = plain_array(weights, name)
    _check_shape(weights.shape, n_samples, name)
    if weights.dtype.kind not in "uibf":
        raise DataError(f"{name} are of type {weights.dtype}, but must be numbers from 0 on")
    weights = weights.reshape(-1).astype(np.float64)
    wrong = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    if len(wrong):
        raise DataError(
            f"{name} have the value {weights[wrong[0]]:g} for sample {wrong[0]}, but must be finite numbers from 0 on"
        )
    if n_samples and not weights.any():
        raise DataError(f"{name} are all zero, so no sample is left; give some of them more")
    return weights


def word_of(given: Any) -> str:
    """The word that stands for weights, in place of a file or an array; empty where there is none."""
    word = os.fsdecode(given) if is_path(given) else ""
    return word if word in WEIGHT_WORDS else ""


def chosen_weights(given: Any, n_samples: int, own: Doubles | None) -> Doubles | None:
    """Those that were given, as a path or an array, or else those that the samples came with; none for a word: ``auto``
    counts within splits.  Raises DataError."""
    if given is None or word_of(given):
        return own if given is None else None
    return read_weights(given, n_samples) if is_path(given) else check_weights(given, n_samples, "the weights")


def _check_shape(shape: tuple[int, ...], n_samples: int, name: str) -> None:
    if len(shape) != 1 and (len(shape) != 2 or shape[1] != 1):
        raise DataError(f"{name} have {len(shape)} dimensions, but must be one number for each sample")
    if shape[0] != n_samples:
        raise DataError(f"{name} are {shape[0]} numbers, but there are {n_samples} samples")


def read_weights(path: AnyPath, n_samples: int) -> Doubles:
    """Weights from a text with one number on each line, a ``.npy``, or the array ``weights`` of a ``.npz``, float64
    (n_samples,).  Raises DataError."""
    path = Path(os.path.expanduser(os.fsdecode(path)))
    name = f"the weights in {in_one_line(str(path))}"
    with reading(path), open_regular(path) as file:
        start = file.read(8)
    if start.startswith(NPY_START):
        values = load_npy(path, lambda header: _check_shape(header.shape, n_samples, name))
    elif start.startswith(ZIP_START):
        found = weights_in(Archive(path), n_samples)
        if found is None:
            raise DataError(f"{path} has no array called {WEIGHTS_KEY}; save the weights under this name")
        return found
    else:
        values = _numbers(path, n_samples, name)
    return check_weights(values, n_samples, name)


def weights_in(archive: Archive, n_samples: int) -> Doubles | None:
    """The array ``weights`` of an archive, None where there is none.  Raises DataError."""
    if WEIGHTS_KEY not in archive.headers:
        return None
    name = f"the weights in {in_one_line(str(archive.path))}"
    _check_shape(archive.headers[WEIGHTS_KEY].shape, n_samples, name)
    return check_weights(archive.load(WEIGHTS_KEY), n_samples, name)


def _numbers(path: Path, n_samples: int, name: str) -> Doubles:
    """The numbers on the lines of a text."""
    with reading(path), open_regular(path) as file:
        content = file.read(_LONGEST * (n_samples + 1))
        more = file.read(1)
    lines = content.decode("ascii", "replace").rstrip().splitlines()
    if more:
        raise DataError(f"{name} are more than {n_samples} numbers, one for each sample, on a line each")
    values = np.empty(len(lines))
    for i, line in enumerate(lines):
        try:
            values[i] = float(line)
        except ValueError:
            shown = in_one_line(line.strip()[:40])
            raise DataError(f"{path} has {shown!r} on line {i + 1}, but must have one number on each") from None
    return values
