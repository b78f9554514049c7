"""The records that a run yields: plain values, the same on every rank except for times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STAGES = ("pretrain", "finetune", "done")  # the stages of training, in order
NO_LAYER = -1  # in records, digests and summaries: the layer of a stage that trains all layers


def recorded_layer(stage: str, layer: int) -> int:
    """The layer that a record names: the RBM that is trained, or NO_LAYER."""
    return layer if stage == "pretrain" else NO_LAYER


@dataclass(frozen=True)
class Record:
    """One line of ``metrics.jsonl``.

    ``kind`` is ``epoch`` at the end of an epoch and ``step`` in between; a ``step`` record is yielded after every
    update (with a parameter server: after those between two synchronisations), so that the caller can draw a bar, save,
    or stop.  ``seconds`` is measured on each rank: do not use it to stop, or let one rank decide for all.
    """

    kind: str  # "epoch", "step"
    stage: str  # "pretrain", "finetune"
    layer: int  # index of the RBM in pre-training, NO_LAYER in fine-tuning
    epoch: int  # counted from 1: the epoch that this record belongs to
    step: int  # updates done in this stage and layer
    steps: int  # updates that this stage and layer will have in all, unless it stops early
    samples: int  # samples of this update (kind "step") or of this epoch
    seconds: float  # training time since the stage began, scores excluded
    measures: dict[str, float] = field(default_factory=dict)
    n_updates: int = 1  # updates of a "step" record: more than one where replicas trained independently meanwhile
    digests: dict[str, int] | None = None  # digests of this update, by tensor, where they are recorded

    def _repr_html_(self) -> str:
        """For notebooks: its values, in a line."""
        from partitioners.cards import card, facts  # not loaded in training

        name = f"RBM {self.layer}" if self.stage == "pretrain" else self.stage
        done = f"epoch {self.epoch}, update {self.step:,} of {self.steps:,}"
        numbers = {"samples": float(self.samples), "seconds": self.seconds, **self.measures}
        return card(
            f"{name}: {done}" if self.kind == "step" else f"{name}: end of {done}",
            facts((key.replace("_", " "), f"{value:,.6g}") for key, value in numbers.items()),
        )

    def as_line(self) -> dict[str, Any]:
        """The record as one flat JSON object."""
        plain = {name: value for name, value in vars(self).items() if name not in ("measures", "digests", "n_updates")}
        return {**plain, **self.measures}
