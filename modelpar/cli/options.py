"""Options of the command line: written down once, in the dataclasses of ``modelpar.spec``, and made from them here.

``config`` reads the same options from TOML files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click

from modelpar.comm.binding import BINDINGS
from modelpar.errors import SpecError
from modelpar.files.paths import absolute, expanded
from modelpar.patterns import MASK
from modelpar.spec import (
    DATA_SETS,
    DRAWN_SETS,
    WEIGHT_WORDS,
    DataSpec,
    FineTuneSpec,
    NetworkSpec,
    Spec,
    SyncSpec,
    TrainingSpec,
    option,
)

if TYPE_CHECKING:
    from mpi4py import MPI

    from modelpar.comm.cores import Placement

Tables = dict[str, dict[str, Any]]  # table -> field -> value, given ones only
Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


@dataclass(frozen=True)
class GridSpec(Spec):
    """How the ranks are arranged: replicas x model shards."""

    shape: str | None = option(
        None, "auto: the grid that the planner predicts to be fastest, as modelpar plan does  [default: auto, where "
        "neither --model-shards nor --replicas is given]", choices=("auto",), flag="--grid",
    )  # fmt: skip
    model_shards: int | None = option(None, "ranks that hold one model together", at_least=1)
    replicas: int | None = option(None, "complete models side by side, each with its part of a minibatch", at_least=1)
    partitioner: str | None = option(
        None, "method that decides which shard owns which unit, such as auto  [default: tiles for local connections, "
        "else block]",
    )  # fmt: skip
    partition: str | None = option(
        None, "a file of modelpar partition that says which shard owns which unit", path="file"
    )
    servers: int = option(
        0, "ranks that hold the parameters of --sync server and do not train; 0 to spread them over those that do",
        at_least=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = {"--model-shards": self.model_shards, "--replicas": self.replicas}
        for name, size in sizes.items():
            if self.shape is not None and size is not None:
                raise SpecError(f"--grid auto chooses the grid, but {name} {size} fixes it; leave one of them out")


@dataclass(frozen=True)
class RunSpec(Spec):
    """What a run of training does apart from training: its directory, threads, checkpoints and pictures."""

    run_dir: str | None = option(None, "directory for all files of the run  [default: runs/DATA-TIME]", path="file")
    threads: int | None = option(None, "threads of each rank  [default: cores of the node / its ranks]", at_least=1)
    bind: str = option(
        "none", "ranks on cores of their own, one for each thread; none: as the launcher does, auto: if there are any",
        choices=BINDINGS,
    )  # fmt: skip
    pretrain_only: bool = option(False, "leave out fine-tuning")
    checkpoint_every: int = option(0, "updates between checkpoints; 0 for one after each RBM and stage", at_least=0)
    keep: int = option(3, "checkpoints to keep; older ones are removed", at_least=1)
    verify: bool = option(True, "refuse a checkpoint whose values are damaged, or not finite, when it is opened")
    keep_trajectory: bool = option(
        False, "keep models from the course of pre-training, about 8 while the updates grow tenfold, in trajectory/"
    )
    score: bool = option(
        True, "estimate the log-likelihood at the end of pre-training, in about --score-share of the top RBM's time"
    )  # fmt: skip
    pictures: bool = option(True, "draw filters.png, reconstructions.png, samples.png and curves.png")
    report: bool = option(True, "write report.html, one page that shows the run, as modelpar report does")
    # longer than any normal silence (a step, a read of the data or a compilation takes seconds, rarely minutes), and
    # much shorter than the hours for which a batch system would keep a hanging job
    stall_timeout: float = option(
        600.0, "seconds without a step after which each rank's state is printed and the job ends; 0: never", at_least=0
    )  # fmt: skip


SPECS: dict[str, type[Spec]] = {
    "network": NetworkSpec, "training": TrainingSpec, "finetune": FineTuneSpec,
    "data": DataSpec, "grid": GridSpec, "sync": SyncSpec, "run": RunSpec,
}  # fmt: skip
TITLES = {
    "network": "Network", "training": "Pre-training", "finetune": "Fine-tuning",
    "data": "Data", "grid": "Grid", "sync": "Replicas", "run": "Run",
}  # fmt: skip


# -- the command line --------------------------------------------------------------------------------------------------


class SpecOption(click.Option):
    """A field of a spec as an option; its value is None where it was not given."""

    table = "run"


class GroupedCommand(click.Command):
    """A command whose help shows its options under the titles of their tables."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ["Options", *TITLES.values()]}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = TITLES[parameter.table] if isinstance(parameter, SpecOption) else "Options"
                sections[title].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Layers(click.ParamType):
    """``784-500-500``"""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return value if isinstance(value, tuple) else parse_layers(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_layers(text: str) -> tuple[int, ...]:
    """``784-500-500`` -> (784, 500, 500).  Raises ValueError."""
    try:
        return tuple(int(word) for word in text.split("-"))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of layer sizes such as 784-500-500") from None


class PathType(click.ParamType):
    """A file or folder, as an absolute path with ``~`` expanded.   kind: as for ``located``"""

    name = "path"

    def __init__(self, kind: str = "file") -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return located(value, self.kind)
        except ValueError as error:
            self.fail(str(error), param, ctx)


PATH = PathType()
COUNT = click.IntRange(1)
LAST = click.option("--last", is_flag=True,
                    help="the parameters after the last update, of a training with --average, in place of their "
                    "average")  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object instead of a table")


def prepare(comm: MPI.Comm, asked: int | None, binding: str = "none") -> Placement:
    """Choose the threads and bind the rank, before a command loads the libraries that have some."""
    from modelpar.cli.threads import prepare as choose

    return choose(comm, asked, binding)


def help_without_command(context: click.Context) -> None:
    """What a group does that is called alone."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def located(text: str, kind: str) -> str:
    """The absolute path of what an option names.  Raises ValueError where it cannot be a path.

    kind   ``file``, a file or folder; ``data``, the same or a data set; ``machine``, the same or a word; ``masks``,
           words of which some are mask:FILE

    Paths of masks are written into checkpoints, whose bytes must not depend on the folder: these stay relative.
    """
    if kind == "masks":
        return _MASK_AT_HOME.sub(lambda matched: matched[1] + expanded(matched[2]), text)
    is_word = kind == "machine" and text and not {".", os.sep, "~"} & set(text)
    return text if is_word or (kind == "data" and is_name(text)) else absolute(text)


_MASK_AT_HOME = re.compile(rf"(\b{MASK})(~[^,]*)")


def is_name(data: str) -> bool:
    """Whether ``--data`` is the name of a data set, or may be one that is misspelt."""
    if data in DATA_SETS or data in WEIGHT_WORDS:
        return True
    if os.sep in data or data.startswith("~") or os.path.exists(data) or not data:
        return False
    return data.partition(":")[0] in DRAWN_SETS or "." not in data


def spec_options(*tables: str, without: tuple[str, ...] = ()) -> Callable[[Wrapped], Wrapped]:
    """All fields of these tables as options named ``table__field``, and ``--config``.

    ``run.threads`` stands for a single field.  ``without`` names fields to leave out, as ``table.field``.
    """
    chosen = [
        (table, f)
        for name in tables
        for table, _, only in [name.partition(".")]
        for f in fields(SPECS[table])  # type: ignore[arg-type]
        if (not only or f.name == only) and f"{table}.{f.name}" not in without
    ]

    def decorate(command: Wrapped) -> Wrapped:
        for table, f in reversed(chosen):
            command = _as_option(table, f)(command)
        return click.option(
            "--config", type=PATH, metavar="FILE",
            help="TOML file with any of these options, in tables "
            + ", ".join(f"[{t}]" for t in dict.fromkeys(t for t, _ in chosen)) + "; the command line wins",
        )(command)  # fmt: skip

    return decorate


def _as_option(table: str, f: Any) -> Callable[[Wrapped], Wrapped]:
    spec = SPECS[table]
    flag, hint = spec.flag(f), get_type_hints(spec)[f.name]
    name, text, default = f"{table}__{f.name}", f.metadata["help"], f.default
    made: Callable[[Wrapped], Wrapped]
    if hint is bool or hint == bool | None:
        shown = flag if default else f"--no-{flag.removeprefix('--')}"
        help_text = text if default is None else f"{text}  [default: {flag if default else shown}]"
        flags = f"{flag}/--no-{flag.removeprefix('--')}"
        made = click.option(flags, name, default=None, help=help_text, cls=SpecOption)
    else:
        shown = "" if default in (None, "") else f"  [default: {shown_value(default)}]"
        choices = f.metadata.get("choices")
        kind: Any = click.Choice(choices) if choices else _PATH_TYPES.get(f.metadata.get("path")) or _KINDS[hint]
        metavar = None if choices else _metavar(f.name, hint)
        made = click.option(flag, name, type=kind, default=None, metavar=metavar, help=text + shown, cls=SpecOption)

    def decorate(command: Wrapped) -> Wrapped:
        command = made(command)
        command.__click_params__[-1].table = table  # type: ignore[attr-defined]
        return command

    return decorate


_KINDS: dict[Any, Any] = {
    int: click.INT, int | None: click.INT, float: click.FLOAT, float | None: click.FLOAT,
    str: click.STRING, str | None: click.STRING, tuple[int, ...]: Layers(),
}  # fmt: skip


_PATH_TYPES = {kind: PathType(kind) for kind in ("file", "data", "masks")}


def _metavar(name: str, hint: Any) -> str:
    return _METAVARS.get(name) or {int: "N", int | None: "N", float: "X", float | None: "X"}.get(hint, "FILE")


_METAVARS = {
    "connections": "PATTERN,...", "visible_grid": "RxC", "partitioner": "NAME", "layers": "N-N-...",
    "data": "NAME_OR_PATH", "run_dir": "DIR", "layout": "auto|column|row|dual", "binarise": "HOW",
    "alphabet": "LETTERS",
}  # fmt: skip


def shown_value(value: Any) -> str:
    """The value of an option as on the command line."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def given(values: Mapping[str, Any]) -> Tables:
    """The tables of the options that were given, from click's parameters (``table__field``)."""
    tables: Tables = {}
    for name, value in values.items():
        table, separator, key = name.partition("__")
        if separator and value is not None:
            tables.setdefault(table, {})[key] = value
    return tables
