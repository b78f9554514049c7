"""Options from TOML: one table for each class of options, whose keys are the names of its fields."""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from modelpar.cli.config_file import damage
from modelpar.cli.options import SPECS, GridSpec, RunSpec, Tables, located, parse_layers
from modelpar.cli.recorded_paths import same_file
from modelpar.errors import SpecError, together
from modelpar.files.paths import from_printable, printable
from modelpar.files.regular import read_bounded
from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, Spec, SyncSpec, TrainingSpec
from modelpar.values.plain import shown

if TYPE_CHECKING:
    from mpi4py import MPI

SpecClass = TypeVar("SpecClass", bound=Spec)

MOST_BYTES = 1 << 18  # of a configuration
MOST_DOTS = 16  # between keys, in a line of it: the time that they take grows with the square of their number
_TEXTS_AND_COMMENT = re.compile(r"""(?:"(?:[^"\\]|\\.)*"?|'[^']*'?|#.*)""")  # closed or not, so it is searched once

TRAJECTORY = "trajectory"  # the folder of a run directory for models from the course of its training

# The defaults with --exact: states wherever sums of real values would be rounded.
EXACT_TRAINING = {"pass_up": "states"}
EXACT_DATA = {"binarise": "stochastic"}


def read_config(comm: MPI.Comm, path: str | Path) -> Tables:
    """The tables of a TOML file; rank 0 reads.  Collective.

    Raises SpecError, the same on every rank, where the file cannot be read, is no regular file or a large one, or has
    an unknown table or key, or a value of a wrong type.
    """
    text = None
    with together(comm):
        if comm.rank == 0:
            try:
                text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
                text = text.replace("\r\n", "\n").replace("\r", "\n")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
                raise SpecError(f"the configuration {path} cannot be read: {why}") from None
    return parse_config(str(comm.bcast(text)), str(path))


def parse_config(text: str, name: str) -> Tables:
    """Checked tables from the text of a TOML file called ``name``.  Raises SpecError."""
    tables = parse_toml(text, name)
    checked: Tables = {}
    for table, values in tables.items():
        if table not in SPECS:
            kind = "table" if isinstance(values, dict) else "key outside any table:"
            raise SpecError(f"{name} has an unknown {kind} {table}{_nearest(table, SPECS)}")
        if not isinstance(values, dict):
            raise SpecError(f"{name}: {table} must be a table, [{table}], but is {shown(values)}")
        hints = {f.name: get_type_hints(SPECS[table])[f.name] for f in fields(SPECS[table])}  # type: ignore[arg-type]
        kinds = {f.name: f.metadata.get("path") for f in fields(SPECS[table])}  # type: ignore[arg-type]
        for key, value in values.items():
            if key not in hints:
                raise SpecError(f"{name}: [{table}] has an unknown key {key}{_nearest(key, hints, table)}")
            typed = _typed(value, hints[key], f"{name}: [{table}] {key}")
            checked.setdefault(table, {})[key] = from_printable(typed) if kinds[key] else typed
    return checked


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The tables of the text of a TOML file called ``name``.  Raises SpecError."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_DOTS and (dots := _TEXTS_AND_COMMENT.sub("", line).count(".")) > MOST_DOTS:
            raise SpecError(f"{name}: line {number} has keys of {dots} dots; options are in tables, as [training]")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SpecError(f"{name} nests its values too deeply; options have no more than lists of numbers") from None
    except ValueError as error:  # TOMLDecodeError, and of integers of thousands of digits an error of Python
        raise SpecError(f"{name} is not valid TOML: {error}") from None


def _nearest(word: str, known: Mapping[str, Any], table: str = "") -> str:
    """`; did you mean ...?`, the other table that has this key, or the list of known words."""
    near = difflib.get_close_matches(word.replace("-", "_").lower(), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    for other, spec in SPECS.items() if table else ():
        if word.replace("-", "_") in {f.name for f in fields(spec)}:  # type: ignore[arg-type]
            return f"; it belongs to [{other}]"
    return f"; known are {', '.join(known)}"


def _typed(value: Any, hint: Any, where: str) -> Any:
    if hint == tuple[int, ...]:
        if isinstance(value, str):
            try:
                return parse_layers(value)
            except ValueError as error:
                raise SpecError(f"{where}: {error}") from None
        if isinstance(value, list) and all(type(units) is int for units in value):
            return tuple(value)
        raise SpecError(f"{where} is {shown(value)}, but must be a list of integers or a text such as '784-500'")
    accepted, words = {
        bool: ((bool,), "true or false"), bool | None: ((bool,), "true or false"),
        int: ((int,), "an integer"), int | None: ((int,), "an integer"),
        float: ((int, float), "a number"), float | None: ((int, float), "a number"),
    }.get(hint, ((str,), "a text"))  # fmt: skip
    if type(value) not in accepted:
        raise SpecError(f"{where} is {shown(value)}, but must be {words}")
    if type(value) is int and value.bit_length() > 63:
        raise SpecError(f"{where} is an integer of {value.bit_length()} bits, but at most 63 are possible")
    return float(value) if float in accepted else value


def from_root(tables: Tables, name: str) -> Tables:
    """The tables of the file called ``name`` with absolute paths.  Raises SpecError."""
    absolute_tables = merge(tables)
    for table, values in absolute_tables.items():
        for f in fields(SPECS[table]):  # type: ignore[arg-type]
            kind = f.metadata.get("path")
            if kind is None or f.name not in values:
                continue
            try:
                values[f.name] = located(values[f.name], kind)
            except ValueError as error:
                raise SpecError(f"{name}: [{table}] {f.name}: {error}") from None
    return absolute_tables


def write_config(specs: Mapping[str, Spec]) -> str:
    """The effective configuration as TOML that ``--config`` accepts; options that are None are left out."""
    import tomli_w

    return tomli_w.dumps(
        {
            table: {f.name: _plain(getattr(spec, f.name)) for f in fields(spec) if getattr(spec, f.name) is not None}  # type: ignore[arg-type]
            for table, spec in specs.items()
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)  # a name need not be text, but TOML is
    return list(value) if isinstance(value, tuple) else value


def merge(*layers: Tables) -> Tables:
    """Later tables win, key by key."""
    merged: Tables = {}
    for tables in layers:
        for table, values in tables.items():
            merged.setdefault(table, {}).update(values)
    return merged


def build(kind: type[SpecClass], tables: Tables) -> SpecClass:
    """The spec of ``kind`` with the given options.  Raises SpecError."""
    table = next(name for name, spec in SPECS.items() if spec is kind)
    return kind(**tables.get(table, {}))


@dataclass(frozen=True)
class Settings:
    """All options of one command, from the command line, files and defaults.

    What is made of them is kept, since every record of a training asks.
    """

    tables: Tables  # all given options
    mine: Tables = field(default_factory=dict)  # those of the command line
    file: Tables = field(default_factory=dict)  # those of the file of --config
    before: Tables = field(default_factory=dict)  # those of the run that is resumed or evaluated
    config: str | None = None  # the file of --config

    @cached_property
    def asked(self) -> Tables:
        """The options given now, by file or command line, and not taken from a run."""
        return merge(self.file, self.mine)

    @cached_property
    def training(self) -> TrainingSpec:
        return build(TrainingSpec, merge({"training": EXACT_TRAINING} if self.exact else {}, self.tables))

    @cached_property
    def exact(self) -> bool:
        """Whether the same bytes at every grid are asked for; it changes the defaults of some options."""
        return bool(self.tables.get("network", {}).get("exact", False))

    @cached_property
    def finetune(self) -> FineTuneSpec:
        return build(FineTuneSpec, merge({"finetune": {"products": self.training.products}}, self.tables))

    @cached_property
    def data(self) -> DataSpec:
        # of categorical units the data are states already
        states = not self.exact or self.network().visible_kind.categories > 0
        return build(DataSpec, merge({} if states else {"data": EXACT_DATA}, self.tables))

    @cached_property
    def grid(self) -> GridSpec:
        return build(GridSpec, self.tables)

    @cached_property
    def sync(self) -> SyncSpec:
        """How replicas stay together; with a server they synchronise wherever a checkpoint is due."""
        spec = build(SyncSpec, self.tables)
        every = self.run.checkpoint_every
        if spec.sync == "server" and every and not spec.meet_every:
            return replace(spec, meet_every=every)
        return spec

    @cached_property
    def run(self) -> RunSpec:
        return build(RunSpec, self.tables)

    def check(self) -> None:
        """Raise SpecError where options of different tables do not go together."""
        if self.grid.servers and self.sync.sync != "server":
            raise SpecError(
                f"--servers {self.grid.servers} is for --sync server, but --sync is {self.sync.sync}; leave one of "
                "them out"
            )

    def network(self, **more: Any) -> NetworkSpec:
        """The network's spec; ``more`` are fields that follow from the data."""
        return build(NetworkSpec, merge(self.tables, {"network": more}))


def gather(
    comm: MPI.Comm, mine: Tables, config: str | None, *, resume: bool = False, beside: str | None = None
) -> Settings:
    """The options of a command.  Collective.  Raises SpecError, the same on every rank.

    mine     those of the command line
    config   a TOML file
    resume   the configuration of the run comes first, but for its grid and threads, which belong to a machine
    beside   a checkpoint or run directory, whose data are the default
    """
    base: Tables = {}
    before: Tables = {}
    file = from_root(read_config(comm, config), config) if config else {}
    if resume:
        now = merge(file, mine)
        where = now.get("run", {}).get("run_dir")
        if where is None:
            raise SpecError("--resume needs to know the run; give --run-dir")
        base = read_own_config(comm, where, instead=config)
        if base.get("network", {}).get("visible") == "gaussian":  # runs of earlier versions do not name them
            base["network"].setdefault("variances", "unit")
        before = copy.deepcopy(base)
        base.pop("grid", None)
        for name in ("threads", "bind", "verify"):
            base.get("run", {}).pop(name, None)
        if "sync" in now.get("sync", {}):  # options of another strategy are not taken over
            of_strategies = {"sync"}.union(*SyncSpec.BELONGING.values())
            base["sync"] = {name: x for name, x in base.get("sync", {}).items() if name not in of_strategies}
    elif beside is not None:
        before = read_own_config(comm, beside, instead=config)
        data = before.get("data", {})
        named = merge(file, mine).get("data", {}).get("data")
        if named is not None and not comm.bcast(same_file(named, data.get("data", "")) if comm.rank == 0 else None):
            # perhaps other data, with other files and fractions; but their unit is that of the run
            data = {name: value for name, value in data.items() if name == "scale"}
        base = {"data": data}
    settings = Settings(merge(base, file, mine), mine, file, before, config)
    # every option is checked now, on every rank, before anything is loaded
    settings.training, settings.finetune, settings.data, settings.grid, settings.sync, settings.run, settings.network()
    settings.check()
    return settings


def read_own_config(comm: MPI.Comm, where: str, *, instead: str | None = None) -> Tables:
    """The configuration of the run that a path belongs to; nothing where there is none.  Collective.

    instead   a file that is given beside it: it takes the place of one that is damaged

    Raises SpecError, the same on every rank, where it is damaged: defaults would take the place of what is lost.
    """
    path = None
    with together(comm):
        if comm.rank == 0:
            own = home_of(where) / "config.toml"
            path = own if own.is_file() else None
            if path is not None and (why := damage(path)):
                if instead is None:
                    raise SpecError(
                        f"{path} is damaged ({why}), so the options of its run are not known; give them by --config "
                        "FILE, or put a copy of the file in its place"
                    )
                path = None
    path = comm.bcast(path)
    return read_config(comm, path) if path is not None else {}


def home_of(where: str | Path) -> Path:
    """The directory of the run, if any, that a checkpoint or run directory belongs to.  Not collective."""
    path = Path(where)
    home = path if path.is_dir() else path.parent
    return home.parent if home.name in ("checkpoints", TRAJECTORY) else home
