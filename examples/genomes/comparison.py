"""Samples beside data: can they be told apart, are they copies, and do frequencies and linkage come out."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from genomes.sampling import sampled, starts_of
from genomes.windows import Windows
from mpi4py import MPI

from modelpar import DeepBeliefNetwork
from modelpar.analysis import pictures
from modelpar.analysis.bits import packed_rows
from modelpar.analysis.components import Components
from modelpar.analysis.linkage import linkage_decay
from modelpar.analysis.nearest import adversarial_accuracy, nearest_distances
from modelpar.analysis.of_network import states_of_split
from modelpar.errors import ModelparError
from modelpar.formats.vcf import read_sites
from modelpar.kernels.states import count_ones
from modelpar.training.state import TrainingRun

AT_ONCE = 256  # haplotypes that are a byte a value at a time
RARE = 0.03  # frequency below which an allele is rare


def compared(
    asked: argparse.Namespace, network: DeepBeliefNetwork, genomes: Any, windows: Windows | None
) -> dict[str, Any]:
    """Measures of samples, the means of ``asked.sets`` sets, and pictures of the first one, on rank 0.  Collective."""
    splits = {"training": genomes.train, "held_out": genomes.test}
    bits = {name: packed_split(network, genomes, split) for name, split in splits.items() if split is not None}
    frequencies = frequencies_of(network, genomes)
    measured: list[dict[str, Any]] = []
    for k in range(asked.sets):
        starts = starts_of(genomes, asked.seed + k + 1)
        samples, exchanged = sampled(asked, network, genomes, windows, starts, asked.seed + k)
        # as many of each: means of r^2 and nearest neighbours depend on how many there are
        n, chosen = len(samples), {}
        for name, split in splits.items():
            if split is not None and len(split):
                rows = np.random.default_rng(asked.seed + k).choice(split.rows, min(n, len(split)), replace=False)
                chosen[name] = states_of_split(network, genomes, replace(split, rows=np.sort(rows)))
        bits["start"] = packed_split(network, genomes, starts)
        if MPI.COMM_WORLD.rank == 0:
            of_set: dict[str, Any] = {"samples": asked.sets * n, "ends_exchanged": exchanged}
            of_set |= told_apart(samples, chosen)
            of_set |= copied(packed_rows(samples), bits, from_start=TrainingRun.of(network).chains is None)
            of_set |= of_alleles(samples, chosen["training"], frequencies)
            decays, of_set["linkage_ratio"] = linkage(asked, samples, chosen["training"])
            if k == 0:
                draw(asked, samples, chosen["training"], decays)
            measured.append(of_set)
    return {name: mean([of_set[name] for of_set in measured]) for name in measured[0]} if measured else {}


def mean(values: list[Any]) -> Any:
    """Of numbers, or of lists of them."""
    return values[0] if isinstance(values[0], int) else np.mean(values, axis=0).round(3).tolist()


def packed_split(network: DeepBeliefNetwork, genomes: Any, split: Any) -> Any:
    """All of a split as bits, (haplotypes, words), on every rank."""
    pieces = [
        packed_rows(states_of_split(network, genomes, replace(split, rows=split.rows[i : i + AT_ONCE])))
        for i in range(0, len(split), AT_ONCE)
    ]
    return np.concatenate(pieces)


def frequencies_of(network: DeepBeliefNetwork, genomes: Any) -> Any:
    """Of the allele 1 of every site in the whole training set, on every rank."""
    states = genomes.train.table.columns(network.visible_ids).states(genomes.train.rows)
    return network.whole_visible(count_ones(states.rows).sum(axis=1, keepdims=True) / states.batch)[:, 0]


def told_apart(samples: Any, chosen: dict[str, Any]) -> dict[str, float]:
    result = {}
    for name, data in chosen.items():
        accuracy = adversarial_accuracy(packed_rows(data), packed_rows(samples[: len(data)]))
        result[f"truth_{name}"], result[f"synthetic_{name}"] = accuracy.truth, accuracy.synthetic
    return result


def copied(samples: Any, bits: dict[str, Any], *, from_start: bool) -> dict[str, float]:
    """How far samples are from the haplotype of the training set that is nearest, over how far those held out are; and
    from where they started, over how far they are from where others did."""
    result = {}
    if "held_out" in bits:
        nearest = [np.median(nearest_distances(some, bits["training"])) for some in (samples, bits["held_out"])]
        result["nearest_ratio"] = float(nearest[0] / max(nearest[1], 1))
    if from_start:
        own, other = (count_ones(samples ^ np.roll(bits["start"], k, axis=0)).sum() for k in (0, 1))
        result["start_ratio"] = float(own / other)
    return result


def of_alleles(samples: Any, data: Any, frequencies: Any) -> dict[str, float]:
    """r of frequencies with those of as many haplotypes, and how frequent samples have alleles that are rare."""
    of_samples = samples.mean(axis=0)
    rarer = np.minimum(frequencies, 1 - frequencies)
    result = {"frequency_correlation": float(np.corrcoef(data.mean(axis=0), of_samples)[0, 1])}
    if (rare := rarer < RARE).any():
        of_rarer = np.where(frequencies < 0.5, of_samples, 1 - of_samples)
        result["rare_allele_ratio"] = float(of_rarer[rare].mean() / rarer[rare].mean())
    return result


def linkage(asked: argparse.Namespace, samples: Any, data: Any) -> tuple[Any, list[float]]:
    """(Decays of r^2 of two sites over their distance, of data and samples; ratios of the two)."""
    positions = np.array([site.position for site in read_sites(asked.data, data.shape[1])])
    edges = np.geomspace(1000, positions[-1] - positions[0], 16)
    decays = {
        name: linkage_decay(values[: len(data)], positions, edges, rarest=0.05)
        for name, values in (("data", data), ("samples", samples))
    }  # fmt: skip
    there = decays["data"].pairs > 0
    return decays, [float(x) for x in decays["samples"].r_squared[there] / decays["data"].r_squared[there]]


def draw(asked: argparse.Namespace, samples: Any, data: Any, decays: Any) -> None:
    basis = Components.of(data)
    projected = basis.project(data), {"samples": basis.project(samples)}
    for name, drawn in {
        "linkage": lambda: pictures.linkage(decays, unit="distance of two sites (bases)"),
        "components": lambda: pictures.component_densities(*projected, basis),
    }.items():
        try:
            drawn().savefig(asked.out / f"{name}.png", dpi=110)
        except ModelparError as error:  # matplotlib is not installed
            print(f"no {name}.png: {error}", flush=True)
