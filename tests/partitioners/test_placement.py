"""What parts send to each other, files of graphs and placements, and the table that compares methods.

Modules: partitioners/compare, partitioners/fastest, partitioners/networks, partitioners/partition,
partitioners/report, partitioners/step_time, partitioners/traffic
"""

from __future__ import annotations

import importlib
import json
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from partitioners import (
    GraphError,
    Partition,
    Rates,
    auto,
    communication_volume,
    dense,
    fastest,
    feasible,
    from_masks,
    graph_files,
    largest_send,
    load_placement,
    measure,
    messages,
    method,
    predicted_bytes,
    save_placement,
    step_seconds,
    traffic,
)
from partitioners.__main__ import main
from partitioners.compare import compare, rows, table, write_json
from partitioners.networks import NETWORKS, Network, local_network, network
from partitioners.report import write_report


def random_network(seed: int, layers=(9, 7, 5), density: float = 0.4):
    rng = np.random.default_rng(seed)
    return from_masks([rng.random(shape) < density for shape in pairwise(layers)])


def random_partition(seed: int, graph, n_parts: int) -> Partition:
    rng = np.random.default_rng(seed + 1)
    return Partition(tuple(rng.integers(0, n_parts, n) for n in graph.layers), n_parts)


def same(one, other) -> bool:
    ends = [[np.concatenate(link.edges()).tolist() for link in graph.links] for graph in (one, other)]
    return one.layers == other.layers and ends[0] == ends[1] and np.array_equal(one.weights, other.weights)


# -- traffic -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_units_are_sent_to_whoever_owns_a_neighbour(seed, n_parts):
    graph = random_network(seed)
    partition = random_partition(seed, graph, n_parts)
    actual = traffic(graph, partition)
    for rbm, link in enumerate(graph.links):
        mask = link.mask.toarray()
        for sent, matrix, senders, receivers in (
            (actual.up[rbm], mask, partition.owners[rbm], partition.owners[rbm + 1]),
            (actual.down[rbm], mask.T, partition.owners[rbm + 1], partition.owners[rbm]),
        ):
            expected = np.zeros((n_parts, n_parts), int)
            for unit, row in enumerate(matrix):
                for part in set(receivers[row].tolist()) - {senders[unit]}:
                    expected[senders[unit], part] += 1
            assert np.array_equal(sent, expected)
    volume = communication_volume(graph, partition)
    assert [sent.sum() for sent in actual.up] == volume.up.tolist()
    assert [sent.sum() for sent in actual.down] == volume.down.tolist()
    assert largest_send(actual) == max(sum(sent[part].sum() for sent in actual.directions) for part in range(n_parts))
    assert messages(actual) == sum(np.count_nonzero(sent) for sent in actual.directions)


def test_complete_links_send_as_their_edges_do():
    complete, listed = dense((5, 4)), from_masks([np.ones((5, 4), bool)])
    partition = Partition((np.array([0, 0, 1, 2, 2]), np.array([0, 0, 2, 2])), 4)
    for one, other in zip(traffic(complete, partition).directions, traffic(listed, partition).directions, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("batch", "planes", "each"), [(1, 1, 8), (64, 1, 8), (65, 1, 16), (128, 3, 48)])
def test_bytes_are_words_of_64_samples(batch, planes, each):
    graph = from_masks([np.array([[1, 1], [0, 1], [1, 0]], bool)])
    partition = Partition((np.array([0, 0, 1]), np.array([0, 1])), 2)
    actual = predicted_bytes(graph, partition, batch, planes)
    # up: units 0 and 1 to part 1, unit 2 to part 0; down: upper unit 0 to part 1, upper unit 1 to part 0
    assert actual.up.tolist() == [3 * each]
    assert actual.down.tolist() == [2 * each]
    assert actual.total == 5 * each


# -- the time of a step ------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_a_step_waits_for_the_part_with_the_most_to_do(seed, n_parts):
    """One connection, one byte and one message after the other."""
    graph = random_network(seed)
    partition = random_partition(seed, graph, n_parts)
    rates = Rates(connection=7.0, byte=0.5, message=100.0, up_planes=2, down_planes=3)
    seconds = 0.0
    for rbm, link in enumerate(graph.links):
        lower, upper = partition.owners[rbm], partition.owners[rbm + 1]
        mask = link.mask.toarray()
        work, received = [], []
        for part in range(n_parts):
            ends = [mask & (lower == part)[:, None], mask & (upper == part)]
            work.append(7 * 70 * (ends[0].sum() + ends[1].sum() + (ends[0] | ends[1]).sum()) / 3)
            both = []
            for pairs, owners, own, planes in ((mask, lower, upper, 2), (mask.T, upper, lower, 3)):
                needed = pairs[:, own == part].any(axis=1) & (owners != part)
                both.append(0.5 * 16 * planes * needed.sum() + 100 * len(set(owners[needed])))
            received.append(both)
        seconds += max(work) + sum(max(each) for each in zip(*received, strict=True))
    assert step_seconds(graph, partition, batch=70, rates=rates) == pytest.approx(seconds)


def test_steps_of_complete_links_take_as_long_as_those_of_their_edges():
    complete, listed = dense((5, 4)), from_masks([np.ones((5, 4), bool)])
    partition = Partition((np.array([0, 0, 1, 2, 2]), np.array([0, 0, 2, 2])), 4)
    assert step_seconds(complete, partition) == pytest.approx(step_seconds(listed, partition))


def test_of_what_is_found_auto_takes_the_least_volume_and_fastest_the_fastest_step(monkeypatch):
    graph = random_network(5, (60, 50, 40), 0.06)
    answers = [method("random+refined")(graph, 5, seed=seed) for seed in range(12)]
    answers.append(Partition(tuple(np.zeros(n, int) for n in graph.layers), 5))  # sends nothing, but is not feasible
    for module in ("auto", "fastest"):
        monkeypatch.setattr(importlib.import_module(f"partitioners.{module}"), "searched", lambda *_: answers)
    chosen = [one(graph, 5) for one in (auto, fastest)]
    times = [step_seconds(graph, one) for one in answers[:-1]]
    volumes = [communication_volume(graph, one).total for one in answers[:-1]]
    assert communication_volume(graph, chosen[0]).total == min(volumes)
    assert step_seconds(graph, chosen[1]) == min(times)
    assert volumes[int(np.argmin(times))] > min(volumes), "the two differ here"
    answers[:] = [one for one, volume in zip(answers, volumes, strict=False) if volume == min(volumes)]
    slower = Partition(tuple((owner + 1) % 5 for owner in answers[0].owners), 5)
    slower.owners[0][:2] = slower.owners[0][1::-1]
    answers += [slower, *answers]
    least = [one for one in answers if communication_volume(graph, one).total == min(volumes) and feasible(graph, one)]
    assert step_seconds(graph, auto(graph, 5)) == min(step_seconds(graph, one) for one in least)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["metis", "hmetis"])
@given(seed=st.integers(0, 2**31))
def test_graph_files_and_back(kind, seed, tmp_path_factory):
    graph = random_network(seed)
    path = tmp_path_factory.mktemp("graphs") / "graph"
    getattr(graph_files, f"write_{kind}")(path, graph)
    assert same(getattr(graph_files, f"read_{kind}")(path), graph)


def test_a_metis_file_by_hand(tmp_path):
    graph = from_masks([np.array([[1, 1], [0, 1]], bool)])
    graph_files.write_metis(tmp_path / "graph", graph)
    lines = (tmp_path / "graph").read_text().splitlines()
    assert lines == ["% layers 2 2", "4 3 010 2", "2 0 3 4", "1 0 4", "0 1 1", "0 2 1 2"]
    (tmp_path / "plain").write_text("\n".join(lines[1:]))
    assert same(graph_files.read_metis(tmp_path / "plain"), graph), "layers from the weights"


def test_an_hmetis_file_by_hand(tmp_path):
    graph_files.write_hmetis(tmp_path / "graph", from_masks([np.array([[1, 1], [0, 1]], bool)]))
    lines = (tmp_path / "graph").read_text().splitlines()
    assert lines == ["% layers 2 2", "4 4 10", "1 3 4", "2 4", "3 1", "4 1 2", "2", "1", "1", "2"]


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        ("read_metis", "2 1\n2\n1\n", "no weights for layers"),
        ("read_metis", "2 1 010 2\n1 0 2\n", "1 lines of units, but 2"),
        ("read_metis", "2 1 010 2\n1 0 2\n0 1 3\n", "joins units that it does not have"),
        ("read_metis", "2 1 010 2\n1 0 2\n1 0 1\n", "not neighbours"),
        ("read_metis", "2 2 010 2\n1 0 2\n0 1 1\n", "1 edges, but 2 are announced"),
        ("read_metis", "two\n", "not integers"),
        ("read_hmetis", "1 2 10\n1 2\n1\n1\n", "is not of ours"),
        ("read_hmetis", "% layers 1 1\n1 2 10\n1 2\n1\n", "but 1 nets and 2 weights"),
    ],
)
def test_graph_files_that_are_wrong(read, text, expected, tmp_path):
    (tmp_path / "graph").write_text(text)
    with pytest.raises(GraphError, match=expected) as caught:
        getattr(graph_files, read)(tmp_path / "graph")
    assert "\n" not in str(caught.value)


def test_answers_of_other_partitioners(tmp_path):
    graph = random_network(1)
    partition = random_partition(1, graph, 3)
    graph_files.write_parts(tmp_path / "parts", partition)
    actual = graph_files.read_parts(tmp_path / "parts", graph, 3)
    assert all(np.array_equal(a, b) for a, b in zip(actual.owners, partition.owners, strict=True))
    with pytest.raises(GraphError, match="must be 0 to 1"):
        graph_files.read_parts(tmp_path / "parts", graph, 2)
    with pytest.raises(GraphError, match="the graph has 4 units"):
        graph_files.read_parts(tmp_path / "parts", dense((2, 2)), 3)


def test_placement_files(tmp_path):
    partition = random_partition(1, random_network(1), 3)
    save_placement(tmp_path / "placement.npz", partition, {"method": "auto", "seed": 1, "volume": 12})
    actual, made = load_placement(tmp_path / "placement.npz")
    assert actual.n_parts == 3
    assert made == {"method": "auto", "seed": 1, "volume": 12}
    assert all(np.array_equal(a, b) for a, b in zip(actual.owners, partition.owners, strict=True))
    with np.load(tmp_path / "placement.npz") as file:
        assert file["layer0"].dtype == np.int32
    assert [path.name for path in tmp_path.iterdir()] == ["placement.npz"], "nothing is left beside it"


def test_placement_files_that_are_wrong(tmp_path):
    with pytest.raises(GraphError, match=r"absent\.npz cannot be read"):
        load_placement(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    np.savez(tmp_path / "real.npz", layer0=np.ones(3), n_parts=2, made="{}")
    for name in ("text", "other", "real"):
        with pytest.raises(GraphError, match="not a placement file"):
            load_placement(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "beyond.npz", layer0=np.array([0, 2]), n_parts=2, made="{}")
    with pytest.raises(GraphError, match="owned by part 2, but there are 2 parts"):
        load_placement(tmp_path / "beyond.npz")
    with pytest.raises(GraphError, match="cannot be written"):
        save_placement(tmp_path / "no" / "folder.npz", Partition((np.zeros(2, int),), 1))


# -- compare -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_searches(monkeypatch):
    for module, name in [("auto", "FEWEST"), ("auto", "MOST"), ("refinement", "LOOKUPS")]:
        monkeypatch.setattr(importlib.import_module(f"partitioners.{module}"), name, 1_000_000)


def test_results_are_what_the_measures_say(tmp_path):
    one = Network("small", "a small one", random_network(3))
    counted = []

    def count(network, partition):
        counted.append((network.name, partition.n_parts))
        return {"bytes": 8 * measure(network.graph, partition).volume.total, "step_seconds": 0.5}

    results = list(compare([one], ["block", "tiles", "strided"], [2, 3], measured=count, batch=10))
    assert [(r.method, r.n_parts) for r in results] == [
        (name, n_parts) for n_parts in (2, 3) for name in ("block", "tiles", "strided")
    ]
    assert counted == [("small", 2)] * 2 + [("small", 3)] * 2
    for result in results:
        if result.method == "tiles":
            assert "coordinates" in result.problem
            continue
        actual = measure(one.graph, result.partition)
        assert (result.volume, result.edge_cut) == (actual.volume.total, actual.edge_cut)
        assert result.imbalance == pytest.approx(actual.imbalance, abs=1e-4)
        assert result.predicted_bytes == result.measured["bytes"]
    assert table(results).row_count == 6
    assert {len(cells) for cells in rows(results)} == {14}
    write_json(tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text())[0]["measured"]["step_seconds"] == 0.5
    write_report(tmp_path / "report.html", [one], results, "a < command")
    page = (tmp_path / "report.html").read_text()
    titles = [f"of small at {n} parts" for n in (2, 3)]
    assert all(
        page.count(f"aria-label='{what} {title}") == 1 for what in ("Volume", "Traffic", "Step") for title in titles
    )
    assert "aria-label='Volume of small over parts" in page
    assert "a &lt; command" in page
    assert "://" not in page, "nothing is fetched from elsewhere"


def test_placements_are_drawn_where_units_have_places(tmp_path):
    one = Network("local", "fields", local_network(8, [3, 3], [2, 2]))
    write_report(tmp_path / "report.html", [one], list(compare([one], ["block", "tiles"], [2])))
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 6, "two methods, three layers"


def test_units_lie_in_the_middle_of_their_fields():
    graph = local_network(10, [3, 4], [2, 3], [2, 1])
    for below, above, link in zip(graph.coordinates, graph.coordinates[1:], graph.links, strict=False):
        mask = link.mask.toarray()
        for unit, place in enumerate(above):
            assert place == pytest.approx(below[mask[:, unit]].mean(axis=0))


def test_the_command(tmp_path, short_searches):
    arguments = ["compare", "--networks", "smallworld,dense", "--methods", "block,tiles,auto", "--parts", "2"]
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    outcome = CliRunner().invoke(main, [*arguments, *files])
    assert outcome.exit_code == 0, outcome.output
    assert "smallworld" in outcome.output
    actual = json.loads((tmp_path / "r.json").read_text())
    assert [(one["network"], one["method"]) for one in actual] == [
        (name, how) for name in ("smallworld", "dense") for how in ("block", "tiles", "auto")
    ]
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--methods", "best"], "there is no method 'best'"),
        (["--networks", "mnist"], "there is no network 'mnist'"),
        (["--parts", "few"], "not a list of numbers"),
        (["--parts", "4,0"], "not a list of numbers from 1"),
        (["--parts", "4,"], "not a list of numbers from 1"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
        (["--seed", "x"], "is not a valid integer"),
        (["--batch", "-5"], "-5 is not in the range x>=1"),
        (["--methods", "auto", "--budget", "0"], "the budget is 0.0, but must be a number of seconds above 0"),
        (["--methods", ","], "at least one name"),
        (["--networks", "dense", "--methods", "block", "--json", "/nowhere/r.json"], "cannot be written"),
        (["--networks", "dense", "--methods", "block", "--html", "/tmp"], "/tmp is a directory"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, expected):
    outcome = CliRunner().invoke(main, ["compare", *arguments])
    assert outcome.exit_code != 0
    assert expected in outcome.output


def test_a_number_of_parts_that_cannot_be():
    (result,) = compare([Network("small", "", random_network(1))], ["auto"], [0])
    assert "0 parts" in result.problem


def test_networks_have_names():
    assert network("dense").graph.layers == (400, 600, 400)
    assert {"local28", "radixnet", "local128"} <= set(NETWORKS)
    with pytest.raises(GraphError, match="there is no network 'x'"):
        network("x")
