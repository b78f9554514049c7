"""Files of ``rbms`` (Decelle, Béreux et al., on PyPI), to and from: one HDF5 file with the models of a training.

::

    model_type                 BBRBM: Bernoulli visible and hidden units; PBRBM: categorical and Bernoulli ones
    parallel_chains            (chains, n_visible) visible states, as of the last update; a PBRBM's are categories
    hyperparameters/           batch_size, gibbs_steps, learning_rate, L1, L2, ...
    parallel_chains            (chains, n_visible) visible states, of the last update; categories of a PBRBM's sites
                               (n_sites, n_categories, n_hidden) and (n_sites, n_categories)
    update_N/                  time, random states, flags/

The energy is ours, -v.b - h.c - v.W h, so parameters are taken as they are.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.chains.gibbs import Chains, start
from modelpar.checkpoint.files import TensorBlock
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings, home_of, read_own_config
from modelpar.cli.evaluate import make_grid, open_network
from modelpar.cli.export import rows_in_order
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.row_file import Hdf5RowFile
from modelpar.cli.run_directory import RunDirectory
from modelpar.draws import Purpose
from modelpar.errors import CheckpointError, SpecError, together
from modelpar.files.paths import in_one_line
from modelpar.formats.hdf5 import h5py_module
from modelpar.kernels.states import Packed, unpack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.spec import TrainingSpec
from modelpar.units.visible import CATEGORICAL

Array = npt.NDArray[Any]

MODEL, MODEL_OF_SITES = "BBRBM", "PBRBM"
OF_RBMS = "files of rbms", "rbms"  # what needs h5py, and the extra that brings it
NAMES = ("weight_matrix", "vbias", "hbias")
DRAWN_FROM_CHAINS = 1  # repeat of the stream of Purpose.CHAIN for the visible states that are exported


def export_rbms(comm: MPI.Comm, settings: Settings, where: str, out: str, *, index: int | None, last: bool) -> None:
    """Write one RBM of a checkpoint, and its chains, as ``rbms`` does.  Rank 0 writes, rows after rows.  Collective.

    index   which of the RBMs of a stack
    """
    with together(comm):
        h5py_module(*OF_RBMS)
    check_outputs(comm, settings, {"OUT": out}, checkpoint=where)
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=True)
        network = open_network(path, grid, settings, last=last)
        rbm = _chosen(network, index)
        training, updates = Settings(read_own_config(comm, where)).training, _updates_of(comm, where, path, rbm)
        chains = _chains_of(comm, where, path, network, rbm)
        rng = np.random.RandomState(network.spec.seed % 2**32)
        v = _visible_states(network, rbm, chains, training.n_chains or training.batch_size)
        group = f"update_{updates}"
        small = {
            "model_type": MODEL_OF_SITES if rbm.visible.categories else MODEL, "parallel_chains": v,
            f"{group}/time": 0.0, f"{group}/flags/checkpoint": True,
            f"{group}/save_checkpoint": True, f"{group}/torch_rng_state": torch_state(network.spec.seed % 2**32),
            **{f"{group}/numpy_rng_arg{i}": part for i, part in enumerate(rng.get_state())},
            **{f"hyperparameters/{name}": value for name, value in _hyperparameters(rbm, network, training, v).items()},
        }  # fmt: skip
        writer = _Writer(Path(out) if comm.rank == 0 else None, (path,))
        try:
            for name, value in small.items():
                writer.put(name, value)
            for name, block in _blocks(network, rbm).items():
                sites_of = 0 if name == "hbias" else rbm.visible.categories
                writer.begin(f"{group}/params/{name}", f"{group}/{name}", block, sites_of)
                for rows in rows_in_order(grid, block):
                    writer.add(rows)
            with together(comm):
                writer.finish()
        except BaseException:
            writer.give_up()
            raise
        comm.barrier()
    kept = "chains" if chains is not None else "new chains, since the checkpoint has none"
    print(f"exported: {in_one_line(out)}, as {group} with {len(v)} {kept}", flush=True)


def _chosen(network: DeepBeliefNetwork, index: int | None) -> RBM:
    """Raises SpecError, on every rank alike."""
    n = len(network.rbms)
    if index is None and n > 1:
        raise SpecError(f"a file of rbms holds one RBM, but the network is a stack of {n}; choose one by --rbm")
    if index is not None and index >= n:
        raise SpecError(f"--rbm is {index}, but the network has the RBMs 0 to {n - 1}")
    rbm = network.rbms[index or 0]
    if rbm.visible.name not in ("bernoulli", CATEGORICAL):
        raise SpecError(
            "a file of rbms is for Bernoulli or categorical visible units, but these are "
            f"{rbm.visible.name}; export to .npz"
        )
    if rbm.hidden_units is not None:
        raise SpecError(f"rbms has no {rbm.hidden_units.name} hidden units, as this RBM has; export to .npz")
    if rbm.weights.matrix_ids is None:
        raise SpecError(f"RBM {rbm.index} has connections that are not complete, as rbms needs them; export to .npz")
    return rbm


def _blocks(network: DeepBeliefNetwork, rbm: RBM) -> dict[str, TensorBlock]:
    ours = {f"rbm.{rbm.index}.{name}": theirs for name, theirs in zip("Wbc", NAMES, strict=True)}
    return {ours[block.name]: block for block in checkpoint.tensors(network) if block.name in ours}


def _updates_of(comm: MPI.Comm, where: str, path: Path, rbm: RBM) -> int:
    """The number of updates of a checkpoint, by its name or the records of its run; 1 where neither tells.
    Collective."""
    own = RunDirectory.number_of(path)
    if own is None:
        records = RunDirectory(comm, comm.bcast(home_of(where))).history()
        mine = [line["step"] for line in records if (line["stage"], line["layer"]) == ("pretrain", rbm.index)]
        own = max(mine, default=1)
    return max(1, own)


def _chains_of(comm: MPI.Comm, where: str, path: Path, network: DeepBeliefNetwork, rbm: RBM) -> Chains | None:
    """The chains of the checkpoint, or of the newest one of its run that has any, if that is of the same parameters.

    Of the RBMs below the uppermost, a run's checkpoints of their ends have the chains.  Collective.
    """
    if (chains := checkpoint.read_chains(path, network, rbm.index)) is not None:
        return chains
    candidates: list[Path] = []
    if Path(where).is_dir():
        steps = [
            file for file in RunDirectory(MPI.COMM_SELF, where).files() if RunDirectory.number_of(file) is not None
        ]
        candidates += sorted(steps, reverse=True)
    for file in comm.bcast(candidates):
        with suppress(CheckpointError):  # of an older checkpoint
            chains = checkpoint.read_chains(file, network, rbm.index)
            if chains is None:
                continue
            other = checkpoint.load(file, network.grid, network.layout, to_train=False).rbms[rbm.index]
            same = other.parameters.flat.tobytes() == rbm.parameters.flat.tobytes()
            return chains if comm.allreduce(same, MPI.LAND) else None
    return None


def _visible_states(network: DeepBeliefNetwork, rbm: RBM, chains: Chains | None, otherwise: int) -> Array:
    """(chains, n_visible) drawn given the chains' hidden states, on every rank; where there are no chains, so many
    start at their biases.  Categories of sites (chains, n_sites).  Collective."""
    grid = network.grid
    if chains is None:
        chains = start(rbm, "biases", grid.replica, grid.n_replicas, otherwise)
    v = rbm.sample_visible(chains.h, Purpose.CHAIN, DRAWN_FROM_CHAINS, chains.first)
    assert isinstance(v, Packed)  # Gaussian units were refused
    mine = unpack(v, network.dtype)
    ids = np.concatenate(grid.shard_comm.allgather(rbm.visible_ids))
    of_replica = np.concatenate(grid.shard_comm.allgather(mine))
    whole = np.empty_like(of_replica)
    whole[ids] = of_replica
    states = np.ascontiguousarray(np.concatenate(grid.replica_comm.allgather(whole), axis=1).T)
    if not (q := rbm.visible.categories):
        return states
    categories: Array = states.reshape(len(states), -1, q).argmax(axis=2).astype(network.dtype)
    return categories


def _hyperparameters(rbm: RBM, network: DeepBeliefNetwork, training: TrainingSpec, v: Array) -> dict[str, Any]:
    """As far as both have them; L2 counts half there."""
    n_hidden = network.spec.layers[rbm.index + 1]
    return {
        "num_visibles": v.shape[1], "num_hiddens": n_hidden, "num_chains": len(v), "batch_size": training.batch_size,
        "gibbs_steps": training.sweeps, "learning_rate": training.rate(), "L1": training.l1,
        "L2": training.weight_decay / 2, "seed": network.spec.seed % 2**32,
    }  # fmt: skip


def torch_state(seed: int) -> npt.NDArray[np.uint8]:
    """What ``torch.get_rng_state()`` is after ``torch.manual_seed(seed)``, (5056,): with it rbms resumes a training.

    seed   0 .. 2^32 - 1
    """
    state = np.zeros(5056, np.uint8)
    state[:8] = np.array([seed], "<u8").view(np.uint8)
    state[8:16] = np.array([1, 1], "<i4").view(np.uint8)  # words left before the next round, and that it is seeded
    words = np.asarray(np.random.RandomState(seed).get_state()[1])  # type: ignore[index]
    state[24 : 24 + 8 * len(words)] = words.astype("<u8").view(np.uint8)
    return state


class _Writer(Hdf5RowFile):
    """A file as ``rbms`` writes it."""

    _data: Any = None
    _sites_of = 0
    _flat = False  # a vector, whose rows come with one column
    _rest: Array | None = None  # rows of a site that is not complete yet

    def put(self, name: str, value: Any) -> None:
        def work() -> None:
            self._file[name] = value

        self._attempt(work)

    def begin(self, name: str, link: str, block: TensorBlock, sites_of: int) -> None:
        """A dataset for the rows of a block, under another name too, where older versions of rbms have it.

        sites_of   so many rows are a site, and one entry of the dataset; 0: none are
        """

        def work() -> None:
            n_rows, *columns = block.shape
            shape = (n_rows // sites_of, sites_of, *columns) if sites_of else (n_rows, *columns)
            self._data, self._row = self._file.create_dataset(name, shape, block.block.dtype), 0
            self._file[link] = self._data
            self._sites_of, self._rest, self._flat = sites_of, None, not columns

        self._attempt(work)

    def add(self, rows: Array) -> None:
        def work() -> None:
            values = rows[:, 0] if self._flat else rows
            if self._sites_of:
                values = values if self._rest is None else np.concatenate([self._rest, values])
                whole = len(values) - len(values) % self._sites_of
                values, self._rest = values[:whole], values[whole:]
                values = values.reshape(-1, *self._data.shape[1:])
            self._data[self._row : self._row + len(values)] = values
            self._row += len(values)

        self._attempt(work)
