"""What a run reports: plain values, the same on every rank but for the clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STAGES = ("pretrain", "finetune", "done")  # of training, in their order
NO_LAYER = -1  # what records, digests and summaries have as the layer of a stage that trains all of them


def recorded_layer(stage: str, layer: int) -> int:
    """The layer that a record of a stage names, of the RBM that is trained there."""
    return layer if stage == "pretrain" else NO_LAYER


@dataclass(frozen=True)
class Record:
    """One line of ``metrics.jsonl``.

    ``kind`` is ``epoch`` at the end of an epoch and ``step`` in between; a ``step`` record is yielded after every
    update (of a parameter server: after those between two meetings), so that the caller can draw a bar, save, or stop.
    ``seconds`` is each rank's own clock: whether to stop must be decided by something else, or by one rank for all.
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
    n_updates: int = 1  # updates of a "step" record: more than one where replicas had gone their own ways
    digests: dict[str, int] | None = None  # of this update, by tensor, where they are recorded

    def as_line(self) -> dict[str, Any]:
        """The record as one flat JSON object."""
        plain = {name: value for name, value in vars(self).items() if name not in ("measures", "digests", "n_updates")}
        return {**plain, **self.measures}
