"""``modelpar diagnose``: how good a generative model is, and whether its chains mix, on one page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.chains.gibbs import Chains
from modelpar.cli import pictures
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings
from modelpar.cli.diagnosis_page import Page, save_page
from modelpar.cli.evaluate import make_grid, open_network, open_split
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.progress import summary_table
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.terminal import make_console, speak
from modelpar.comm.grid import Grid
from modelpar.data import Dataset, Split
from modelpar.diagnosis.report import Diagnosis, Samples, diagnose, finite
from modelpar.diagnosis.sampling import spread_evenly
from modelpar.diagnosis.spectrum import singular_values
from modelpar.errors import together
from modelpar.files.paths import in_one_line
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.evaluation import check_split
from modelpar.training.scoring import share_of_split, states_of, weights_of
from modelpar.training.state import TrainingRun

Doubles = npt.NDArray[np.float64]

AT_MOST = 10_000  # samples of a split
MOMENTS_SHOWN = 30  # of a trajectory
FILTERS = 36
MODES = 20  # singular values over time
_KEPT = re.compile(r"rbm-(\d+)-update-(\d+)\.safetensors")


def diagnosis(
    comm: MPI.Comm, settings: Settings, where: str, split: str, *,
    n_chains: int, n_sweeps: int, seed: int, last: bool, three_body: bool, out: str, as_json: bool,
) -> None:  # fmt: skip
    """Measure, draw the page, and print a table or JSON.  Collective."""
    check_outputs(comm, settings, {"--out": out}, checkpoint=where)
    with make_grid(comm, settings) as grid:
        say = speak(grid.comm)
        path = checkpoint_of(comm, where, generative=True)
        network = open_network(path, grid, settings, last=last)
        dataset, chosen = open_split(settings, network, split, with_labels=False, say=say)
        check_split(network, dataset, chosen)
        training_set, why = _training_set(network, dataset, chosen)
        if training_set is None:
            say(f"no free-energy gap: {why}")
        else:
            check_split(network, dataset, training_set)
        if states_of(network, dataset, chosen)[1]:
            say(f"{dataset.name} has grey values: states are drawn from them, once, by the seed {network.spec.seed}")
        if len(network.rbms) > 1:
            say("a stack: times and the last spectrum are of the top RBM, and samples are drawn down from it")
        drawn = grid.comm.bcast(pictures.have_matplotlib())
        held_out: Samples = share_of_split(network, dataset, chosen, AT_MOST)
        weights, of_training = weights_of(chosen, held_out[1]), None
        training: Samples | None = None
        if training_set is not None:
            training = share_of_split(network, dataset, training_set, AT_MOST)
            of_training = weights_of(training_set, training[1])
        result = diagnose(
            network, held_out, training, _carried_chains(grid, where, path, network),
            n_chains=n_chains, n_sweeps=n_sweeps, seed=seed, triples=three_body,
            pictures=drawn and dataset.image_shape is not None, weights=weights, training_weights=of_training,
        )  # fmt: skip
        for doubt in result.doubts:
            say(doubt)
        over_time = _spectra_over_time(grid, settings, where, network)
        what = {"checkpoint": str(path), "data": dataset.name, "split": split}
        if not drawn:
            say(pictures.WITHOUT)
        else:
            _draw(network, dataset, result, over_time, _history(grid, where), what, Path(out))
        values = {**what, **result.as_json()}
        if over_time:
            values["spectrum_over_updates"] = {str(update): finite(values) for update, values in over_time}
    if as_json:
        print(json.dumps(values), flush=True)
        return
    make_console().print(summary_table({**what, **_shown(result), **({"page": out} if drawn else {})}, ""))


def _training_set(network: DeepBeliefNetwork, dataset: Dataset, chosen: Split) -> tuple[Split | None, str]:
    """(What the network was trained on, as far as it is among the data; why not).  Collective."""
    comm, trained = network.grid.comm, TrainingRun.of(network).data
    if chosen is dataset.train or dataset.train is dataset.test:
        return None, "only the training samples, or others, are here, and not both"
    difference = ""
    with together(comm):
        if trained is not None and dataset.fingerprint is not None:
            difference = dataset.fingerprint.train.differs(trained.train)
    if comm.bcast(difference):
        return None, "the network was trained on other data"
    return (dataset.train, "") if len(dataset.train) else (None, "there are no training samples")


def _carried_chains(grid: Grid, where: str, path: Path, network: DeepBeliefNetwork) -> Chains | None:
    """The chains of the checkpoint, or of the newest one of the run that has any.  Collective."""
    paths = [path]
    if grid.comm.bcast(Path(where).is_dir()):
        paths += RunDirectory(grid.comm, where).to_resume(0)
    for one in paths:
        chains = checkpoint.read_chains(one, network)
        if chains is not None:
            return chains
    return None


def _history(grid: Grid, where: str) -> list[dict[str, Any]]:
    return RunDirectory(grid.comm, where).history() if grid.comm.bcast(Path(where).is_dir()) else []


def _spectra_over_time(
    grid: Grid, settings: Settings, where: str, network: DeepBeliefNetwork
) -> list[tuple[int, Doubles]]:
    """(update, the largest singular values of the top RBM's weights) along the run's trajectory.  Collective."""
    top, found = network.rbms[-1], []
    if grid.comm.rank == 0:
        for path in (Path(where) / "trajectory").glob("rbm-*-update-*.safetensors"):
            matched = _KEPT.fullmatch(path.name)
            if matched and int(matched[1]) == top.index:
                found.append((int(matched[2]), path))
        found.sort()
        found = [found[i] for i in spread_evenly(len(found), MOMENTS_SHOWN)] if found else []
    spectra, (n_visible, n_hidden) = [], network.spec.layers[-2:]
    for update, path in grid.comm.bcast(found):
        rbm = open_network(path, grid, settings).rbms[-1]
        values = singular_values(rbm, n_visible, n_hidden, MODES)
        if values is not None:
            spectra.append((update, values))
    return spectra


def _draw(
    network: DeepBeliefNetwork, dataset: Dataset, result: Diagnosis, over_time: list[tuple[int, Doubles]],
    history: list[dict[str, Any]], what: dict[str, str], out: Path,
) -> None:  # fmt: skip
    """Write the page.  Collective."""
    shape = dataset.image_shape
    units = spread_evenly(network.spec.layers[1], FILTERS)
    filters = network.filters(units) if shape is not None else None
    white = 1.0 if network.spec.visible == "bernoulli" else None
    with together(network.grid.comm):
        if network.grid.comm.rank == 0:
            layers = "-".join(map(str, network.spec.layers))
            title = f"{Path(what['checkpoint']).name}   {layers}   {what['data']}, {what['split']} samples"
            save_page(out, Page(in_one_line(title), result, shape, filters, white, over_time, history))


def _shown(result: Diagnosis) -> dict[str, object]:
    chains = f"{result.n_chains} of {result.n_sweeps} sweeps a start"
    rows: dict[str, object] = {"samples": f"{result.n_samples}", "chains": chains}
    at_equilibrium = "the run's chains" if result.chains_from == "run" else "chains from data"
    if result.autocorrelation_time is not None:
        mixing = result.mixing_time
        rows["mixing time"] = (
            f"{mixing} sweep{'s' * (mixing != 1)}" if mixing is not None else f"more than {result.n_sweeps} sweeps"
        ) + f" (autocorrelation below 1/e; {at_equilibrium})"
        at_least = "" if result.window is not None else "at least "
        rows["autocorrelation time"] = f"{at_least}{result.autocorrelation_time:.3g} sweeps"
    starts = {"random": "random starts", "data": "data starts", "run": "the run's chains"}
    rows["distance of means from the data"] = [
        *(
            f"{starts[start]}: rms {of.means[0]:.3g}, after {result.n_sweeps} sweeps {of.means[-1]:.3g}"
            for start, of in result.distances.items()
        ),
        f"as many samples of the data: {result.floor[0]:.3g}",
    ]
    met = result.meeting_time
    rows["random and data starts"] = f"meet after {met} sweeps" if met is not None else (
        f"are still apart after {result.n_sweeps} sweeps"
    )  # fmt: skip
    for name, words in (("means", "means"), ("pairs", "covariances of pairs"), ("triples", "triples")):
        if name in result.moments:
            m = result.moments[name]
            rows[words] = f"rms difference {m.rms:.3g}, slope {m.slope:.2f}, r {m.r:.3f}"
    if result.neighbours is not None:
        of = result.neighbours
        rows["adversarial accuracy"] = f"{of.truth:.2f} / {of.synthetic:.2f} of data / samples (0.5: indistinguishable)"
    if result.gap is not None:
        rows["free-energy gap"] = (
            f"{result.gap.gap:.2f} ± {result.gap.error:.2f} nats between held-out and training samples"
        )
    return {**rows, "seconds": f"{result.seconds:.1f}"}
