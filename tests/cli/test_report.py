"""``modelpar report``: what the page says is what the files of the run say, whatever state these are in.

Modules: modelpar/cli/report/command, modelpar/cli/report/curves, modelpar/cli/report/events,
modelpar/cli/report/figures, modelpar/cli/report/moments,
modelpar/cli/report/pages, modelpar/cli/report/reading, modelpar/cli/report/weights, modelpar/cli/report_commands
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import run as modelpar
from modelpar.cli.report import command
from modelpar.cli.report.weights import MOST_BINS, read_weights
from modelpar.cli.run_directory import REPORT
from modelpar.files.locks import FileLock
from tests import jobs
from tests.browser import CHROMIUM, WITHOUT, browse

pytest.importorskip("matplotlib")
pytestmark = [
    pytest.mark.jobs,
    pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning"),
]

WORDS = [
    "--layers", "64-12-6", "--batch-size", "400", "--epochs", "2", "--finetune-epochs", "2", "--finetune-batch-size",
    "720", "--threads", "1", "--keep-trajectory", "--score-share", "0.01",
]  # fmt: skip
VOID = ("meta", "link", "img")
PHONE = 360  # pixels


class Page(HTMLParser):
    """What is on a page: that all tags are closed, the titles of points, cells of tables, pictures and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.tags = text, list[str](), list[str]()
        self.titles, self.rows, self.images, self.alts, self.charts = [], [], [], [], []  # type: ignore[var-annotated]
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "title" and "svg" in self.open:
            self.titles.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "img":
            self.images.append(base64.b64decode(str(given["src"]).removeprefix("data:image/png;base64,")))
            self.alts.append(given["alt"])
        elif tag == "svg" and "aria-label" in given:
            self.charts.append(given["aria-label"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["title"] and self.titles and "svg" in self.open:
            self.titles[-1] += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def cells(self, name: str) -> list[str]:
        return next(row[1:] for row in self.rows if row and row[0] == name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "a run"
    assert modelpar(MPI.COMM_SELF, ["train", *WORDS, "--run-dir", str(path)]) == 0
    return path


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def report(*runs: Path, out: Path) -> Page:
    assert modelpar(MPI.COMM_SELF, ["report", *map(str, runs), "--out", str(out)]) == 0
    return Page(out.read_text("utf-8"))


def grey(png: bytes) -> np.ndarray:
    """The pixels of a PNG of 8 bits without filters."""
    at, data, width = 8, b"", 0
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        content = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + content)
        width = struct.unpack(">I", content[:4])[0] if kind == b"IHDR" else width
        data += content if kind == b"IDAT" else b""
        at += 12 + length
    return np.frombuffer(zlib.decompress(data), np.uint8).reshape(-1, width + 1)[:, 1:]


def test_the_page_says_what_the_files_say(whole: Path, tmp_path: Path) -> None:
    page = report(whole, out=tmp_path / "page.html")
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((whole / "summary.json").read_text())
    for line in records:
        x, values = f"epoch {line['epoch']}: ", [line.get(n) for n in ("pseudo_likelihood", "loss", "log_likelihood")]
        for value in filter(None, values):
            assert any(title.startswith(f"{x}{value:.6g}".replace("-", "−")) for title in page.titles), (x, value)
        if "reconstruction_error" in line:
            assert f"RBM {line['layer']}, {x}{line['reconstruction_error']:.6g}" in page.titles
    last = [line["largest_weight"] for line in records if line["epoch"] == 2 and "largest_weight" in line]
    assert page.cells("largest weight") == [*(f"{value:.6g}" for value in last), "–"]
    text = html.unescape(page.text)
    assert f"{summary['test_accuracy']:.2%}" in text
    assert f"{summary['parameters']:,}" in text
    assert page.cells("mpi") == [summary["environment"]["mpi"]]
    assert ["Pre-training", "--batch-size", "400"] in page.rows
    # a strip of samples for each of some models, and of reconstructions too, below the data
    strips = [i for i, alt in enumerate(page.alts) if "updates" in alt or alt == "samples of the data"]
    updates = [int(n) for n in re.findall(r"samples of the model after (\d+) updates", " ".join(page.alts))]
    assert updates == sorted(set(updates))
    assert updates[0] == 0
    assert 4 < len(updates) <= 6
    assert len(strips) == 2 * len(updates) + 1
    assert {grey(page.images[i]).shape for i in strips} == {(8, 10 * 9 - 1)}
    assert len({page.images[i] for i in strips}) == len(strips), "every model makes something else"


def test_a_page_stands_alone(whole: Path) -> None:
    """Also the one that the run has written at its end, with what the run alone knows."""
    page = Page((whole / REPORT).read_text("utf-8"))
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.findall(r"(?:src|href)='(?!data:|#)|url\(|@import|https?:", page.text)
    assert len(page.text.encode()) < 2e6
    assert all(page.alts)
    assert "finished" in page.text
    assert any(alt.startswith("samples of the model") for alt in page.alts)
    assert all(re.match(r".+\. .+ from .+ to |.+\. .+ \d", alt) for alt in page.charts), page.charts


def test_weights_are_those_of_the_checkpoint(whole: Path) -> None:
    from modelpar import Grid, load

    parts = read_weights(whole / "pretrained.safetensors")
    with Grid(MPI.COMM_SELF) as grid:
        matrices = [rbm.W.copy() for rbm in load(whole / "pretrained.safetensors", grid).rbms]
    for part, W in zip(parts, matrices, strict=False):
        values = np.linalg.svd(W.astype(np.float64), compute_uv=False)
        assert np.allclose(part.spectrum, values[: len(part.spectrum)], atol=1e-6 * values[0])
        most = np.abs(W.astype(np.float64)).max()
        counts, edges = np.histogram(W.astype(np.float64), len(part.counts), (-most, most))
        assert np.array_equal(part.counts, counts)
        assert 9 <= len(counts) <= MOST_BINS
        assert np.allclose(part.centres, (edges[1:] + edges[:-1]) / 2)
        assert (part.n, part.shape, part.n_seen) == (W.size, W.shape, W.size)
        assert np.isclose(part.rms, np.sqrt((W.astype(np.float64) ** 2).mean()))


def test_texts_are_escaped(whole: Path, tmp_path: Path) -> None:
    evil = "<script>alert('x')</script><img src=x onerror=\"y\">&"
    run = Path(shutil.copytree(whole, tmp_path / "<b>'\"&"))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"version": evil, "environment": {evil: evil}, "bytes": {"shard": {evil: {evil: 5}}}, evil: evil}
    (run / "summary.json").write_text(json.dumps(summary))
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('binarise = "none"', f"binarise = '''{evil}'''", 1))
    records = (run / "metrics.jsonl").read_text().replace('"loss"', json.dumps(evil))
    (run / "metrics.jsonl").write_text(records)
    page = report(run, out=tmp_path / "page.html")
    assert not {"script", "b"} & set(page.tags)
    assert all(alt is not None and "onerror" not in alt for alt in page.alts)
    assert [evil, evil] in page.rows
    assert page.text.count("src=x") == page.text.count("&lt;img src=x")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metrics.jsonl", b"x\n[]\ny", "2 damaged line(s) of metrics.jsonl are left out"),
        ("config.toml", b"= 1", "config.toml cannot be read, so the options of the run are not known"),
        ("config.toml", None, "config.toml is missing, so the options of the run are not known"),
        ("summary.json", b"[1]", "summary.json is not one JSON object and is left out"),
        ("summary.json", b'{"bytes": 3, "grid": [], "peak_rss_per_rank": "x", "staleness": {"a": 1}, "layers": 0}', ""),
        ("filters.png", b"GIF", "filters.png is left out: it is not a PNG"),
        ("pretrained.safetensors", b"x", "no weights are shown"),
    ],
)
def test_damage_is_one_line(
    name: str, content: bytes | None, told: str, copied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (copied / name).unlink()
    if content is not None:
        (copied / name).write_bytes(content)
    shutil.rmtree(copied / "trajectory")
    capfd.readouterr()
    page = report(copied, out=tmp_path / "page.html")
    said = [line for line in capfd.readouterr().err.splitlines() if "page.html" not in line]
    assert page.text.count("<li>") - page.text.count("<li><svg") == len(said) == bool(told)
    if told:
        assert told in said[0]
        assert html.escape(told) in page.text


def test_what_is_no_run(tmp_path: Path, whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "empty"], "holds no run"), ([tmp_path / "none"], "does not exist"),
        ([whole / "model.safetensors"], "is a file"), ([whole] * 3, "one run, or two"),
        ([whole, "--out", whole / "config.toml"], "use .html"), ([whole, "--out", "/nowhere/page.html"], "cannot be"),
    ]  # fmt: skip
    for words, message in cases:
        capfd.readouterr()
        out = ["--out", str(tmp_path / "x.html")] if "--out" not in words else []
        assert modelpar(MPI.COMM_SELF, ["report", *map(str, words), *out]) == 2
        error = capfd.readouterr().err
        assert message in error, error
        assert error.count("modelpar: error:") <= 1
    assert not (tmp_path / "x.html").exists()


def test_a_run_that_goes_on_does_not_notice(copied: Path, tmp_path: Path) -> None:
    for name in ("summary.json", "model.safetensors", REPORT):
        (copied / name).unlink()
    with open(copied / "metrics.jsonl", "rb+") as file:  # a record is being written
        file.truncate(os.path.getsize(copied / "metrics.jsonl") - 30)
    lock = FileLock.take(copied)
    try:
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copied.rglob("*") if path.is_file()}
        page = report(copied, out=tmp_path / "page.html")
        after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copied.rglob("*") if path.is_file()}
        assert before == after
    finally:
        lock.release()
    assert ">in progress<" in page.text
    assert "last record: fine-tuning, epoch 1, 2 of 4 updates of this stage" in page.text
    assert "damaged" not in page.text
    assert ">stopped before its end<" in report(copied, out=tmp_path / "page.html").text


def test_two_runs_side_by_side(whole: Path, copied: Path, tmp_path: Path) -> None:
    config = (copied / "config.toml").read_text()
    (copied / "config.toml").write_text(config.replace("learning_rate = 0.2", "learning_rate = 0.7"))
    page = report(whole, copied, out=tmp_path / "page.html")
    assert [row for row in page.rows if row[-1] == "differs"] == [
        ["Fine-tuning", "--learning-rate", "0.2", "0.7", "differs"],
    ] * 2  # among those that differ, and among all
    errors = [title for title in page.titles if title.startswith(("A: RBM 0, ", "B: RBM 0, "))]
    assert {title[3:] for title in errors if title[0] == "A"} == {title[3:] for title in errors if title[0] == "B"}
    assert len(page.cells("test accuracy")) == 2
    assert sum(alt.startswith(("A: Filters", "B: Filters")) for alt in page.alts) == 2


def test_a_run_is_worth_more_than_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no room")

    words = ["train", "--layers", "64-4", "--epochs", "1", "--pretrain-only", "--no-score", "--no-pictures"]
    monkeypatch.setattr(command, "page_of", fail)
    for more, printed in (([], 1), (["--no-report"], 0)):
        path = tmp_path / f"run{printed}"
        assert modelpar(MPI.COMM_SELF, [*words, *more, "--run-dir", str(path)]) == 0
        assert (path / "summary.json").exists()
        assert not (path / REPORT).exists()
        assert capfd.readouterr().out.count("warning: no report: no room") == printed


def test_events_have_the_records(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    out = ["--out", str(tmp_path / "page.html"), "--tensorboard", str(tmp_path / "events")]
    assert modelpar(MPI.COMM_SELF, ["report", str(whole), *out]) == 0
    (file,) = (tmp_path / "events" / whole.name).iterdir()
    content, at, found = file.read_bytes(), 0, {}
    while at < len(content):  # a length of 8 bytes and its checksum, an event and its checksum
        (length,) = struct.unpack("<Q", content[at : at + 8])
        event = Event.FromString(content[at + 12 : at + 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        at += 16 + length
    for line in (json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()):
        for name in {"pseudo_likelihood", "loss"} & line.keys():
            stage = "finetune" if line["layer"] < 0 else f"pretrain.{line['layer']}"
            assert found[f"{stage}/{name}", line["step"]] == np.float32(line[name])


@pytest.mark.slow
def test_pictures_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    words = [
        "train", "--layers", "64-10", "--batch-size", "400", "--epochs", "1", "--pretrain-only", "--exact",
        "--no-score", "--keep-trajectory", "--threads", "1",
    ]  # fmt: skip
    of_ranks = []
    for n in (1, 2):
        path = tmp_path / f"run-{n}"
        jobs.run_on_ranks(n, [jobs.sys.executable, "-m", "modelpar", *words, "--run-dir", str(path)], limit=120).check()
        of_ranks.append(Page((path / REPORT).read_text("utf-8")))
    one, two = of_ranks
    assert len(one.images) > 10
    assert one.images == two.images


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
def test_in_a_browser(whole: Path, copied: Path, tmp_path: Path) -> None:
    """Two runs, at the widths of a screen and of a phone: no message in the console, and nothing beyond the edge."""
    page = report(whole, copied, out=tmp_path / "page.html").text
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        for width in (PHONE, 1280)
    )
    measure = """onload = () => { const frames = [...document.querySelectorAll('iframe')];
        document.title = JSON.stringify(frames.map(frame => {
        const page = frame.contentDocument, width = page.documentElement.clientWidth;
        const out = [...page.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') &&
            e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 60));
        return [width, page.documentElement.scrollWidth, page.images.length, out]; })) }"""
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f"<!doctype html><title></title>{frames}<script>{measure}</script>", "utf-8")
    dumped = browse(tmp_path, "--virtual-time-budget=5000", "--dump-dom", wrapper.as_uri())
    found = re.search(r"<title>(.*?)</title>", dumped.stdout)
    assert found is not None, dumped.stderr
    for (width, scrolled, n_images, out), wanted in zip(
        json.loads(html.unescape(found[1])), (PHONE, 1280), strict=True
    ):
        assert (width, scrolled, out) == (wanted, wanted, [])
        assert n_images == page.count("<img ")
    picture = tmp_path / "page.png"
    taken = browse(tmp_path, "--window-size=1280,1600", f"--screenshot={picture}", (tmp_path / "page.html").as_uri())
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1280, 1600)
    assert picture.stat().st_size > 50_000, "not an empty page"
    assert "CONSOLE" not in dumped.stderr + taken.stderr
