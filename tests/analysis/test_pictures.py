"""Pictures are drawn of what they are given; what is missing is said in one line.

Modules: modelpar/analysis/logos
"""

from __future__ import annotations

import builtins
import io
import math
from typing import Any

import numpy as np
import pytest

from modelpar.analysis import logos, pictures
from modelpar.analysis.components import Components
from modelpar.analysis.contacts import Structure
from modelpar.analysis.frequencies import compare_statistics, pair_statistics
from modelpar.analysis.linkage import Decay
from modelpar.errors import SpecError

RNG = np.random.default_rng(1)


def drawn(figure: Any) -> list[Any]:
    """The axes of a figure that can be saved."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=40)
    assert stream.getvalue().startswith(b"\x89PNG")
    return figure.axes


def test_a_map_tells_right_pairs_from_wrong_ones() -> None:
    pytest.importorskip("matplotlib")
    n, distances = 12, np.full((12, 12), 15.0)
    distances[0, 7] = distances[7, 0] = 5.0
    score = np.zeros((n, n))
    score[0, 7], score[1, 8] = 2.0, 1.0
    axes, bar = drawn(pictures.contact_map(score, Structure(distances), n_pairs=2))
    contact, right, wrong = (dots.get_offsets().tolist() for dots in axes.collections)
    assert contact == right == [[1, 8]]  # x, y: above the diagonal, sites from 1
    assert wrong == [[2, 9]]
    below = axes.images[0].get_array().filled(math.nan)
    assert np.isfinite(below[0, 1:]).all()  # a row is a y
    assert np.isnan(below[:, 0]).all()
    assert axes.get_title().endswith("precision 0.50")
    assert "Å" in bar.get_ylabel()


def test_samples_beside_data() -> None:
    pytest.importorskip("matplotlib")
    data, samples = RNG.integers(0, 3, (200, 5)), RNG.integers(0, 3, (150, 5))
    basis = Components.of(data)
    sets = {"samples": basis.project(samples)}
    panels = drawn(pictures.component_densities(basis.project(data), sets, basis))
    assert [axes.get_title() for axes in panels] == ["data (200)", "samples (150)"]
    assert panels[0].get_xlim() == panels[1].get_xlim()
    a, b = pair_statistics(data, 3), pair_statistics(samples, 3)
    assert len(drawn(pictures.agreement(a, b, compare_statistics(a, b)))) == 2
    decay = Decay(np.array([1.0, 2, 4]), np.array([1.5, math.nan]), np.array([0.5, math.nan]), np.array([3, 0]))
    [axes] = drawn(pictures.linkage({"data": decay, "samples": decay}, unit="bases"))
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1.5], [1.5]]
    assert axes.get_xlabel() == "bases"


def test_logos(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("logomaker")
    monkeypatch.setattr(logos, "SITES", 4)
    f = RNG.dirichlet(np.ones(5), 6)  # two lines of sites
    axes = drawn(logos.frequency_logos({"data": f, "samples": f}, "-ACGT"))
    assert [a.get_title(loc="left") for a in axes] == ["data", "samples"] * 2
    W = RNG.normal(size=(4 * 5, 3)) * [1, 3, 2]
    assert logos.strongest_units(W, 2) == [1, 2]
    assert len(drawn(logos.unit_logos(W, "-ACGT", [1, 2]))) == 2


def test_heights_and_colours() -> None:
    heights = logos.information(np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]]))
    assert np.allclose(heights, [[2, 0, 0, 0], [0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    assert logos.colours("-ACGU")["U"] == logos.NUCLEOTIDES["T"]
    assert logos.colours("-ACDEFGHIKLMNPQRSTVWY")["D"] == logos.colours("-ACDEFGHIKLMNPQRSTVWY")["E"]
    assert logos.colours("01")["0"] == "#777777"


@pytest.mark.parametrize(("missing", "wanted"), [("matplotlib", "plots"), ("logomaker", "logos")])
def test_what_is_missing_is_said(missing: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SpecError, match=rf"pip install 'modelpar\[{wanted}\]'"):
        logos.frequency_logos({"data": np.full((3, 5), 0.2)}, "-ACGT")
