"""``modelpar partition``: a placement file, and the costs of the placement."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi4py import MPI

import partitioners
from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.progress import summary_table
from modelpar.cli.terminal import make_console
from modelpar.errors import ModelparError, SpecError, together
from modelpar.ownership.build_connections import connect
from modelpar.ownership.placement import graph_of
from partitioners.methods import ANYTIME
from partitioners.placement import save_placement


def partition(
    comm: MPI.Comm, settings: Settings, source: str | None, *, parts: int, method: str, out: str, as_json: bool,
    budget: float | None = None,
) -> None:  # fmt: skip
    """Write which part owns which unit of a network.  Collective; rank 0 works.

    source   a checkpoint or run directory; the network of the options where None
    budget   seconds, of a method that searches in rounds

    Raises SpecError on every rank where the method cannot do it, ModelparError where the file cannot be written.
    """
    check_outputs(comm, settings, {"--out": out}, checkpoint=source)
    try:
        run = partitioners.method(method)
    except partitioners.GraphError as error:
        raise SpecError(f"--method: {error}") from None
    if budget is not None and method.split("+")[0] not in ANYTIME:
        raise SpecError(f"--budget has no effect on {method}; it is for {' and '.join(ANYTIME)}")
    limits = {} if budget is None else {"budget": budget}
    if source is None:
        spec = settings.network()
        connections = connect(spec, comm)
    else:
        path = checkpoint_of(comm, source, generative=False)
        header = files.read_header(path, comm)
        spec = checkpoint.read_spec(path, header)
        connections = checkpoint.structure.read(path, header, spec, comm) or (None,) * (len(spec.layers) - 1)
        spec = replace(spec, seed=settings.network().seed)
    costs: dict[str, Any] = {}
    with together(comm):
        if comm.rank == 0:
            try:
                graph = graph_of(spec, connections)
                started = time.perf_counter()
                placement = run(graph, parts, seed=spec.seed, **limits)
            except partitioners.GraphError as error:
                raise SpecError(f"--method {method}: {error}") from None
            costs = measures(graph, placement, time.perf_counter() - started)
            if any(costs["empty_parts"]):
                print(_idle(parts, costs["empty_parts"], spec.layers), file=sys.stderr, flush=True)
            about = {"method": method, "seed": spec.seed, "layers": spec.layers, "connections": spec.connections}
            try:
                save_placement(Path(out), placement, {**about, **costs})
            except partitioners.GraphError as error:
                raise ModelparError(f"--out: {error}") from None
    if comm.rank == 0:
        if as_json:
            print(json.dumps({"placement": out, "method": method, "parts": parts, **costs}), flush=True)
        else:
            shown = {name.replace("_", " "): _shown(value) for name, value in costs.items()}
            make_console().print(summary_table({"placement": out, "method": method, "parts": str(parts), **shown}, ""))


def measures(graph: partitioners.UnitGraph, placement: partitioners.Partition, seconds: float) -> dict[str, Any]:
    """The costs of a partition, by name."""
    measured = partitioners.measure(graph, placement)
    volume = measured.volume
    return {
        "volume": volume.total,  # states that travel for a sample, in one pass up and one down of every RBM
        "volume_up": volume.up.tolist(),
        "volume_down": volume.down.tolist(),
        "edge_cut": measured.edge_cut,
        "imbalance": [round(float(value), 4) for value in measured.imbalance],
        "feasible": bool(partitioners.feasible(graph, placement)),
        "empty_parts": partitioners.empty_parts(placement).tolist(),  # of each layer, how many own none of its units
        "seconds": round(seconds, 3),
    }


def _idle(parts: int, empty: list[int], layers: Sequence[int]) -> str:
    """A warning that parts have nothing to do, and how to mend it."""
    layer = max(range(len(empty)), key=empty.__getitem__)
    few = f"; use --parts {min(layers)} or fewer" if parts > min(layers) else ""
    return (
        f"warning: {empty[layer]} of {parts} parts own no unit of layer {layer}, which has {layers[layer]}: their "
        f"shards wait while the others work{few}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
