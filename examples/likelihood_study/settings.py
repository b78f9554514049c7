"""The settings of the study: which RBMs it trains, on which data, for how long."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import clusters

from modelpar import DataSpec, TrainingSpec, open_dataset
from modelpar.data import Dataset

Options = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One RBM of the study.

    seconds   of training, of the clock on the wall (``wall``) or of the processor (``cpu``)
    options   of TrainingSpec, and ``weight_scale`` of NetworkSpec
    """

    part: str
    name: str
    seed: int
    seconds: float
    clock: str
    options: Options

    @property
    def key(self) -> str:
        """What tells it from others, as text."""
        return json.dumps(asdict(self), sort_keys=True)

    def training(self, updates: int) -> TrainingSpec:
        """How it is trained in so many updates."""
        options = {name: value for name, value in self.options.items() if name != "weight_scale"}
        return TrainingSpec(**{**options, "updates": updates})

    @property
    def falls(self) -> bool:
        """Whether the learning rate falls."""
        return self.options.get("schedule", "constant") != "constant"


PLAIN: Options = {"momentum": 0.0, "initial_momentum": 0.0, "weight_decay": 0.0, "centred": True}
FALLING: Options = {**PLAIN, "schedule": "linear", "final_rate": 0.01}
# Of Hinton (2010), which the package had as defaults before this study.
HINTON: Options = {"centred": False, "initial_momentum": 0.5, "momentum_epochs": 5, "weight_scale": 0.01}
NOT_CENTRED: Options = {"centred": False}

Named = tuple[str, Options]


def cd(k: int, rate: float, note: str = "", **more: Any) -> Named:
    """CD-k, centred, with a falling rate, but for what is given."""
    return spelled(f"CD-{k}", rate, note), {**FALLING, "gibbs_steps": k, "learning_rate": rate, **more}


def pcd(k: int, rate: float, note: str = "", chains: int = 100, method: str = "gibbs", **more: Any) -> Named:
    """PCD-k with these chains, tempered or not, centred, with a falling rate, but for what is given."""
    name = {"gibbs": "PCD", "pt": "PT", "ptt": "PTT"}[method]
    options = {**FALLING, "chains": chains, "chain_steps": k, "chain_method": method, "learning_rate": rate, **more}
    return spelled(f"{name}-{k}", rate, *([f"{chains} chains"] if chains != 100 else []), note), options


def restart(k: int, rate: float) -> Named:
    """Chains of k sweeps from random states in every update."""
    new = {"chains": 100, "chain_steps": k, "chain_restart": True, "chain_start": "random"}
    return spelled(f"restart-{k}", rate), {**FALLING, **new, "learning_rate": rate}


def hinton(note: str = "", **more: Any) -> Named:
    """As Hinton (2010) recommends, but for what is given."""
    return f"Hinton's{note}", {**HINTON, **more}


def defaults(note: str = "", **more: Any) -> Named:
    """The defaults, but for what is given."""
    return f"defaults{note}", more


def spelled(method: str, rate: float, *notes: str) -> str:
    """The name of a setting."""
    return ", ".join([method, f"rate {rate:g}", *filter(None, notes)])


MNIST: list[Named] = [
    hinton(),
    hinton(" centred", centred=True),
    defaults(),
    defaults(", PCD-1", chains=100),
    defaults(", PCD-1, rate 0.01, momentum 0.9", chains=100, learning_rate=0.01, momentum=0.9),
    *(cd(k, rate) for k in (1, 5, 25) for rate in (0.05, 0.1)),
    *(pcd(k, rate) for k in (1, 5, 25) for rate in (0.02, 0.05, 0.1)),
    *(pcd(k, rate, chains=500) for k in (1, 5) for rate in (0.05, 0.1)),
    pcd(1, 0.05, "not centred", **NOT_CENTRED),
    pcd(1, 0.05, "average", average=2000),
    pcd(1, 0.05, "constant", schedule="constant"),
    pcd(1, 0.05, "constant, average", schedule="constant", average=2000),
    pcd(1, 0.005, "momentum", momentum=0.9, initial_momentum=0.9),
    pcd(5, 0.05, method="pt"),
    pcd(5, 0.05, method="ptt"),
    restart(25, 0.05),
]
DIGITS: list[Named] = [
    hinton(),
    hinton(" centred", centred=True),
    defaults(),
    *(defaults(f", weights {scale:g}", weight_scale=scale) for scale in (0.01, 0.05)),
    defaults(", momentum 0.5 first", initial_momentum=0.5),
    *(defaults(f", rate {rate:g}", learning_rate=rate) for rate in (0.02, 0.05, 0.2)),
    *(defaults(f", batch 20, rate {rate:g}", batch_size=20, learning_rate=rate) for rate in (0.02, 0.05)),
    *(cd(k, 0.1) for k in (1, 5)),
    *(pcd(1, rate) for rate in (0.02, 0.05, 0.1, 0.2)),
    *(pcd(5, rate) for rate in (0.05, 0.1)),
    pcd(1, 0.05, "batch 20", batch_size=20),
    pcd(1, 0.05, "average", average=1000),
    pcd(1, 0.05, "constant", schedule="constant"),
    pcd(1, 0.05, "constant, average", schedule="constant", average=1000),
]
WIDE: list[Named] = [
    hinton(),
    hinton(", rate 0.01", learning_rate=0.01),
    hinton(" centred", centred=True),
    *(defaults(note, **more) for note, more in (("", {}), (", rate 0.03", {"learning_rate": 0.03}))),
    defaults(", not centred", centred=False),
]
HARD: list[Named] = [
    *(cd(k, rate) for k in (1, 10) for rate in (0.01, 0.05)),
    *(pcd(k, rate) for k in (1, 10) for rate in (0.01, 0.05)),
    cd(1, 0.05, "not centred", **NOT_CENTRED),
    *(pcd(k, 0.05, "not centred", **NOT_CENTRED) for k in (1, 10)),
    pcd(10, 0.2),
    pcd(100, 0.05),
    *(pcd(k, 0.05, method=method) for method in ("pt", "ptt") for k in (1, 10)),
    restart(10, 0.05),
]


@cache
def mnist() -> Dataset:
    """MNIST, its states drawn anew in every epoch."""
    return open_dataset(DataSpec(data="mnist", binarise="stochastic"))


@cache
def digits() -> Dataset:
    """The embedded digits, as the package prepares them."""
    return open_dataset(DataSpec(data="digits"))


@cache
def hard() -> Dataset:
    """States in clusters."""
    return open_dataset(clusters.samples(2000, seed=1), test=clusters.samples(1000, seed=2), binarise=0.5)


class Part(NamedTuple):
    """Settings of one data set."""

    data: Callable[[], Dataset]
    hidden: int
    seconds: float
    seeds: int
    settings: list[Named]


PARTS = {
    "mnist": Part(mnist, 500, 45.0, 1, MNIST),
    "digits": Part(digits, 256, 5.0, 2, DIGITS),
    "hard": Part(hard, 16, 10.0, 3, HARD),
    "wide": Part(mnist, 4096, 45.0, 1, WIDE),
}


def settings_of(
    part: str, seconds: float | None = None, seeds: int | None = None, clock: str = "wall"
) -> list[Setting]:
    """The RBMs of a part, seed by seed, so that a part that was stopped has some of everything."""
    known = PARTS[part]
    return [
        Setting(part, name, seed, seconds or known.seconds, clock, options)
        for seed in range(1, (seeds or known.seeds) + 1) for name, options in known.settings
    ]  # fmt: skip
