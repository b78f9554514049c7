"""Pages and their charts: escaped, contrasted, and drawn at the right places whatever the numbers.

Modules: partitioners/charts
"""

from __future__ import annotations

import math
import re

import pytest

from partitioners import page
from partitioners.charts import Axis, Bar, Series, bar_chart, line_chart

EVIL = "<script>'\"&"


def luminance(colour: str) -> float:
    """Relative luminance, by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_texts_and_curves_stand_out() -> None:
    """WCAG AA: 4.5 for texts, 3 for what is drawn, on every background, by day and by night."""
    themes = re.findall(r":root \{([^}]*)\}", page.STYLE)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        texts = ["text", "muted", "good", "busy", "bad"]
        drawn = [f"c{i}" for i in range(page.COLOURS)]
        for ground in ("page", "panel", "mark"):
            for name in [*texts, *(drawn if ground == "page" else [])]:
                pair = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= (3 if name in drawn else 4.5), (name, ground)


def test_everything_that_comes_in_is_escaped() -> None:
    pieces = [
        page.document(EVIL, ""), page.section(EVIL, EVIL, "x"), page.paragraph(EVIL), page.notes([EVIL]),
        page.tiles([(EVIL, EVIL, EVIL)]), page.table([EVIL], [[EVIL]], caption=EVIL), page.details(EVIL, "x"),
        page.picture(b"", EVIL, EVIL, EVIL),
        line_chart(EVIL, [Series(EVIL, [(1, 1), (2, 2)])], x=EVIL, y=EVIL, note=EVIL),
        bar_chart(EVIL, [Bar(EVIL, [(EVIL, 1, 0)], (EVIL, 2))], note=EVIL),
    ]  # fmt: skip
    for piece in pieces:
        assert "<script" not in piece
        assert "'\"" not in piece
        assert "&lt;script&gt;" in piece


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "ends", [(0.0, 1.0), (-24.0, -23.99), (3.0, 3.0), (0.0, 0.0), (-2e-7, 1e9), (1.0, 4.0), (1.0, 2e4)]
)
def test_axes_have_a_few_round_ticks(ends: tuple[float, float], whole: bool) -> None:
    axis = Axis.over(ends, 10, 110, whole=whole)
    assert (1 if whole else 4) <= len(axis.ticks) <= 9, axis.ticks
    assert_fits(axis, ends)
    assert not whole or all(tick == int(tick) for tick in axis.ticks)


@pytest.mark.parametrize("ends", [(1e-6, 1e6), (2.0, 30.0), (3.1, 3.4), (5.0, 5.0), (0.9, 1.1e12)])
def test_axes_of_logarithms(ends: tuple[float, float]) -> None:
    axis = Axis.over(ends, 10, 110, log=True)
    assert 1 <= len(axis.ticks) <= 8
    assert_fits(axis, ends)
    if ends[0] < ends[1]:
        assert axis.at(math.sqrt(ends[0] * ends[1])) == pytest.approx(60), "the middle is the geometric mean"


def assert_fits(axis: Axis, ends: tuple[float, float]) -> None:
    assert axis.ticks == sorted(axis.ticks)
    assert len(set(axis.labels)) == len(axis.ticks), axis.labels
    for value in (*ends, *axis.ticks):
        assert 10 - 1e-6 <= axis.at(value) <= 110 + 1e-6


def test_a_curve_is_where_its_values_are() -> None:
    points = [(1, 2.0), (2, math.nan), (3, 4.0), (4, math.inf), (5, 3.0)]
    chart = line_chart("t", [Series("a", points, [(1, 1.5, 2.5), (3, 3.5, 4.5)])], x="epoch", y="nats", whole_x=True)
    assert re.findall(r"<title>(.*?)</title>", chart) == [
        "epoch 1: 2 (1.5 to 2.5)",
        "epoch 3: 4 (3.5 to 4.5)",
        "epoch 5: 3",
    ]
    circles = re.findall(r"<circle class='hit' cx='([\d.]+)' cy='([\d.]+)'", chart)
    xs, ys = ([float(circle[i]) for circle in circles] for i in (0, 1))
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    assert (ys[0] - ys[1]) / (ys[0] - ys[2]) == pytest.approx(2, abs=0.02), "up is more"
    assert "aria-label='t: nats over epoch. a from 2 to 3'" in chart
    assert line_chart("t", [Series("a", [(1, math.nan)])], x="x", y="y") == ""
    assert line_chart("t", [Series("a", [(1, -1.0)])], x="x", y="y", log_y=True) == ""
    many = line_chart("t", [Series("a", [(i, float(i)) for i in range(5000)])], x="x", y="y")
    assert len(many) < 40_000
    assert "<title>x 0: 0</title>" in many
    assert "<title>x 4,999: 4999</title>" in many


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart("t", [Bar("a", [("p", 1, 0), ("q", 3, 1)]), Bar("b", [("p", 2, 0)], ("predicted", 1))])
    widths = [float(w) for w in re.findall(r"width='([\d.]+)' height='13' fill='var\(--c", chart)]
    assert widths[1] / widths[0] == pytest.approx(3, abs=0.01)
    assert widths[2] / widths[0] == pytest.approx(2, abs=0.01)
    assert "predicted 1" in chart
    assert bar_chart("t", []) == bar_chart("t", [Bar("a", [("", 0, 0)])]) == ""
