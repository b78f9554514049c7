"""A machine as the planner sees it: nodes, cores, memory, links, and rates of computing."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from modelpar.errors import ModelparError
from modelpar.files.regular import read_bounded
from modelpar.plan.rates import Rates, built_in
from modelpar.values.plain import shown

HERE = "here"
MOST_BYTES = 1 << 16  # of a file that describes a machine
_LINK = ("latency", "bandwidth")
_NEEDED = ("nodes", "cores_per_node", "memory_per_node", "within", "between")
_OPTIONAL = ("name", "ranks_per_node", "threads", "oversubscription", "scatter", "speed", "sources")


class MachineError(ModelparError):
    """A machine that is not known, or whose description is damaged."""


@dataclass(frozen=True)
class Link:
    """Between two ranks: a message of n bytes takes latency + n / bandwidth seconds (Hockney 1994)."""

    latency: float  # seconds
    bandwidth: float  # bytes a second

    def seconds(self, n_bytes: float) -> float:
        return self.latency + n_bytes / self.bandwidth


@dataclass(frozen=True)
class Curve:
    """Measured seconds of an exchange by the bytes that a rank receives, linear in between and on from the last two."""

    received: tuple[float, ...]  # bytes, ascending, two at least
    seconds: tuple[float, ...]

    def at(self, n_bytes: float) -> float:
        if n_bytes <= self.received[-1]:
            return float(np.interp(n_bytes, self.received, self.seconds))
        rise = (self.seconds[-1] - self.seconds[-2]) / (self.received[-1] - self.received[-2])
        return self.seconds[-1] + max(0.0, rise) * (n_bytes - self.received[-1])


@dataclass(frozen=True)
class Machine:
    """Nodes of equal kind, and what joins them.

    ``verbs`` are the measured times of whole exchanges by ``of_members``; all others are made of messages over
    ``within`` and ``between``.
    """

    name: str
    nodes: int
    cores_per_node: int
    memory_per_node: int  # bytes
    within: Link  # between two ranks of a node
    between: Link  # between two nodes: the bandwidth is that of a node's device, which its ranks share, each way
    oversubscription: float = 1.0  # of the switches above nodes: 1.0 is a full fat tree
    scatter: float = 0.03  # coefficient of variation of the time of a piece of computing from step to step
    rates: Rates = field(default_factory=built_in)
    verbs: Mapping[str, Curve] = field(default_factory=dict)
    ranks_per_node: int | None = None  # as described; None: one a core
    threads: int | None = None  # of a rank; None: the cores of the node / its ranks


def of_members(verb: str, members: int, *, between: bool = False) -> str:
    """``gather bits 2``: a verb and a kind over so many ranks of a node; ``gather bits 2 nodes``: of as many nodes."""
    return f"{verb} {members}{' nodes' if between else ''}"


def shipped() -> list[str]:
    """The names of the machines whose descriptions come with the package."""
    files = resources.files("modelpar.plan").joinpath("machines").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_machine(name: str) -> Machine:
    """A shipped machine by its name, or one that a TOML file describes.

    ``here`` is not for it: that one is measured (``bench.calibrate``).  Raises MachineError for a name that is not
    known, and a file that cannot be read or does not describe a machine.
    """
    if name in shipped():
        text = resources.files("modelpar.plan").joinpath("machines", f"{name}.toml").read_text("utf-8")
    elif name.endswith(".toml"):
        try:
            text = read_bounded(Path(name).expanduser(), MOST_BYTES).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not text in UTF-8"
            raise MachineError(f"the machine {name} cannot be read: {why}") from None
    else:
        raise MachineError(
            f"the machine {shown(name)} is not known; use {HERE}, {', '.join(shipped())}, or a file that ends in .toml"
        )
    try:
        described = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise MachineError(f"{name} is not valid TOML: {error}") from None
    return _machine(described, name)


def _machine(described: dict[str, Any], name: str) -> Machine:
    """Raises MachineError."""
    for key in described:
        if key not in (*_NEEDED, *_OPTIONAL):
            raise MachineError(f"{name} has an unknown key {shown(key)}; known are {', '.join((*_NEEDED, *_OPTIONAL))}")
    for key in _NEEDED:
        if key not in described:
            raise MachineError(f"{name} does not say {key}, but a machine needs {', '.join(_NEEDED)}")
    links = {key: _link(described[key], name, key) for key in ("within", "between")}
    whole = {key: _number(described[key], name, key, whole=True) for key in _NEEDED[:3]}
    per_rank = {
        key: int(_number(described[key], name, key, whole=True)) if key in described else None
        for key in ("ranks_per_node", "threads")
    }
    return Machine(
        str(described.get("name", Path(name).stem)), int(whole["nodes"]), int(whole["cores_per_node"]),
        int(whole["memory_per_node"]), links["within"], links["between"],
        _number(described.get("oversubscription", 1.0), name, "oversubscription", least=1.0),
        _number(described.get("scatter", 0.03), name, "scatter", least=0.0),
        built_in(_number(described.get("speed", 1.0), name, "speed")),
        ranks_per_node=per_rank["ranks_per_node"], threads=per_rank["threads"],
    )  # fmt: skip


def _link(value: Any, name: str, key: str) -> Link:
    if not isinstance(value, dict) or set(value) != set(_LINK):
        raise MachineError(f"{name}: {key} is {shown(value)}, but must be a table of {' and '.join(_LINK)}")
    return Link(*(_number(value[part], name, f"{key} {part}") for part in _LINK))


def _number(value: Any, name: str, key: str, *, least: float | None = None, whole: bool = False) -> float:
    """A number above 0, or of at least ``least``.  Raises MachineError."""
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (value <= 0 if least is None else value < least):
        bound = "above 0" if least is None else f"of at least {least:g}"
        kind = "an integer" if whole else "a number"
        raise MachineError(f"{name}: {key} is {shown(value)}, but must be {kind} {bound}")
    return float(value) if not whole else value
