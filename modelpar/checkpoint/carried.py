"""What a file has of a training besides parameters: where it stood, the chains that it carried, the ladder below them.

In the course of an RBM's training the chains are its own; a file of the end of pre-training has those of the uppermost
RBM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.chains.gibbs import Chains
from modelpar.chains.ladder import DOWN, UP
from modelpar.checkpoint import files, metadata, structure
from modelpar.checkpoint.files import Header, TensorBlock
from modelpar.checkpoint.header import EARLIER
from modelpar.checkpoint.metadata import Training
from modelpar.errors import CheckpointError, together
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.state import Position
from modelpar.values.forms import AnyPath, path_text
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]


def read_position(header: Header) -> Position | None:
    """The position of training; None where the file does not have one."""
    return metadata.position_of(header)


def read_states(path: AnyPath, network: DeepBeliefNetwork, index: int | None = None) -> Array | None:
    """Hidden states (n_hidden_owned, chains) of all chains of an RBM that training carried, as 0 and 1; or real values.

    index   of the RBM; None: the uppermost

    None where the file has no chains of it.  Collective.  Raises CheckpointError, on every rank, where the file is
    damaged or of another network.
    """
    rbm = network.rbms[-1 if index is None else index]
    header, _ = _with_chains_of(path, network, rbm)
    if header is None:
        return None
    n_all = metadata.n_chains(header)
    states = np.zeros((len(rbm.hidden_ids), n_all), network.dtype)
    shape = network.spec.layers[rbm.index + 1], n_all
    block = TensorBlock("chains", shape, states, rbm.hidden_ids, np.arange(n_all))
    files.read_into(path, network.grid, header, [block], subset=True)
    check_states(path, network.grid.comm, {"chains": states}, real=rbm.hidden_units is not None)
    return states


def check_states(path: AnyPath, comm: MPI.Comm, arrays: Mapping[str, Array], *, real: bool) -> None:
    """Raise CheckpointError, on every rank, where chains that were read are not states, or go where no ladder does.

    real   whether they are of hidden units with real values, which may be any
    Collective.
    """
    with together(comm):
        for name, array in arrays.items():
            if real and name != "chains.direction":
                continue
            known = (0, UP, DOWN) if name == "chains.direction" else (0, 1)
            if not np.isin(array, known).all():
                values = ", ".join(map(str, known))
                raise CheckpointError(
                    f"{path_text(path, CheckpointError)} is damaged: {name} has other values than {values}; {EARLIER}"
                )


def read_chains(path: AnyPath, network: DeepBeliefNetwork, index: int | None = None) -> Chains | None:
    """This replica's part of the same chains, as training had them."""
    states, grid = read_states(path, network, index), network.grid
    real = network.rbms[-1 if index is None else index].hidden_units is not None
    return None if states is None else Chains.of_replica(states, grid.replica, grid.n_replicas, real=real)


def read_ladder(path: AnyPath, network: DeepBeliefNetwork) -> tuple[Parameters, ...]:
    """The parameters of the uppermost RBM that its training has kept as levels below its own (``--chain-method ptt``).

    The first of them is used without its weights.  Empty where the file has none.  Collective.  Raises as
    ``read_states`` does.
    """
    top = network.rbms[-1]
    header, training = _with_chains_of(path, network, top)
    if header is None or training.tempering is None or not training.tempering["kept"]:
        return ()
    kept = tuple(top.parameters.like() for _ in range(training.tempering["kept"]))
    part = network.parts()[top.index]
    blocks = [
        block
        for level, parameters in enumerate(kept)
        for block in structure.parameter_blocks(level_name(level, top), part, parameters, network.spec.layers[-2:])
    ]
    files.read_into(path, network.grid, header, blocks, subset=True)
    for parameters in kept:
        if parameters.has_copies:
            top.weights.refresh(parameters)
        top.make_room(top.weights.bounds(parameters))  # sums of all levels have one scale
    return kept


def level_name(level: int, rbm: RBM) -> str:
    """The name in a file of the parameters that are a level of a ladder, from 0 up."""
    return f"ladder.{level}.{rbm.name}"


def _with_chains_of(path: AnyPath, network: DeepBeliefNetwork, rbm: RBM) -> tuple[Header | None, Training]:
    """The header of a file, None where it has no chains of ``rbm``, and where training stood.  Collective.

    Raises CheckpointError, on every rank, where the file is damaged or of another network.
    """
    name = path_text(path, CheckpointError)
    header = files.read_header(name, network.grid.comm)
    spec = metadata.spec_of(name, header)
    if (spec.layers, spec.dtype) != (network.spec.layers, network.spec.dtype):
        layers = "-".join(map(str, spec.layers))
        raise CheckpointError(f"{name} is of a network of {layers} in {spec.dtype}; {files.OTHER}")
    training = metadata.training_of(name, header, spec)
    of_it = training.position.rbm_of_chains(len(network.rbms)) == rbm.index
    return header if of_it and "chains" in header.tensors else None, training
