"""Files that options name: recorded by absolute paths, compared by what they are and not by how they are spelled.

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
from modelpar.spec import Spec, option_name

if TYPE_CHECKING:
    from mpi4py import MPI

NAMES, KINDS = ("digits", "mnist", "fashion-mnist"), ("bars", "patterns")  # of data sets that are no files
DATA_FILES = ("data", "labels", "test_data", "test_labels")
MASK = "mask:"


def is_name(data: str) -> bool:
    """Whether ``--data`` names a data set and no file."""
    return data in NAMES or (data.partition(":")[0] in KINDS and not Path(data).exists())


def absolute(path: str) -> str:
    """The same file from anywhere; links stay, as what they point to may be exchanged on purpose.

    ``..`` goes where that names the same file: behind a link to a folder it leads elsewhere.
    """
    whole = from_root(path)
    plain = os.path.normpath(whole)
    return plain if os.path.realpath(plain) == os.path.realpath(whole) else whole


def same_file(first: str, second: str) -> bool:
    """Whether two paths, or names of data sets, mean one thing.  Not collective."""
    if first == second:
        return True
    if is_name(first) or is_name(second):
        return False
    try:
        first, second = absolute(first), absolute(second)
    except ValueError:  # what names no file, such as nothing
        return False
    try:
        return os.path.samefile(first, second)
    except OSError:
        return first == second


def recorded(specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """Tables of options with all paths of files absolute."""
    found = dict(specs)
    for table, names in (("data", DATA_FILES), ("grid", ("partition",))):
        if table in found:
            given = {name: getattr(found[table], name) for name in names}
            changed = {
                name: absolute(path) for name, path in given.items()
                if path is not None and not (name == "data" and is_name(path))
            }  # fmt: skip
            found[table] = replace(found[table], **changed)  # type: ignore[type-var]
    if "network" in found:
        patterns = str(getattr(found["network"], "connections")).split(",")  # noqa: B009 - a Spec of any kind
        whole = ",".join(
            MASK + absolute(word.strip().removeprefix(MASK)) if word.strip().startswith(MASK) else word
            for word in patterns
        )
        found["network"] = replace(found["network"], connections=whole)  # type: ignore[type-var, call-arg]
    return found


def without_files(connections: str) -> str:
    """Patterns of connections without the names of masks' files."""
    words = [word.strip() for word in connections.split(",")]
    return ",".join(MASK if word.startswith(MASK) else word for word in words)


def check_there(comm: MPI.Comm, run: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise SpecError, on every rank, where files that a run has recorded are gone.  Collective.

    run     its table of data options
    given   those that are given now, which take their place
    """
    with together(comm):
        for name in DATA_FILES if comm.rank == 0 else ():
            path = run.get(name)
            if name in given or path is None or (name == "data" and is_name(path)) or Path(path).expanduser().exists():
                continue
            looked = "" if Path(path).expanduser().is_absolute() else f" in {Path.cwd()}"
            raise SpecError(
                f"the run has {option_name(name)} {path}, which does not exist{looked}; say where it is now by "
                f"{option_name(name)}"
            )
