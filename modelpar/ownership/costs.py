"""The predicted cost of a layout in one step of CD-1 on states: bytes to receive and statistics to compute.

The rates are those of one core of 2024 and of common links.  They only have to tell which of two layouts is faster, and
the alternatives differ widely: for a million weights, a second block costs a rank a millisecond, and floats summed over
a 1 Gbit/s link cost ten times that.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNT = 5.5e-13  # seconds to count one weight in one sample, phase and plane
UPDATE = 2.5e-10  # seconds to update one weight, which is read and written once
CONNECTION = 2.2e-10  # seconds of an update for one listed connection and sample
FAR = 1.2e8  # bytes a second between nodes at 1 Gbit/s


@dataclass(frozen=True)
class StepCosts:
    """One RBM over shards, and its minibatches."""

    n_visible: int
    n_hidden: int
    n_shards: int
    batch: int = 256
    planes: int = 4  # bits of the statistics

    def received(self, layout: str) -> dict[str, float]:
        """Bytes that one rank receives in a step, by kind, as :class:`modelpar.comm.exchange.Traffic` counts them.

        v0 is read from the data; with one plane the hidden states are the statistics.  Shards are assumed to be equal.
        """
        others, word_bytes = (self.n_shards - 1) / self.n_shards, 8 * -(-self.batch // 64)
        hidden_planes = 2 if self.planes == 1 else 1 + 2 * self.planes  # h0 and both statistics
        v_bits, h_bits = self.n_visible * word_bytes * others, self.n_hidden * word_bytes * hidden_planes * others
        v_sums, h_sums = self.n_visible * 4 * self.batch * others, self.n_hidden * 4 * self.batch * others
        return {
            "column": {"bits": v_bits, "integers": v_sums},
            "row": {"bits": h_bits, "integers": 2 * h_sums},
            "dual": {"bits": v_bits + h_bits, "integers": 0.0},
        }[layout]

    def seconds(self, layout: str, bandwidth: float) -> float:
        """The time of the parts of a step that differ between layouts; products take equally long in all."""
        blocks = 2 if layout == "dual" else 1
        seconds_a_weight = UPDATE + COUNT * 2 * self.planes * self.batch
        n_weights = self.n_visible * self.n_hidden
        return sum(self.received(layout).values()) / bandwidth + blocks * seconds_a_weight * n_weights / self.n_shards


def halo_bytes(
    up: int, down: int, batch: int, *, planes: int = 4, gibbs_steps: int = 1, chains: int | None = None,
    read: bool = True, recompute: bool = False,
) -> int:  # fmt: skip
    """Bytes that all shards of one replica receive in a step of CD-k on states, where connections are listed.

    up, down   for every visible (hidden) unit, the number of other shards that need its state, added up: connectivity
               minus one, as ``partitioners`` measures it
    batch      samples of this replica's share of the minibatch
    planes     bits of the statistics, at least 1; those of 1 bit are the states
    chains     this replica's chains of their own; None for CD, whose chains start at the data
    read       whether each shard reads the data of its halo itself, as it does in the first RBM
    recompute  whether a shard draws the hidden states of others itself: ``up`` then counts what that needs, and of
               hidden units only biases travel, in single precision; not with persistent chains

    Exactly what :class:`modelpar.comm.exchange.Traffic` counts.
    """
    of_data = 8 * -(-batch // 64)  # bytes of one unit's states
    of_model = of_data if chains is None else 8 * -(-chains // 64)
    visible = up * (of_model * gibbs_steps + of_data * (not read))
    if recompute:
        return visible + 4 * down * (1 + gibbs_steps)
    # the chain's states, and both statistics; that of the data is the state which CD's chain goes on from, at 1 bit
    data_planes = planes if chains is not None or planes > 1 else 0
    return visible + down * (of_model * (gibbs_steps + planes) + of_data * data_planes)


def recompute_pays(up: int, down: int, up_drawn: int, down_drawn: int, extra: int, *, batch: int) -> bool:
    """Whether a shard between nodes draws the hidden units of others faster than it receives them.

    up, down               visible and hidden units that the shard with most of them receives
    up_drawn, down_drawn   the same where hidden units are drawn
    extra                  connections that the shard then holds in addition
    """
    received = halo_bytes(up, down, batch) / FAR
    drawn = halo_bytes(up_drawn, down_drawn, batch, recompute=True) / FAR + CONNECTION * extra * batch
    return drawn < received


def dual_pays(n_visible: int, n_hidden: int, n_shards: int, otherwise: str) -> bool:
    """Whether a dual layout is predicted to be faster than the layout ``otherwise``, with shards on several nodes."""
    step = StepCosts(n_visible, n_hidden, n_shards)
    return step.seconds("dual", FAR) < step.seconds(otherwise, FAR)
