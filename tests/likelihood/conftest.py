"""Small RBMs for the tests of this folder."""

from __future__ import annotations

import pytest

from tests.likelihood.cases import Case


@pytest.fixture
def case(comm):
    """``case(n_shards, ...)`` -> Case, freed after the test."""
    made = []

    def make(n_shards, *args, on=comm, **options):
        made.append(Case(on, n_shards, *args, **options))
        return made[-1]

    yield make
    for one in made:
        one.grid.free()
