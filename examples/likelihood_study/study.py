"""Which chains, how many of them, how many sweeps, which rate?  Test log-likelihoods after equal times of training.

    python examples/likelihood_study/study.py run --results study.jsonl --part hard
    python examples/likelihood_study/study.py table --results study.jsonl
    python examples/likelihood_study/study.py plot --results study.jsonl --out figures

``run`` trains the RBMs of one part, or of all, on one thread each, and appends one line of JSON for every RBM to the
results; those that are there already are left out, so that it can be stopped at any time and started again.  Two
processes share the work with ``--shard 0/2`` and ``--shard 1/2``.  ``--seconds``, ``--seeds``, ``--temperatures`` and
``--only TEXT`` (of a setting's name) make it smaller; ``--cpu`` counts the processor's seconds, where others use the
machine too.  A training that breaks down is a result too.  ``table`` prints Markdown, ``plot`` draws curves over
training time and all settings by rank.

A rate that falls must have fallen when the time is over: a short trial tells how many updates the time affords, and a
training that still had too few or too many of them is made again.  Copies of the parameters are kept on the way and
scored afterwards, so that scores neither cost training time nor warm or cool a cache.

The parts: ``mnist``, drawn at random from grey values, 784-500, 45 seconds of training; ``wide``, the same with 4096
hidden units; ``digits``, 64-256, 5 seconds; ``hard``, states in clusters between which plain chains do not pass
(``clusters.py``), 200-16, so that log-likelihoods are exact, 10 seconds.  All others lie between an optimistic and a
pessimistic estimate, by annealed importance sampling forwards and backwards.  All parts take about two hours on one
core.  Needs matplotlib for the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from settings import PARTS, Options, Setting, settings_of

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, pretrain, set_threads
from modelpar.errors import TrainingError
from modelpar.records import Record
from modelpar.training.scoring import score_split
from modelpar.training.state import TrainingRun

LOOKS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of the training time, and at its end
SCORE_CHAINS = 100
TEMPERATURES = 5000  # of the score at the end; those before have a fifth
NEAR = 0.1  # part of the time, or of the updates, by which a training may miss its end
ATTEMPTS = 3
WARM_UP, UNLIMITED = 3, 1 << 30  # updates
PTT_SHARE = 4  # a ladder of models grows: the trial, on its first levels, promises about so many times too much

Result = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """The parameters at some moment of training."""

    step: int
    seconds: float
    parameters: np.ndarray


@dataclass(frozen=True)
class Trained:
    """What a training left: looks, the last one at its end, and the measures of its last epoch."""

    looks: list[Look]
    measures: dict[str, float]


def run_one(setting: Setting, temperatures: int) -> Result:
    """Train, and score what was seen on the way."""
    result: Result = {**asdict(setting), "curve": [], "broken": ""}
    with Grid(MPI.COMM_SELF) as grid:
        try:
            network, trained = train(setting, grid)
        except TrainingError as error:
            result["broken"] = str(error)
            return result
        for look in trained.looks:
            is_last = look is trained.looks[-1]
            network.rbms[0].parameters.flat[:] = look.parameters
            network.rbms[0].refresh()
            found = scores(network, setting, temperatures if is_last else max(2, temperatures // 5))
            result["curve"].append({"step": look.step, "seconds": look.seconds, **found})
        result["measures"] = trained.measures
    return result


def train(setting: Setting, grid: Grid) -> tuple[DeepBeliefNetwork, Trained]:
    """A training that ends when its time does; where its rate falls, all that it should by then."""
    trained_for(fresh(setting, grid), setting, WARM_UP)  # or the clock counts the loading of kernels
    updates = affordable(setting, grid) if setting.falls else UNLIMITED
    for _ in range(ATTEMPTS):
        network = fresh(setting, grid)
        trained = trained_for(network, setting, updates)
        end = trained.looks[-1]
        whole = end.step >= (1 - NEAR) * updates and end.seconds >= (1 - NEAR) * setting.seconds
        if whole or not setting.falls:
            break
        updates = max(1, round(end.step * setting.seconds / end.seconds))
    return network, trained


def fresh(setting: Setting, grid: Grid) -> DeepBeliefNetwork:
    """The RBM before training."""
    part = PARTS[setting.part]
    scale: Options = {name: value for name, value in setting.options.items() if name == "weight_scale"}
    return DeepBeliefNetwork(NetworkSpec((part.data().n_visible, part.hidden), seed=setting.seed, **scale), grid)


def affordable(setting: Setting, grid: Grid) -> int:
    """Updates that the time of a setting affords, by the pace of the second half of a short trial."""
    seconds = max(0.2, min(1.0, setting.seconds / 10))
    trial = replace(setting, seconds=seconds)
    *before, end = trained_for(fresh(setting, grid), trial, UNLIMITED).looks
    step, begun = max(((look.step, look.seconds) for look in before if look.seconds < 0.6 * seconds), default=(0, 0.0))
    per_second = (end.step - step) / (end.seconds - begun)
    if setting.options.get("chain_method") == "ptt":
        per_second /= PTT_SHARE
    return max(1, round(per_second * setting.seconds))


def trained_for(network: DeepBeliefNetwork, setting: Setting, updates: int) -> Trained:
    """Train until either the updates are done or the time is over."""
    rbm, run = network.rbms[0], TrainingRun.of(network)
    ahead = [fraction * setting.seconds for fraction in LOOKS]
    looks: list[Look] = []
    measures: dict[str, float] = {}
    records = pretrain(network, PARTS[setting.part].data(), setting.training(updates))
    for record, seconds in timed(records, setting.clock):
        if record.kind == "epoch":
            measures = record.measures
            continue
        over = record.step == updates or seconds >= setting.seconds
        if over or (ahead and seconds >= ahead[0]):
            ahead = [moment for moment in ahead if moment > seconds]
            kept = run.average.get(rbm.name, rbm.parameters)  # the average stands in for the RBM where there is one
            looks.append(Look(record.step, seconds, kept.flat.copy()))
        if over:
            break
    return Trained(looks, measures)


def timed(records: Iterator[Record], clock: str) -> Iterator[tuple[Record, float]]:
    """Each record with the seconds of training before it, by this clock."""
    seconds, begun = 0.0, time.process_time()
    for record in records:
        if record.kind == "step":  # others come after measures, which are no training
            seconds += time.process_time() - begun
        yield record, seconds if clock == "cpu" else record.seconds
        begun = time.process_time()


def scores(network: DeepBeliefNetwork, setting: Setting, temperatures: int) -> Result:
    """Test log-likelihood, its optimistic and its pessimistic value: the same where it is exact."""
    data = PARTS[setting.part].data()
    assert data.test is not None
    method = "exact" if setting.part == "hard" else "auto"
    found = score_split(network, data, data.test, method, n_chains=SCORE_CHAINS, n_betas=temperatures)
    gap = 0.0 if math.isnan(found.gap) else found.gap
    return {
        "optimistic": found.log_likelihood, "pessimistic": found.log_likelihood - gap, "gap": gap,
        "low": found.low, "high": found.high, "method": found.method,
    }  # fmt: skip


def run(results: Path, settings: list[Setting], temperatures: int) -> None:
    """Run what is missing and append it to the results."""
    set_threads(1)
    done = {setting_of(result).key for result in read(results)}
    missing = [setting for setting in settings if setting.key not in done]
    print(f"{len(missing)} RBMs to train", flush=True)
    for result in outcomes(missing, temperatures):
        with open(results, "a") as file:  # one write a line: other processes append to it too
            file.write(json.dumps(result) + "\n")
        print(describe(result), flush=True)


def outcomes(settings: Iterable[Setting], temperatures: int) -> Iterator[Result]:
    """The results, in order."""
    for setting in settings:
        yield run_one(setting, temperatures)


def describe(result: Result) -> str:
    """A line about an RBM."""
    what = f"{result['part']}: {result['name']}, seed {result['seed']}"
    if result["broken"]:
        return f"{what}: {result['broken']}"
    end = result["curve"][-1]
    return (
        f"{what}: {end['pessimistic']:.2f} to {end['optimistic']:.2f} nats after {end['step']} updates in "
        f"{end['seconds']:.1f} s"
    )


def read(results: Path) -> list[Result]:
    """All results so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def setting_of(result: Result) -> Setting:
    """The RBM that a result is of."""
    return Setting(**{field.name: result[field.name] for field in fields(Setting)})


def shard(text: str) -> tuple[int, int]:
    """``I/N`` as two numbers."""
    i, n = map(int, text.split("/"))
    if not 0 <= i < n:
        raise ValueError
    return i, n


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description="test log-likelihoods of RBMs after equal times of training")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help in (("run", "train what is missing"), ("plot", "draw figures"), ("table", "print tables")):
        command = commands.add_parser(name, help=help)
        command.add_argument("--results", type=Path, required=True, help="file of JSON lines")
        if name == "run":
            command.add_argument("--part", choices=(*PARTS, "all"), required=True, help="part of the study")
            command.add_argument("--seconds", type=float, help="of training, in place of the part's")
            command.add_argument("--seeds", type=int, help="of each setting, in place of the part's")
            command.add_argument("--cpu", action="store_true", help="count the processor's seconds")
            command.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="one of N equal shares")
            command.add_argument("--only", default="", metavar="TEXT", help="settings with this in their name")
            command.add_argument("--temperatures", type=int, default=TEMPERATURES, help="of the score at the end")
        if name == "plot":
            command.add_argument("--out", type=Path, required=True, help="folder for the figures")
    options = parser.parse_args()
    if options.command == "run":
        parts = PARTS if options.part == "all" else [options.part]
        how = options.seconds, options.seeds, "cpu" if options.cpu else "wall"
        settings = [setting for part in parts for setting in settings_of(part, *how)]
        i, n = options.shard
        run(options.results, [s for s in settings if options.only in s.name][i::n], options.temperatures)
    elif options.command == "plot":
        from figures import plot

        plot(read(options.results), options.out)
    else:
        from tables import table

        table(read(options.results))


if __name__ == "__main__":
    main()
