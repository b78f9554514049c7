"""``modelpar mutations``: what changes at single sites do to the free energy of a sequence.

In proteins such scores go along with measured effects of mutations (Hopf et al. 2017; of RBMs Tubiana, Cocco and
Monasson 2019): F(variant) - F(wild type) = log p(wild type) - log p(variant), without the partition function.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings
from modelpar.cli.evaluate import make_grid, open_network
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.own_data import chosen_alphabet
from modelpar.cli.sample_files import letters_of
from modelpar.errors import DataError, SpecError, together
from modelpar.files.paths import in_one_line
from modelpar.formats.fasta import records
from modelpar.kernels.states import pack
from modelpar.likelihood.energy import free_energy
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec

Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

VALUES_AT_ONCE = 1 << 24  # of variants, as bytes
COLUMNS = ("site", "from", "to", "delta")


def mutations(
    comm: MPI.Comm, settings: Settings, where: str, *, wild_type: str, out: str, alphabet: str | None, last: bool
) -> None:
    """Write the table.  Collective."""
    check_outputs(comm, settings, {"--out": out}, checkpoint=where, more=[("--wild-type", wild_type)])
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=True)
        network = open_network(path, grid, settings, last=last)
        name, states, letters = "", np.zeros(0, np.int64), ""
        with together(comm):
            check(network.spec)
            alphabet = chosen_alphabet(network, alphabet)
            letters = letters_of(network.spec.visible_kind.categories, alphabet, "--wild-type")
            if comm.rank == 0:
                n_sites = network.spec.layers[0] // len(letters)
                name, states = read_wild_type(Path(wild_type), letters, n_sites)
        states = comm.bcast(states)
        deltas = differences(network, states)
        with together(comm):
            if comm.rank == 0:
                with atomic_write(Path(out), sources=(path, wild_type)) as partial:
                    save(partial, states, letters, deltas)
    n = deltas.size - len(states)
    of = f" of {in_one_line(name)}" if name else ""
    print(f"{n} variants{of} at {len(states)} sites: {in_one_line(out)}", flush=True)


def check(spec: NetworkSpec) -> None:
    """Raise SpecError for a network whose free energy is not that of sequences."""
    if not spec.visible_kind.categories:
        raise SpecError(f"mutations are of sequences, but the network has {spec.visible} visible units; train one with "
                        "--visible categorical:21")  # fmt: skip
    if len(spec.layers) > 2:
        raise SpecError(f"a stack of {len(spec.layers) - 1} RBMs has no free energy; train a network of one RBM")


def read_wild_type(path: Path, letters: str, n_sites: int) -> tuple[str, IntArray]:
    """(Name, states (n_sites,)) of the first record.  Insertions are left out: lower-case letters of one with both
    cases, and dots.  Raises DataError where it does not fit."""
    record = next(iter(records(path)))
    text = record.letters.decode("latin-1")
    cased = any(letter.islower() for letter in letters)  # states of their own
    if not cased and any(c.islower() for c in text) and any(c.isupper() for c in text):
        text = "".join(c for c in text if not c.islower() and c != ".")
    if not cased:
        text = text.upper()
    if "-" in letters and "." not in letters:
        text = text.replace(".", "-")
    if len(text) != n_sites:
        raise DataError(f"{record.shown} of {path} has {len(text)} sites, but the network was trained on {n_sites}; "
                        "give the wild type as it is aligned to its family")  # fmt: skip
    for site, letter in enumerate(text):
        if letter not in letters:
            raise DataError(f"{record.shown} of {path} has the letter {letter!r} at site {site + 1}, which is none of "
                            f"{letters}; name the letters by --alphabet")  # fmt: skip
    return record.name.decode("utf-8", "replace"), np.array([letters.index(letter) for letter in text], np.int64)


def differences(network: DeepBeliefNetwork, states: IntArray) -> Doubles:
    """F(variant) - F(wild type), (sites, categories), on every rank; 0 where the state is that of the wild type.

    states   (sites,) of the wild type
    Collective over the shards.
    """
    q, n_sites, ids = network.spec.visible_kind.categories, len(states), network.visible_ids
    wild = np.zeros(n_sites * q, np.uint8)
    wild[np.arange(n_sites) * q + states] = 1
    own = free_energies(network, wild[ids][:, None])[0]
    result = np.zeros((n_sites, q))
    at_once = max(1, VALUES_AT_ONCE // max(len(wild) * q, 1))
    for start in range(0, n_sites, at_once):
        sites = np.arange(start, min(start + at_once, n_sites))
        variants = np.repeat(wild[:, None], len(sites) * q, axis=1)
        for k, site in enumerate(sites):
            variants[site * q : (site + 1) * q, k * q : (k + 1) * q] = np.eye(q, dtype=np.uint8)
        result[sites] = free_energies(network, variants[ids]).reshape(len(sites), q) - own
    result[np.arange(n_sites), states] = 0
    return result


def free_energies(network: DeepBeliefNetwork, states: npt.NDArray[Any]) -> Doubles:
    """Of states of the owned units (n_owned, samples).  Collective over the shards."""
    return free_energy(network.rbms[0], pack(states))


def save(path: Path, states: IntArray, letters: str, deltas: Doubles) -> None:
    """Lines of site, from, to, delta; the wild type itself is none."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for site, of_site in enumerate(deltas):
            for state, delta in enumerate(of_site):
                if state != states[site]:
                    table.writerow([site + 1, letters[states[site]], letters[state], f"{delta:.6g}"])
