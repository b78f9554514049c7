"""The data that a network was trained on: recognised at any path, and never used as test data by mistake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelpar.cli.config import Settings
from modelpar.cli.recorded_paths import check_there
from modelpar.cli.terminal import Say
from modelpar.data import Dataset, open_dataset
from modelpar.data.alphabets import own_alphabet
from modelpar.data.fingerprint import Fingerprint
from modelpar.errors import DataError, SpecError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import DataSpec, option_name
from modelpar.training.state import TrainingRun

FRACTIONS = ("test_fraction", "validation_fraction")


# -- a run that is resumed ---------------------------------------------------------------------------------------------


def check_resumed(network: DeepBeliefNetwork, dataset: Dataset, where: str, *, accept: bool, say: Say) -> None:
    """Raise DataError, on every rank, where a run would go on with other data than it was started with.

    where    the run, for people
    accept   go on with them, and report it
    """
    fingerprint, run = dataset.fingerprint, TrainingRun.of(network)
    if run.data is None or fingerprint is None:
        return
    difference = _of_letters(dataset, run) or fingerprint.differs(run.data)
    if difference and not accept:
        raise DataError(
            f"{dataset.name} is not what the run in {where} was trained on: {difference}; give it its own data, or "
            "--accept-other-data to go on with these"
        )
    if difference:
        say(f"going on with other data than before: {difference}")
    run.data, run.alphabet = fingerprint, dataset.alphabet or run.alphabet


def _of_letters(dataset: Dataset, run: TrainingRun) -> str:
    """How the letters of the states differ from those of training, for people; empty where they do not."""
    if not dataset.alphabet or run.alphabet in ("", dataset.alphabet):
        return ""
    return f"its states are the letters {dataset.alphabet}, not {run.alphabet}"


# -- letters of states -------------------------------------------------------------------------------------------------


def chosen_alphabet(network: DeepBeliefNetwork, asked: str | None) -> str | None:
    """The letters of the states that the network was trained on, else what was asked for; None where neither is known.

    Raises SpecError where other letters are asked for than those of the training.
    """
    kept = TrainingRun.of(network).alphabet
    if asked and kept and own_alphabet(asked).letters != kept:
        raise SpecError(f"--alphabet {asked} is not that of the training, whose letters are {kept}; leave it out")
    return kept or asked


def check_letters(network: DeepBeliefNetwork, dataset: Dataset) -> Dataset:
    """The data set.  Raises DataError where its states are other letters than those that the network was trained on."""
    if difference := _of_letters(dataset, TrainingRun.of(network)):
        raise DataError(f"{dataset.name} does not fit the network: {difference}; bring data of the same letters")
    return dataset


# -- a network that is evaluated ---------------------------------------------------------------------------------------


def open_to_evaluate(
    settings: Settings, network: DeepBeliefNetwork, split: str, *, with_labels: bool, say: Say
) -> Dataset:
    """The data to evaluate a network on, split as in its training where they are the same.  Collective.

    with_labels   whether labels are used

    Raises SpecError where no data are named, or for options that would have no effect or test on training samples,
    DataError where data cannot be opened, or the run's own have changed; all on every rank.
    """
    comm, asked, run = network.grid.comm, settings.asked.get("data", {}), settings.before.get("data", {})
    if "data" not in settings.tables.get("data", {}):
        raise SpecError("no data are named, and no config.toml beside the checkpoint names them; give --data")
    _check_options(settings, network, split, with_labels=with_labels)
    given = dict(settings.tables["data"])  # with the run's own, unless another file is named
    if "test_data" in asked and "test_labels" not in asked:
        given.pop("test_labels", None)
    needed = {name: run[name] for name in run if with_labels or "labels" not in name}
    if "data" not in asked:
        check_there(comm, needed, asked)
    seed, visible = network.spec.seed, network.spec.visible
    trained = TrainingRun.of(network)
    if letters := chosen_alphabet(network, given.get("alphabet")):
        given["alphabet"] = letters
    if trained.data is None:  # an older checkpoint: only the path is known
        return check_letters(
            network, open_dataset(_spec(given, network, with_labels), comm, visible=visible, seed=seed)
        )
    how = {name: given[name] for name in ("alphabet", "missing") if name in given}
    probe = DataSpec(data=given["data"], test_fraction=0.0, binarise=trained.binarise, **how)
    fingerprint = check_letters(network, open_dataset(probe, comm, visible=visible, seed=seed)).fingerprint
    assert fingerprint is not None  # of every file and name
    difference = fingerprint.train.differs(trained.data.train)
    if difference and "data" not in asked:
        raise DataError(
            f"{given['data']} has changed since the network was trained on it ({difference}); bring the old file back, "
            "or name this one by --data to have it as a test set"
        )
    if difference:
        asked = {**asked, "alphabet": letters} if letters else asked
        return _other(asked, network, split, with_labels=with_labels, say=say)
    given = {**run, **given}
    if "test_data" in asked and "test_labels" not in asked:
        given.pop("test_labels", None)
    check_there(comm, needed, asked)
    _check_fractions(asked, trained.data)
    given |= dict(zip(FRACTIONS, trained.data.fractions, strict=True))
    dataset = open_dataset(_spec(given, network, with_labels), comm, visible=visible, seed=seed)
    assert dataset.fingerprint is not None
    difference = dataset.fingerprint.differs(trained.data)
    if difference and "test_data" not in asked and dataset.fingerprint.train.labels:
        say(f"{dataset.name} is not what it was in training: {difference}")
    return dataset


def _other(asked: dict[str, Any], network: DeepBeliefNetwork, split: str, *, with_labels: bool, say: Say) -> Dataset:
    """Data that the network has not seen."""
    all_samples = "test_fraction" not in asked
    given = {**asked, "test_fraction": 0.0} if all_samples else dict(asked)
    if all_samples and split == "test" and given.get("validation_fraction"):
        raise SpecError("--validation-fraction has no effect on --split test; leave it out")
    spec = network.spec
    dataset = open_dataset(_spec(given, network, with_labels), network.grid.comm, visible=spec.visible, seed=spec.seed)
    if dataset.n_visible != network.spec.layers[0]:
        return dataset  # the caller reports it
    name = dataset.name
    if not all_samples and dataset.fingerprint is not None and dataset.fingerprint.test is not None:
        raise SpecError(f"--test-fraction has no effect: {name} has a test set of its own; leave it out")
    if all_samples and dataset.test is None:
        n, which = len(dataset.train), "all"
        if split == "validation" and dataset.validation is not None:
            n, which = len(dataset.validation), "its validation set of"
        say(f"{name} is not the data that the network was trained on: {which} {n} samples are tested on")
        return replace(dataset, test=dataset.train)
    own = dataset.fingerprint is not None and dataset.fingerprint.test is not None
    how = "its own test set" if own else f"--test-fraction {given['test_fraction']:g} of it"
    say(f"{name} is not the data that the network was trained on: {how} is tested on")
    return dataset


def _spec(given: dict[str, Any], network: DeepBeliefNetwork, with_labels: bool) -> DataSpec:
    """The spec of the data, binarised as in training."""
    chosen = {name: value for name, value in given.items() if with_labels or "labels" not in name}
    return DataSpec(**{**chosen, "binarise": TrainingRun.of(network).binarise})


def _binarises_alike(one: str, other: str) -> bool:
    """Whether two values of --binarise mean the same: 0.5 and 0.50 do.  Raises SpecError."""
    levels = [DataSpec(binarise=how).threshold for how in (one, other)]
    return one == other or (levels[0] is not None and levels[0] == levels[1])


def _check_options(settings: Settings, network: DeepBeliefNetwork, split: str, *, with_labels: bool) -> None:
    asked, binarise = settings.mine.get("data", {}), TrainingRun.of(network).binarise
    wanted = settings.asked.get("data", {}).get("binarise", binarise)
    if not _binarises_alike(wanted, binarise):
        where = f"--binarise {wanted}" if "binarise" in asked else f"[data] binarise = {wanted} of {settings.config}"
        came = "imported" if TrainingRun.of(network).imported else "trained"
        raise SpecError(
            f"{where} has no effect: the network was {came} with --binarise {binarise} and its data are made so; leave "
            f"it out{', or import it with another' if came == 'imported' else ''}"
        )
    for name in ("labels", "test_labels"):
        if name in asked and not with_labels:
            why = "nothing is classified here" if network.output is not None else "the network has no output layer"
            raise SpecError(f"{option_name(name)} has no effect: {why}; leave it out")
    if "test_data" in asked and split != "test":
        raise SpecError(f"--test-data has no effect on --split {split}; leave one of them out")


def check_labels_act(settings: Settings, dataset: Dataset, split: str) -> None:
    """Raise SpecError, on every rank alike, for labels of the command line of other samples than ``split``."""
    asked = settings.mine.get("data", {})
    own = dataset.fingerprint is not None and dataset.fingerprint.test is not None
    if "labels" in asked and split == "test" and own:
        raise SpecError("--labels has no effect: the test set is one of its own, with --test-labels; leave it out")
    if "test_labels" in asked and split != "test":
        raise SpecError(f"--test-labels has no effect on --split {split}; leave one of them out")


def _check_fractions(asked: dict[str, Any], data: Fingerprint) -> None:
    for name, fraction in zip(FRACTIONS, data.fractions, strict=True):
        if asked.get(name, fraction) != fraction:
            kept = f"was trained on these data with {option_name(name)} {fraction:g}"
            if name == "test_fraction" and data.test is not None:
                kept = "has a test set of its own"
            raise SpecError(
                f"{option_name(name)} {asked[name]:g} would mix training and test samples: the network {kept}; leave "
                "it out"
            )
