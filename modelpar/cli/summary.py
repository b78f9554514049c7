"""The result of a run: ``summary.json``, and the same for people."""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelpar import __version__
from modelpar.cli.config import Settings
from modelpar.cli.info import environment_of_run
from modelpar.cli.planned_job import predicted_updates
from modelpar.cli.progress import size_text
from modelpar.cli.threads import Placement
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.state import TrainingRun

ABOUT = ("kind", "stage", "layer", "step", "steps", "samples", "seconds")  # of a record; the rest are measures
LIKELIHOODS = ("log_likelihood", "log_likelihood_low", "log_likelihood_high")
SCORE_SECONDS = "score_seconds"
SWAPS = ("swap_acceptance", "round_trips")


@dataclass(frozen=True)
class Clock:
    """Seconds of the stages of a run."""

    stages: Mapping[tuple[str, int], float]  # training seconds by (stage, layer), those before a resume included
    seconds_before: float  # of these, before the resume
    samples: int  # since then
    compile_seconds: float

    @property
    def train_seconds(self) -> float:
        return sum(self.stages.values())

    def seconds_of(self, stage: str) -> float:
        return sum(seconds for (name, _), seconds in self.stages.items() if name == stage)

    @property
    def samples_per_second(self) -> float:
        seconds = self.train_seconds - self.seconds_before
        return self.samples / seconds if seconds > 0 else 0.0


def summarise(
    network: DeepBeliefNetwork,
    accuracies: Mapping[str, float],
    clock: Clock,
    history: Sequence[dict[str, Any]],
    threads: int,
) -> dict[str, Any]:
    """The content of ``summary.json``, the same on every rank.  Collective.

    ``bytes`` are those that had to cross between ranks for training, by axis, verb and kind (bits, integers, floats),
    over all ranks, since this process began; ``far_bytes`` those of them that came from another node; ``other_bytes``
    those of upkeep and measures (``exchange.Traffic``); ``measures`` the last ones of every stage and RBM;
    ``log_likelihood`` with ``_low`` and ``_high`` the last score; ``score_seconds`` the time of all scores, which is
    not training time; ``swap_acceptance`` and ``round_trips`` those of the last epoch of tempered chains;
    ``environment`` the software and processor of rank 0.
    """
    grid, run = network.grid, TrainingRun.of(network)
    seconds = [line[SCORE_SECONDS] for line in history if SCORE_SECONDS in line]
    return {
        **accuracies,
        **_last(history, LIKELIHOODS),
        **({SCORE_SECONDS: sum(seconds)} if seconds else {}),
        **_last(history, SWAPS),
        "train_seconds": clock.train_seconds,
        "pretrain_seconds": clock.seconds_of("pretrain"),
        "finetune_seconds": clock.seconds_of("finetune"),
        "compile_seconds": clock.compile_seconds,
        "samples_per_second": clock.samples_per_second,
        "bytes": network.traffic.total(grid.comm),
        "far_bytes": network.traffic.total(grid.comm, "far"),
        "other_bytes": {of: network.traffic.total(grid.comm, of) for of in ("upkeep", "measures")},
        "staleness": staleness_of(network),
        "peak_rss_per_rank": grid.comm.allgather(peak_rss()),
        "grid": {"replicas": grid.n_replicas, "model_shards": grid.n_shards, "ranks": grid.comm.size},
        "threads": threads,
        "layers": list(network.spec.layers),
        "classes": network.spec.classes,
        "data": None if run.data is None else asdict(run.data),
        "parameters": network.n_parameters,
        "measures": {
            f"{line['stage']}.{line['layer']}": {name: value for name, value in line.items() if name not in ABOUT}
            for line in history
        },
        "version": __version__,
        "environment": grid.comm.bcast(environment_of_run() if grid.comm.rank == 0 else None),
    }


def predicted(settings: Settings, network: DeepBeliefNetwork, placement: Placement) -> dict[str, Any]:
    """``predicted_update_seconds`` of every RBM, by the rates that ``modelpar plan`` has kept of this machine; nothing
    where it has kept none, or the network was only fine-tuned.  Collective."""
    if not settings.training.trains:
        return {}
    found = predicted_updates(settings, network, placement)
    return {"predicted_update_seconds": found} if found else {}


def _last(history: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Measures of the last record that has the first of them; empty where none has."""
    line: dict[str, Any] = next((line for line in reversed(history) if names[0] in line), {})
    return {name: line[name] for name in names if name in line}


def staleness_of(network: DeepBeliefNetwork) -> dict[str, int]:
    """How many pushes to a parameter server had each staleness, over all replicas in this process.  Collective.

    All shards of a replica push together, so those of one shard are counted.
    """
    total: Counter[int] = Counter()
    for counts in network.grid.replica_comm.allgather(TrainingRun.of(network).staleness):
        total.update(counts)
    return {str(staleness): total[staleness] for staleness in sorted(network.grid.comm.bcast(total))}


def peak_rss() -> int:
    """The most memory that this process has used, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def for_people(summary: Mapping[str, Any]) -> dict[str, object]:
    """The rows of the table at the end of a run."""
    shown: dict[str, object] = {
        name.replace("_", " "): f"{summary[name]:.2%}"
        for name in ("test_accuracy", "validation_accuracy")
        if name in summary
    }
    if "log_likelihood" in summary:
        low, high = (f"{summary[name]:.2f}" if name in summary else "?" for name in LIKELIHOODS[1:])
        took = f", estimated in {summary[SCORE_SECONDS]:.2f} s" if SCORE_SECONDS in summary else ""
        shown["log-likelihood"] = f"{summary['log_likelihood']:.2f} nats a sample ({low} to {high}){took}"
    if "swap_acceptance" in summary:
        shown["tempered chains"] = (
            f"swaps accepted by the neighbours that swap least: {summary['swap_acceptance']:.1%}; "
            f"{summary['round_trips']:.0f} round trips (last epoch)"
        )
    shown["training time"] = (
        f"{summary['train_seconds']:.2f} s (pre-training {summary['pretrain_seconds']:.2f} s, fine-tuning "
        f"{summary['finetune_seconds']:.2f} s); compiling {summary['compile_seconds']:.2f} s"
    )
    shown["samples/s"] = f"{summary['samples_per_second']:,.0f}"
    for axis, verbs in summary["bytes"].items():
        sizes = ", ".join(
            f"{verb} {size_text(n)} of {kind}" for verb, kinds in verbs.items() for kind, n in kinds.items()
        )
        shown[f"bytes on the {axis} axis"] = sizes or "none"
    if summary["staleness"]:
        utf = (sys.stdout.encoding or "").lower().startswith("utf")
        shown["staleness of pushes"] = histogram(summary["staleness"], sign="█" if utf else "#")
    shown["peak memory a rank"] = ", ".join(size_text(n) for n in summary["peak_rss_per_rank"])
    shown["parameters"] = f"{summary['parameters']:,}"
    return shown


BAR_LENGTH = 30  # characters of the longest bar
BARS = 12  # of a histogram: the last one counts all larger values


def histogram(counts: Mapping[str, int], *, sign: str = "█") -> list[str]:
    """Lines of ``value  fraction  bar``.   counts: by integers, written as text, as in JSON"""
    by_value = sorted((int(value), n) for value, n in counts.items())
    kept, rest = by_value[: BARS - 1], by_value[BARS - 1 :]
    bars = [(str(value), n) for value, n in kept]
    if rest:
        bars.append((f"{rest[0][0]}+", sum(n for _, n in rest)))
    total, most, width = sum(n for _, n in bars), max(n for _, n in bars), max(len(name) for name, _ in bars)
    return [f"{name:>{width}}  {n / total:6.1%}  {sign * round(BAR_LENGTH * n / most)}" for name, n in bars]
