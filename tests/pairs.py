"""Which of many combinations of values to try first: every pair of values, each in one of the chosen combinations.

A fault that one value alone or two values together bring to light is found by fewer combinations than there are; what
needs three values together is left to the full product.  The greedy choice is that of D. M. Cohen et al., The AETG
system, 1997.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations


def covering(rows: Sequence[Sequence[Hashable]]) -> list[int]:
    """Numbers, ascending, of few ``rows`` that have all values, and all pairs of values, that any of them has."""
    pairs = [set(combinations(enumerate(row), 2)) or {(*enumerate(row),)} for row in rows]
    missing = set().union(*pairs)
    chosen = []
    while missing:
        best = max(range(len(rows)), key=lambda i: len(pairs[i] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return sorted(chosen)
