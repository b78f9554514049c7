"""From a name or a path to a data set: which reader, which labels, which rows for which split."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy.sparse import issparse

from modelpar import faults
from modelpar.collective.agreement import agree
from modelpar.data.cache import from_cache
from modelpar.data.categorical import as_categorical
from modelpar.data.dataset import Dataset, Source, agreed
from modelpar.data.fingerprint import Fingerprint, contents, values_of, values_of_folder
from modelpar.data.memory import array_source, own_source
from modelpar.data.named import SETS, files_of, find_named, open_files
from modelpar.data.neighbours import with_neighbour_weights
from modelpar.data.not_numbers import without_nan
from modelpar.data.packed_files import check_packed
from modelpar.data.read_options import FILLED, ReadOptions
from modelpar.data.readers import is_name, open_source, read_labels
from modelpar.data.reading import check_labels
from modelpar.data.sample_weights import chosen_weights, word_of
from modelpar.data.splits import check_test, set_aside, split_of
from modelpar.errors import DataError, SpecError, warn
from modelpar.files.paths import split_inner
from modelpar.formats.zarr import array_folder, is_zarr
from modelpar.machine.memory import check_room
from modelpar.spec import AUTO, DataSpec
from modelpar.values import plain
from modelpar.values.forms import is_path

IntArray = npt.NDArray[np.int64]

# The orders that choose test and validation samples; training counts epochs from 0 and never meets them.
_TEST_EPOCH, _VALIDATION_EPOCH = 2**32 - 1, 2**32 - 2
_BYTES_OF_SAMPLE = 64  # of numbers of samples, their order, and what sorting them takes, at most


def open_dataset(
    X: Any, y: Any = None, comm: MPI.Comm | None = None, *, test: Any = None, columns: npt.ArrayLike | None = None,
    test_fraction: float | None = None, validation_fraction: float | None = None, scale: float | None = None,
    binarise: str | float | None = None, alphabet: str | None = None, missing: str | None = None,
    weights: Any = None, identity: float | None = None, visible: str = "", seed: int = 1,
) -> Dataset:  # fmt: skip
    """Open a data set by name or path, or make one of arrays in memory.

    X         a name (``digits``, ``mnist``, ``fashion-mnist``, ``bars:SIDE``, ``patterns:SIDE``); the path of a file
              (.npy, .npz, sparse .npz, IDX, FASTA, A3M), or of a folder with four IDX files named as those of MNIST; a
              DataSpec; or samples (n_samples, n_units) or (n_samples, rows, columns): anything that NumPy makes an
              array of (lists, tensors and frames with ``__array__``), or any matrix or array of scipy.sparse
    y         labels (n_samples,) or (n_samples, 1), integers counted from 0, or the path of a file of them
    comm      all ranks that open the data set; it may also come second, in place of y
    test      the test set, as X, or a pair (X, y) of samples and labels
    columns   (n_mine,) ids of the units that the columns of X (and of ``test``) are, where each rank hands over only
              its own, such as ``network.visible_ids``; the rows must be the same on every rank
    test_fraction, validation_fraction, scale, binarise, alphabet, missing, identity   as in
              :class:`modelpar.spec.DataSpec`; not beside one
    weights   of the samples of X, (n_samples,) numbers from 0 on, of any scale; the path of a file of them; ``auto``: 1
              over the samples that agree at ``identity`` of the sites, of categorical data; or ``none``: also where X
              brings some.  Samples of weight 0 are in no split
    visible   the kind of visible units that the data are for, where that is known: for ``categorical:Q`` integers are
              states of sites, from 0 to Q - 1, and bool, or packed bits, are such states one-hot

    Arrays mean what the same arrays mean in a file: bytes are grey values from 0 to 255, other integers must be 0
    or 1.  They are not changed, and must not be while the data set is used, as they are not copied where they need not
    be.  On several ranks every one must hand over the same values.

    Reads headers and labels only.  A set without a test set is split by an order drawn from ``seed``, and so is the
    validation set from the training set; splits are the same at every grid.

    Collective over ``comm`` where one is given; files of named sets are found and verified by its first rank.
    Raises DataError (SpecError for options that cannot be), on every rank, DisagreementError where ranks bring
    different arguments.
    """
    if isinstance(y, MPI.Comm):
        y, comm = None, y if comm is None else comm
    if comm is not None:
        agree(comm, "open_dataset", seed=seed, visible=visible)
    seed = plain.integer_number("seed", seed, at_least=0, below=2**63)
    faults.at("open data")
    with agreed(comm):
        options = {
            "test_fraction": test_fraction, "validation_fraction": validation_fraction, "scale": scale,
            "binarise": binarise, "alphabet": alphabet, "missing": missing, "identity": identity,
        }  # fmt: skip
        given_options = {name: value for name, value in options.items() if value is not None}
        spec, wanted = _asked(X, y, test, columns, weights, given_options)
        plain.text("visible", visible)
    if comm is not None:  # before anything is opened, which is other calls for a path than for an array
        forms: dict[str, Any] = {name: _form(value) for name, value in vars(wanted).items()}
        agree(comm, "open_dataset", columns=_form(columns), **forms)
    reading = ReadOptions(spec.alphabet, spec.missing, visible)
    source, digests = _opened(wanted.X, "X", columns, reading, comm)
    other = source.test
    if wanted.test is not None:  # whatever letters it happens to have, it has the alphabet of the training set
        reading = replace(reading, alphabet=source.alphabet or spec.alphabet)
        other, of_test = _opened(wanted.test, "the test set's X", columns, reading, comm)
        digests = digests[0], of_test[0]
    if comm is not None:  # a file that one rank does not have was reported before
        # of its own columns each rank has others; those that several have were compared
        given = {"y": wanted.y, "test y": wanted.test_y, "weights": wanted.weights}
        if columns is None:
            given = {"X": wanted.X, "test X": wanted.test, **given}
        names: dict[str, Any] = {}
        for name, value in vars(wanted).items():
            if is_path(value):
                names[f"{name}'s path"] = os.fsdecode(value)
        values: dict[str, Any] = {name: _values(value) for name, value in given.items()}
        agree(comm, "open_dataset", spec=spec, **names, **values)
    before = source, other
    _check_scale(spec, source)
    for note in dict.fromkeys([*source.notes, *(() if other is None else other.notes)]):
        warn(comm, note)
    if spec.scale is not None:
        source, other = _scaled(source, spec.scale), None if other is None else _scaled(other, spec.scale)
    source, *tests = from_cache([source] if other is None else [source, other], spec.threshold, comm, digests)
    with agreed(comm):
        dataset = _assemble(spec, wanted, source, tests[0] if tests else None, seed, before, digests)
    if word_of(wanted.weights) != AUTO:
        return dataset
    return with_neighbour_weights(dataset, dataset.visible or visible, spec.identity, comm)


def open_whole(spec: DataSpec, visible: str = "") -> Source:
    """All samples of a data set, with their labels, as its file gives them: nothing is split or cached.

    visible   as in :func:`open_dataset`
    Not collective.  Raises DataError, SpecError.
    """
    source, _ = _opened(spec.data, "X", None, ReadOptions(spec.alphabet, spec.missing, visible), None)
    _check_scale(spec, source)
    for note in source.notes:
        warn(None, note)
    if spec.scale is not None:
        source = _scaled(source, spec.scale)
    return replace(source, labels=_labels(spec.labels, "y", source.table.n_samples, source.labels))


@dataclass(frozen=True)
class _Wanted:
    """The data to open: paths or arrays."""

    X: Any
    y: Any
    test: Any
    test_y: Any
    weights: Any = None


def _form(what: Any) -> str | None:
    """Whether it is a path, anything else, or not there."""
    return None if what is None else "a path" if is_path(what) else "an array"


def _values(what: Any) -> Any:
    """An array or sparse matrix as it is compared: whatever it came as; nothing of a path.  Raises DataError."""
    if what is None or is_path(what):
        return None
    try:
        return what if issparse(what) else np.asarray(what)
    except (ValueError, TypeError, OverflowError) as error:  # lists of several lengths
        raise DataError(f"{plain.shown(what)} is not an array of numbers: {error}") from None


def _asked(
    X: Any, y: Any, test: Any, columns: Any, weights: Any, given: dict[str, Any]
) -> tuple[DataSpec, _Wanted]:  # fmt: skip
    """The arguments of :func:`open_dataset`, checked.   given: the options among them.  Raises SpecError."""
    if isinstance(X, DataSpec):
        twice = {**given, **({"y": y} if X.labels and y is not None else {}),
                 **({"test": test} if X.test_data and test is not None else {}),
                 **({"weights": weights} if X.sample_weights and weights is not None else {})}  # fmt: skip
        if twice:
            raise SpecError(f"{', '.join(twice)} came beside a DataSpec, which has its own; give them there")
        spec, samples = X, X.data
    elif is_path(X):
        spec = DataSpec(os.fsdecode(X), **given)
        samples = spec.data
    else:
        spec, samples = DataSpec("X", **given), X
    if columns is not None and is_path(samples):
        raise SpecError(
            f"columns came with {samples}, but belong to arrays in memory; of a file each rank reads its own"
        )
    if isinstance(test, tuple) and len(test) != 2:
        raise SpecError(f"test came as {len(test)} things, but must be samples, or a pair of samples and labels")
    test, test_y = test if isinstance(test, tuple) else (test, None)
    wanted = _Wanted(
        samples, spec.labels if y is None else y, spec.test_data if test is None else test,
        spec.test_labels if test_y is None else test_y, spec.sample_weights if weights is None else weights,
    )  # fmt: skip
    for name, what in vars(wanted).items():
        if is_path(what) and not os.fsdecode(what):
            raise SpecError(f"{name} is empty, but must name a file")
    return spec, wanted


def _opened(
    what: Any, name: str, columns: Any, reading: ReadOptions, comm: MPI.Comm | None
) -> tuple[Source, tuple[str, str]]:
    """The source of a name, a path or an array, and digests of its samples and of those of the test set that it brings.

    Digests are empty where there is nothing that could be known again.  Collective over ``comm`` where one is given.
    Raises DataError.
    """
    if not is_path(what):
        if columns is not None:  # of units: one-hot already
            source = own_source(what, columns, name, comm)
            return replace(source, scale=1.0, visible=reading.visible) if reading.n_states else source, ("", "")
        with agreed(comm):
            return _for_units(array_source(what, name), reading), ("", "")
    data, files, digests = os.fsdecode(what), None, ("", "")
    with agreed(comm):
        if data in SETS and (comm is None or comm.rank == 0):
            files = find_named(data)
    if comm is not None:
        files = comm.bcast(files)
    with agreed(comm):
        source = _for_units(open_files(files) if files is not None else open_source(data, reading), reading)
        file_state = _file_state(data)
    sources = [] if comm is None else comm.allgather((data, file_state))
    apart = len(set(sources)) > 1 and len({name for name, _ in sources}) == 1  # the caller reports other names
    with agreed(comm):
        if comm is None or comm.rank == 0 or apart:
            digests = _digests(data, files, source)
    check_packed(source.table, comm, same=len(set(sources)) == 1)
    if comm is None:
        return source, digests
    if apart:  # other files by one name: those of other nodes, or of folders that ranks started in
        content: dict[str, Any] = {f"the content of {data}": digests}
        agree(comm, "open_dataset", **content)
    return source, comm.bcast(digests)


def _file_state(data: str) -> tuple[str, int, int]:
    """The properties of a file that are the same on all ranks that see the same one."""
    path = Path(os.path.expanduser(split_inner(data)[0])).absolute()
    if not path.is_file():
        return "", 0, 0
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


def _for_units(source: Source, reading: ReadOptions) -> Source:
    """The source as states of sites, where it is for units that have such, with something in the place of missing
    values, where that is wanted.  Raises DataError."""
    if reading.n_states:
        return as_categorical(source, reading.n_states, reading.missing)
    return without_nan(source, reading) if reading.missing in FILLED else source


def _digests(data: str, files: list[Path] | None, source: Source) -> tuple[str, str]:
    """Digests of the samples, and of those of the test set, where there is one.  Raises DataError.

    A file that can be read in several ways is other data in another way.
    """
    samples, of_test = _digests_of_files(data, files, source.test is not None)
    how = f" {hashlib.blake2b(source.how.encode(), digest_size=8).hexdigest()}" if source.how else ""
    return samples + how, of_test and of_test + how


def _digests_of_files(data: str, files: list[Path] | None, has_test: bool) -> tuple[str, str]:
    if data == "digits":  # whatever file has that name
        return "name:digits", ""
    data, inner = split_inner(data)
    path = Path(os.path.expanduser(data))
    if files is None and path.is_dir() and is_zarr(path):
        return values_of_folder(array_folder(path, inner)), ""
    if files is None and path.is_dir():
        files = files_of(path)
    if files is not None:
        return values_of(files[0]), values_of(files[2])
    return values_of(data), values_of(data, test=True) if has_test else ""


def _assemble(
    spec: DataSpec, wanted: _Wanted, source: Source, other: Source | None, seed: int,
    before: tuple[Source, Source | None], digests: tuple[str, str],
) -> Dataset:  # fmt: skip
    """Labels, splits, and the checks that need all of it.

    other             the test set
    before, digests   both sources as they were before they came from a cache, and digests of their samples
    """
    n_samples, n_units = source.table.n_samples, source.table.n_units
    check_room(_BYTES_OF_SAMPLE * n_samples, source.table.name)
    labels = _labels(wanted.y, "y", n_samples, source.labels)
    weights = chosen_weights(wanted.weights, n_samples, source.weights)
    everything = np.arange(n_samples)
    train_rows, test, known_test = everything, None, None
    if wanted.test is None and wanted.test_y is not None and source.test is None:
        path = f" {os.fsdecode(wanted.test_y)}" if is_path(wanted.test_y) else ""
        raise DataError(f"test labels{path} were given without test data; add the test data")
    if other is not None:
        check_test(source, other)
        test_labels = _labels(wanted.test_y, "the test set's y", other.table.n_samples, other.labels)
        of_test = None if word_of(wanted.weights) else other.weights
        test = split_of(other, np.arange(other.table.n_samples), test_labels, of_test)
        known_test = contents(before[1] or other, digests[1], test_labels)
    else:
        train_rows, aside = set_aside(everything, spec.test_fraction, seed, _TEST_EPOCH)
        test = split_of(source, aside, labels, weights)
    train_rows, aside = set_aside(train_rows, spec.validation_fraction, seed, _VALIDATION_EPOCH)
    train = split_of(source, train_rows, labels, weights)
    if train is None:
        raise DataError(
            f"{spec.data} has {n_samples} samples, of which none is left for training; set a smaller part aside"
        )
    validation = split_of(source, aside, labels, weights)
    known = [
        split.labels.max() for split in (train, validation, test) if split is not None and split.labels is not None
    ]
    n_classes = int(max(known)) + 1 if labels is not None else 0
    name = spec.data if is_name(spec.data) else Path(split_inner(spec.data)[0]).name
    fractions = (0.0 if other is not None else spec.test_fraction), spec.validation_fraction
    mark = Fingerprint(contents(before[0], digests[0], labels, weights), known_test, fractions) if digests[0] else None
    return Dataset(
        name, n_units, n_classes, source.image_shape, train, validation, test, source.scale, spec.binarise,
        scale_given=spec.scale is not None, fingerprint=mark, visible=source.visible, alphabet=source.alphabet,
    )  # fmt: skip


def _check_scale(spec: DataSpec, source: Source) -> None:
    if spec.scale is not None and source.visible:
        raise SpecError(f"--scale {spec.scale:g} has no effect on {source.table.name}, which has states; leave it out")


def _scaled(source: Source, scale: float) -> Source:
    return replace(source, scale=float(scale))


def _labels(given: Any, name: str, n_samples: int, own: IntArray | None) -> IntArray | None:
    """Those that were given, as a path or an array, or else those that the samples came with.  Raises DataError."""
    if given is None:
        return own
    return read_labels(given, n_samples) if is_path(given) else check_labels(given, n_samples, name)
