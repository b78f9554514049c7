"""Tests of tiles on a processor without AMX: in processes whose instructions on tiles tests/amx.c carries out.

What they do is seen so, and not how fast they are.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from modelpar.kernels.llvm.vectors import compiled
from tests import amx, extent, jobs
from tests.test_on_ranks import inner_pytest

pytestmark = [
    pytest.mark.jobs,
    pytest.mark.slow,
    pytest.mark.skipif(bool(amx.obstacle()), reason=amx.obstacle()),
    pytest.mark.skipif(not compiled(), reason="these kernels exist only compiled"),
]

TESTS = Path(__file__).parents[1]
LIMIT = 300.0  # seconds of a process, compilation of its kernels included
FILES = (
    "kernels/products/test_tiles.py",
    "kernels/products/test_bfloat16.py",
    "kernels/statistics/test_tiles.py",
    "training/test_exactness.py",
)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has tiles."""
    return {**amx.environment(amx.build(tmp_path_factory.mktemp("amx"))), "PYTHONPATH": str(TESTS.parent)}


def test_kernels_and_trainings_on_tiles(tiles: dict[str, str]) -> None:
    """Sums up and down of narrow and wide weights, statistics, bfloat16; trainings that leave what they always do."""
    files = [TESTS / file for file in FILES]
    command = [*inner_pytest(*files, how_much=extent.ALL), "-k", "tiles"]
    printed = jobs.run_on_ranks(1, command, limit=LIMIT, cwd=TESTS.parent, **tiles).check().output
    assert int(re.findall(r"(\d+) passed", printed)[-1]) > 50, printed
    assert "skipped" not in printed


def test_tiles_that_err_are_not_used(tiles: dict[str, str]) -> None:
    """One wrong bit in each product: every self-test finds it, says so, and training leaves what it always does."""
    broken = {**tiles, "AMX_WRONG_BIT": "0"}
    printed = jobs.run_on_ranks(1, [sys.executable, "-m", "modelpar", "info", "--json"], limit=LIMIT, **broken)
    facts = json.loads(re.search(r"^\{.*^\}", printed.check().output, re.DOTALL | re.MULTILINE)[0])  # type: ignore[index]
    assert facts["tiles_self_test"] is False
    assert "tiles" not in (*facts["kernels"], facts["products_bf16"], *facts["statistics"].split())
    for what in ("sums of weights", "statistics", "products of bfloat16 numbers"):
        assert printed.output.count(f"the tiles of this processor (AMX) give wrong {what}: ") == 1
    command = [*inner_pytest(TESTS / "training/test_exactness.py"), "-k", "one_rank_alone and (CD or wide)"]
    printed = jobs.run_on_ranks(1, command, limit=LIMIT, cwd=TESTS.parent, **broken).check()
    assert "skipped" not in printed.output
