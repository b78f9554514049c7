"""Networks to and from checkpoints: one ordinary safetensors file that does not know how many ranks wrote it.

``docs/checkpoint-format.md`` names the tensors and the metadata.
"""

from __future__ import annotations

import dataclasses
import json
import os
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.chains.gibbs import Chains
from modelpar.chains.tempered_chains import TemperedChains
from modelpar.checkpoint import files, structure
from modelpar.checkpoint.files import Header, TensorBlock
from modelpar.collective.agreement import agree
from modelpar.comm.grid import Grid
from modelpar.data.fingerprint import Fingerprint
from modelpar.errors import CheckpointError, SpecError
from modelpar.model.network import DeepBeliefNetwork, Part
from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.resolve import resolve
from modelpar.spec import NetworkSpec
from modelpar.training.state import Position, Sum, TrainingRun
from modelpar.values.forms import AnyPath
from modelpar.weights.parameters import Parameters

__all__ = ["load", "read_position", "read_spec", "save", "tensors"]

Array = npt.NDArray[Any]

FORMAT = "1"
# attributes of TrainingRun that some trainings keep for each part: strategies of replicas, averages of the last updates
OPTIONAL_STATE = ("outer", "squares", "average")
OVER_SHARDS = "shard_"  # prefix of the name of a running sum of which each shard has its own part


def save(network: DeepBeliefNetwork, path: AnyPath) -> None:
    """Write parameters, and what training needs to go on, to one file.

    The same bytes at every grid for the same values.  The file appears under its name only when it is complete.
    Collective.  Raises CheckpointError on every rank where it cannot be written, DisagreementError where ranks bring
    different arguments.
    """
    path = os.fsdecode(path)
    run = TrainingRun.of(network)
    agree(network.grid.comm, "save", network=network, path=path)
    run.settle()
    run.refresh(network)  # blocks agree after a load, so they must agree in the training that continues here too
    tempered = run.chains.described(network.grid.replica_comm) if isinstance(run.chains, TemperedChains) else None
    metadata = {
        "modelpar": FORMAT,
        "network": json.dumps(_definition(network.spec), sort_keys=True),
        "training": json.dumps(
            {
                # the clock is left out: the same training must give the same bytes
                "position": {**vars(run.position), "seconds": 0.0, "sums": _total_sums(run.position, network.grid)},
                "updates": sorted(run.velocity),
                "best": sorted(run.best),
                **{name: sorted(getattr(run, name)) for name in OPTIONAL_STATE if getattr(run, name)},
                "best_accuracy": run.best_accuracy,
                "epochs_since_best": run.epochs_since_best,
                "binarise": run.binarise,
                **({} if tempered is None else {"tempering": tempered}),
            },
            sort_keys=True,
        ),
    }
    if run.data is not None:
        metadata["data"] = run.data.as_text()
    status = network.traffic.status
    with status.phase("saving"):
        files.write(path, network.grid, tensors(network), metadata, status)


def _definition(spec: NetworkSpec) -> dict[str, object]:
    """The fields that define the network, without the layout of its matrices, which the file does not depend on."""
    fields = dataclasses.asdict(spec)
    del fields["layout"], fields["halo"]
    return fields


def load(
    path: AnyPath, grid: Grid, layout: NetworkLayout | None = None, *, to_train: bool = True, halo: str = "auto"
) -> DeepBeliefNetwork:
    """The network of a checkpoint, on any grid, with any owners and layouts; each rank reads only what it owns.

    layout     None: contiguous blocks, in the layouts that ``auto`` chooses
    halo       as ``NetworkSpec.halo``, which a checkpoint does not store
    to_train   False leaves out what only training needs: velocities, chains, the best parameters so far.  Of an RBM
               whose training averages its parameters, it takes the average

    Collective.  Raises CheckpointError on every rank where the file is missing, damaged or not of this kind,
    DisagreementError where ranks bring different arguments.
    """
    path = os.fsdecode(path)
    agree(grid.comm, "load", path=path, layout=layout, to_train=to_train, halo=halo)
    header = files.read_header(path, grid.comm)
    spec = dataclasses.replace(read_spec(path, header), halo=halo)
    stored = structure.read(path, header, spec, grid.comm)
    layout = resolve(spec, grid, layout, connections=stored or [None] * len(spec.patterns))
    network = DeepBeliefNetwork(spec, grid, layout, draw_weights=False)
    run = TrainingRun.of(network)
    try:
        chains, tempered = _prepare_state(network, run, header, to_train)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not say where training stood ({error}); was it written by modelpar?"
        ) from None
    kept = () if tempered is None else _room_for_kept(network, run, tempered)
    files.read_into(path, grid, header, tensors(network, chains, kept), subset=not to_train)
    if not to_train:
        _use_averages(network, run)
    if chains is not None and tempered is not None:
        # the first shard has read what belongs to no unit
        chains["chains.direction"] = grid.shard_comm.bcast(chains["chains.direction"])
        run.chains = TemperedChains.of_replica(tempered, chains, kept, grid.replica, grid.n_replicas)
    elif chains is not None:
        run.chains = Chains.of_replica(chains["chains"], grid.replica, grid.n_replicas)
    run.refresh_all(network)
    run.data = Fingerprint.from_text(header.metadata.get("data"))
    return network


def _prepare_state(
    network: DeepBeliefNetwork, run: TrainingRun, header: Header, to_train: bool
) -> tuple[dict[str, Array] | None, dict[str, Any] | None]:
    """Restore the position of training, with zeros for all tensors of its state.

    Returns those of the chains, if any, and what the file says of tempered ones.

    Raises one of Python's lookup and value errors where the file has something else than ``save`` writes.
    """
    training = json.loads(header.metadata["training"])
    position = Position(**training["position"])
    position.sums = _own_sums(training["position"]["sums"], network.grid)
    run.position, run.binarise = position, training["binarise"]
    parts = {part.name: part.parameters for part in network.parts()}
    run.average = {name: parts[name].like(rows=False) for name in training.get("average", ())}
    if not to_train:
        return None, None
    in_pretraining = position.stage == "pretrain"  # training by gradients has no second blocks
    run.velocity = {name: parts[name].like(rows=in_pretraining) for name in training["updates"]}
    run.best = {name: parts[name].like(rows=False) for name in training["best"]}
    for attribute in OPTIONAL_STATE:
        stored = training.get(attribute, ())
        setattr(run, attribute, {name: parts[name].like(rows=False) for name in stored})
    run.best_accuracy, run.epochs_since_best = training["best_accuracy"], training["epochs_since_best"]
    if "chains" not in header.tensors:
        return None, None
    n_hidden, n_all = len(network.rbms[position.layer].hidden_ids), header.tensors["chains"][1][1]
    tempered = training.get("tempering")
    if tempered is not None:
        return TemperedChains.room(tempered, n_hidden, n_all, network.dtype), tempered
    return {"chains": np.zeros((n_hidden, n_all), network.dtype)}, None


def _room_for_kept(network: DeepBeliefNetwork, run: TrainingRun, tempered: dict[str, Any]) -> tuple[Parameters, ...]:
    """Parameters for the levels of a ladder that a file holds."""
    return tuple(network.rbms[run.position.layer].parameters.like() for _ in range(tempered["kept"]))


def _use_averages(network: DeepBeliefNetwork, run: TrainingRun) -> None:
    """Make averages over the last updates the parameters of their parts: they are what is used, beside training."""
    for part in network.parts():
        if part.name in run.average:
            part.parameters.flat[:] = run.average.pop(part.name).flat


def read_chains(path: AnyPath, network: DeepBeliefNetwork) -> Chains | None:
    """The chains of the top RBM that training carried, at any grid; None where the file has none of them.

    Collective.  Raises CheckpointError, on every rank, where the file is damaged or of another network.
    """
    path, grid, top = os.fsdecode(path), network.grid, network.rbms[-1]
    header = files.read_header(path, grid.comm)
    position = read_position(header)
    if "chains" not in header.tensors or position is None or position.layer != top.index:
        return None
    n_all = header.tensors["chains"][1][1]
    states = np.zeros((len(top.hidden_ids), n_all), network.dtype)
    shape = network.spec.layers[-1], n_all
    files.read_into(
        path, grid, header, [TensorBlock("chains", shape, states, top.hidden_ids, np.arange(n_all))], subset=True
    )
    return Chains.of_replica(states, grid.replica, grid.n_replicas)


def read_position(header: Header) -> Position | None:
    """The position of training; None where the file does not have one."""
    try:
        return Position(**json.loads(header.metadata["training"])["position"])
    except (KeyError, TypeError, ValueError):
        return None


def read_spec(path: AnyPath, header: Header) -> NetworkSpec:
    """The network's definition.  Raises CheckpointError where the file does not hold one that is understood."""
    path = os.fsdecode(path)
    if header.metadata.get("modelpar") != FORMAT:
        version = header.metadata.get("modelpar")
        what = f"is a modelpar checkpoint of format {version}" if version else "is not a modelpar checkpoint"
        raise CheckpointError(f"{path} {what}, but this version reads format {FORMAT}")
    try:
        fields = json.loads(header.metadata["network"])
        return NetworkSpec(**{**fields, "layers": tuple(fields["layers"])})
    except (KeyError, TypeError, ValueError, SpecError) as error:
        raise CheckpointError(f"{path} holds a network that this version does not understand: {error}") from None


def tensors(
    network: DeepBeliefNetwork, chains: dict[str, Array] | None = None, kept: tuple[Parameters, ...] = ()
) -> list[TensorBlock]:
    """This shard's block of every tensor of a checkpoint.  Collective where there are chains to collect.

    chains   arrays by name, of owned hidden units and all chains, to be filled; None: those of the training state are
             collected
    kept     parameters of the levels of a ladder, likewise
    """
    run, sizes = TrainingRun.of(network), network.spec.layers
    blocks: list[TensorBlock] = []
    optional_state = [(f"{name}.", getattr(run, name)) for name in OPTIONAL_STATE]
    parts = {part.name: part for part in network.parts()}
    trained = {name: part.parameters for name, part in parts.items()}
    shapes = dict(zip(parts, pairwise((*sizes, network.spec.classes)), strict=False))
    for prefix, named in [("", trained), ("velocity.", run.velocity), ("best.", run.best), *optional_state]:
        for name, parameters in named.items():
            blocks += _parameter_blocks(prefix + name, parts[name], parameters, shapes[name])
    visible = network.visible_ids
    blocks.append(TensorBlock("input.offset", (sizes[0],), network.input_offset, visible, None))
    blocks.append(TensorBlock("input.scale", (sizes[0],), network.input_scale, visible, None))
    for rbm in network.rbms:
        shape = (sizes[rbm.index + 1],)
        blocks.append(TensorBlock(f"{rbm.name}.mean_activation", shape, rbm.mean_activation, rbm.hidden_ids, None))
        blocks += structure.blocks(rbm)
    if chains is None and run.chains is not None:
        chains = run.chains.collect(network.grid.replica_comm, network.dtype)
        kept = run.chains.kept if isinstance(run.chains, TemperedChains) else ()
    if chains is not None:
        rbm = network.rbms[run.position.layer]
        for name, array in chains.items():
            rows, n_rows = rbm.hidden_ids, sizes[rbm.index + 1]
            if name == "chains.direction":  # of no unit: the first shard has it
                n_rows = len(array)
                rows = np.arange(n_rows if network.grid.shard == 0 else 0)
                array = array[: len(rows)]
            blocks.append(TensorBlock(name, (n_rows, array.shape[1]), array, rows, np.arange(array.shape[1])))
        for level, parameters in enumerate(kept):
            blocks += _parameter_blocks(f"ladder.{level}.{rbm.name}", parts[rbm.name], parameters, shapes[rbm.name])
    return blocks


def _parameter_blocks(full: str, part: Part, parameters: Parameters, shape: tuple[int, int]) -> list[TensorBlock]:
    """Blocks of ``parameters``, which have the shapes of a part's, under the name ``full``."""
    blocks = [structure.block(f"{full}.W", part.weights.piece(parameters.W))]
    if part.visible_ids is not None:
        blocks.append(TensorBlock(f"{full}.b", shape[:1], parameters.b, part.visible_ids, None))
    blocks.append(TensorBlock(f"{full}.c", shape[1:], parameters.c, part.hidden_ids, None))
    return blocks


def _total_sums(position: Position, grid: Grid) -> dict[str, float]:
    """The running sums of the epoch under their names in a file.  Collective."""
    totals = position.total_sums(grid)
    return {(OVER_SHARDS if position.sums[name].over_shards else "") + name: totals[name] for name in totals}


def _own_sums(totals: dict[str, float], grid: Grid) -> dict[str, Sum]:
    """This rank's terms of the running sums, such that their sums over the ranks are the totals of a file."""
    sums = {}
    for full, total in totals.items():
        over_shards = full.startswith(OVER_SHARDS)
        adds_total = grid.comm.rank == 0 if over_shards else grid.replica == 0
        sums[full.removeprefix(OVER_SHARDS)] = Sum(total if adds_total else 0.0, over_shards)
    return sums
