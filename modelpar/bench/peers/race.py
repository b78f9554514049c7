"""The engine and its peers, measured in turn; rounds without two free processors are discarded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, Protocol

from modelpar.bench.peers.process import PeerError

LEAST_RATIO = 1.6  # of SGEMM's rates with two threads and with one: below, another process had the second processor
ENGINE = "engine"

Pair = tuple[float, float]  # GFLOP/s of an SGEMM with one thread, with two


class Side(Protocol):
    """A competitor of the engine, a :class:`Peer` for example."""

    name: str

    def round(self, seconds: float) -> float:
        """Samples a second."""


def race(
    engine_round: Callable[[float], float], peers: Iterable[Side], *, rounds: int, seconds: float,
    sgemm: Callable[[float], Pair] | None = None, spare: int = 0, least_ratio: float = LEAST_RATIO,
) -> dict[str, Any]:  # fmt: skip
    """Measure all sides for ``seconds`` each, ``rounds`` times in turn, and compare within each round.

    engine_round  seconds -> samples a second.  On several ranks the others must sleep until it is called again: a rank
                  that waits in MPI spins, and takes the processors from the peers.
    sgemm         seconds -> (GFLOP/s with one thread, with two), measured before and after each round; a round beside
                  which two threads reach less than ``least_ratio`` times one is discarded.  None keeps all.
    spare         rounds that may be added for discarded ones

    Returns ``rounds`` (kept), ``discarded``, ``engine`` {median, min, max} in samples a second, ``peers`` {name:
    {median, min, max, ratio}} with ratio = median over rounds of engine / peer, ``failed`` {name: one line} for peers
    that stopped answering, which are left out from then on, and ``sgemm`` {one, two, ratio, ratios} or None: medians,
    and the smaller ratio beside each round.  Where no round is kept, ``engine`` is None and ``peers`` is empty.
    """
    peers = list(peers)
    sides = {ENGINE: engine_round, **{peer.name: peer.round for peer in peers}}
    if len(sides) != len(peers) + 1:
        raise ValueError(f"names of sides must differ, but came {[ENGINE, *(peer.name for peer in peers)]}")
    failed: dict[str, str] = {}
    kept: list[dict[str, float]] = []
    pairs: list[Pair] = []
    ratios: list[float] = []
    if sgemm is not None:
        pairs.append(sgemm(seconds))
    done = 0
    while done < rounds or (len(kept) < rounds and done < rounds + spare):
        rates = _round(sides, done, seconds, failed)
        done += 1
        if sgemm is not None:
            pairs.append(sgemm(seconds))
            ratios.append(min(two / one for one, two in pairs[-2:]))  # what ends this round begins the next
            if ratios[-1] < least_ratio:
                continue
        kept.append(rates)
    names = [name for name in sides if name != ENGINE] if kept else []
    return {
        "rounds": len(kept),
        "discarded": done - len(kept),
        "engine": _spread([rates[ENGINE] for rates in kept]) if kept else None,
        "peers": {name: _against_engine(kept, name) for name in names},
        "failed": failed,
        "sgemm": _of_pairs(pairs, ratios) if sgemm is not None else None,
    }


def _round(
    sides: dict[str, Callable[[float], float]], number: int, seconds: float, failed: dict[str, str]
) -> dict[str, float]:
    """Samples a second of every side; sides that fail are taken out.  Each round begins with another side."""
    names = list(sides)
    first = number % len(names)
    rates = {}
    for name in names[first:] + names[:first]:
        try:
            rates[name] = sides[name](seconds)
        except PeerError as error:
            failed[name] = str(error)
            del sides[name]
    return rates


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _against_engine(kept: list[dict[str, float]], name: str) -> dict[str, float]:
    ratio = median(rates[ENGINE] / rates[name] for rates in kept)
    return {**_spread([rates[name] for rates in kept]), "ratio": ratio}


def _of_pairs(pairs: list[Pair], ratios: list[float]) -> dict[str, Any]:
    one, two = (median(values) for values in zip(*pairs, strict=True))
    return {"one": one, "two": two, "ratio": median(two / one for one, two in pairs), "ratios": ratios}
