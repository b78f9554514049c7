"""``modelpar prune``: a run directory with the largest weights of a trained network, to fine-tune them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from mpi4py import MPI

from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings, merge, read_own_config, write_config
from modelpar.cli.evaluate import make_grid, open_network
from modelpar.cli.options import SPECS
from modelpar.cli.overwriting import check_run_directory
from modelpar.cli.recorded_paths import recorded
from modelpar.cli.run_directory import RunDirectory
from modelpar.files.paths import in_one_line
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.pruning import pruned
from modelpar.training.state import Position, TrainingRun


def prune(comm: MPI.Comm, settings: Settings, where: str, out: str, *, keep: float, overwrite: bool) -> None:
    """Write a run directory with the pruned network, ready to be fine-tuned.  Collective."""
    check_run_directory(comm, settings, out, option="OUT_RUN_DIR", checkpoint=where)
    with make_grid(comm, settings) as grid, closing(RunDirectory(grid.comm, out)) as directory:
        directory.check(resume=False, overwrite=overwrite, option="OUT_RUN_DIR")
        path = checkpoint_of(comm, where, generative=False)
        network = open_network(path, grid, settings)
        smaller = pruned(network, keep)
        TrainingRun.of(smaller).position = Position("finetune" if smaller.output is not None else "done")
        # read before an old run in OUT_RUN_DIR is removed, which may contain it
        tables = merge(read_own_config(comm, where), {"network": vars(replace(smaller.spec))})
        directory.prepare(resume=False, overwrite=overwrite)
        tables.pop("grid", None)
        tables.get("run", {}).pop("run_dir", None)
        asked = Settings(tables)
        specs = {
            "network": asked.network(), "training": asked.training, "finetune": asked.finetune, "data": asked.data,
            "sync": asked.sync, "run": asked.run,
        }  # fmt: skip
        text = write_config(recorded({name: specs[name] for name in SPECS if name in specs}))
        directory.write_config(text, sources=(path,))
        directory.save(smaller, directory.checkpoints / "step-00000000.safetensors")
        directory.save(smaller, directory.model)
        kept = _kept(network, smaller)
    print(f"{kept}\npruned: {in_one_line(str(Path(out) / 'model.safetensors'))}", flush=True)


def _kept(network: DeepBeliefNetwork, smaller: DeepBeliefNetwork) -> str:
    lines = []
    for rbm, (before, after) in enumerate(zip(network.n_weights, smaller.n_weights, strict=True)):
        lines.append(f"RBM {rbm}: {after:,} of {before:,} weights are kept ({after / max(before, 1):.2%})")
    return "\n".join(lines)
