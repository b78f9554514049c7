"""Files that options name: recorded by absolute paths, compared by the file and not by the spelling of its path.

No NumPy here: options are read before the number of threads is known.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelpar.errors import SpecError, together
from modelpar.files.paths import absolute as from_root
from modelpar.files.paths import split_inner
from modelpar.patterns import MASK
from modelpar.spec import DATA_SETS, DRAWN_SETS, WEIGHT_WORDS, Spec, option_name

if TYPE_CHECKING:
    from mpi4py import MPI

DATA_FILES = ("data", "labels", "test_data", "test_labels", "sample_weights")


def is_no_file(name: str, value: str | None) -> bool:
    """Whether a value of the option ``name`` is missing, or a word that stands for no file."""
    if name == "sample_weights":
        return value is None or value in WEIGHT_WORDS
    return value is None or (name == "data" and is_data_set(value))


def is_data_set(data: str) -> bool:
    """Whether ``--data`` names a data set and not a file."""
    return data in DATA_SETS or (data.partition(":")[0] in DRAWN_SETS and not Path(data).exists())


def absolute(path: str) -> str:
    """The same file from anywhere; links stay, as what they point to may be exchanged on purpose.

    ``..`` is removed where the result names the same file: after a link to a folder it leads elsewhere.
    """
    full = from_root(path)
    plain = os.path.normpath(full)
    return plain if os.path.realpath(plain) == os.path.realpath(full) else full


def same_file(first: str, second: str) -> bool:
    """Whether two paths, or names of data sets, mean the same.  Not collective."""
    if first == second:
        return True
    if is_data_set(first) or is_data_set(second):
        return False
    try:
        first, second = absolute(first), absolute(second)
    except ValueError:  # it names no file, as an empty text
        return False
    (first, inner), (second, other) = split_inner(first), split_inner(second)
    if inner != other:
        return False
    try:
        return os.path.samefile(first, second)
    except OSError:
        return first == second


def recorded(specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """Tables of options with all paths of files absolute."""
    made = dict(specs)
    for table, names in (("data", DATA_FILES), ("grid", ("partition",))):
        if table in made:
            given = {name: getattr(made[table], name) for name in names}
            changed = {
                name: absolute(path) for name, path in given.items()
                if not is_no_file(name, path)
            }  # fmt: skip
            made[table] = replace(made[table], **changed)  # type: ignore[type-var]
    if "network" in made:
        patterns = str(getattr(made["network"], "connections")).split(",")  # noqa: B009 - a Spec of any kind
        absolute_patterns = ",".join(
            MASK + absolute(word.strip().removeprefix(MASK)) if word.strip().startswith(MASK) else word
            for word in patterns
        )
        made["network"] = replace(made["network"], connections=absolute_patterns)  # type: ignore[type-var, call-arg]
    return made


def without_files(connections: str) -> str:
    """Patterns of connections without the names of masks' files."""
    words = [word.strip() for word in connections.split(",")]
    return ",".join(MASK if word.startswith(MASK) else word for word in words)


def check_there(comm: MPI.Comm, run: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise SpecError, on every rank, where files that a run has recorded are gone.  Collective.

    run     its table of data options
    given   those that are given now, which replace them
    """
    with together(comm):
        for name in DATA_FILES if comm.rank == 0 else ():
            path = run.get(name)
            if name in given or path is None or is_no_file(name, path):
                continue
            file = Path(os.path.expanduser(split_inner(path)[0]))
            if file.exists():
                continue
            folder = "" if file.is_absolute() else f" in {Path.cwd()}"
            raise SpecError(
                f"the run has {option_name(name)} {path}, which does not exist{folder}; say where it is now by "
                f"{option_name(name)}"
            )
