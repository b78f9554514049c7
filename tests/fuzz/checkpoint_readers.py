"""Readers of checkpoints: the API, and what commands use besides it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli.diff import compare_paths
from modelpar.errors import CheckpointError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.trainer import pretrain
from tests import small
from tests.fuzz.checkpoints import KINDS, damage, grid, valid
from tests.fuzz.harness import Case


def cases() -> Iterator[Case]:
    for kind in KINDS:
        readers: dict[str, Callable[[Path], None]] = {
            "load": partial(load, kind=kind),
            "evaluate": to_evaluate,
            "carried": partial(carried, kind=kind),
            "diff": partial(diff, kind=kind),
        }
        for name, read in readers.items():
            yield Case(f"checkpoint/{kind}/{name}", partial(damage, kind=kind), read)


def load(path: Path, kind: str) -> None:
    """Open it to train, go on with the training, and write it again."""
    network = checkpoint.load(path, grid())
    _, training, _ = KINDS[kind]
    position = network.run.position if network.run is not None else None
    if position is not None and position.stage == "pretrain" and network.spec.visible == "bernoulli":
        for i, _ in enumerate(pretrain(network, small.dataset(network.spec.layers[0]), training)):
            if i:
                break
    checkpoint.save(network, path.with_name("again"))


def to_evaluate(path: Path) -> None:
    network = checkpoint.load(path, grid(), to_train=False)
    network.fantasies(2, 1)
    with suppress(CheckpointError):  # few have an average and so last parameters
        checkpoint.load(path, grid(), to_train=False, last=True)


@cache
def whole(kind: str) -> DeepBeliefNetwork:
    """The network of the file that is damaged."""
    path = Path("whole").absolute()
    path.write_bytes(valid(kind))
    return checkpoint.load(path, grid(), to_train=False)


def carried(path: Path, kind: str) -> None:
    network = whole(kind)
    for index in range(len(network.rbms)):
        checkpoint.read_states(path, network, index)
    checkpoint.read_chains(path, network)
    checkpoint.read_ladder(path, network)
    checkpoint.read_position(files.read_header(path, MPI.COMM_SELF))


def diff(path: Path, kind: str) -> None:
    other = path.with_name("other")
    other.write_bytes(valid(kind))
    compare_paths(path, other)
