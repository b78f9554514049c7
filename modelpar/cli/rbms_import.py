"""``modelpar import``: a run directory or a checkpoint from a file of ``rbms``; see ``rbms_export``."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.chains.gibbs import start
from modelpar.cli.config import Settings, write_config
from modelpar.cli.evaluate import make_grid
from modelpar.cli.export import CHUNK_BYTES
from modelpar.cli.overwriting import check_outputs, check_run_directory
from modelpar.cli.rbms_export import MODEL, MODEL_OF_SITES, NAMES, OF_RBMS
from modelpar.cli.recorded_paths import recorded
from modelpar.cli.run_directory import RunDirectory
from modelpar.collective import messages
from modelpar.comm.memory import check_fits
from modelpar.data.minibatches import Minibatches
from modelpar.errors import DataError, SpecError, together
from modelpar.files.paths import in_one_line
from modelpar.files.regular import check_regular
from modelpar.formats.hdf5 import h5py_module
from modelpar.kernels.states import pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.plan.memory import memory_bytes
from modelpar.plan.resolve import resolve
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.state import Position, TrainingRun
from modelpar.units.visible import CATEGORICAL

Array = npt.NDArray[Any]

_UPDATE = re.compile(r"update_([0-9]{1,18})")
HYPERPARAMETERS = ("batch_size", "gibbs_steps", "learning_rate", "L1", "L2", "seed")
MOST_PACKED = 2000  # bytes that a byte of the file may become: more than HDF5's own packing can do
MOST_AT_ONCE = 1 << 30  # bytes of a chunk of a dataset, which the library unpacks as one
MOST_TEXT = 1 << 10  # bytes of a text
MOST_HEAP = 1 << 20  # bytes of the heap that it lies in


def import_rbms(
    comm: MPI.Comm, settings: Settings, file: str, out: str, *, update: int | None, overwrite: bool
) -> None:
    """Make a checkpoint, or a run directory to go on with, of one update of a file of ``rbms``.  Collective.

    Rank 0 reads, rows after rows.
    """
    to_file = out.endswith(".safetensors")
    with together(comm):
        h5py_module(*OF_RBMS)
    if to_file:
        check_outputs(comm, settings, {"OUT": out}, more=(("the file to import", file),), seekable=True)
    else:
        check_run_directory(comm, settings, out, option="OUT")
    with (
        make_grid(comm, settings) as grid,
        _opened(comm, file) as reader,
        closing(RunDirectory(grid.comm, out)) as directory,
    ):
        if not to_file:
            directory.check(resume=False, overwrite=overwrite, option="OUT")
        with together(comm):
            head = None if reader is None else reader.head(update)
        head = comm.bcast(head)
        try:
            spec = NetworkSpec(
                head["layers"], visible=head["visible"], dtype=head["dtype"], seed=head["seed"],
                layout=settings.network().layout,
            )  # fmt: skip
            training = _training(head)
        except SpecError as error:
            raise DataError(f"{file} has what modelpar cannot go on with: {error}") from None
        needed = memory_bytes(spec, grid.n_shards, max(1, head["n_chains"]))
        check_fits(needed, f"the network of {file}", grid.comm, grid.node_comm)
        network = DeepBeliefNetwork(spec, grid, resolve(spec, grid, None), draw_weights=False)
        n_chains = _fill(network, comm, reader, head)
        run = TrainingRun.of(network)
        # the training so far counts as one epoch: biases are not set from the data again
        run.position = Position("pretrain", epoch=training.epochs)
        run.binarise = settings.data.binarise
        if to_file:
            checkpoint.save(network, out, sources=(file,))
        else:
            specs: dict[str, Any] = {"network": spec, "training": training, "run": _run_spec(settings)}
            if settings.tables.get("data"):
                specs["data"] = settings.data
            directory.prepare(resume=False, overwrite=overwrite)
            directory.write_config(write_config(recorded(specs)), sources=(file,))
            directory.save(network, directory.model)
    what = f"update {head['update']} of {in_one_line(file)}, {head['layers'][0]}-{head['layers'][1]}"
    print(f"{what}, {n_chains or 'no'} chains\nimported: {in_one_line(out)}", flush=True)


def _run_spec(settings: Settings) -> Any:
    tables = {"run": {**settings.tables.get("run", {}), "pretrain_only": True}}
    return Settings(tables).run


def _training(head: dict[str, Any]) -> TrainingSpec:
    """The training of rbms in our options: PCD with the centred gradient and without momentum."""
    given = head["hyperparameters"]
    return TrainingSpec(
        epochs=1, momentum=0.0, initial_momentum=0.0, centred=True, chains=head["n_chains"], persistent=True,
        batch_size=int(given.get("batch_size", TrainingSpec.batch_size)),
        chain_steps=int(given.get("gibbs_steps", 1)), chain_start="random",
        learning_rate=float(given["learning_rate"]) if "learning_rate" in given else None,
        l1=float(given.get("L1", 0.0)), weight_decay=2 * float(given.get("L2", 0.0)),
    )  # fmt: skip


def _fill(network: DeepBeliefNetwork, comm: MPI.Comm, reader: _Reader | None, head: dict[str, Any]) -> int:
    """Put a file's parameters and chains into a network; the number of chains.  Collective."""
    [rbm], grid = network.rbms, network.grid
    assert rbm.weights.matrix_ids is not None  # connections are complete
    rows, columns = rbm.weights.matrix_ids
    for first, chunk in _chunks(comm, reader, head, "weight_matrix", head["layers"]):
        mine = np.flatnonzero((rows >= first) & (rows < first + len(chunk)))
        rbm.W[mine] = chunk[np.ix_(rows[mine] - first, columns)]
    biases = ("vbias", rbm.b, rbm.visible_ids), ("hbias", rbm.c, rbm.hidden_ids)
    for (name, bias, ids), n_units in zip(biases, head["layers"], strict=True):
        for first, chunk in _chunks(comm, reader, head, name, (n_units,)):
            mine = np.flatnonzero((ids >= first) & (ids < first + len(chunk)))
            bias[mine] = chunk[ids[mine] - first]
    network.refresh()
    n_chains = head["n_chains"]
    if n_chains:
        own = Minibatches.slice_of(n_chains, grid.replica, grid.n_replicas)
        v = np.empty((len(rbm.visible_ids), own.stop - own.start), np.uint8)
        for first, chunk in _chunks(comm, reader, head, "parallel_chains", (n_chains, head["layers"][0])):
            lines = np.arange(first, first + len(chunk))
            lines = lines[(lines >= own.start) & (lines < own.stop)]
            v[:, lines - own.start] = chunk[np.ix_(lines - first, rbm.visible_ids)].T
        TrainingRun.of(network).chains = start(rbm, "data", grid.replica, grid.n_replicas, n_chains, data=pack(v))
    return int(n_chains)


def _chunks(
    comm: MPI.Comm, reader: _Reader | None, head: dict[str, Any], name: str, shape: tuple[int, ...]
) -> Iterator[tuple[int, Array]]:
    """(first row, rows) of a dataset, on every rank.  Collective.  Raises DataError on every rank."""
    q = head["categories"]
    at_once = max(1, CHUNK_BYTES // (8 * math.prod(shape[1:])))
    at_once = max(q, at_once - at_once % q)  # whole sites
    for first in range(0, shape[0], at_once):
        chunk: list[Array] | None = None
        with together(comm):
            if reader is not None:
                chunk = [reader.rows(name, first, first + at_once, head["dtype"])]
        yield first, messages.bcast_arrays(comm, chunk)[0]


@contextmanager
def _opened(comm: MPI.Comm, path: str) -> Iterator[_Reader | None]:
    """The file, on rank 0.  Collective.  Raises DataError on every rank."""
    reader = None
    with together(comm):
        if comm.rank == 0:
            reader = _Reader(path)
    try:
        yield reader
    finally:
        if reader is not None:
            reader.file.close()


class _Reader:
    """A file of rbms.  Methods raise DataError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.group: Any = None  # with the parameters
        self.categories = 1  # of a site, whose units are rows one after another; 1: units are no sites
        try:
            check_regular(path)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; name a file of rbms") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read as a file of rbms: {error.strerror}") from None
        if not h5py_module().is_hdf5(path):
            raise DataError(f"{path} cannot be read as a file of rbms: it is not HDF5; name a .h5 that rbms has saved")
        with self._reading("it is HDF5, but damaged or cut off; get a new copy"):
            self.file = h5py_module().File(path, "r")

    @contextmanager
    def _reading(self, why: str = "it is damaged, or something in it is not what rbms saves there") -> Iterator[None]:
        """The library's own words are of no help to those who do not know it."""
        try:
            yield
        except (OSError, RuntimeError, LookupError, ValueError, ArithmeticError, TypeError, AttributeError,
                struct.error):  # fmt: skip
            raise DataError(f"{self.path} cannot be read as a file of rbms: {why}") from None

    def head(self, update: int | None) -> dict[str, Any]:
        """The sizes of the model after ``update`` updates (the last ones where None), and how it was trained."""
        with self._reading():
            updates = sorted(int(found[1]) for found in map(_UPDATE.fullmatch, self.file) if found)
            kind = self._text("model_type") if "model_type" in self.file else MODEL
        if not updates:
            raise DataError(f"{self.path} has no update_N, so it holds no model of rbms")
        if kind not in (MODEL, MODEL_OF_SITES):
            known_kinds = f"only {MODEL} and {MODEL_OF_SITES} are known: of Bernoulli units, and of categorical sites"
            raise DataError(f"{self.path} holds a model of type {kind}, but {known_kinds}")
        if update is not None and update not in updates:
            shown = ", ".join(map(str, updates if len(updates) < 12 else [*updates[:5], "...", *updates[-5:]]))
            raise DataError(f"--update is {update}, but {self.path} has the updates {shown}")
        chosen = updates[-1] if update is None else update
        with self._reading():
            group = self._group(self.file, f"update_{chosen}")
            self.group = self._group(group, "params") if "params" in group else group  # earlier versions
            missing = [name for name in NAMES if name not in self.group]
        if missing:
            raise DataError(f"update_{chosen} of {self.path} has no {missing[0]}, so it is no file of rbms")
        with self._reading():
            theirs = {name: self._dataset(self.group, name) for name in NAMES}
            shapes = [theirs[name].shape for name in NAMES]
            kinds = {theirs[name].dtype.kind for name in NAMES}
            dtype = "float64" if theirs["weight_matrix"].dtype == np.float64 else "float32"
            known = self._group(self.file, "hyperparameters") if "hyperparameters" in self.file else {}
            numbers = {name: self._number(known, name) for name in HYPERPARAMETERS if name in known}
            chains: tuple[int, ...] = (0,)
            if "parallel_chains" in self.file:
                theirs["parallel_chains"] = self._dataset(self.file, "parallel_chains")
                chains = theirs["parallel_chains"].shape
            for name, dataset in theirs.items():
                self._check_storage(name, dataset)
        n_dims = 3 if kind == MODEL_OF_SITES else 2
        if len(shapes[0]) != n_dims or shapes != [shapes[0], shapes[0][:-1], shapes[0][-1:]] or kinds != {"f"}:
            visible = "sites, categories" if kind == MODEL_OF_SITES else "visible"
            raise DataError(
                f"update_{chosen} of {self.path} has weights {shapes[0]} with biases {shapes[1]} and {shapes[2]}, but "
                f"({visible}, hidden) with ({visible}{',' * (n_dims == 2)}) and (hidden,) are needed, all floating "
                "point"
            )
        numbers = {name: float(value) for name, value in numbers.items() if isinstance(value, np.number)}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        # the chains of a file are those of its last update
        n_chains = chains[0] if chosen == updates[-1] and chains[1:] == shapes[1][:1] else 0
        self.categories = int(shapes[0][1]) if kind == MODEL_OF_SITES else 1
        visible = f"{CATEGORICAL}:{self.categories}" if kind == MODEL_OF_SITES else "bernoulli"
        layers = (int(math.prod(shapes[1])), int(shapes[0][-1]))
        return {"layers": layers, "visible": visible, "categories": self.categories, "dtype": dtype, "update": chosen,
                "n_chains": int(n_chains), "seed": int(numbers.get("seed", 1)), "hyperparameters": numbers}  # fmt: skip

    def _inside(self, group: Any, name: str) -> Any:
        """What a group holds under a name, in this file: a link may lead into any other."""
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py_module().HardLink):
            raise DataError(f"{self.path} has {name} by a link, which rbms does not save; copy what it leads to")
        return group[name]

    def _group(self, parent: Any, name: str) -> Any:
        return self._of_kind(self._inside(parent, name), h5py_module().Group)

    def _dataset(self, parent: Any, name: str) -> Any:
        return self._of_kind(self._inside(parent, name), h5py_module().Dataset)

    def _of_kind(self, found: Any, kind: type) -> Any:
        """Raises TypeError for anything else: to look for a name in a dataset would read all of its values."""
        if not isinstance(found, kind):
            raise TypeError
        return found

    def _number(self, group: Any, name: str) -> Any:
        """A number; None for anything else."""
        dataset = self._dataset(group, name)
        if dataset.shape != () or dataset.dtype.kind not in "iuf" or dataset.external or dataset.is_virtual:
            return None
        return dataset[()]

    def _text(self, name: str) -> str:
        """A short text.  Raises ValueError for anything else."""
        dataset = self._dataset(self.file, name)
        kind = dataset.dtype.kind
        if dataset.shape != () or dataset.external or dataset.is_virtual or kind not in "SO":
            raise ValueError
        if kind == "S" and dataset.dtype.itemsize <= MOST_TEXT:
            return bytes(dataset[()]).decode()
        return self._text_of_heap(dataset)

    def _text_of_heap(self, dataset: Any) -> str:
        """A text of variable length, from the heap that it lies in: of a damaged heap HDF5 itself may never return.

        HDF5 file format specification 3.0, sections III.E and VIII.B: a length, and the address of a collection of
        objects and the number of one; each has its number, 6 bytes, its size, and its bytes up to a multiple of 8.
        Raises ValueError, or IndexError.
        """
        at, sizes = dataset.id.get_offset(), self.file.id.get_create_plist().get_sizes()
        if at is None or sizes != (8, 8) or self.file.userblock_size or not dataset.id.get_type().is_variable_str():
            raise ValueError
        with open(self.path, "rb") as file:
            file.seek(at)
            length, address, wanted = struct.unpack("<IQI", file.read(16))
            if length > MOST_TEXT or address >= 1 << 62:
                raise ValueError
            file.seek(address)
            if file.read(8) != b"GCOL\x01\0\0\0":
                raise ValueError
            (left,) = struct.unpack("<Q", file.read(8))
            heap = file.read(min(max(left - 16, 0), MOST_HEAP))
        at = 0
        while at + 16 <= len(heap):
            number, size = struct.unpack_from("<H6xQ", heap, at)
            if number == wanted and length <= size:
                return heap[at + 16 :][:length].decode()
            at += 16 + -(-size // 8) * 8  # goes on by 16 at least, whatever the size says
        raise ValueError

    def _check_storage(self, name: str, dataset: Any) -> None:
        """Raise DataError where values are in other files, or are more than the bytes of this one can be."""
        if dataset.external or dataset.is_virtual:
            raise DataError(f"{self.path} has {name} in another file, which rbms does not save; copy it into this one")
        n_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
        at_once = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if n_bytes > MOST_PACKED * dataset.id.get_storage_size() or at_once > MOST_AT_ONCE:
            raise DataError(
                f"{self.path} has {name} of shape {dataset.shape}, but not the bytes for it; get a new copy"
            )

    def rows(self, name: str, first: int, stop: int, dtype: str) -> Array:
        """Some rows of the parameters, or of the chains; those of sites are rows of units, from a whole site on."""
        q = 1 if name == "hbias" else self.categories
        if name == "parallel_chains":
            return self._chains(first, stop, q)
        data = self.group[name]
        with self._reading():
            values: Array = data[first // q : -(-stop // q)].astype(dtype)
        if not np.isfinite(values).all():
            raise DataError(f"{name} of {self.path} has NaN or infinities")
        return values if q == 1 else values.reshape(len(values) * q, *values.shape[2:])

    def _chains(self, first: int, stop: int, categories: int) -> Array:
        """(chains, n_visible) of 0 and 1."""
        with self._reading():
            values: Array = self.file["parallel_chains"][first:stop]
        if not np.isin(values, np.arange(max(2, categories))).all():
            theirs = "0 and 1" if categories == 1 else f"categories 0 .. {categories - 1}"
            raise DataError(f"parallel_chains of {self.path} are not only {theirs}, so they are no visible states")
        if categories == 1:
            return values.astype(np.uint8)
        one_hot = values[..., None] == np.arange(categories, dtype=values.dtype)
        return one_hot.reshape(len(values), -1).astype(np.uint8)
