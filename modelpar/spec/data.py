"""The data."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass

from modelpar.errors import SpecError
from modelpar.spec.base import Spec, option
from modelpar.values import plain

DATA_SETS = ("digits", "mnist", "fashion-mnist")  # known by name
DRAWN_SETS = ("bars", "patterns")  # by name and number, as in bars:8
AUTO = "auto"
WEIGHT_WORDS = (AUTO, "none")  # of --sample-weights, which else names a file


@dataclass(frozen=True)
class DataSpec(Spec):
    """The data, and their preparation for the visible units."""

    data: str = option(
        "digits",
        "data set: digits, mnist, fashion-mnist, bars:SIDE, patterns:SIDE, or a file (.npy, .npz, IDX, sparse .npz, FASTA, A3M, HDF5 as FILE.h5:ARRAY, Zarr as FILE.zarr:ARRAY, PLINK .bed, VCF, Parquet, CSV)",
        path="data",
    )
    labels: str | None = option(None, "file with the labels, where the data file has none", path="file")
    test_data: str | None = option(None, "file of the test set, where the data set has none", path="data")
    test_labels: str | None = option(None, "file with the labels of the test set", path="file")
    test_fraction: float = option(
        0.2, "fraction of the samples set aside as test set, where the data set has none", at_least=0, below=1
    )
    validation_fraction: float = option(
        0.0, "fraction of the training samples set aside for validation", at_least=0, below=1
    )
    sample_weights: str | None = option(
        None, "weights of the samples, by which minibatches are drawn: a file (one number on each line, .npy, or the array weights of a .npz); auto: 1 over the sequences that agree at --identity of the sites, of categorical data; or none  [default: the array weights of the data's .npz, where there is one]",
        path="data",
    )  # fmt: skip
    identity: float = option(
        0.8, "part of their sites at which sequences agree that --sample-weights auto counts as neighbours",
        above=0, at_most=1, flag="--identity",
    )  # fmt: skip
    scale: float | None = option(
        None, "raw value that means 1.0  [default: that of the data set, else 255 for bytes and 1 for other types]", above=0
    )  # fmt: skip
    binarise: str = option(
        "none", "visible states from real values: none, stochastic, or a threshold such as 0.5", numeric=True
    )
    alphabet: str = option("", "letters of sequences: protein, dna, rna, or those of the states in their order, as in -ACGT  [default: by the letters that there are]")  # fmt: skip
    missing: str = option(
        "auto", "letters that say little, unknown genotypes, NaN, and states -1: gap, error, most-frequent of the site, or sample, drawn from the model in training; auto: gap for sequences, else error",
        choices=("auto", "error", "gap", "most-frequent", "sample"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("data", "labels", "test_data", "test_labels", "sample_weights"):
            value = getattr(self, name)
            if isinstance(value, (bytes, os.PathLike)):
                object.__setattr__(self, name, os.fsdecode(value))
            elif value is not None and not isinstance(value, str):
                raise SpecError(
                    f"--{name.replace('_', '-')} is {plain.shown(value)}, but must be a text or a path; arrays are for "
                    "open_dataset"
                )
            if getattr(self, name) == "":
                raise SpecError(f"--{name.replace('_', '-')} is empty, but must name a file or a data set")
        super().__post_init__()
        self.threshold  # noqa: B018 - raises where binarise is not understood

    @property
    def threshold(self) -> float | None:
        """The fixed threshold, in units of the scaled values, or None."""
        if self.binarise in ("none", "stochastic"):
            return None
        with suppress(ValueError):
            level = float(self.binarise)
            if math.isfinite(level):
                return level
        raise SpecError(f"--binarise is {self.binarise!r}, but must be none, stochastic or a number such as 0.5")
