"""How replicas stay together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from modelpar.errors import SpecError
from modelpar.spec.base import Spec, option, option_name


@dataclass(frozen=True)
class SyncSpec(Spec):
    """How replicas stay together."""

    BELONGING: ClassVar[dict[str, tuple[str, ...]]] = {  # strategies, and options that only they use
        "local": ("period", "outer_rate", "outer_momentum"),
        "server": (
            "fetch_every", "push_every", "warm_start", "max_staleness", "scale_by_staleness", "adagrad", "meet_every",
        ),
    }  # fmt: skip

    sync: str = option(
        "allreduce",
        "how replicas stay together: allreduce sums their updates at every step, local averages their parameters periodically (Local SGD), server lets each train at its own pace on shared parameters (Downpour)",
        choices=("allreduce", "local", "server"), flag="--sync",
    )  # fmt: skip
    period: int = option(10, "local: steps between two averages of the parameters", at_least=1)
    outer_rate: float = option(1.0, "local: step towards the average, as a fraction of the distance", above=0)
    outer_momentum: float = option(0.0, "local: Nesterov momentum of the averages (DiLoCo)", at_least=0, below=1)
    fetch_every: int = option(1, "server: steps of a replica between fetches of the parameters", at_least=1)
    push_every: int = option(1, "server: steps of a replica between pushes of its update", at_least=1)
    warm_start: int = option(
        0, "server: steps at the beginning of each stage that all replicas take together", at_least=0
    )
    max_staleness: int | None = option(
        None, "server: limit on the updates of others that an update may have missed; a replica that is too far ahead waits",
        at_least=0,
    )  # fmt: skip
    scale_by_staleness: bool = option(False, "server: divide an update by 1 + its staleness")
    adagrad: bool = option(False, "server: Adagrad in place of momentum, its state kept with the parameters")
    meet_every: int = option(
        0, "server: steps between meetings of the replicas, for records and checkpoints; 0 for the end of each epoch",
        at_least=0,
    )  # fmt: skip

    check_replicas: int = option(
        100, "updates between two comparisons of the replicas, which a memory error may have set apart; 0 for none but before a checkpoint",
        at_least=0, flag="--check-replicas",
    )  # fmt: skip
    repair: bool = option(
        False, "give a replica that is apart the bytes of the others, where these are the majority, and go on", flag="--repair",
    )  # fmt: skip
    check_memory: bool = option(
        False, "compare each shard's parameters before an update with what they were after the last one: memory errors at rest", flag="--check-memory",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for strategy, names in self.BELONGING.items():
            for f in fields(self):
                if f.name in names and getattr(self, f.name) != f.default and self.sync != strategy:
                    raise SpecError(
                        f"{option_name(f.name)} belongs to --sync {strategy}, but --sync is {self.sync}; leave one of "
                        "them out"
                    )

    def pushes_between_fetches(self) -> int:
        """The most pushes of one replica whose gradients were computed, at the latest, on one of its fetches.

        One more where fetches fall in between the gradients of a push, which then belongs to the fetch before.
        """
        fetch, push = self.fetch_every, self.push_every
        return -(-fetch // push) + (fetch % push != 0 and push % fetch != 0)
