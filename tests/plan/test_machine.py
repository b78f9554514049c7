"""Descriptions of machines: those that come with the package, and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelpar.plan.machine import Curve, Link, MachineError, read_machine, shipped

GOOD = """
nodes = 4
cores_per_node = 8
memory_per_node = 1000000000
within = { latency = 1e-6, bandwidth = 5e9 }
between = { latency = 2e-5, bandwidth = 1e9 }
"""


def test_the_shipped_ones_can_be_read() -> None:
    assert shipped() == ["ethernet-10g", "infiniband-200g"]
    for name in shipped():
        machine = read_machine(name)
        assert machine.between.bandwidth < machine.cores_per_node * 1e12
        assert machine.oversubscription == 1.0
        assert machine.rates.of(1).seconds("product.up", 1e6, 100) > 0
    assert read_machine("ethernet-10g").between.bandwidth < 10e9 / 8
    assert read_machine("infiniband-200g").between.bandwidth < 200e9 / 8


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(GOOD + "speed = 2.0\nthreads = 4\n")
    machine = read_machine(str(file))
    assert (machine.name, machine.nodes, machine.threads) == ("ours", 4, 4)
    assert machine.within == Link(1e-6, 5e9)
    assert machine.within.seconds(5e9) == pytest.approx(1 + 1e-6)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("nodes = 4", ""), "does not say nodes"),
        (("nodes = 4", "nodes = 0"), "nodes is 0, but must be an integer above 0"),
        (("nodes = 4", "nodes = 4.5"), "nodes is 4.5, but must be an integer above 0"),
        (("nodes = 4", "nodes = true"), "must be an integer"),
        (("nodes = 4", "nodes = 4\nnods = 3"), "unknown key 'nods'"),
        (("bandwidth = 1e9", "bandwith = 1e9"), "between is"),
        (("bandwidth = 1e9", "bandwidth = inf"), "between bandwidth is inf"),
        (("nodes = 4", "nodes = "), "is not valid TOML"),
        (("nodes = 4", "nodes = 4\noversubscription = 0.5"), "of at least 1"),
    ],
)
def test_damage_is_told_in_one_line(change: tuple[str, str], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(GOOD.replace(*change))
    with pytest.raises(MachineError, match=expected) as caught:
        read_machine(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml", "here"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(MachineError, match="cannot be read" if name.endswith("toml") else "ethernet-10g"):
        read_machine(name)


def test_a_curve_goes_through_its_points() -> None:
    curve = Curve((0.0, 100.0, 1000.0), (1.0, 2.0, 11.0))
    assert [curve.at(n) for n in (0, 50, 100, 550, 2000)] == pytest.approx([1.0, 1.5, 2.0, 6.5, 21.0])
