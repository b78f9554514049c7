"""``modelpar diff``: the first difference of two runs, and the size of the differences.

Rank 0 reads and compares, in chunks; all ranks get its report, and end with the same status.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from modelpar.checkpoint import files
from modelpar.checkpoint.checksum import MODULUS, bits, checksum
from modelpar.checkpoint.header import Header
from modelpar.cli.config import MOST_BYTES, TRAJECTORY, parse_toml
from modelpar.cli.run_directory import CONFIG
from modelpar.cli.terminal import make_console
from modelpar.errors import CheckpointError, SpecError, together
from modelpar.files.paths import in_one_line
from modelpar.files.regular import read_bounded
from modelpar.training import digests
from modelpar.values.plain import shown as shown_value

TABLES = (
    "network",
    "training",
    "finetune",
    "data",
)  # of config.toml: what is computed, and not where or on how many ranks
CHUNK = 1 << 20  # elements compared at a time
MOST_LINES = 8  # of the table
RECORD = "train --exact or train --digests records them"

# tensor of pre-training -> its origin, where all tensors before it agree
COMES_FROM = {
    "v0": "the data, their order and their draws, or the activations that the RBM below computes from them",
    "h0": "the product up, the sigmoid and the draws of the hidden units (or v0, where it is real and has no digest)",
    "v1": "the product down, the sigmoid and the draws of the visible units",
    "h1": "the second product up, its sigmoid and its draws (or v1, where it is real and has no digest)",
    "W": "the statistics and the update of the weights", "b": "the update of the visible biases",
    "c": "the update of the hidden biases",
}  # fmt: skip


@dataclass
class TensorDifference:
    """One tensor in two checkpoints."""

    elements: int = 0
    differing: int = 0  # elements that are not the same bits
    largest: float | None = 0.0  # absolute difference of two elements; None where one is infinite or not a number
    note: str = ""  # why the elements could not be compared

    @property
    def differs(self) -> bool:
        return bool(self.differing or self.note)


@dataclass
class FileDifference:
    """Two checkpoints of the same name."""

    name: str
    tensors: dict[str, TensorDifference]
    metadata: list[str]  # keys whose values differ

    @property
    def differs(self) -> bool:
        return bool(self.metadata or any(tensor.differs for tensor in self.tensors.values()))


@dataclass
class Report:
    """All differences; the same value on every rank."""

    runs: list[str]
    updates: digests.Comparison | None = None
    damaged_lines: list[int] = field(default_factory=lambda: [0, 0])
    notes: list[str] = field(default_factory=list)
    configuration: dict[str, list[Any]] = field(default_factory=dict)  # table.key -> the values of both
    checkpoints: list[FileDifference] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        return bool(self.updates and self.updates.parting) or any(file.differs for file in self.checkpoints)


def diff(comm: MPI.Comm, first: str, second: str, *, as_json: bool) -> int:
    """Compare two run directories, or two checkpoint files, print the differences, and return the exit status.

    0 where nothing differs, 1 where something does.  Collective.  Raises a ModelparError on every rank where there
    is nothing to compare, or a file is damaged.
    """
    compared = None
    with together(comm):
        if comm.rank == 0:
            compared = compare_paths(Path(first), Path(second))
    report: Report = comm.bcast(compared)
    if as_json:
        print(json.dumps({"differs": report.differs, **asdict(report)}), flush=True)
    else:
        show(report, make_console())
    return int(report.differs)


def compare_paths(first: Path, second: Path) -> Report:
    """The report that ``diff`` prints.  Not collective.  Raises SpecError or CheckpointError."""
    pair, report = (first, second), Report([str(first), str(second)])
    for path in pair:
        if not path.exists():
            raise SpecError(f"{path} does not exist; name a run directory or a checkpoint file")
    if not (first.is_dir() and second.is_dir()):
        one, other = (_file_of(*order) for order in ((first, second), (second, first)))
        report.checkpoints = [compare_files(one, other)]
        return report
    _compare_digests(pair, report)
    report.configuration = _compare_configurations(pair, report)
    names = [_checkpoints(path) for path in pair]
    common = [name for name in names[0] if name in names[1]]
    report.checkpoints = [compare_files(first / name, second / name) for name in common]
    for path, mine, theirs in zip(pair, names, reversed(names), strict=True):
        if alone := [name for name in mine if name not in theirs]:
            report.notes.append(f"only in {path}: {_listed(alone)}")
    if report.updates is None and not common:
        raise CheckpointError(
            f"{first} and {second} have nothing to compare: no {digests.NAME} in both (train --digests) and no "
            "checkpoint of one name; name other runs"  # short, as it has two paths
        )
    return report


def _file_of(path: Path, other: Path) -> Path:
    """A checkpoint file; of a directory, that of the same name as ``other``."""
    if not path.is_dir():
        return path
    for file in (path / other.name, path / "checkpoints" / other.name):
        if file.is_file():
            return file
    raise SpecError(f"{path} is a directory without a checkpoint {other.name}; name two files or two run directories")


def _compare_digests(pair: tuple[Path, Path], report: Report) -> None:
    paths = [path / digests.NAME for path in pair]
    missing = [str(run) for run, path in zip(pair, paths, strict=True) if not path.is_file()]
    if missing:
        who = " and ".join(missing)
        report.notes.append(f"{who}: no {digests.NAME}, so steps cannot be compared; {RECORD}")
        return
    (first, n_first), (second, n_second) = (digests.read(path) for path in paths)
    report.damaged_lines = [n_first, n_second]
    report.updates = digests.compare(first, second, (n_first, n_second))


def _compare_configurations(pair: tuple[Path, Path], report: Report) -> dict[str, list[Any]]:
    """Keys of ``TABLES`` whose values differ; None stands for a key that is not given."""
    both = []
    for path in pair:
        try:
            tables = parse_toml(read_bounded(path / CONFIG, MOST_BYTES).decode("utf-8-sig"), str(path / CONFIG))
        except (OSError, ValueError, SpecError):
            report.notes.append(f"{path / CONFIG} cannot be read, so the configurations are not compared")
            return {}
        chosen = {name: tables.get(name, {}) for name in TABLES}
        if not all(isinstance(table, dict) for table in chosen.values()):
            report.notes.append(f"{path / CONFIG} is not that of a run, so the configurations are not compared")
            return {}
        both.append({f"{name}.{key}": _plain(value) for name, table in chosen.items() for key, value in table.items()})
    keys = dict.fromkeys([*both[0], *both[1]])
    return {key: [each.get(key) for each in both] for key in keys if both[0].get(key) != both[1].get(key)}


def _checkpoints(run: Path) -> list[str]:
    """Names below the run directory, in the order of training."""
    steps = sorted((run / "checkpoints").glob("step-*.safetensors"), key=lambda path: (len(path.name), path.name))
    kept = sorted((run / TRAJECTORY).glob("rbm-*.safetensors"))
    last = [run / name for name in ("pretrained.safetensors", "model.safetensors")]
    return [str(path.relative_to(run)) for path in (*kept, *steps, *last) if path.is_file()]


# -- checkpoints -----------------------------------------------------------------------------------------------------


def compare_files(first: Path, second: Path) -> FileDifference:
    """Compare element by element, in chunks of memory-mapped files.

    Not collective.  Raises CheckpointError where a file is damaged or not from modelpar.
    """
    heads = [files.read_header(path, MPI.COMM_SELF) for path in (first, second)]
    a, b = heads
    tensors: dict[str, TensorDifference] = {}
    for name in dict.fromkeys([*a.tensors, *b.tensors]):
        if name not in a.tensors or name not in b.tensors:
            tensors[name] = TensorDifference(note=f"only in the {'first' if name in a.tensors else 'second'}")
        elif a.tensors[name][:2] != b.tensors[name][:2]:
            kinds = [f"{dtype} {list(shape)}" for dtype, shape, _, _ in (head.tensors[name] for head in heads)]
            tensors[name] = TensorDifference(note=" against ".join(kinds))
        else:
            tensors[name] = _compare_tensor(a, b, name)
    keys = sorted({*a.metadata, *b.metadata})
    name = f"checkpoints/{first.name}" if first.parent.name == "checkpoints" else first.name
    return FileDifference(name, tensors, [key for key in keys if a.metadata.get(key) != b.metadata.get(key)])


def _compare_tensor(a: Header, b: Header, name: str) -> TensorDifference:
    """Compare one tensor.  Raises CheckpointError where one of the two does not match its checksum."""
    result, sums, at = TensorDifference(), [0, 0], 0
    for x, y in zip(_chunks(a, name), _chunks(b, name), strict=True):
        sums[0] += checksum(x, at)
        sums[1] += checksum(y, at)
        at += x.size
        differing = bits(x) != bits(y)
        n = int(np.count_nonzero(differing))
        if not n:
            continue
        result.differing += n
        with np.errstate(invalid="ignore"):  # infinity less infinity
            largest = float(np.abs(x[differing].astype(np.float64) - y[differing].astype(np.float64)).max())
        known = result.largest is not None and np.isfinite(largest)
        result.largest = max(result.largest or 0.0, largest) if known else None
    result.elements = at
    for head, total in zip((a, b), sums, strict=True):
        if total % MODULUS != head.checksums[name]:
            raise CheckpointError(
                f"{head.path} is damaged: tensor {name!r} does not match its checksum; take another checkpoint"
            )
    return result


def _chunks(head: Header, name: str) -> Iterator[npt.NDArray[Any]]:
    dtype, _, start, stop = head.tensors[name]
    if start == stop:
        return
    # "c", private and writable, because numba compiles its kernels for writable arrays
    flat = np.memmap(head.path, np.uint8, "c", start, (stop - start,)).view(np.ndarray).view(dtype)
    for at in range(0, len(flat), CHUNK):
        yield flat[at : at + CHUNK]


# -- for people ------------------------------------------------------------------------------------------------------


def show(report: Report, console: Console) -> None:
    """A few lines, and a table of the checkpoints that differ."""

    def say(text: str) -> None:
        console.print(in_one_line(text), markup=False, soft_wrap=True)

    if report.updates is not None:
        for line in _first_difference(report.updates, report.runs):
            say(line)
    for run, n in zip(report.runs, report.damaged_lines, strict=True):
        if n:
            say(f"{run}: {n} damaged line(s) of {digests.NAME} left out")
    if report.configuration:
        shown = [f"{key} {_value(a)} | {_value(b)}" for key, (a, b) in report.configuration.items()]
        say(f"the configurations differ: {'; '.join(shown)}")
    elif report.updates is not None and report.updates.parting:
        say("the configurations do not explain it: network, training, finetune and data are the same")
    for note in report.notes:
        say(note)
    if same := [file.name for file in report.checkpoints if not file.differs]:
        say(f"identical: {_listed(same)}")
    if apart := [file for file in report.checkpoints if file.differs]:
        console.print(_table(apart))


def _first_difference(updates: digests.Comparison, runs: list[str]) -> Iterator[str]:
    """The first difference, in words."""
    parting, alike = updates.parting, f"{updates.n_alike:,} update(s) are alike"
    if parting is None:
        yield f"no digest differs: {alike}"
    else:
        where = f"{digests.describe(parting.stage, parting.layer, parting.step)} (epoch {parting.epoch})"
        if parting.missing_in is not None:
            instead = f"goes on with {parting.instead}" if parting.instead else "ends there"
            yield f"the runs part before {where}: {runs[parting.missing_in]} {instead}; {alike}"
        else:
            also = f", then {', '.join(parting.also)}" if parting.also else ""
            yield f"the first difference is at {where} in {parting.tensor}{also}; before it {alike}"
            if parting.tensor in COMES_FROM and parting.stage == "pretrain":
                start = "" if updates.n_alike else " (or it was there from the start: no earlier update was compared)"
                yield f"{parting.tensor} comes from {COMES_FROM[parting.tensor]}{start}"
    if updates.n_alone:
        yield f"{updates.n_alone:,} update(s) were recorded by one run alone and not compared"


def _table(apart: list[FileDifference]) -> Table:
    """A line for each checkpoint; where there is only one, for each tensor."""
    table = Table(box=None, pad_edge=False)
    for title in ("checkpoint", "tensor", "differing elements", "largest difference"):
        table.add_column(title, justify="right" if title[0] in "dl" else "left", overflow="fold")
    lines = []
    for file in apart:
        tensors = {name: tensor for name, tensor in file.tensors.items() if tensor.differs}
        one = [(name, _count([tensor]), tensor.note or _size(tensor.largest)) for name, tensor in tensors.items()]
        if len(apart) > 1 and len(tensors) > 1:
            worst = max(tensors, key=lambda name: _rank(tensors[name]))
            largest = tensors[worst].note or _size(tensors[worst].largest)
            one = [(f"{len(tensors)} of {len(file.tensors)}", _count(list(tensors.values())), f"{largest} ({worst})")]
        if file.metadata:
            one.append((f"metadata: {', '.join(file.metadata)}", "", ""))
        lines += [(file.name, *cells) for cells in one]
    for line in lines[:MOST_LINES]:
        table.add_row(*line)
    if len(lines) > MOST_LINES:
        table.add_row(f"and {len(lines) - MOST_LINES} more: see --json", "", "", "")
    return table


def _rank(tensor: TensorDifference) -> float:
    """The largest difference; infinite where tensors cannot be compared or differ by what is not a number."""
    return float("inf") if tensor.note or tensor.largest is None else tensor.largest


def _count(tensors: list[TensorDifference]) -> str:
    elements = sum(tensor.elements for tensor in tensors)
    return f"{sum(tensor.differing for tensor in tensors):,} of {elements:,}" if elements else ""


def _size(largest: float | None) -> str:
    return "not finite" if largest is None else f"{largest:.2g}"


def _plain(value: Any) -> Any:
    """A value that an option may have, as it is; of any other that TOML has, as a date, what a message shows."""
    if isinstance(value, bool | float | str) or (type(value) is int and value.bit_length() < 64):
        return value
    if isinstance(value, list) and all(type(number) is int and number.bit_length() < 64 for number in value):
        return value
    return shown_value(value)


def _value(value: Any) -> str:
    return "not given" if value is None else "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _listed(names: list[str]) -> str:
    """All names, or the first and last of many."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} ... {names[-1]} ({len(names)} files)"
