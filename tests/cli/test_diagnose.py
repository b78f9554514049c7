"""``modelpar diagnose``: the same numbers on one rank and on two, its page, and what it refuses.

Modules: modelpar/cli/diagnosis_page
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import sys

import pytest

pytestmark = [pytest.mark.jobs, pytest.mark.slow]

LIMIT = 120  # seconds
MODELPAR = [sys.executable, "-m", "modelpar"]
SMALL = ["--chains", "40", "--sweeps", "30"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a trajectory of two models, and no checkpoints from before its end, which has the chains."""
    from tests import jobs

    path = tmp_path_factory.mktemp("diagnose") / "run"
    words = ["train", "--layers", "64-12", "--epochs", "2", "--binarise", "0.5", "--chains", "30", "--pretrain-only"]
    more = ["--checkpoint-every", "10", "--no-pictures", "--no-score", "--run-dir", str(path)]
    jobs.run_on_ranks(1, [*MODELPAR, *words, *more], limit=LIMIT).check()
    (path / "trajectory").mkdir()
    steps = sorted((path / "checkpoints").glob("step-*"))
    for update, step in ((10, steps[0]), (20, steps[1])):
        shutil.copy(step, path / "trajectory" / f"rbm-0-update-{update:010d}.safetensors")
    shutil.rmtree(path / "checkpoints")
    return path


def alike(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4) if isinstance(a, float) else a == b


def test_one_rank_and_two(run, on_ranks, tmp_path) -> None:
    results = []
    for n in (1, 2):
        out = tmp_path / f"page-{n}.png"
        words = ["diagnose", str(run), *SMALL, "--three-body", "--out", str(out), "--json"]
        outcome = on_ranks(n, [*MODELPAR, *words, *(["--model-shards", "2"] if n == 2 else [])], limit=LIMIT)
        assert outcome.returncode == 0, outcome.output
        results.append(json.loads(outcome.output.strip().splitlines()[-1]))
        head = out.read_bytes()[:24]
        assert head[1:4] == b"PNG"
        assert min(struct.unpack(">II", head[16:])) > 1000  # pixels
    one, two = results
    assert alike(one, two), f"{one}\n{two}"
    assert one["chains_from"] == "run"
    assert {"mixing_time", "autocorrelation_time", "free_energy_gap", "seconds"} <= one.keys()
    assert set(one["moments"]) == {"means", "pairs", "triples"}
    assert set(one["adversarial_accuracy"]) == {"truth", "synthetic"}
    assert len(one["spectrum"]) == 12
    assert sorted(one["spectrum_over_updates"]) == ["10", "20"]
    assert one["samples"] == 359


def test_a_table_without_matplotlib(run, on_ranks, tmp_path) -> None:
    """A folder in front of the others has a matplotlib that cannot be imported."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    out, script = tmp_path / "page.png", tmp_path / "script.py"
    words = ["modelpar", "diagnose", str(run), *SMALL, "--out", str(out)]
    script.write_text(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom modelpar.cli import main\n"
        f"sys.argv = {words!r}\nmain()\n"
    )
    outcome = on_ranks(1, [sys.executable, script], limit=LIMIT)
    assert outcome.returncode == 0, outcome.output
    assert outcome.output.count("no pictures: matplotlib is not installed") == 1
    assert "adversarial accuracy" in outcome.output
    assert "mixing time" in outcome.output
    assert "the run's chains: rms" in outcome.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "page.pdf"], "use .png"),
        (["--sweeps", "1"], "not in the range"),
        (["--out", "/nowhere/page.png"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line(run, on_ranks, words, message) -> None:
    outcome = on_ranks(2, [*MODELPAR, "diagnose", str(run), *words], limit=LIMIT)
    assert outcome.returncode == 2, outcome.output
    assert message in outcome.output, outcome.output
    assert outcome.output.count("modelpar: error:") == 1, outcome.output
