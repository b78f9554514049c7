"""One case of fuzzing, and what a reader may do with it: read the file, or say in one line why not."""

from __future__ import annotations

import importlib
import pkgutil
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import tests.fuzz
from modelpar.errors import MOST_CHARACTERS, ModelparError
from partitioners import GraphError

SECONDS = 2.0  # of the processor's time that one case may take, when all is compiled
MEMORY = 512 << 20  # bytes that one case may take; the files have less than 1 MiB
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]")


class Case(NamedTuple):
    """A kind of file, and one reader of it."""

    name: str
    write: Callable[[Path, Random], None]  # a damaged file of this kind
    read: Callable[[Path], None]  # may raise what ``allowed`` lists


class Fault(Exception):
    """What no reader may do."""


@dataclass
class Outcome:
    """What became of one case."""

    seconds: float
    fault: str = ""  # empty where it did what it may
    refused: bool = False  # whether the file was refused; else it was read


def readers() -> dict[str, Case]:
    """All cases of the modules called ``*_readers`` in this folder, by their names."""
    found: dict[str, Case] = {}
    for module in pkgutil.iter_modules(tests.fuzz.__path__):
        if module.name.endswith("_readers"):
            for case in importlib.import_module(f"tests.fuzz.{module.name}").cases():
                assert case[0] not in found, f"two cases are called {case[0]}"
                found[case[0]] = Case(*case)
    return found


def random_of(name: str, seed: int) -> Random:
    """The same numbers for the same case, in any process."""
    return Random(f"{name}:{seed}")


def run(case: Case, seed: int, folder: Path) -> Outcome:
    """Write one damaged file and read it.   folder: empty, for this case alone"""
    path, random = folder / "file", random_of(case.name, seed)
    case.write(path, random)
    refused, fault = False, ""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.read(path)
    except (ModelparError, GraphError) as error:
        refused, fault = True, mistake_in(str(error))
    except OSError:
        refused = True
    except Fault as error:
        fault = str(error)
    except MemoryError as error:
        fault = f"MemoryError: {error}"
    except Exception as error:
        fault = f"{type(error).__name__}: {str(error)[:300]} at {_place(error)}"
    return Outcome(time.process_time() - start, fault, refused)


def mistake_in(message: str) -> str:
    """What is wrong with the form of a message; empty where nothing is."""
    if len(message) > MOST_CHARACTERS:
        return f"a message of {len(message)} characters: {message[:200]!r}"
    if _UNSEEN.search(message):
        return f"a message with control characters: {message!r}"
    return "" if message.strip() else "an empty message"


def _place(error: BaseException) -> str:
    """Where an exception was raised: the last place in our own code, and the last of all."""
    places, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append((code.co_filename, f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"))
        trace = trace.tb_next
    ours = [where for file, where in places if "/modelpar/" in file or "/partitioners/" in file]
    return " < ".join(reversed([*ours[-2:], *([] if ours[-1:] == [places[-1][1]] else [places[-1][1]])]))


def peak() -> int:
    """The most memory that this process has used, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def seeds_of(names: list[str], seed: int, n: int) -> Iterator[tuple[str, int]]:
    """``n`` cases, each reader in turn, with seeds from ``seed`` on."""
    for i in range(n):
        yield names[i % len(names)], seed + i // len(names)
