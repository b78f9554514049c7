"""Identifiers of streams of random draws: the purpose of a draw, and its layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum


class Purpose(IntEnum):
    """The purpose of a draw; draws for different purposes are independent."""

    WEIGHTS = 0
    DATA = 1
    HIDDEN = 2
    VISIBLE = 3
    DROPOUT = 4
    CHAIN = 5
    PASS_UP = 6
    SCORE = 7
    FANTASY = 8
    SWAP = 9
    DIAGNOSIS = 10
    MISSING = 11
    RESAMPLING = 16


@dataclass(frozen=True)
class Stream:
    """One family of independent draws, one for every unit and sample.

    Raises ValueError where a field does not fit its bits in the counter.
    """

    seed: int  # 0 .. 2^63 - 1
    layer: int  # 0 .. 255
    purpose: Purpose
    repeat: int = 0  # 0 .. 65535: the Gibbs step, or whatever else distinguishes draws for one purpose

    def __post_init__(self) -> None:
        for name, bits in (("seed", 63), ("layer", 8), ("purpose", 8), ("repeat", 16)):
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} of a stream of draws is {value}, but must be 0 to {(1 << bits) - 1}")

    @property
    def words(self) -> tuple[int, int, int]:
        """The last counter word and the two key words."""
        tag = int(self.layer) << 24 | int(self.purpose) << 16 | int(self.repeat)
        return tag, int(self.seed) & 0xFFFFFFFF, int(self.seed) >> 32


@dataclass(frozen=True)
class SweepStreams:
    """Streams of the draws of both sides in sweeps of Gibbs sampling, each side ``step`` repeats after its last."""

    visible: Stream  # of the first sweep
    hidden: Stream
    step: int

    @classmethod
    def of_purpose(cls, seed: int, layer: int, purpose: Purpose) -> SweepStreams:
        """Both sides of one purpose: those of sweep k, from 0, have the repeats 2 k + 1 and 2 k + 2."""
        return cls(Stream(seed, layer, purpose, 1), Stream(seed, layer, purpose, 2), step=2)

    def at(self, sweep: int) -> tuple[Stream, Stream]:
        """Those of the visible and of the hidden side in sweep 0, 1, ..."""
        further = self.step * sweep
        return (
            replace(self.visible, repeat=self.visible.repeat + further),
            replace(self.hidden, repeat=self.hidden.repeat + further),
        )
