"""Every example runs as its docstring says, in small, and shows what it promises."""

from __future__ import annotations

import ast
import importlib
import json
import random
import re
import runpy
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec
from modelpar.kernels.states import pack, unpack
from tests import jobs

pytestmark = pytest.mark.jobs

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOT = str(EXAMPLES.parent)
LIMIT = 240  # seconds for one run, compilation of the kernels included
SMALL_WIDE = ("--visible", "256", "--hidden", "512", "--steps", "5")


def run(name: str, n: int, *options: str) -> str:
    """What an example prints; n = 0 is without mpiexec."""
    command = [sys.executable, EXAMPLES / name, *options]
    if n == 0:
        return jobs.run(command, limit=LIMIT, PYTHONPATH=ROOT).check().output
    return jobs.run_on_ranks(n, command, limit=LIMIT, PYTHONPATH=ROOT).check().output


@pytest.fixture
def genomes(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The modules of the haplotypes' example."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("genomes.windows"), importlib.import_module("genomes.crossovers")


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 4])
def test_train_dbn(n: int) -> None:
    output = run("train_dbn.py", n)
    result = re.search(r"test accuracy (\S+)", output)
    assert result
    assert float(result[1]) > 0.95
    assert output.count("RBM 1 epoch 10") == 1  # one rank speaks


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 3])
def test_local_network(n: int) -> None:
    output = run("local_network.py", n)
    result = re.search(r"test accuracy (\S+)", output)
    assert result
    assert float(result[1]) > 0.92
    travelled = re.search(r"tile\(s\): (\d+) bytes, (\d+) predicted", output)
    assert travelled
    assert travelled[1] == travelled[2]
    assert (int(travelled[1]) > 0) == (n > 1)


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 2])
def test_resume_at_another_grid(n: int) -> None:
    output = run("resume_at_another_grid.py", n)
    result = re.search(r"largest difference of a weight (\S+)", output)
    assert result
    assert float(result[1]) == 0
    assert f"{max(n, 1)} replicas x 1 model shards" in output


@pytest.mark.slow
def test_sklearn_pipeline() -> None:
    pytest.importorskip("sklearn")
    result = re.findall(r": (?:.*accuracy )?(\d\.\d+)$", run("sklearn_pipeline.py", 0), re.MULTILINE)
    assert len(result) == 3
    assert all(float(accuracy) > bound for accuracy, bound in zip(result, (0.95, 0.8, 0.9), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_wide_layer(n: int, tmp_path: Path) -> None:
    output = run("wide_layer.py", n, *SMALL_WIDE, "--folder", str(tmp_path))
    stages = re.findall(r"^(.*?): +peak (.*) GiB", output, re.MULTILINE)
    assert len(stages) == 5
    assert all(len(peaks.split(",")) == n for _, peaks in stages)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 2])
def test_protein_family(n: int, tmp_path: Path) -> None:
    """Of a family in which two pairs of sites go together, and each is a contact."""
    rng = random.Random(1)
    with open(tmp_path / "family.fasta", "w") as file:
        for k in range(2000):
            letters = rng.choices("ACDEFGHI", k=4) * 3
            letters[4:8] = rng.choices("KR", k=4)
            letters[10:] = rng.choices("-AV", k=2)
            print(f">s{k}", "".join(letters), sep="\n", file=file)
    pairs = [(i, j) for i in range(1, 13) for j in range(i + 1, 13)]
    contacts = {(1, 9), (2, 10)}
    table = [f"{i} {j} 0.5 {4 if (i, j) in contacts else 20}" for i, j in pairs]
    (tmp_path / "contacts.dat").write_text("\n".join(table))
    output = run(
        "protein_family.py", n, "--alignment", str(tmp_path / "family.fasta"), "--contacts",
        str(tmp_path / "contacts.dat"), "--hidden-units", "12", "--updates", "400", "--chains", "100",
        "--sampled", "2000", "--learning-rate", "2", "--out", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    result = json.loads(output.splitlines()[0])
    names = "precision_half_L precision_L site_frequency_error pair_correlation log_likelihood seconds"
    assert set(names.split()) < set(result)
    assert result["precision_half_L"] == pytest.approx(2 / 6)  # both come first
    assert result["site_frequency_error"] < 0.1
    assert result["pair_correlation"] > 0.8
    assert result["log_likelihood_low"] <= result["log_likelihood"] <= result["log_likelihood_high"]
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    run("scaling.py", 0, "--out", str(tmp_path), "--most", "16")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["study"] for row in rows} == {"weak", "strong", "replicas", "distbelief"}
    assert all(row["seconds"] == pytest.approx(sum(row["parts"].values())) for row in rows if row["study"] == "weak")
    alone = [row for row in rows if row["ranks"] == 1 and row.get("layout") == "column"]
    assert all(row["efficiency"] == pytest.approx(1, abs=0.05) for row in alone)
    assert "| machine | network | layout | 1 | 4 | 16 |" in (tmp_path / "tables.md").read_text()
    assert len(list(tmp_path.glob("scaling_*.png"))) == 3


@pytest.mark.slow
def test_haplotypes(tmp_path: Path) -> None:
    """Of a twentieth of a megabase: simulated, trained in two parts on two ranks, and compared again."""
    pytest.importorskip("msprime", reason="haplotypes are simulated by msprime, which is not installed")
    region, out = str(tmp_path / "region.vcf"), str(tmp_path / "out")
    made = run("haplotypes.py", 0, "simulate", "--out", region, "--haplotypes", "300", "--length", "0.05")
    n_sites = int(re.findall(r"300 haplotypes, (\d+) sites", made)[0])
    same = ("--data", region, "--out", out, "--hidden-units", "16", "--tiles", "0", "--more-sweeps", "5", "--json")
    small = (*same, "--batch-size", "50", "--chains", "50", "--learning-rate", "0.05", "--updates", "80")
    run("haplotypes.py", 2, "train", *small, "--minutes", "0.002")
    result = json.loads(run("haplotypes.py", 2, "train", *small, "--go-on").splitlines()[-1])
    assert (result["haplotypes"], result["sites"], result["updates"]) == (300, n_sites, 80)
    assert 1 <= result["bits_a_value"] <= 1.3
    assert len(result["peak_gib"]) == 2
    assert 0 <= result["synthetic_held_out"] <= 1
    assert result["frequency_correlation"] > 0.8
    again = json.loads(run("haplotypes.py", 1, "compare", *same).splitlines()[-1])
    assert again["truth_training"] == result["truth_training"]  # the same chains, draws and haplotypes
    assert (tmp_path / "out" / "linkage.png").exists()
    out = str(tmp_path / "windows")
    same = ("--data", region, "--out", out, "--hidden-units", "24", "--tiles", "5", "--more-sweeps", "6", "--json")
    train = ("train", *same, "--exchanges", "2", "--batch-size", "50", "--updates", "100")
    run("haplotypes.py", 2, *train, "--minutes", "0.002")
    learnt = json.loads(run("haplotypes.py", 2, *train, "--go-on").splitlines()[-1])
    assert learnt["frequency_correlation"] > 0.9
    assert learnt["truth_held_out"] < 0.9
    assert 0.1 < learnt["start_ratio"] < 1.1
    assert [0 < part < 1 for part in learnt["ends_exchanged"]] == [True, True]
    again = json.loads(run("haplotypes.py", 1, "compare", *same, "--exchanges", "2").splitlines()[-1])
    assert again["start_ratio"] == learnt["start_ratio"]


def test_windows_of_sites(genomes: tuple[Any, Any]) -> None:
    """A hidden unit sees its own tile and the two beside it, or thinned sites of all; weights span the components, of
    2 sqrt(1 - 1/variance)."""
    windows, _ = genomes
    few = windows.Windows(23, 9, 4, 1)
    mask = few.mask().toarray()
    for group in range(4):
        sites, units = range(*few.edges[[max(group - 1, 0), min(group + 2, 4)]]), range(*few.groups[group : group + 2])
        expected = [list(range(group % 2, 23, 2))] + [list(sites)] * (len(units) - 1)  # 4 tiles over 3 of a window
        assert [list(np.flatnonzero(mask[:, j])) for j in units] == expected
        assert few.tiles_seen[:, units[0]].tolist() == [0, 4]
        assert few.edges[few.tiles_seen[:, units[1]]].tolist() == [sites.start, sites.stop]
    random = np.random.default_rng(0)
    values = (random.random((30, 400)) < random.random((30, 3)) @ random.random((3, 400)) / 1.5).astype(np.float32)
    p = values.mean(axis=1)
    W = windows.patterns(values, p, slice(5, 25), 4, seed=1)
    z = (values - p[:, None]) / np.sqrt(p * (1 - p))[:, None]
    variances, components = np.linalg.eigh(z[5:25] @ z[5:25].T / 400)
    expected = 4 * components[:, -4:] * (1 - 1 / variances[-4:]) @ components[:, -4:].T
    scaled = W[5:25] * np.sqrt(p * (1 - p))[5:25, None]
    np.testing.assert_allclose(scaled @ scaled.T, expected, atol=0.02)


def test_ends_are_exchanged_by_free_energy(genomes: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides at each cut is the free energy of whole haplotypes, by NumPy, and ends go where it is said."""
    windows, crossovers = genomes
    few, random = windows.Windows(41, 12, 6, 1), np.random.default_rng(1)
    W, c = few.mask().toarray() * random.normal(size=(41, 12)), random.normal(size=12)
    chains = random.integers(0, 2, (41, 10))

    def matched(S: Any, _: Any) -> Any:
        cut = few.edges[cuts.pop(0)]
        for x, y in [(0, 1), (2, 7), (8, 3)]:
            joined = [np.r_[chains[:cut, a], chains[cut:, b]] for a, b in ((x, y), (y, x), (x, x), (y, y))]
            terms = [np.logaddexp(0, v @ W + c).sum() for v in joined]
            change = S[x, y] + S[y, x] - S[x, x] - S[y, y]
            assert change == pytest.approx(terms[0] + terms[1] - terms[2] - terms[3], abs=1e-4)
        order = random.permutation(10)
        chains[cut:] = chains[cut:, order]
        return order

    cuts = [1, 2, 3, 4, 5]
    monkeypatch.setattr(crossovers, "matched", matched)
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec((41, 12)), grid)
        network.rbms[0].W[:], network.rbms[0].c[:] = W, c
        v, exchanged = crossovers.exchange_ends(network, few, pack(chains), seed=0)
    assert not cuts
    assert 0.5 < exchanged <= 1
    np.testing.assert_array_equal(unpack(v), chains)


def test_exchanges_keep_the_distribution(genomes: tuple[Any, Any]) -> None:
    """Matchings of 3 heads and 3 ends that are drawn with weights exp(sum of S) are so afterwards."""
    _, crossovers = genomes
    S, random, n = np.random.default_rng(2).normal(size=(3, 3)), np.random.default_rng(3), 4000
    all_orders = np.array(list(permutations(range(3))))
    weights = np.exp(S[np.arange(3), all_orders].sum(axis=1))
    expected, counts = weights / weights.sum(), Counter()
    for k in random.choice(6, n, p=expected):
        order = all_orders[k]
        counts[tuple(order[crossovers.matched(S[:, order], random)])] += 1
    found = np.array([counts[tuple(order)] for order in all_orders])
    assert (np.abs(found - n * expected) < 4 * np.sqrt(n * expected)).all()
    large = np.random.default_rng(4).normal(scale=30, size=(600, 2))
    left, right = large[:, :1], large[:, 1:]
    np.testing.assert_allclose(crossovers.log_weights(left, right), np.logaddexp(0, left + right).sum(axis=0)[None])


def test_alleles_go_to_the_most_probable_chains(genomes: tuple[Any, Any]) -> None:
    """As many as are expected, to nearest, and none that has one is less probable than one that has none."""
    ranked = importlib.import_module("genomes.sampling").ranked
    x = np.random.default_rng(5).normal(scale=3, size=(40, 30))
    values = ranked(x)
    np.testing.assert_array_equal(values.sum(axis=1), np.rint((1 / (1 + np.exp(-x))).sum(axis=1)))
    assert (np.where(values, x, np.inf).min(axis=1) > np.where(values, -np.inf, x).max(axis=1)).all()


@pytest.mark.slow
def test_recording(tmp_path: Path) -> None:
    """Of 300 neurons and three hidden units: most weights are found, from the neighbours on."""
    pytest.importorskip("h5py", reason="recordings are HDF5 files, and h5py is not installed")
    data, out = str(tmp_path / "recording.h5"), str(tmp_path / "out")
    run("recording.py", 0, "simulate", "--out", data, "--neurons", "300", "--times", "2000", "--hidden-units", "3",
        "--ball", "60")  # fmt: skip
    small = ("--data", data, "--out", out, "--hidden-units", "3", "--sampled", "1000", "--json")
    learnt = run("recording.py", 2, "train", *small, "--updates", "150", "--sweeps", "5")
    result = json.loads(learnt.splitlines()[-1])
    assert result["updates"] == 150
    assert result["hours_of_200000"] == pytest.approx(result["seconds_per_update"] * 200000 / 3600)
    assert result["weight_correlation"] > 0.7
    assert result["pair_correlation"] > 0.5
    again = json.loads(run("recording.py", 1, "compare", *small).splitlines()[-1])
    assert again["weight_correlation"] == pytest.approx(result["weight_correlation"])
    assert (tmp_path / "out" / "units.png").exists()


@pytest.mark.slow
def test_study(tmp_path: Path) -> None:
    """All of it on the digits, but for the times, which need two hosts: those come from a machine that is made up."""
    small = ("--results", str(tmp_path), "--data", "digits", "--seeds", "1", "--partitions", "1", "32", "--rates",
             "1.6", "--limit", "300", "--every", "10", "--goal", "0.2", "--ranks", "2", "--epochs", "3",
             "--grids", "1x1", "2x1", "--repeats", "1")  # fmt: skip
    for what in ("iterations", "check", "curves", "goal"):
        assert f"written: {tmp_path / what}.json" in run("study/study.py", 0, what, *small)
    run("study/study.py", 0, "iterations", *small, "--whole", "64")
    model = runpy.run_path(str(EXAMPLES / "study" / "model.py"))
    points = [
        model["Point"](strategy, nodes, tasks, batch, (784, hidden, 10))
        for strategy in ("allreduce", "local", "server") for nodes in (1, 2) for tasks in (1, 2)
        for batch in (20, 90) for hidden in (100, 500)
    ]  # fmt: skip
    machine = model["Machine"]((3e-4, 2e-11, 1e-10, 1e-5, 2e-10, 1e-4, 8e-9, 2e-5, 3e-10, 3e-4, 9e-9))
    timed = [{**vars(point), "seconds": machine.seconds(point)} for point in points]
    fitted, held_out = ([p for i, p in enumerate(timed) if (i % 5 == 3) == held] for held in (False, True))
    (tmp_path / "times.json").write_text(json.dumps({"fitted": fitted, "held out": held_out}))
    output = run("study/study.py", 0, "report", *small, "--pictures", str(tmp_path))
    assert "mean error 0% of 39 fitted points, 0% of 9 held out (largest 0%)" in output
    assert output.count("| the study | 14") == 2
    pictures = {path.name for path in tmp_path.glob("study-*.png")}
    assert len(pictures) == 7


@pytest.mark.slow
def test_partitioning_against_others(tmp_path: Path) -> None:
    output = run("partitioning/against_others.py", 0, "--networks", "fields3,sparse", "--parts", "2",
                 "--json", str(tmp_path / "results.json"))  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(one["network"], one["n_parts"]) for one in results} == {("fields3", 2), ("sparse", 2)}
    assert all(one["feasible"] for one in results)
    assert "auto is the least, or as good, in 2 of 2" in output


NOTEBOOK = EXAMPLES / "notebook.ipynb"
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook).execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.slow
def test_notebook(tmp_path: Path) -> None:
    for name in ("nbclient", "nbformat", "ipykernel", "matplotlib"):
        pytest.importorskip(name, reason=f"notebooks need {name}: pip install 'modelpar[notebook]'")
    done_file = tmp_path / "done.ipynb"
    execute = [sys.executable, "-c", EXECUTE, NOTEBOOK, done_file]
    folders = {name: str(tmp_path) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    jobs.run(execute, limit=LIMIT, cwd=tmp_path, PYTHONPATH=ROOT, **folders).check()
    done = json.loads(done_file.read_text())
    outputs = [output for cell in done["cells"] for output in cell.get("outputs", ())]
    html = "".join("".join(output["data"].get("text/html", "")) for output in outputs if "data" in output)
    shown = ("DeepBeliefNetwork 64-128-64-10", "NetworkLayout: 4 layers", "Partition: 4 part", "training finished")
    assert all(title in html for title in (*shown, "History: 15 epoch"))
    assert html.count("training finished") == 2  # one of each loop
    assert "training goes on" not in html  # the cards were replaced
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert float(re.findall(r"test accuracy (\S+)", text)[0]) > 0.9
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_has_no_outputs() -> None:
    """Outputs are large, and tell of the machine; the example is what is run."""
    notebook = json.loads(NOTEBOOK.read_text())
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_every_example_is_listed() -> None:
    """In the README, with a docstring that gives its command."""
    listed = set(re.findall(r"\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    there = {path.name for path in EXAMPLES.glob("*.py")}
    assert listed == there
    for name in there:
        assert f"python examples/{name}" in (ast.get_docstring(ast.parse((EXAMPLES / name).read_text())) or ""), name
