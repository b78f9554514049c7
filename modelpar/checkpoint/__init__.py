"""Networks to and from checkpoints: one ordinary safetensors file that does not know how many ranks wrote it.

``docs/checkpoint-format.md`` names the tensors and the metadata.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.chains.gibbs import Chains
from modelpar.chains.tempered_chains import TemperedChains
from modelpar.checkpoint import files, health, metadata, structure
from modelpar.checkpoint.carried import check_states, level_name, read_chains, read_ladder, read_position, read_states
from modelpar.checkpoint.files import Header, TensorBlock
from modelpar.checkpoint.header import EARLIER
from modelpar.checkpoint.health import Verdict, are_finite
from modelpar.checkpoint.metadata import FORMAT, OPTIONAL_STATE, Training
from modelpar.collective.agreement import agree
from modelpar.comm.grid import Grid
from modelpar.comm.memory import check_fits
from modelpar.data.fingerprint import Fingerprint
from modelpar.errors import CheckpointError, together, warn
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.resolve import resolve
from modelpar.spec import NetworkSpec
from modelpar.training.state import Position, Sum, TrainingRun, become_average
from modelpar.values import plain
from modelpar.values.forms import AnyPath, path_text
from modelpar.weights.parameters import Parameters

__all__ = [
    "load", "read_chains", "read_ladder", "read_position", "read_spec", "read_states", "save", "tensors",
]  # fmt: skip

Array = npt.NDArray[Any]

OVER_SHARDS = "shard_"  # prefix of the name of a running sum of which each shard has its own part


def save(
    network: DeepBeliefNetwork, path: AnyPath, *, follow_links: bool = True, sources: Iterable[AnyPath] = ()
) -> Verdict:
    """Write parameters, and what training needs to go on, to one file; the verdict on them that it records.

    The same bytes at every grid for the same values.  The file appears under its name only when it is complete.

    follow_links   a symbolic link stays, and its target is written; else the link is replaced
    sources        files that the network is made from: where one of them is private, a new file is

    Collective.  Raises CheckpointError on every rank where it cannot be written, DisagreementError where ranks bring
    different arguments.
    """
    path = path_text(path, CheckpointError)
    plain.instance("network", network, DeepBeliefNetwork, error=CheckpointError)
    run = TrainingRun.of(network)
    agree(network.grid.comm, "save", network=network, path=path)
    run.settle()
    run.refresh(network)  # blocks agree after a load, so they must agree in the training that continues here too
    if run.sync is None:  # weights may have been set from outside
        network.refresh()
    verdict = health.judge(network)
    rooms = {rbm.name: rbm.weights.rooms for rbm in network.rbms if rbm.weights.rooms != rbm.weights.least_rooms}
    tempered = run.chains.described(network.grid.replica_comm) if isinstance(run.chains, TemperedChains) else None
    metadata = {
        "modelpar": FORMAT,
        health.KEY: verdict.text,
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
                **({"rooms": rooms} if rooms else {}),
                **({"ailments": run.ailments} if run.ailments else {}),
            },
            sort_keys=True,
        ),
    }
    if run.data is not None:
        metadata["data"] = run.data.as_text()
    if run.alphabet:
        metadata["alphabet"] = run.alphabet
    status = network.traffic.status
    with status.phase("saving"):
        files.write(path, network.grid, tensors(network), metadata, status, follow_links=follow_links, sources=sources)
    return verdict


def _definition(spec: NetworkSpec) -> dict[str, object]:
    """The fields that define the network, without the layout of its matrices, which the file does not depend on."""
    fields = dataclasses.asdict(spec)
    del fields["layout"], fields["halo"]
    if spec.hidden == "bernoulli":  # as files were before there were other kinds
        del fields["hidden"]
    if spec.visible != "gaussian":
        del fields["variances"]
    return fields


def load(
    path: AnyPath, grid: Grid, layout: NetworkLayout | None = None, *, to_train: bool = True, halo: str = "auto",
    last: bool = False, healthy: bool = False, verify: bool = True,
) -> DeepBeliefNetwork:  # fmt: skip
    """The network of a checkpoint, on any grid, with any owners and layouts; each rank reads only what it owns.

    layout     None: contiguous blocks, in the layouts that ``auto`` chooses
    halo       as ``NetworkSpec.halo``, which a checkpoint does not store
    to_train   False leaves out what only training needs: velocities, chains, the best parameters so far.  Of an RBM
               whose training averages its parameters, it takes the average
    last       the parameters after the last update, of an RBM whose training averages them, and whether or not it has
               ended; of a stack, those below it stay what it was trained on
    healthy    whether the network must be healthy: to go on from
    verify     False takes the tensors as they are, whether they match their checksums and are finite or not

    Warns of a network that is not healthy.
    Collective.  Raises CheckpointError on every rank where the file is missing, damaged or not of this kind, has values
    that are not finite numbers, or for ``last`` without an average, OutOfMemoryError where it is larger than the memory
    that is free, DisagreementError where ranks bring different arguments.
    """
    path = path_text(path, CheckpointError)
    agree(
        grid.comm, "load", path=path, layout=layout, to_train=to_train, halo=halo, last=last, healthy=healthy,
        verify=verify,
    )  # fmt: skip
    header = files.read_header(path, grid.comm)
    verdict = Verdict.recorded(header.metadata)
    if healthy and verdict is not None:
        _check_healthy(path, verdict)
    spec = dataclasses.replace(read_spec(path, header), halo=halo)
    training = metadata.training_of(path, header, spec)
    needed = structure.memory_bytes(header, spec, grid.n_shards, to_train=to_train)
    check_fits(needed, f"the network of {path}", grid.comm, grid.node_comm)
    stored = structure.read(path, header, spec, grid.comm)
    layout = resolve(spec, grid, layout, connections=stored or [None] * len(spec.patterns))
    network = DeepBeliefNetwork(spec, grid, layout, draw_weights=False)
    run = TrainingRun.of(network)
    chains = _prepare_state(network, run, header, training, to_train, last)
    tempered = None if chains is None else training.tempering
    if last and not run.last and not run.average:
        raise CheckpointError(f"{path} has no average of parameters, so that its own are the last; leave --last out")
    kept = () if tempered is None else _room_for_kept(network, run, tempered)
    blocks = tensors(network, chains, kept)
    files.read_into(path, grid, header, blocks, subset=not to_train, verify=verify)
    if verify:
        _check_finite(path, blocks, grid)
    real = chains is not None and _of_chains(network, run).hidden_units is not None
    check_states(path, grid.comm, chains or {}, real=real)
    if last:
        run.take_back_last(network)
    elif not to_train:
        _use_averages(network, run)
    if not to_train:
        run.average.clear()
    if chains is not None and tempered is not None:
        # the first shard has read what belongs to no unit
        chains["chains.direction"] = grid.shard_comm.bcast(chains["chains.direction"])
        run.chains = TemperedChains.of_replica(tempered, chains, kept, grid.replica, grid.n_replicas, real=real)
    elif chains is not None:
        run.chains = Chains.of_replica(chains["chains"], grid.replica, grid.n_replicas, real=real)
    run.refresh_all(network)
    run.data = Fingerprint.from_text(header.metadata.get("data"))
    run.alphabet = metadata.alphabet_of(path, header, spec)
    verdict = health.judge(network) if verdict is None else verdict
    if healthy:
        _check_healthy(path, verdict)
    elif not verdict.healthy:
        warn(grid.comm, f"{path} holds a network that is not healthy: {verdict.reasons[0]}")
    return network


def _check_healthy(path: str, verdict: Verdict) -> None:
    if not verdict.healthy:
        raise CheckpointError(f"{path} holds a network that is not healthy: {verdict.reasons[0]}")


def _check_finite(path: str, blocks: list[TensorBlock], grid: Grid) -> None:
    """Raise CheckpointError on every rank where a value of any rank is not a finite number.  Collective."""
    with together(grid.comm):
        for block in blocks:
            if block.block.dtype.kind == "f" and not are_finite([block.block], MPI.COMM_SELF):
                raise CheckpointError(f"{path} has values in {block.name} that are not finite numbers; {EARLIER}")


def _prepare_state(
    network: DeepBeliefNetwork, run: TrainingRun, header: Header, training: Training, to_train: bool, last: bool
) -> dict[str, Array] | None:
    """Restore the position of training, with zeros for all tensors of its state.

    Returns those of the chains, if any.
    """
    position = training.position
    position.sums = _own_sums(training.sums, network.grid)
    run.position, run.binarise, run.ailments = position, training.binarise, training.ailments
    for rbm in network.rbms:
        rooms = training.rooms.get(rbm.name, (1, 1))
        rbm.weights.rooms = max(rbm.weights.least_rooms[0], rooms[0]), max(rbm.weights.least_rooms[1], rooms[1])
    parts = {part.name: part.parameters for part in network.parts()}
    for attribute in OPTIONAL_STATE if to_train else ("average", *(["last"] if last else [])):
        setattr(run, attribute, {name: parts[name].like(rows=False) for name in training.named[attribute]})
    if not to_train:
        return None
    in_pretraining = position.stage == "pretrain"  # training by gradients has no second blocks
    run.velocity = {name: parts[name].like(rows=in_pretraining) for name in training.named["velocity"]}
    run.best = {name: parts[name].like(rows=False) for name in training.named["best"]}
    run.best_accuracy, run.epochs_since_best = training.best_accuracy, training.epochs_since_best
    n_all = metadata.n_chains(header)
    if not n_all:
        return None
    n_hidden = len(_of_chains(network, run).hidden_ids)
    if training.tempering is not None:
        return TemperedChains.room(training.tempering, n_hidden, n_all, network.dtype)
    return {"chains": np.zeros((n_hidden, n_all), network.dtype)}


def _of_chains(network: DeepBeliefNetwork, run: TrainingRun) -> RBM:
    """The RBM whose chains a run carries."""
    return network.rbms[run.position.rbm_of_chains(len(network.rbms))]


def _room_for_kept(network: DeepBeliefNetwork, run: TrainingRun, tempered: dict[str, Any]) -> tuple[Parameters, ...]:
    """Parameters for the levels of a ladder that a file holds."""
    rbm = _of_chains(network, run)
    return tuple(rbm.parameters.like() for _ in range(tempered["kept"]))


def _use_averages(network: DeepBeliefNetwork, run: TrainingRun) -> None:
    """Make averages over the last updates the parameters of their parts: they are what is used, beside training."""
    for part in network.parts():
        if part.name in run.average:
            become_average(part.parameters, run.average[part.name])


def read_spec(path: AnyPath, header: Header) -> NetworkSpec:
    """The network's definition.  Raises CheckpointError where the file does not hold one that is understood."""
    return metadata.spec_of(path_text(path, CheckpointError), header)


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
            blocks += structure.parameter_blocks(prefix + name, parts[name], parameters, shapes[name])
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
        rbm = _of_chains(network, run)
        for name, array in chains.items():
            rows, n_rows = rbm.hidden_ids, sizes[rbm.index + 1]
            if name == "chains.direction":  # of no unit: the first shard has it
                n_rows = len(array)
                rows = np.arange(n_rows if network.grid.shard == 0 else 0)
                array = array[: len(rows)]
            blocks.append(TensorBlock(name, (n_rows, array.shape[1]), array, rows, np.arange(array.shape[1])))
        for level, parameters in enumerate(kept):
            blocks += structure.parameter_blocks(level_name(level, rbm), parts[rbm.name], parameters, shapes[rbm.name])
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
