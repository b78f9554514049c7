"""All methods by name."""

from __future__ import annotations

from collections.abc import Callable

from partitioners.arguments import shown
from partitioners.assignment import assignment
from partitioners.auto import auto
from partitioners.block import block
from partitioners.fastest import fastest
from partitioners.graph import GraphError
from partitioners.kahip import kahip
from partitioners.kernighan_lin import kernighan_lin
from partitioners.metis import metis
from partitioners.mtkahypar import mtkahypar
from partitioners.multilevel import multilevel
from partitioners.partition import Partition
from partitioners.random import random
from partitioners.refinement import moves, then_refined
from partitioners.spatial import strips, tiles
from partitioners.spectral import spectral
from partitioners.strided import strided

METHODS: dict[str, Callable[..., Partition]] = {
    "block": block,
    "strided": strided,
    "random": random,
    "tiles": tiles,
    "strips": strips,
    "spectral": spectral,
    "kernighan_lin": kernighan_lin,
    "assignment": assignment,
    "refined": moves,
    "multilevel": multilevel,
    "auto": auto,
    "fastest": fastest,
    "metis": metis,
    "kahip": kahip,
    "mtkahypar": mtkahypar,
}

ANYTIME = ("auto", "fastest")  # methods that search in rounds, with a budget, and tell where they stand

EXTRAS = {
    "metis": "pymetis",
    "kahip": "kahip",
    "mtkahypar": "mtkahypar",
}  # methods by other libraries, and the module that each needs


def method(name: str) -> Callable[..., Partition]:
    """The method of that name; ``name+refined`` is followed by repair and refinement.

    Raises GraphError for an unknown name.
    """
    first, plus, then = name.partition("+") if isinstance(name, str) else ("", "", "")
    if first not in METHODS or (plus and then != "refined"):
        raise GraphError(f"there is no method {shown(name)}; there are {', '.join(METHODS)}, each also with +refined")
    return then_refined(METHODS[first]) if plus else METHODS[first]
