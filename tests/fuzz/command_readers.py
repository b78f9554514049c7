"""Commands on damaged files and with odd arguments, in this process: exit status 0, 1 or 2, and one line on stderr."""

from __future__ import annotations

import importlib.util
import io
import json
import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import NoReturn

import numpy as np
from mpi4py import MPI

import modelpar.cli
from tests.fuzz import checkpoints, graph_readers, run_readers
from tests.fuzz.harness import Case, Fault, mistake_in
from tests.fuzz.mutation import EDGES, WORDS, as_json, damaged_bytes, damaged_json

WITH_CHECKPOINT = (
    "evaluate file --data data.npy --split train --threads 1", "export file out.npz", "export file out.safetensors",
    "sample file --count 2 --steps 1 --out out.npy", "partition file --parts 2 --method block --out p.npz",
    "reconstruct file --count 2 --data data.npy --out out.npy", "prune file pruned --keep 0.5", "diff file file",
    "score file --data data.npy --split train --chains 2 --temperatures 2", "export file out.h5",
    "sample file --count 2 --steps 1 --method ptt --out out.npy", "sample file --count 1 --start chains --out o.npy",
    "train --resume --run-dir run --data data.npy --no-score --no-pictures --threads 1 --pretrain-only",
)  # fmt: skip
TRAIN = "train --data data.npy --layers 13-5 --epochs 1 --no-score --no-pictures --threads 1 --run-dir run"
# options whose values are exchanged; those that would only make a run long are left out
ODD = (
    "--layers", "--connections", "--visible-grid", "--layout", "--seed", "--weight-scale", "--learning-rate",
    "--momentum", "--weight-decay", "--data", "--labels", "--scale", "--binarise", "--statistics", "--model-shards",
    "--replicas", "--partition", "--partitioner", "--config", "--run-dir", "--checkpoint-every", "--keep", "--classes",
    "--test-fraction", "--validation-fraction", "--period", "--sync", "--l1", "--clip", "--stall-timeout", "--dtype",
    "--unknown", "--visible", "--sparsity-target", "--servers", "--halo",
)  # fmt: skip


def cases() -> Iterator[Case]:
    for kind in ("begun", "listed", "trajectory"):
        yield Case(f"command/checkpoint/{kind}", partial(damaged, kind=kind), checkpoint)
    yield Case("command/report", damaged_run, report)
    yield Case("command/config", config, from_config)
    yield Case("command/placement", placement, from_placement)
    yield Case("command/arguments", arguments, words)
    if importlib.util.find_spec("h5py") is not None:
        yield Case("command/rbms", hdf5, from_rbms)


def call(arguments: Sequence[str]) -> int:
    """The exit status.  Raises Fault for a traceback, and for errors of more than one line."""
    out, err = io.StringIO(), io.StringIO()

    def unexpected(comm: MPI.Comm) -> NoReturn:
        last = traceback.format_exc().strip().splitlines()
        raise Fault(f"{shlex.join(arguments)[:300]}: {' | '.join(line.strip() for line in last[-6:])}")

    before, modelpar.cli._abort = modelpar.cli._abort, unexpected
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = modelpar.cli.run(MPI.COMM_SELF, list(arguments))
    finally:
        modelpar.cli._abort = before
    told = f"{shlex.join(arguments)[:300]}"
    if status not in (0, 1, 2):
        raise Fault(f"{told}: exit status {status}")
    lines = [line for line in err.getvalue().split("\n") if line]
    errors = [line.removeprefix("modelpar: error: ") for line in lines if line.startswith("modelpar: error: ")]
    if len(errors) != (status == 2):
        raise Fault(f"{told}: exit status {status} with {len(errors)} errors: {err.getvalue()[:500]!r}")
    for line in [*errors, *([] if status == 2 else lines)]:
        if wrong := mistake_in(line):
            raise Fault(f"{told}: {wrong}")
    return status


@cache
def data() -> bytes:
    content = io.BytesIO()
    np.save(content, np.random.default_rng(1).integers(0, 2, (40, 13)).astype(np.uint8))
    return content.getvalue()


def refuse(status: int) -> None:
    """Count a file as refused."""
    if status == 2:
        raise OSError


def damaged(path: Path, random: Random, kind: str) -> None:
    checkpoints.damage(path, random, kind)
    path.with_name("words").write_text(random.choice(WITH_CHECKPOINT))


def checkpoint(path: Path) -> None:
    Path("data.npy").write_bytes(data())
    words = Path("words").read_text().split() if Path("words").exists() else WITH_CHECKPOINT[0].split()
    if "run" in words:
        Path("run/checkpoints").mkdir(parents=True)
        path.rename("run/checkpoints/step-00000003.safetensors")
        Path("run/config.toml").write_text("[network]\nlayers=[13,9]\n[training]\nepochs=1\nbatch_size=16\nchains=6\n")
    refuse(call(words))


SUMMARY: dict[str, object] = {
    "test_accuracy": 0.9, "log_likelihood": -3.5, "log_likelihood_low": -4.0, "log_likelihood_high": -3.0,
    "train_seconds": 2.0, "compile_seconds": 1.0, "samples_per_second": 10.0, "layers": [13, 9], "classes": 0,
    "bytes": {"shard": {"gather": {"bits": 10}}, "replica": {}}, "parameters": 139, "version": "0.1.0",
    "other_bytes": {"upkeep": {"replica": {"biases": {"floats": 8}}}, "measures": {}}, "staleness": {"0": 2, "3": 1},
    "peak_rss_per_rank": [1 << 20], "grid": {"replicas": 1, "model_shards": 1, "ranks": 1}, "threads": 1,
    "environment": {"python": "3.11", "kernels": ["lists"]},
}  # fmt: skip


def damaged_run(path: Path, random: Random) -> None:
    """One file of a run, whose name is in ``words``."""
    name = random.choice(("summary.json", "summary.json", "metrics.jsonl", "config.toml", "filters.png", "lock"))
    path.with_name("words").write_text(name)
    if name == "metrics.jsonl":
        run_readers.damage_lines(path, random, run_readers.RECORDS)
    elif name == "config.toml":
        run_readers.damage_config(path, random)
    else:
        text = as_json(damaged_json(SUMMARY, random), random)
        content = text.encode("utf-8", "backslashreplace")
        path.write_bytes(damaged_bytes(content, random) if random.random() < 0.3 else content)


def report(path: Path) -> None:
    """Of a run that has this file beside others that are whole: a page that is whole, without a tag of its texts."""
    run = Path("run")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step-00000003.safetensors").write_bytes(checkpoints.valid("begun"))
    (run / "config.toml").write_text(run_readers.CONFIG)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run_readers.RECORDS))
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    path.rename(run / (Path("words").read_text() if Path("words").exists() else "summary.json"))
    refuse(call(["report", "run", "--out", "page.html"]))
    page = Path("page.html").read_text("utf-8")
    if not page.endswith("</body></html>\n") or page.count("<script") or page.count("<section") < 5:
        raise Fault(f"a page that is not whole: {page[-200:]!r}")


def config(path: Path, random: Random) -> None:
    run_readers.damage_config(path, random)


def from_config(path: Path) -> None:
    refuse(call(["partition", "--config", str(path), "--parts", "2", "--method", "block", "--layers", "6-4",
                 "--connections", "dense"]))  # fmt: skip


def placement(path: Path, random: Random) -> None:
    graph_readers.damage_placement(path, random)


def from_placement(path: Path) -> None:
    """It is read before training, and refused or not: what it is read for needs more ranks."""
    Path("data.npy").write_bytes(data())
    refuse(call([*TRAIN.split(), "--pretrain-only", "--partition", str(path)]))


def arguments(path: Path, random: Random) -> None:
    chosen = TRAIN.split()
    for _ in range(random.choice((1, 1, 2, 3))):
        option = random.choice(ODD)
        value = random.choice((*WORDS, *map(str, EDGES), "1-" * 300_000 + "1", "13-5,", "x" * 100_000))
        if option == "--layers" and value == "16":
            continue
        if "\0" in value:
            value = value.replace("\0", "\\0")
        chosen += [option, value] if random.random() < 0.9 else [option]
    if random.random() < 0.1:
        chosen[0] = random.choice(WORDS).replace("\0", "")
    path.write_text("\0".join(chosen), encoding="utf-8", errors="surrogatepass")


def words(path: Path) -> None:
    Path("data.npy").write_bytes(data())
    refuse(call(path.read_bytes().decode("utf-8", "surrogatepass").split("\0")))


# -- files of rbms ---------------------------------------------------------------------------------------------------


@cache
def valid_hdf5() -> bytes:
    import h5py

    with h5py.File(io_file := io.BytesIO(), "w") as file:
        _fill(file, Random(1), damaged=False)
    return io_file.getvalue()


def _fill(file: object, random: Random, *, damaged: bool) -> None:
    import h5py

    assert isinstance(file, h5py.File)
    W = np.linspace(-1, 1, 24, dtype="f4").reshape(6, 4)
    named, chains, kind = {"weight_matrix": W, "vbias": W[:, 0].copy(), "hbias": W[0].copy()}, (3, 6), "BBRBM"
    if damaged and random.random() < 0.5:
        named |= {"weight_matrix": W.reshape(3, 2, 4), "vbias": W[:, 0].reshape(3, 2).copy()}
        chains, kind = (3, 3), "PBRBM"
    for update in (1, 10):
        group = file.create_group(f"update_{update}/params")
        for name, value in named.items():
            group[name] = value
    file["parallel_chains"], file["model_type"] = np.ones(chains, "f4"), kind
    for name, value in {"batch_size": 20, "gibbs_steps": 4, "learning_rate": 0.02, "seed": 13}.items():
        file[f"hyperparameters/{name}"] = value
    if not damaged:
        return
    places = [f"update_10/params/{name}" for name in named] + ["parallel_chains", "model_type", "update_10/params",
              "hyperparameters/seed", "hyperparameters/batch_size", "hyperparameters/learning_rate"]  # fmt: skip
    place = random.choice(places)
    del file[place]
    way = random.randrange(8)
    if way == 0:
        file[place] = random.choice(
            (np.float64(np.inf), np.int64(-1), 2**62, "x" * 2000, np.zeros((0, 3)), np.nan, b"\xff")
        )
    elif way == 1:
        large = random.choice((10**6, 3 * 10**8, 2**40))
        file.create_dataset(place, random.choice(((9, large), (large,), (large, large))), "f4", chunks=True)
    elif way == 2:
        file[place] = h5py.SoftLink(random.choice(("/update_1", "/nowhere", f"/{place}")))
    elif way == 3:
        file[place] = h5py.ExternalLink(random.choice(("/etc/passwd", "valid.h5", "/dev/zero")), "/")
    elif way == 4:
        file.create_dataset(place, (6, 4), "f4", external=[("/etc/passwd", 0, 96)])
    elif way == 5:
        file.create_dataset(place, (6, 4), "f4", chunks=(2**12, 2**14), maxshape=(None, None), compression="gzip")
    elif way == 6:
        file[place] = W.astype(random.choice(("f2", "f8", "i4", "S3", "c8", ">f4")))
    else:
        file.create_group(place)


def hdf5(path: Path, random: Random) -> None:
    import h5py

    if random.random() < 0.4:
        path.write_bytes(damaged_bytes(valid_hdf5(), random))
        return
    with h5py.File(path, "w") as file:
        _fill(file, random, damaged=True)


def from_rbms(path: Path) -> None:
    refuse(call(["import", str(path), "out.safetensors", "--threads", "1"]))
