"""A comparison as it is read: words and units, the width of a terminal, and a page whose tables sort in a browser.

Modules: partitioners/pixels
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import struct
import zlib

import numpy as np
import pytest

from partitioners.columns import columns, readable, rows, table
from partitioners.compare import Result, compare
from partitioners.networks import Network, local_network
from partitioners.pixels import owners_png, part_colours
from partitioners.report import write_report
from partitioners.terminal import plain_console
from tests.browser import CHROMIUM, WITHOUT, browse

MEASURED = {"bytes": 1.2231e6, "step_bytes": 9.1e6, "step_predicted": 9.0e6, "step_seconds": 0.0123, "own_count": 7.0}


def results() -> list[Result]:
    every = [
        Result(
            "local", f"method{i}", 2, 0, volume=1000 * (1 + i % 3), feasible=i != 3, seconds=0.5 * i,
            predicted_bytes=1_200_000, predicted_seconds=0.0119, measured=MEASURED,
        )
        for i in range(5)
    ]  # fmt: skip
    return [*every, Result("local", "tiles", 2, 0, problem="no [places]")]


def test_heads_are_words_and_cells_have_one_unit() -> None:
    shown = {column.head: column.unit for column in columns(results())}
    assert not any("_" in head for head in shown)
    assert (shown["traffic, measured"], shown["CD-1 traffic, measured"]) == ("MB", "MB")
    assert (shown["step, predicted"], shown["step, measured"], shown["time to find"]) == ("ms", "ms", "s")
    cells = dict(zip(shown, next(rows(results())), strict=True))
    assert (cells["traffic, measured"], cells["step, measured"], cells["volume"]) == ("1.22", "12.3", "1,000")
    assert list(rows(results()))[-1] == ["local", "2", "tiles", *["–"] * (len(shown) - 3)]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1.2231e6, "1,223,100"), (1234.5, "1,234"), (0.0123, "0.012"), (2e-5, "<0.001")]
)
def test_numbers_are_never_powers_of_ten(value: float, text: str) -> None:
    assert readable(value) == text


@pytest.mark.parametrize("width", [72, 100, 140, 300])
def test_tables_fit_the_terminal(width: int) -> None:
    console = plain_console(width=width)
    console.file = io.StringIO()
    console.print(table(results(), width))
    printed = console.file.getvalue()
    body = [line for line in printed.splitlines() if "│" in line]
    assert max(map(len, printed.splitlines())) <= width
    assert len(body) == 6, "no cell is folded"
    assert all(f"method{i} " in body[i] for i in range(5))
    assert ("left out for the width" in printed) == (width < 200)
    assert "no [places]" in printed


def test_pictures_have_the_owners_of_the_first_map() -> None:
    places = np.tile(np.stack(np.divmod(np.arange(12), 4), axis=1) * 2.0, (2, 1))
    owners = np.arange(24) % 5
    file, at, pieces = owners_png(owners, places, 5), 8, dict[bytes, bytes]()
    while at < len(file):
        length, name = struct.unpack(">I4s", file[at : at + 8])
        pieces[name] = file[at + 8 : at + 8 + length]
        assert struct.unpack(">I", file[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + pieces[name])
        at += 12 + length
    assert struct.unpack(">IIBB", pieces[b"IHDR"][:10]) == (4, 3, 8, 3)
    lines = np.frombuffer(zlib.decompress(pieces[b"IDAT"]), np.uint8).reshape(3, 5)
    assert np.array_equal(lines[:, 1:], 1 + owners[:12].reshape(3, 4))
    assert len(set(part_colours(100))) == 101


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Of one network with places: by two methods, which partition it alike, at two numbers of parts; and measured."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    network = Network("fields", "a small one", local_network(8, [3, 3], [2, 2]))
    methods = ["block", "strided", "tiles", "strips"]
    write_report(path, [network], list(compare([network], methods, [2, 4], measured=lambda *_: MEASURED)), "a command")
    return path.read_text("utf-8")


def test_the_only_script_is_the_one_that_the_policy_names(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].endswith(f"script-src 'sha256-{digest}'")
    assert page.count("<script") == 1
    assert len(re.findall(r"<th scope='col'[^>]*>", page)) == 16, "every head has a scope"
    assert page.count("aria-sort='ascending'") == 1
    assert re.findall(r"<img alt='([^']*)'", page)[0] == "owners of layer 0 of fields by tiles, 2 parts"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
def test_in_a_browser(page: str, tmp_path) -> None:
    """Tables sort up and down; at the widths of a phone and of a screen nothing is beyond the edge."""
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        for width in (360, 1280)
    )
    script = """onload = () => { document.title = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {
        const page = frame.contentDocument, width = page.documentElement.clientWidth;
        const out = [...page.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') &&
            e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 60));
        const table = page.querySelector('table.sortable'), heads = [...table.tHead.rows[0].cells];
        const i = heads.findIndex(head => head.textContent.startsWith('volume'));
        const column = () => [...table.tBodies[0].rows].map(row => Number(row.cells[i].dataset.v));
        const sorted = [1, 2].map(() => { heads[i].querySelector('button').click();
            return [heads[i].getAttribute('aria-sort'), column()]; });
        const marks = heads.filter(head => head.hasAttribute('aria-sort')).length;
        return [width, page.documentElement.scrollWidth, out, table.scrollWidth, sorted, marks]; })) }"""
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f"<!doctype html><title></title>{frames}<script>{script}</script>", "utf-8")
    dumped = browse(tmp_path, "--virtual-time-budget=5000", "--dump-dom", wrapper.as_uri())
    found = re.search(r"<title>(.*?)</title>", dumped.stdout)
    assert found is not None, dumped.stderr
    for (width, scrolled, out, of_table, sorted_, marks), wanted in zip(
        json.loads(html.unescape(found[1])), (360, 1280), strict=True
    ):
        assert (width, scrolled, out, marks) == (wanted, wanted, [], 1)
        assert wanted < 1280 or of_table <= 1248, "all columns are seen on a screen"
        (up, values), (down, reversed_) = sorted_
        assert (up, down) == ("ascending", "descending")
        assert values == sorted(values)
        assert reversed_ == values[::-1]
    assert "CONSOLE" not in dumped.stderr
