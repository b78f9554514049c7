"""Readers of configurations and of the files of a run directory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

from mpi4py import MPI

from modelpar.cli.config import Settings, gather, read_config, write_config
from modelpar.cli.diff import compare_paths, show
from modelpar.cli.restarts import restarts
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.terminal import plain_console
from modelpar.errors import ModelparError
from modelpar.kernels.products import dispatch
from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training import digests
from modelpar.training.state import Position
from partitioners import GraphError
from tests.fuzz.harness import Case, Fault, mistake_in, readers
from tests.fuzz.mutation import as_json, damaged_bytes, damaged_json, damaged_text

CONFIG = write_config({
    "network": NetworkSpec((13, 9, 4), connections="random:4,dense"), "training": TrainingSpec(epochs=1),
    "finetune": FineTuneSpec(), "data": DataSpec(),
})  # fmt: skip
TOML = (
    "[training]\nepochs = 0x" + "f" * 5000, "a" + ".a" * 30_000 + " = 1", "[" + "a." * 20_000 + "a]",
    "x = " + "[" * 5000, "x = " + "{a=" * 5000, "[network]\nlayers = '" + "1-" * 100_000 + "1'",
    "[network]\nlayers = [" + "1," * 100_000 + "1]",
    "[data]\nscale = 1e400", "[data]\ndata = 1979-05-27T07:32:00Z", "[[network]]\n" * 3, '[run]\nrun_dir = "a\\u0000b"',
    "[network]\nconnections = '" + "dense," * 30_000 + "dense'", "network = 1", "'\x1b[31m' = 1", '"' + "\\" * 100_000,
    "[grid]\npartition = '~nobody/x'", "[network]\nseed = -9223372036854775809", "'" + "x" * 100_000 + "' = 1",
)  # fmt: skip
RECORDS = [
    {"kind": kind, "stage": "pretrain", "layer": 0, "epoch": epoch, "step": epoch, "steps": 3, "samples": 16,
     "seconds": 0.5, "reconstruction_error": 0.25}
    for epoch in range(1, 4) for kind in ("step", "epoch")
]  # fmt: skip
DIGESTS = [
    digests.UpdateDigests("pretrain", 0, 1, step, {"v0": step, "W": 2**63 + step}).as_line() for step in range(1, 5)
]
RATES = {
    "rates": {name: {"weight": 0.1, "sample": 0.01} for name in ("dense.up", "dense.down", "draw.up", "draw.down")},
    "threads": 1, "processor": "x",
}  # fmt: skip


def cases() -> Iterator[Case]:
    yield Case("run/config", damage_config, config)
    yield Case("run/config/diff", damage_config, configurations)
    yield Case("run/metrics", partial(damage_lines, values=RECORDS), metrics)
    yield Case("run/digests", partial(damage_lines, values=DIGESTS), updates)
    yield Case("run/restarts", damage_number, counted)
    yield Case("run/rates", damage_rates, rates)
    yield Case("run/special", special, read_special)


def damage_config(path: Path, random: Random) -> None:
    way = random.random()
    if way < 0.2:
        path.write_bytes(damaged_bytes(CONFIG.encode(), random))
        return
    text = CONFIG if way < 0.8 else random.choice(("", CONFIG)) + "\n" + random.choice(TOML)
    if way < 0.9:
        text = damaged_text(text, random)
    path.write_text(text, encoding="utf-8", errors="surrogatepass" if random.random() < 0.1 else "replace")


def config(path: Path) -> None:
    write_config({"training": Settings(read_config(MPI.COMM_SELF, path)).training})
    gather(MPI.COMM_SELF, {}, str(path))


def configurations(path: Path) -> None:
    """Of two runs, as ``modelpar diff`` compares and shows them."""
    for name, content in (("a", path.read_bytes()), ("b", CONFIG.encode())):
        Path(name).mkdir()
        (Path(name) / "config.toml").write_bytes(content)
        (Path(name) / digests.NAME).write_text("".join(json.dumps(line) + "\n" for line in DIGESTS))
    show(report := compare_paths(Path("a"), Path("b")), plain_console(width=100))
    json.dumps(report.configuration)


def damage_lines(path: Path, random: Random, values: list[dict[str, object]]) -> None:
    lines = [json.dumps(value) for value in values]
    if random.random() < 0.7:
        i = random.randrange(len(lines))
        lines[i] = as_json(damaged_json(values[i], random), random)
    text = "\n".join(lines) + "\n"
    if random.random() < 0.3:
        text = damaged_text(text, random)
    content = text.encode("utf-8", "backslashreplace")
    path.write_bytes(damaged_bytes(content, random) if random.random() < 0.3 else content)


def metrics(path: Path) -> None:
    path.rename("metrics.jsonl")
    directory = RunDirectory(MPI.COMM_SELF, ".")
    directory.history()
    directory.open_metrics(Position("pretrain", 0, 1, 1), 2)
    directory.close()


def updates(path: Path) -> None:
    path.rename(digests.NAME)
    read, n_damaged = digests.read(digests.NAME)
    intact = [update for line in DIGESTS if (update := digests.UpdateDigests.from_line(json.dumps(line).encode()))]
    digests.compare(read, intact, (n_damaged, 0))
    directory = RunDirectory(MPI.COMM_SELF, ".")
    directory.open_digests(Position("pretrain", 0, 1, 1), 2)
    directory.close()


def damage_number(path: Path, random: Random) -> None:
    path.write_text(damaged_text("3\n", random), encoding="utf-8", errors="backslashreplace")


def counted(path: Path) -> None:
    path.rename("restarts")
    restarts(Path())


def damage_rates(path: Path, random: Random) -> None:
    path.write_text(as_json(damaged_json(RATES, random), random), encoding="utf-8", errors="backslashreplace")


def rates(path: Path) -> None:
    before, file = dispatch.calibration(), dispatch.calibration_file
    dispatch.calibration_file = lambda: path  # type: ignore[assignment]
    try:
        dispatch.load()
    finally:
        dispatch.calibration_file = file
        dispatch.use(before)


# -- what is no regular file -----------------------------------------------------------------------------------------


def special(path: Path, random: Random) -> None:
    """A pipe, a socket, a folder, a link to a device or to itself, or one that nobody may read."""
    way = random.randrange(7)
    if way == 0:
        os.mkfifo(path)
    elif way == 1:
        path.mkdir()
    elif way == 2:
        path.symlink_to(random.choice(("/dev/zero", "/dev/full", "/dev/null", "/dev/tty", "/proc/self/mem")))
    elif way == 3:
        path.symlink_to(path)
    elif way == 4:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)  # a full path may be too long for a socket
    elif way == 5:
        path.symlink_to("missing")
    else:
        path.write_bytes(b"")


def read_special(path: Path) -> None:
    """Every reader refuses it; each raises, so the last one's error is what is looked at."""
    for name, case in readers().items():
        if not name.startswith(("checkpoint", "graph", "run/config", "run/rates", "command/rbms")) or "diff" in name:
            continue  # they do not name the file itself
        with suppress(OSError):
            try:
                case.read(path)
            except (ModelparError, GraphError) as error:
                if wrong := mistake_in(str(error)):
                    raise Fault(f"{name}: {wrong}") from None
