"""What do k-bit statistics do to learning?  MNIST, k = 1, 2, 3, 4, 8 and floats, five seeds of everything.

    python examples/statistics_study/study.py run --results study.jsonl --part cd1
    python examples/statistics_study/study.py table --results study.jsonl
    python examples/statistics_study/study.py plot --results study.jsonl --out figures

``run`` trains the networks of one part on one rank each, and appends one line of JSON for every network to the results;
those that are there already are left out, so that it can be stopped at any time and started again.  A network whose
training breaks down is a result too.  ``table`` prints Markdown: means and standard deviations over the seeds, and
differences from floats with the p of a paired t-test.  ``plot`` draws four figures.  For both, ``--step-seconds FILE``
names a JSON file with step times that were measured elsewhere, as in {"784x500": {"1": 0.001, "float": 0.002}}; keys of
other methods end in `` CD-10`` or `` PCD``.  Without it, equal time is the time that the runs themselves took.

MNIST is binarised at random for pre-training, and at 0.5 for the scores of the test set.  The measures: the mean
pseudo-log-likelihood and the log-likelihood by AIS of the first RBM, and the test accuracy of the first 1, 2, and so on
layers after three epochs of fine-tuning.  All parts take about an hour and a half on one core.  Needs matplotlib.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar import (
    DataSpec,
    DeepBeliefNetwork,
    FineTuneSpec,
    Grid,
    NetworkSpec,
    TrainingSpec,
    evaluate,
    fine_tune,
    open_dataset,
    pretrain,
)
from modelpar.data import Dataset, column_moments
from modelpar.errors import TrainingError
from modelpar.model import scores

STATISTICS = ("1", "2", "3", "4", "8", "float")
WITHOUT_8 = ("1", "2", "3", "4", "float")
SEEDS = (1, 2, 3, 4, 5)
BATCH = 100
CURVE_EVERY = 300  # steps between looks at the pseudo-likelihood of the first RBM,
CURVE_IMAGES = 2000  # on so many images of the test set
AIS_CHAINS = 100
SITES_SEED = 0  # the same pixels are asked of every network, so that differences are not blurred by their choice

Result = dict[str, Any]
StepSeconds = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Setting:
    """One network of the study."""

    hidden: tuple[int, ...] = (500,)
    statistics: str = "float"
    rate: float = 0.05
    epochs: int = 5
    gibbs_steps: int = 1
    persistent: bool = False
    reconstruction: str = "states"
    pass_up: str = "states"
    tune_samples: int = 60000
    ais_temperatures: int = 1000
    seed: int = 1

    @property
    def key(self) -> str:
        """What tells it from others, as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def method(self) -> str:
        return "PCD" if self.persistent else f"CD-{self.gibbs_steps}"


# Of every part: the fields that its networks share, and the values of those that vary.
PARTS: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    "cd1": ({}, {"rate": (0.02, 0.05, 0.1, 0.2)}),
    "cd10": ({"epochs": 2, "gibbs_steps": 10, "rate": 0.05}, {"statistics": WITHOUT_8}),
    "pcd": ({"persistent": True, "rate": 0.003}, {"statistics": WITHOUT_8}),
    "wide": (
        {"hidden": (4096,), "rate": 0.01, "epochs": 2, "tune_samples": 10000, "ais_temperatures": 400},
        {"statistics": WITHOUT_8},
    ),
    "deep": ({"hidden": (500, 500, 500), "epochs": 3, "rate": 0.05}, {"statistics": WITHOUT_8}),
    "visible": (
        {"hidden": (500, 500, 500), "epochs": 3, "rate": 0.05},
        {
            "statistics": ("3",),
            "reconstruction": ("states", "probabilities"),
            "pass_up": ("states", "probabilities"),
        },
    ),
}


def settings_of(part: str) -> list[Setting]:
    """The networks of a part, seed by seed, so that a part that was stopped has some of everything."""
    shared, varied = PARTS[part]
    varied = {"seed": SEEDS, "statistics": STATISTICS, **varied}
    return [Setting(**{**shared, **dict(zip(varied, values, strict=True))}) for values in product(*varied.values())]


@cache
def mnist() -> Dataset:
    """MNIST, opened once in each process."""
    return open_dataset(DataSpec(data="mnist", binarise="stochastic"))


@cache
def test_states() -> np.ndarray:
    """The test set binarised at 0.5, (784, 10000)."""
    data = mnist()
    assert data.test is not None
    values = np.empty((data.n_visible, len(data.test)), np.float32)
    data.test.table.columns(np.arange(data.n_visible)).fill(data.test.rows, values)
    return (values > 0.5 * data.scale).astype(np.float32)


@cache
def base_bias() -> np.ndarray:
    """Log-odds of the pixels' means in the training set, (784,): where the chains of AIS start."""
    data = mnist()
    mean = np.clip(column_moments(data.train, np.arange(data.n_visible))[0] / data.scale, 0.001, 0.999)
    return np.log(mean / (1 - mean))


def run_one(setting: Setting) -> Result:
    """Pre-train, score and fine-tune one network."""
    result: Result = {**asdict(setting), "curve": [], "layers": [], "accuracy": [], "broken": ""}
    with Grid(MPI.COMM_SELF) as grid:
        layers, classes = (mnist().n_visible, *setting.hidden), mnist().n_classes
        spec = NetworkSpec(layers, classes=classes, seed=setting.seed, weight_scale=0.01)
        network = DeepBeliefNetwork(spec, grid)
        try:
            train(network, setting, result)
            result.update(likelihoods(network, setting))
            result["accuracy"] = [tuned_accuracy(network, n, setting) for n in range(1, len(network.rbms) + 1)]
        except TrainingError as error:
            result["broken"] = str(error)
    return result


def train(network: DeepBeliefNetwork, setting: Setting, result: Result) -> None:
    """Pre-train, noting the curve of the first RBM, and the last epoch's measures and the seconds of every layer.

    As Hinton (2010) has it, without the centred gradient, which is the default now: so the tables were measured.
    """
    training = TrainingSpec(
        epochs=setting.epochs, batch_size=BATCH, learning_rate=setting.rate, momentum_epochs=1,
        gibbs_steps=setting.gibbs_steps, persistent=setting.persistent, statistics=setting.statistics,
        reconstruction=setting.reconstruction, pass_up=setting.pass_up, centred=False, momentum=0.9,
        initial_momentum=0.5,
    )  # fmt: skip
    for record in pretrain(network, mnist(), training):
        if record.kind == "step" and record.layer == 0 and record.step % CURVE_EVERY == 0:
            value = pseudo_likelihood(network, CURVE_IMAGES)
            result["curve"].append({"step": record.step, "seconds": record.seconds, "pseudo_likelihood": value})
        if record.kind == "epoch" and record.epoch == setting.epochs:
            result["layers"].append({"seconds": record.seconds, **record.measures})


def pseudo_likelihood(network: DeepBeliefNetwork, n_images: int) -> float:
    """Of the first RBM, on the first images of the test set."""
    v = np.ascontiguousarray(test_states()[:, :n_images])
    return scores.pseudo_log_likelihood(network.rbms[0], v, np.arange(n_images), seed=SITES_SEED)


def likelihoods(network: DeepBeliefNetwork, setting: Setting) -> Result:
    """Pseudo-log-likelihood and log-likelihood of the first RBM on the whole test set."""
    rbm, v = network.rbms[0], test_states()
    found = scores.log_partition_ais(rbm, AIS_CHAINS, setting.ais_temperatures, base_bias=base_bias())
    return {
        "pseudo_likelihood": pseudo_likelihood(network, v.shape[1]),
        "log_likelihood": scores.log_likelihood(rbm, v, found.value),
        "effective_chains": found.effective_chains,
    }


def tuned_accuracy(network: DeepBeliefNetwork, n_layers: int, setting: Setting) -> float:
    """Test accuracy of the first ``n_layers`` hidden layers after a short fine-tuning of a copy."""
    spec = dataclasses.replace(network.spec, layers=network.spec.layers[: n_layers + 1])
    copy = DeepBeliefNetwork(spec, network.grid)
    for to, of in zip(copy.rbms, network.rbms, strict=False):
        to.W[:], to.b[:], to.c[:] = of.W, of.b, of.c
    data = mnist()
    if setting.tune_samples < len(data.train):
        rows, labels = data.train.rows[: setting.tune_samples], data.train.labels
        assert labels is not None
        first = dataclasses.replace(data.train, rows=rows, labels=labels[: setting.tune_samples])
        data = dataclasses.replace(data, train=first)
    for _ in fine_tune(copy, data, FineTuneSpec(epochs=3)):
        pass
    return evaluate(copy, data, data.test)["accuracy"]


def run(results: Path, part: str, processes: int) -> None:
    """Run what is missing of a part and append it to the results."""
    done = {setting_of(result).key for result in read(results)}
    missing = [setting for setting in settings_of(part) if setting.key not in done]
    print(f"{part}: {len(missing)} networks to train", flush=True)
    with open(results, "a") as file:
        for result in outcomes(missing, processes):
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(f"{part}: {describe(result)}", flush=True)


def outcomes(settings: list[Setting], processes: int) -> Iterator[Result]:
    """The results, in order; in this process where there is to be only one."""
    if processes == 1:
        yield from map(run_one, settings)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_one, settings)


def describe(result: Result) -> str:
    """A line about a network."""
    what = f"{setting_of(result).method} rate {result['rate']:g} k {result['statistics']} seed {result['seed']}"
    if result["broken"]:
        return f"{what}: {result['broken']}"
    accuracy = ", ".join(f"{value:.4f}" for value in result["accuracy"])
    return (
        f"{what}: pseudo-log-likelihood {result['pseudo_likelihood']:.2f}, log-likelihood "
        f"{result['log_likelihood']:.2f} ({result['effective_chains']:.0f} chains), accuracy {accuracy}"
    )


def read(results: Path) -> list[Result]:
    """All results so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def setting_of(result: Result) -> Setting:
    """The network that a result is of."""
    fields = {field.name: result[field.name] for field in dataclasses.fields(Setting)}
    return Setting(**{**fields, "hidden": tuple(fields["hidden"])})


def results_of(results: list[Result], part: str) -> list[Result]:
    """Those of a part."""
    wanted = {setting.key for setting in settings_of(part)}
    return [result for result in results if setting_of(result).key in wanted]


def select(results: Iterable[Result], **wanted: Any) -> list[Result]:
    """Those with these values, by seed."""
    chosen = [result for result in results if all(result[name] == value for name, value in wanted.items())]
    return sorted(chosen, key=lambda result: result["seed"])


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description="what k-bit statistics do to learning, on MNIST")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help in (("run", "train what is missing"), ("plot", "draw figures"), ("table", "print tables")):
        command = commands.add_parser(name, help=help)
        command.add_argument("--results", type=Path, required=True, help="file of JSON lines")
        if name == "run":
            command.add_argument("--part", choices=PARTS, required=True, help="part of the study")
            command.add_argument("--processes", type=int, default=1, help="networks trained at the same time")
        else:
            command.add_argument("--step-seconds", type=Path, help="JSON file with seconds a step by layer and k")
        if name == "plot":
            command.add_argument("--out", type=Path, required=True, help="folder for the figures")
    options = parser.parse_args()
    if options.command == "run":
        run(options.results, options.part, options.processes)
        return
    step_seconds = json.loads(options.step_seconds.read_text()) if options.step_seconds else {}
    if options.command == "plot":
        from figures import plot

        plot(read(options.results), options.out, step_seconds)
    else:
        from tables import table

        table(read(options.results), step_seconds)


if __name__ == "__main__":
    main()
