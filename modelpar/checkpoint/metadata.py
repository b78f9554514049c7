"""What the metadata of a checkpoint say, every value checked before it is used.  No MPI here.

The JSON of a file is a stranger's: a number may be a text, a list may have a million elements, and an integer more
digits than Python writes.  All ranks have the same header, so all of them raise the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from modelpar.checkpoint import structure
from modelpar.checkpoint.header import Header
from modelpar.errors import CheckpointError, LayoutError, SpecError
from modelpar.ownership.layout import layout_words
from modelpar.records import STAGES
from modelpar.spec import DataSpec, NetworkSpec
from modelpar.training.state import Position
from modelpar.values import plain

FORMAT = "1"
# attributes of TrainingRun that some trainings keep for each part: strategies of replicas, averages of the last
# updates, and the last parameters where such an average has taken their place
OPTIONAL_STATE = ("outer", "squares", "average", "last")
MOST_STEPS = 1 << 40  # epochs, steps, samples: products of two of them stay far below what draws count to
MOST_LEVELS = 1 << 10  # of a ladder
MOST_ROOM = 1 << 62  # units that a scale of sums is for


@dataclass(frozen=True)
class Training:
    """Where training stood, as a file has it: plain values within their bounds."""

    position: Position  # without sums, which each rank has its own part of
    sums: dict[str, float]  # the totals of all ranks
    named: dict[str, tuple[str, ...]]  # velocity, best and those of OPTIONAL_STATE: the parts that have one
    best_accuracy: float
    epochs_since_best: int
    binarise: str
    tempering: dict[str, Any] | None  # what ``TemperedChains.described`` returned
    ailments: dict[str, str]  # what is wrong that values do not tell, by its kind
    rooms: dict[str, tuple[int, int]]  # of the RBMs that have some: units that the scales of their sums are for


def spec_of(path: str, header: Header) -> NetworkSpec:
    """The network's definition, whose parameters the file holds.  Raises CheckpointError where it has none such."""
    version = header.metadata.get("modelpar")
    if version != FORMAT:
        what = f"is a modelpar checkpoint of format {version}" if version else "is not a modelpar checkpoint"
        mend = "use the version of modelpar that wrote it, or a later one" if version else "name one"
        raise CheckpointError(f"{path} {what}, but this version reads format {FORMAT}; {mend}")
    try:
        values = _object(header.metadata.get("network"))
        known = {f.name for f in fields(NetworkSpec)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{plain.shown(unknown[0])} is not known")
        if not isinstance(values.get("layers"), list):
            raise ValueError("it has no list of layers")
        for name in known & {"connections", "visible_grid", "layout"} & set(values):
            if not isinstance(values[name], str):  # an option may be a list; what is written is a text
                raise ValueError(f"{name} is {plain.shown(values[name])}, but must be a text")
        if values.get("visible") == "gaussian":  # files of earlier versions do not name them
            values = {"variances": "unit", **values}
        spec = NetworkSpec(**{**values, "layers": tuple(values["layers"])})
        layout_words(spec.layout, spec.layout.count(",") + 1)  # which is of no more use than that its words are known
        structure.check(path, header, spec)
    except (ValueError, SpecError, LayoutError) as error:
        raise CheckpointError(f"{path} holds a network that this version does not understand: {error}") from None
    return spec


def training_of(path: str, header: Header, spec: NetworkSpec) -> Training:
    """Where training stood.  Raises CheckpointError where the file does not say it, or lacks what belongs to it."""
    try:
        values = _object(header.metadata.get("training"))
        position = _position(values.get("position"), len(spec.layers) - 1)
        shapes = structure.part_shapes(header, spec)
        named = {
            attribute: _names(attribute, values.get(key, None if required else []), list(shapes))
            for attribute, key, required in (
                ("velocity", "updates", True), ("best", "best", True), *((name, name, False) for name in OPTIONAL_STATE)
            )
        }  # fmt: skip
        training = Training(
            position=position,
            sums={name: _number(f"the sum {name}", value) for name, value in _sums(values["position"]).items()},
            named=named,
            best_accuracy=_number("best_accuracy", values.get("best_accuracy")),
            epochs_since_best=_count("epochs_since_best", values.get("epochs_since_best")),
            binarise=DataSpec(binarise=_text("binarise", values.get("binarise"))).binarise,
            tempering=_tempering(values["tempering"]) if values.get("tempering") is not None else None,
            ailments={kind: _text(kind, reason) for kind, reason in _members("ailments", values).items()},
            rooms={name: _room(name, units) for name, units in _members("rooms", values).items()},
        )
    except (ValueError, SpecError) as error:
        raise CheckpointError(
            f"{path} does not say where training stood ({error}); was it written by modelpar?"
        ) from None
    for attribute, names in named.items():
        for name in names:
            structure.check_parameters(path, header, spec, f"{attribute}.{name}", shapes[name])
    if "chains" in header.tensors:
        _check_chains(path, header, spec, training)
    return training


def position_of(header: Header) -> Position | None:
    """The position of training; None where the file does not have one."""
    try:
        return _position(_object(header.metadata.get("training")).get("position"), None)
    except ValueError:
        return None


def alphabet_of(path: str, header: Header, spec: NetworkSpec) -> str:
    """The letters of the states of categorical units; empty where the file has none.  Raises CheckpointError."""
    letters = header.metadata.get("alphabet", "")
    if letters and not (letters.isprintable() and len(set(letters)) == len(letters) == spec.visible_kind.categories):
        raise CheckpointError(
            f"{path} has the letters {plain.shown(letters)}, which are not one for each state of {spec.visible} units; "
            "was it written by modelpar?"
        )
    return letters


def n_chains(header: Header) -> int:
    """Chains of their own; 0 where the file has none, or none that are a matrix."""
    shape = header.tensors["chains"][1] if "chains" in header.tensors else ()
    return shape[1] if len(shape) == 2 else 0


def _check_chains(path: str, header: Header, spec: NetworkSpec, training: Training) -> None:
    """Raise CheckpointError where the tensors of chains, or of the levels below them, are not as they must be."""
    rbm, n = training.position.rbm_of_chains(len(spec.layers) - 1), n_chains(header)
    n_hidden, tempering = spec.layers[rbm + 1], training.tempering
    if n < 1:
        raise CheckpointError(f"{path} has 'chains' that are not (hidden units, chains); was it written by modelpar?")
    expected = {"chains": (np.dtype(spec.dtype), (n_hidden, n))}
    if tempering is not None:
        below = len(tempering["tried"])
        expected["chains.below"] = np.dtype(spec.dtype), (n_hidden, below * n)
        expected["chains.direction"] = np.dtype(np.int32), (below + 1, n)
        shapes = structure.part_shapes(header, spec)[f"rbm.{rbm}"]
        for level in range(tempering["kept"]):
            structure.check_parameters(path, header, spec, f"ladder.{level}.rbm.{rbm}", shapes)
    for name, (dtype, shape) in expected.items():
        structure.check_tensor(path, header, name, dtype, shape)


# -- values ----------------------------------------------------------------------------------------------------------


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object.  Raises ValueError for anything else, of whatever depth."""
    if text is None:
        raise ValueError("it is missing")
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it is JSON of too great a depth") from None
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def _position(values: Any, n_rbms: int | None) -> Position:
    if not isinstance(values, Mapping):
        raise ValueError("it has no position")
    known = {f.name for f in fields(Position)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{plain.shown(unknown[0])} of its position is not known")
    if values.get("stage") not in STAGES:
        raise ValueError(f"stage is {plain.shown(values.get('stage'))}, but must be one of {', '.join(STAGES)}")
    if type(values.get("reached", False)) is not bool:
        raise ValueError("reached is neither true nor false")
    counts: dict[str, Any] = {
        name: _count(name, values[name])
        for name in ("layer", "epoch", "step", "batch_size", "n_samples") if name in values
    }  # fmt: skip
    if n_rbms is not None and counts.get("layer", 0) >= n_rbms:
        raise ValueError(f"layer is {counts['layer']}, but the network has {n_rbms} RBM(s)")
    _sums(values)
    seconds = _number("seconds", values.get("seconds", 0.0))
    return Position(values["stage"], seconds=seconds, reached=values.get("reached", False), **counts)


def _sums(position: Mapping[str, Any]) -> dict[str, Any]:
    sums = position.get("sums", {})
    if not isinstance(sums, dict):
        raise ValueError("sums are not a JSON object")
    return sums


def _count(name: str, value: Any, most: int = MOST_STEPS) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is {plain.shown(value)}, but must be an integer from 0 to {most}")
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(plain.real(value) or 0.0):
        raise ValueError(f"{name} is {plain.shown(value)}, but must be a finite number")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {plain.shown(value)}, but must be a text")
    return value


def _names(name: str, values: Any, known: list[str]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) and value in known for value in values):
        raise ValueError(f"{name} are {plain.shown(values)}, but must be a list of {', '.join(known)}")
    return tuple(dict.fromkeys(values))


def _counts(name: str, values: Any) -> list[int]:
    if not isinstance(values, list) or len(values) >= MOST_LEVELS:
        raise ValueError(f"{name} are {plain.shown(values)}, but must be a list of less than {MOST_LEVELS} integers")
    return [_count(name, value, most=1 << 62) for value in values]


def _members(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object in another one; empty where it is missing, as in files of earlier versions."""
    members = values.get(name, {})
    if not isinstance(members, dict):
        raise ValueError(f"{name} are not a JSON object")
    return members


def _room(name: str, units: Any) -> tuple[int, int]:
    if not isinstance(units, list) or len(units) != 2 or 0 in units:
        raise ValueError(f"the room of {name} is {plain.shown(units)}, but must be two numbers of units")
    return _count(name, units[0], MOST_ROOM), _count(name, units[1], MOST_ROOM)


def _tempering(values: Any) -> dict[str, Any]:
    """What ``TemperedChains.described`` returns."""
    if not isinstance(values, dict) or values.get("method") not in ("pt", "ptt"):
        raise ValueError("tempering is of no method that is known")
    tried, accepted, window = (_counts(name, values.get(name)) for name in ("tried", "accepted", "window"))
    if not tried or len(accepted) != len(tried) or len(window) != 2:
        raise ValueError("tempering does not count the swaps of each two neighbours")
    given, is_pt = values.get("betas"), values["method"] == "pt"
    betas = [_number("a beta", beta) for beta in given] if isinstance(given, list) else [-1.0]
    kept = _count("kept", values.get("kept"), most=MOST_LEVELS)
    needed = (0, len(tried) + 1) if is_pt else (0,)
    if len(betas) not in needed or not all(0 <= beta <= 1 for beta in betas):
        raise ValueError("tempering has betas that are not from 0 to 1, one for each level")
    if kept != (0 if is_pt else len(tried)):
        raise ValueError(f"tempering keeps {kept} levels, but has {len(tried)} below the RBM")
    round_trips = _count("round_trips", values.get("round_trips"), most=1 << 62)
    return {
        "method": values["method"], "betas": betas, "kept": kept, "window": window, "tried": tried,
        "accepted": accepted, "round_trips": round_trips,
    }  # fmt: skip
