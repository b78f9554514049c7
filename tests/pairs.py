"""Which of many combinations of values to try first: every pair of values, each in one of the chosen combinations.

A fault that one value alone or two values together bring to light is found by fewer combinations than there are; what
needs three values together is left to the full product.  The greedy choice is that of D. M. Cohen et al., The AETG
system, 1997.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import combinations


def covering(rows: Sequence[Sequence[Hashable]]) -> list[int]:
    """Numbers, ascending, of few ``rows`` that have all values, and all pairs of values, that any of them has."""
    return chosen([set(combinations(enumerate(row), 2)) or {(*enumerate(row),)} for row in rows])


def singles(rows: Sequence[Sequence[Hashable]]) -> list[int]:
    """Indices, ascending, of few rows that have every value that any row has in the same column."""
    return chosen([set(enumerate(row)) for row in rows])


def with_grids(rows: Sequence[Sequence[Hashable]], grid: int, only_once: Collection[Hashable] = ()) -> list[int]:
    """As ``covering``, but only pairs of a value with that in column ``grid``; of those in ``only_once`` one row."""
    pairs: list[set[Hashable]] = []
    for row in rows:
        others = [value for i, value in enumerate(enumerate(row)) if i != grid and row[grid] not in only_once]
        pairs.append({(row[grid], value) for value in others} | {row[grid]})
    return chosen(pairs)


def chosen(parts: Sequence[set[Hashable]]) -> list[int]:
    """Numbers, ascending, of few sets that together have all that any of them has."""
    missing = set().union(*parts)
    result = []
    while missing:
        best = max(range(len(parts)), key=lambda i: len(parts[i] & missing))
        result.append(best)
        missing -= parts[best]
    return sorted(result)
