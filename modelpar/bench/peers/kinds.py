"""The peers, the packages that each of them needs, and which of them are installed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Kind:
    """One peer: the program that its process runs, and in which variant."""

    program: str  # module of this package
    needs: str  # module that has to be installed
    distribution: str  # that brings it
    variant: str = ""
    ranks: int = 1  # processes that share the threads
    step: str = "cd1"  # what it is a peer of: bench cd1, pcd or finetune
    note: str = ""  # how its step differs from the engine's


KINDS = {
    "numpy": Kind("numpy_peer", "numpy", "numpy"),
    "torch": Kind("torch_peer", "torch", "torch", "eager"),
    "torch-compile": Kind("torch_peer", "torch", "torch", "compile"),
    "torch-medium": Kind("torch_peer", "torch", "torch", "medium", note="products in bfloat16"),
    "sklearn": Kind("sklearn_peer", "sklearn", "scikit-learn", note="persistent chains (PCD), no momentum or decay"),
    "torch-gloo": Kind("torch_gloo", "torch", "torch", "eager", ranks=2, note="2 ranks, hidden units split"),
    "torch-gloo-medium": Kind(
        "torch_gloo", "torch", "torch", "medium", ranks=2, note="2 ranks, hidden units split, products in bfloat16"
    ),
    "pcd-numpy": Kind("pcd_numpy", "numpy", "numpy", step="pcd"),
    "pcd-torch": Kind("pcd_torch", "torch", "torch", step="pcd"),
    "pcd-rbms": Kind("pcd_rbms", "rbms", "rbms", step="pcd", note="rbms.training.pcd.fit_batch_pcd"),
    "finetune-torch": Kind("torch_finetune", "torch", "torch", "eager", step="finetune"),
    "finetune-torch-medium": Kind(
        "torch_finetune", "torch", "torch", "medium", step="finetune", note="products in bfloat16"
    ),
}
NAMES = tuple(KINDS)
# words that the command line takes, by what is measured
WORDS_OF = {
    "cd1": ("torch", "sklearn", "numpy", "all"), "pcd": ("rbms", "torch", "numpy", "all"), "finetune": ("torch", "all"),
}  # fmt: skip
WORDS = WORDS_OF["cd1"]


def names_of(word: str, *, ranks: int, step: str = "cd1") -> list[str]:
    """The peers that one word of the command line names, where the engine runs on ``ranks`` ranks.

    ``torch`` is all that PyTorch does on as many ranks as it can: tensor parallelism only beside an engine on two.
    Raises ValueError for any other word.
    """
    if word not in WORDS_OF[step]:
        raise ValueError(f"{word!r} is not a peer; one of {', '.join(WORDS_OF[step])} was needed")
    usable = [name for name, kind in KINDS.items() if kind.step == step and kind.ranks in (1, ranks)]
    return [name for name in usable if word in ("all", KINDS[name].needs)]


def available(names: Iterable[str]) -> list[str]:
    """Those of the peers that are installed; nothing is imported."""
    return [name for name in names if find_spec(KINDS[name].needs) is not None]


def missing(names: Iterable[str]) -> dict[str, str]:
    """One line for each of the peers that is not installed."""
    names = list(names)
    here = available(names)
    return {
        name: f"{name}: {KINDS[name].needs} is not installed; pip install {KINDS[name].distribution}"
        for name in names
        if name not in here
    }
