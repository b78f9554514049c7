"""Cards of graphs and partitions: numbers that were counted by hand, and colours for light and dark pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import partitioners
from partitioners import GraphError, Partition
from partitioners.cards import COLOURS, card, facts, owners_chart


def cells(html: str) -> list[list[str]]:
    """The rows of a card's table."""
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)][1:]


class Whole(HTMLParser):
    """Whether every element that begins also ends, and there are no scripts and no addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        assert not [name for name, _ in attributes if name in ("src", "href") or name.startswith("on")]
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_html(html: str) -> None:
    parser = Whole()
    parser.feed(html)
    parser.close()
    assert not parser.open


def luminance(colour: str) -> float:
    """Relative luminance of sRGB, as WCAG 2.2 defines it."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("page", ["#ffffff", "#111111", "#1e1e1e"])  # of notebooks, light and dark
def test_colours_are_seen_on_light_and_dark_pages(page: str) -> None:
    for colour in COLOURS:
        dark, light = sorted((luminance(colour), luminance(page)))
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_a_graph() -> None:
    graph = partitioners.sparse((3, 2, 4), [([0, 1, 2], [0, 0, 1]), ([0] * 4, range(4))], [1, 2, 3, 4, 5, 1, 1, 1, 1])
    html = graph._repr_html_()
    check_html(html)
    assert "UnitGraph: 9 units, 7 edges" in html
    assert cells(html) == [
        ["0", "3", "6", "listed", "3", "1.0"], ["1", "2", "9", "listed", "4", "2.0"], ["2", "4", "4", "", "", ""],
    ]  # fmt: skip


def test_a_partition() -> None:
    html = Partition((np.array([0, 0, 1, 0]), np.array([1, 1])), 2)._repr_html_()
    check_html(html)
    assert cells(html) == [["0", "4", "1 to 3"], ["1", "2", "0 to 2"]]
    bars = re.findall(r"<title>(.*?)</title>", html)
    assert bars == [
        "layer 0, part 0: 2 units", "layer 0, part 1: 1 units", "layer 0, part 0: 1 units", "layer 1, part 1: 2 units",
    ]  # fmt: skip
    with pytest.raises(GraphError, match="owned by part 5"):
        Partition((np.array([5]),), 2)._repr_html_()


def test_pictures_stay_small() -> None:
    scattered = np.arange(100_000) % 3
    chart = owners_chart({"units": scattered}, 3, "shard")
    assert "units, sorted by owner, shard 2: 33,333 units" in chart
    assert len(chart) < 3000
    assert owners_chart({"units": scattered}, 1000, "shard") == ""
    html = Partition((scattered,), (1 << 31) - 1)._repr_html_()  # parts are not counted one by one
    assert cells(html) == [["0", "100,000", "0 to 33,334"]]


def test_texts_are_escaped() -> None:
    html = card("<script>", facts([("a & b", "<i>"), ("none", "")]))
    check_html(html)
    assert "&lt;script&gt;" in html
    assert "a &amp; b</span> &lt;i&gt;</p>" in html
    assert "none" not in html.partition("</style>")[2]
