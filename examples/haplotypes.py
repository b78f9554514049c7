"""Genomes of a population: haplotypes of a whole region, an RBM of them, and new ones that look like them.

    python examples/haplotypes.py simulate --out region.vcf
    mpirun -n 2 python examples/haplotypes.py train --data region.vcf --out genomes --json
    mpirun -n 2 python examples/haplotypes.py compare --data region.vcf --out genomes --json

`simulate` needs msprime (pip install 'modelpar[genomes]'): 5000 haplotypes of 20 Mb from three populations with the
history of Gutenkunst et al. (2009), about 50 000 sites whose rarer allele has a frequency of 1 % or more.  `train`
reads any VCF of phased genotypes, each rank only the columns that its own units see, as bits, and trains an RBM by CD.
Its hidden units see a window of sites each, a few thinned sites of all, and start at principal components
(genomes/windows.py); with --tiles 0 they see all sites, from random weights, and with --chains it is PCD, both at far
lower rates.  It writes the model, and compares; with --minutes it stops, and with --go-on it goes on.  `compare` does
the last part again, from the files.
Samples are made by Gibbs sampling and by exchanges of the ends of haplotypes (genomes/crossovers.py), of chains that
start at haplotypes of the training set; in the end the most probable chains have an allele (genomes/sampling.py).

Printed: bits of memory that a value of the data takes, over all ranks, afterwards and at most while they are read; the
peak memory of each rank in GiB; seconds of an epoch; adversarial accuracy, which is 0.5 where samples and data cannot
be told apart (Yelmen et al. 2021), of the data (`truth`) and of the samples (`synthetic`), against haplotypes that were
trained on and those held out; how far samples are from the training set, and from where their chains started; r of
allele frequencies; and mean linkage r^2 of samples over that of the data, from near sites to far ones.  Pictures need
modelpar[plots].
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from genomes.comparison import compared
from genomes.sampling import LAST_DRAWS
from genomes.windows import SEEN, Windows, start_at_components
from mpi4py import MPI

from modelpar import (
    DataSpec,
    DeepBeliefNetwork,
    Grid,
    NetworkLayout,
    NetworkSpec,
    TrainingSpec,
    load,
    open_dataset,
    pretrain,
    save,
)
from modelpar.data.memory import OwnColumns
from modelpar.training.state import TrainingRun

YEARS = 25  # of a generation
RECOMBINATION, MUTATION = 1e-8, 1.56e-8  # a base and generation


def simulate(asked: argparse.Namespace) -> None:
    """Write the region as a VCF file: sites with two alleles, of which the rarer one is frequent enough."""
    try:
        import msprime
    except ImportError:
        sys.exit("simulate needs msprime, which is not installed: pip install 'modelpar[genomes]'")
    people = asked.haplotypes // 2
    of_each = {"AFR": people // 3, "EUR": people // 3, "EAS": people - 2 * (people // 3)}
    trees = msprime.sim_ancestry(
        of_each, demography=out_of_africa(msprime), sequence_length=asked.length * 1e6,
        recombination_rate=RECOMBINATION, random_seed=asked.seed,
    )  # fmt: skip
    trees = msprime.sim_mutations(trees, rate=MUTATION, random_seed=asked.seed)
    left_out = []
    for variant in trees.variants():
        frequency = variant.genotypes.mean()
        if variant.num_alleles != 2 or min(frequency, 1 - frequency) < asked.rarest:
            left_out.append(variant.site.id)
    trees = trees.delete_sites(left_out)
    names = [f"{population}_{k}" for population, n in of_each.items() for k in range(n)]
    with open(asked.out, "w") as file:
        trees.write_vcf(file, individual_names=names, position_transform=lambda x: np.asarray(x) + 1)
    print(f"{asked.out}: {trees.num_samples} haplotypes, {trees.num_sites} sites")


def out_of_africa(msprime: Any) -> Any:
    """Africans, Europeans and East Asians since they parted (Gutenkunst et al. 2009, table 1)."""
    history = msprime.Demography()
    history.add_population(name="AFR", initial_size=12300)
    history.add_population(name="EUR", initial_size=29725, growth_rate=0.004)
    history.add_population(name="EAS", initial_size=54090, growth_rate=0.0055)
    history.add_population(name="OOA", initial_size=2100)  # those who left
    history.add_population(name="AMH", initial_size=12300)
    history.add_population(name="ANC", initial_size=7300)
    history.set_symmetric_migration_rate(["AFR", "EUR"], 3e-5)
    history.set_symmetric_migration_rate(["AFR", "EAS"], 1.9e-5)
    history.set_symmetric_migration_rate(["EUR", "EAS"], 9.6e-5)
    left = 21200 / YEARS
    history.add_symmetric_migration_rate_change(left, ["AFR", "OOA"], 25e-5)
    history.add_population_split(left, derived=["EUR", "EAS"], ancestral="OOA")
    history.add_population_split(140000 / YEARS, derived=["AFR", "OOA"], ancestral="AMH")
    history.add_population_split(220000 / YEARS, derived=["AMH"], ancestral="ANC")
    return history


def train(asked: argparse.Namespace) -> None:
    comm = MPI.COMM_WORLD
    # the rows of a layout by rows are visible units: a rank reads the columns of its own, and only hidden sums travel
    with Grid(comm, model_shards=comm.size, replicas=1) as grid:
        genomes = opened(asked, comm)
        path = asked.out / "model.safetensors"
        network = load(path, grid, placed(asked, genomes, comm)) if asked.go_on else made(asked, genomes, grid)
        if TrainingRun.of(network).position.stage != "pretrain":  # it was finished: as many updates once more
            network.run = TrainingRun()
        peak_before = memory("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
        before = memory("VmRSS")
        held = genomes.train.table.columns(network.visible_ids).nbytes
        reading = memory("VmHWM") - before
        n_values = genomes.train.table.n_samples * genomes.n_visible
        windows = windows_of(asked, genomes)
        if windows and not asked.go_on:
            start_at_components(network, genomes, windows)
        training = TrainingSpec(
            updates=asked.updates, batch_size=asked.batch_size, chains=asked.chains, gibbs_steps=asked.sweeps,
            chain_start="data", learning_rate=asked.learning_rate, schedule=asked.schedule,
            final_rate=asked.final_rate, weight_decay=asked.penalty,
        )  # fmt: skip
        started, seconds, n_steps = time.perf_counter(), 0.0, 0
        done = written(asked)["updates"] if asked.go_on else 0
        for record in pretrain(network, of_own_sites(genomes, network), training):
            seconds = time.perf_counter() - started
            n_steps += record.kind == "step"
            if record.kind == "epoch" and comm.rank == 0 and not asked.json:
                likelihood = record.measures["pseudo_likelihood"]
                print(f"epoch {record.epoch}: {seconds:.0f} s, pseudo-likelihood {likelihood:.1f}", flush=True)
            if comm.bcast(seconds > 60 * asked.minutes):
                break
        result = {
            "haplotypes": genomes.train.table.n_samples, "sites": genomes.n_visible,
            "bits_a_value": 8 * comm.allreduce(held) / n_values,
            "bits_a_value_while_read": 8 * comm.allreduce(reading) / n_values,
            "peak_gib": [round(peak / 2**30, 3) for peak in comm.allgather(max(peak_before, memory("VmHWM")))],
            "updates": done + n_steps, "seconds_of_update": seconds / max(n_steps, 1),
            "seconds_of_epoch": seconds / max(n_steps, 1) * len(genomes.train) / asked.batch_size,
        }  # fmt: skip
        if comm.rank == 0:
            asked.out.mkdir(parents=True, exist_ok=True)
            (asked.out / "training.json").write_text(json.dumps(result))
        comm.barrier()
        save(network, path)
        result |= compared(asked, network, genomes, windows_of(asked, genomes))
    say(result, asked.json)


def windows_of(asked: argparse.Namespace, genomes: Any) -> Windows | None:
    """None where every hidden unit sees every site."""
    return Windows(genomes.n_visible, asked.hidden_units, asked.tiles, asked.wide) if asked.tiles else None


def placed(asked: argparse.Namespace, genomes: Any, comm: MPI.Comm) -> NetworkLayout:
    """Contiguous sites, and the hidden units whose windows these are; by rows, where all see all."""
    return NetworkLayout.blocks((genomes.n_visible, asked.hidden_units), comm.size, "auto" if asked.tiles else "row")


def of_own_sites(genomes: Any, network: DeepBeliefNetwork) -> Any:
    """The data set of which a rank has the columns of its own sites alone: states of others that its windows need are
    received, while those of a file, which any rank could read, would be kept a second time."""
    table = genomes.train.table
    mine = OwnColumns(Picked(table, network.visible_ids), network.visible_ids, table.n_units)
    parts = {"train": genomes.train, "test": genomes.test}
    return replace(genomes, **{name: split and replace(split, table=mine) for name, split in parts.items()})


class Picked:
    """Some columns of a table."""

    def __init__(self, table: Any, unit_ids: Any) -> None:
        self.name, self.n_samples, self.n_units = table.name, table.n_samples, len(unit_ids)
        self.table, self.unit_ids = table, unit_ids

    def columns(self, positions: Any) -> Any:
        return self.table.columns(self.unit_ids[positions])


def made(asked: argparse.Namespace, genomes: Any, grid: Grid) -> DeepBeliefNetwork:
    """A network with random first weights.  Collective."""
    windows, connections = windows_of(asked, genomes), "dense"
    if windows:
        mask = asked.out / "windows.npz"
        if grid.comm.rank == 0:
            asked.out.mkdir(parents=True, exist_ok=True)
            scipy.sparse.save_npz(mask, windows.mask(), compressed=False)
        grid.comm.barrier()
        connections = f"mask:{mask}"
    spec = NetworkSpec((genomes.n_visible, asked.hidden_units), connections=connections, seed=asked.seed)
    return DeepBeliefNetwork(spec, grid, placed(asked, genomes, grid.comm))


def compare(asked: argparse.Namespace) -> None:
    comm = MPI.COMM_WORLD
    with Grid(comm, model_shards=comm.size, replicas=1) as grid:
        genomes = opened(asked, comm)
        network = load(asked.out / "model.safetensors", grid, placed(asked, genomes, comm))
        result = compared(asked, network, genomes, windows_of(asked, genomes))
        result = written(asked) | result
    say(result, asked.json)


def written(asked: argparse.Namespace) -> dict[str, Any]:
    """What training has measured."""
    measured: dict[str, Any] = json.loads((asked.out / "training.json").read_text())
    return measured


def opened(asked: argparse.Namespace, comm: MPI.Comm) -> Any:
    return open_dataset(DataSpec(str(asked.data), test_fraction=asked.test_fraction), comm=comm, seed=asked.seed)


def memory(name: str) -> int:
    """Bytes of this process: now (VmRSS), or the most so far (VmHWM), shared libraries included (Linux)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def say(result: dict[str, Any], as_json: bool) -> None:
    if MPI.COMM_WORLD.rank == 0:
        lines = [json.dumps(result)] if as_json else [f"{k.replace('_', ' ')}: {v}" for k, v in result.items()]
        print("\n".join(lines), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    made = parts.add_parser("simulate", help="write a region as VCF")
    made.add_argument("--out", required=True, help="VCF file to write")
    made.add_argument("--haplotypes", type=int, default=5000)
    made.add_argument("--length", type=float, default=20, help="of the region, in millions of bases")
    made.add_argument("--rarest", type=float, default=0.01, help="frequency of the rarer allele of a site, at least")
    made.set_defaults(run=simulate)
    learnt = parts.add_parser("train", help="train an RBM on it, and compare")
    learnt.add_argument("--updates", type=int, default=1500)
    learnt.add_argument("--learning-rate", type=float, default=0.5, help="far lower without tiles, or with --chains")
    learnt.add_argument("--schedule", default="linear")
    learnt.add_argument("--final-rate", type=float, default=0.1, help="at the end of the schedule, part of the first")
    learnt.add_argument("--batch-size", type=int, default=250)
    learnt.add_argument("--chains", type=int, default=0, help="of their own (PCD); 0: each starts at a sample (CD)")
    learnt.add_argument("--sweeps", type=int, default=1, help="of the chains, for each update")
    learnt.add_argument("--penalty", type=float, default=0.0, help="L2, on the weights")
    learnt.add_argument("--minutes", type=float, default=1e9, help="after which training stops, to go on another time")
    learnt.add_argument(
        "--go-on", action="store_true", help="train the model in --out on, to the end of --updates, or --updates more"
    )
    learnt.set_defaults(run=train)
    again = parts.add_parser("compare", help="compare again, from the model's file")
    again.set_defaults(run=compare)
    for part in (learnt, again):
        part.add_argument("--hidden-units", type=int, default=2048)
        part.add_argument("--data", required=True, help="VCF, as simulate writes it")
        part.add_argument("--out", type=Path, required=True, help="folder for the model and pictures")
        part.add_argument("--test-fraction", type=float, default=0.1, help="part of the haplotypes that is held out")
        part.add_argument("--tiles", type=int, default=40, help="a hidden unit sees a few of them; 0: all sites")
        part.add_argument("--wide", type=int, default=3, help="hidden units of each tile that see the whole region")
        part.add_argument("--exchanges", type=int, default=3, help="of the ends of chains, among these sweeps")
        part.add_argument("--more-sweeps", type=int, default=40, help="of the chains, before they are compared")
        part.add_argument("--last-draw", default="ranked", choices=LAST_DRAWS, help="of sites given the hidden units")
        part.add_argument("--sets", type=int, default=1, help="of 500 samples, of which measures are the means")
        part.add_argument("--json", action="store_true", help="print one JSON object")
    for part in (made, learnt, again):
        part.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.run is not simulate:
        in_group = asked.hidden_units // max(asked.tiles, 1)
        wrong = ""
        if asked.tiles and not SEEN < asked.tiles <= asked.hidden_units:
            wrong = f"--tiles is {asked.tiles}, but must be {SEEN + 1} to as many as --hidden-units, or 0"
        elif asked.tiles and not 0 <= asked.wide < in_group:
            wrong = f"--wide is {asked.wide}, but must be 0 to {in_group - 1}, fewer than the hidden units of a tile"
        elif asked.sets < 1:
            wrong = f"--sets is {asked.sets}, but must be 1 or more"
        if wrong and MPI.COMM_WORLD.rank > 0:
            sys.exit(2)
        if wrong:
            parser.error(wrong)
    return asked


if __name__ == "__main__":
    asked = arguments()
    asked.run(asked)
