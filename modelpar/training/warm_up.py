"""Kernels compiled, or loaded from the cache, before the clock starts: those that a run is going to call."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import faults
from modelpar.checkpoint.blocks import move
from modelpar.checkpoint.checksum import checksum_rows
from modelpar.comm.cores import placement_on
from modelpar.comm.grid import Grid
from modelpar.data import open_dataset
from modelpar.data.gather_dense import fill_floats
from modelpar.errors import ModelparError, ModelparWarning, raise_together
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import dispatch
from modelpar.kernels.products.precision import BF16
from modelpar.kernels.warm_up import KINDS, Task, distribute, tasks
from modelpar.machine.compilation import folder
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.trainer import fine_tune, pretrain

POLL = 0.02  # seconds between two checks whether the other ranks of the node have finished

Tell = Callable[[str, int, int], None]


def rehearse(todo: Sequence[Task], node_comm: MPI.Comm, tell: Tell = lambda *_: None) -> float:
    """Do all tasks on every rank and return the seconds that it took.  Collective over the ranks of a node.

    tell    is called with a task's name, the number of tasks that this rank has done, and that of all

    Ranks of a node compile different kernels, as many at a time as the node has cores, while the others sleep, and each
    loads from the cache what others have compiled.  Without a cache every rank compiles all.
    """
    faults.at("compile")
    started = time.perf_counter()
    error: Exception | None = None
    workers = min(node_comm.size, placement_on(node_comm).cores) if folder() is not None or not compiled() else 0
    done = 0
    for number in sorted({task.round for task in todo}) if workers and compiled() else ():
        this_round = distribute([task for task in todo if task.round == number], workers)
        mine = this_round[node_comm.rank] if node_comm.rank < workers else []
        for task in mine:
            tell(task.name, done, len(todo))
            error = error or _attempt(task.run)
            done += 1
        _sleeping_barrier(node_comm)
    for task in todo:  # from the cache now
        error = error or _attempt(task.run)
    error = error or _calibrate(node_comm)
    raise_together(node_comm, error)
    return time.perf_counter() - started


def _attempt(work: Callable[[], object]) -> Exception | None:
    """The error that a task ended in, to be raised when no rank waits for this one any more."""
    try:
        work()
    except (ModelparError, OSError) as error:
        return error
    return None


def _sleeping_barrier(comm: MPI.Comm) -> None:
    """A barrier in which ranks sleep: others compile on the cores that they would spin on."""
    arrived = comm.Ibarrier()
    while not arrived.Test():
        time.sleep(POLL)


def _calibrate(node_comm: MPI.Comm) -> Exception | None:
    """One rank of the node measures the kernels, where that was not done before; all use its results."""
    error = _attempt(dispatch.prepare) if node_comm.rank == 0 else None
    _sleeping_barrier(node_comm)
    dispatch.use(node_comm.bcast(dispatch.calibration()))
    return error


# -- what a run is going to call ---------------------------------------------------------------------------------------


def tasks_of(
    spec: NetworkSpec, training: TrainingSpec, tuning: FineTuneSpec | None, *, binary: bool, n_replicas: int,
    digests: bool,
) -> list[Task]:  # fmt: skip
    """The tasks of one run.

    tuning   None where there is no fine-tuning
    binary   whether the data are states

    What is uncommon (other types and strategies, exact runs, connections that are lists) gets all kernels there are.
    """
    kinds = set(KINDS) - {"panels that draw"}
    own, real_hidden = training.n_chains > 0, spec.hidden != "bernoulli"
    drawn = binary or training.reconstruction == "states" or own
    asked = {
        "sweeps": own or (drawn and training.gibbs_steps > 1), "phases apart": own,
        "centred": training.centred or training.standardised or real_hidden,
        "standardised": training.standardised or real_hidden, "averages": training.average > 0, "L1": training.l1 > 0,
        "penalties of units": training.l1b > 0 or training.group_lasso > 0 or training.hidden_scale == "unit",
        "sites": spec.visible_kind.categories > 0, "rectified": spec.hidden in ("relu", "drelu"),
        "clipping": training.clip > 0, "likelihoods": training.score_every > 0,
        "tempered": training.chain_method != "gibbs",
        "bfloat16": BF16 in (training.products, tuning.products if tuning else ""),
    }  # fmt: skip
    kinds -= {kind for kind, wanted in asked.items() if not wanted}
    if spec.dtype == "float32" and not spec.exact:
        integer = drawn and training.planes > 0
        absent = {
            "exact": True, "digests": not digests and n_replicas == 1, "sampled": not drawn,
            "probabilities": not binary or training.planes > 0,
            "counts": not integer or n_replicas > 1, "summed counts": not own and (not integer or n_replicas == 1),
            "counts of one phase": binary or not integer, "single bits": training.planes != 1,
            "tuning": tuning is None, "norms": tuning is None or not tuning.max_norm,
        }  # fmt: skip
        kinds -= {kind for kind, out in absent.items() if out}
    listed = spec.has_lists
    chosen = [*tasks(spec.dtype, kinds), Task("checkpoints", 2.2, lambda: _files(spec.dtype))]
    if len(spec.layers) > 2 or tuning is not None:  # layers above are fed arrays
        chosen.append(Task("arrays as data", 0.6, lambda: _array(spec.dtype)))
    return [
        *chosen,
        *([Task("listed connections", 15.0, lambda: _train(spec.dtype, training), round=1)] if listed else []),
    ]


def _array(dtype: npt.DTypeLike) -> None:
    values, one = np.zeros((1, 1), dtype), np.zeros(1, np.int64)
    fill_floats(values, one, one, np.zeros(1), np.ones(1), values.copy())


def _files(dtype: npt.DTypeLike) -> None:
    """Compile what saving and loading call: moves of weights and of 64-bit integers, and checksums of bytes."""
    one = np.zeros(1, np.int64)
    for kind in {np.dtype(np.uint64), np.dtype(f"u{np.dtype(dtype).itemsize}")}:
        values = np.zeros((1, 1), kind)
        move(values, one, one, values.copy(), one, one)
        checksum_rows(values, one, one, 1, 0)
    octets = np.zeros((1, 8), np.uint8)
    octets.flags.writeable = False  # of a header
    checksum_rows(octets, one, one, 1, 0)


def _train(dtype: str, asked: TrainingSpec) -> None:
    """Every stage once, on one rank, with connections that are lists below complete ones."""
    with warnings.catch_warnings():  # of so few samples
        warnings.simplefilter("ignore", ModelparWarning)
        _all_stages(dtype, asked)


def _all_stages(dtype: str, asked: TrainingSpec) -> None:
    dataset = open_dataset(DataSpec(data="bars:2"))
    labels = dataset.train.labels
    few = replace(
        dataset.train, rows=dataset.train.rows[:8], labels=None if labels is None else labels[:8], weights=None
    )
    dataset = replace(dataset, train=few, validation=None, test=few)
    spec = NetworkSpec(
        layers=(4, 3, 2), classes=max(dataset.n_classes, 2), dtype=dtype, connections="random:2,dense"
    )  # fmt: skip
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(spec, grid)
        for statistics in ("3", "float"):
            training = TrainingSpec(
                epochs=1, batch_size=4, statistics=statistics, centred=asked.centred,
                standardised=asked.standardised, l1b=asked.l1b, group_lasso=asked.group_lasso,
            )  # fmt: skip
            network.run = None
            for _ in pretrain(network, dataset, training):
                pass
        for _ in fine_tune(network, dataset, FineTuneSpec(epochs=1, dropout=0.5, max_norm=1.0)):
            pass
