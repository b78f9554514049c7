"""Text that is not ours is never markup: no bracket of a name is lost, and none is an error.

Modules: modelpar/cli/terminal, partitioners/terminal
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi4py import MPI
from rich.console import Console

from modelpar.cli import run
from modelpar.cli.progress import summary_table
from modelpar.cli.terminal import plain_console
from partitioners.compare import Result, table
from partitioners.terminal import plain_console as partitioners_console

ROOT = Path(__file__).parents[2]
HOMES = {"modelpar/cli/terminal.py", "partitioners/terminal.py"}  # where consoles are made
NASTY = "p[v1] [bold]x[/bold] [/q] :smile: [link=x]"


def makers(source: str) -> Iterator[str]:
    """Calls that may read markup out of a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "rich" and any(a.name == "print" for a in node.names):
            yield f"line {node.lineno}: rich.print"
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        words = {word.arg: word.value for word in node.keywords}
        markup = words.get("markup")
        off = isinstance(markup, ast.Constant) and markup.value is False
        if name in ("Console", "TextColumn") and not off:
            yield f"line {node.lineno}: {name} without markup=False"
        if name == "Console" and not (isinstance(words.get("emoji"), ast.Constant)):
            yield f"line {node.lineno}: Console without emoji=False"
        if name == "from_markup" or (markup is not None and not off):
            yield f"line {node.lineno}: {name} with markup"
        texts = (ast.Constant, ast.JoinedStr)
        if ast.unparse(node.func).endswith("console.status") and isinstance(node.args[0], texts):
            yield f"line {node.lineno}: a status that is no Text"


SOURCES = [path for top in ("modelpar", "partitioners") for path in sorted((ROOT / top).rglob("*.py"))]


def test_no_text_is_read_as_markup() -> None:
    result = {str(path.relative_to(ROOT)): list(makers(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert not {name: calls for name, calls in result.items() if calls}
    made = {name for name in result if "Console(" in (ROOT / name).read_text(encoding="utf-8")}
    assert made == HOMES, "consoles are made by plain_console"


@pytest.mark.parametrize(
    "source",
    ["Console()", "rich.console.Console(highlight=False, emoji=False)", "Text.from_markup(x)", "TextColumn('{x}')",
     "console.print(x, markup=True)", "from rich import print", "console.status('x')"],
)  # fmt: skip
def test_the_grep_finds(source: str) -> None:
    assert list(makers(source))


@pytest.mark.parametrize("console", [plain_console(width=200), partitioners_console(width=200)])
def test_consoles_print_what_they_are_given(console: Console) -> None:
    console.file = io.StringIO()
    console.print(NASTY)
    assert console.file.getvalue() == NASTY + "\n"


def test_tables_keep_brackets_on_any_console() -> None:
    for shown in (summary_table({"placement": NASTY}, ""), table([Result("n", "metis", 2, 0, problem=NASTY)])):
        console = Console(file=io.StringIO(), width=200)  # of somebody else
        console.print(shown)
        assert NASTY in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["p[v1].npz", "p[red].npz", "a:smile:b.npz", "[x]"])
def test_the_command_shows_the_name_of_its_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(MPI.COMM_SELF, ["partition", "--layers", "6-4", "--parts", "2", "--method", "block", "--out", name]) == 0
    assert name in "".join(line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert (tmp_path / name).is_file()


def test_what_was_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = "m[/b]x"  # it closes what was never opened
    (tmp_path / "m[").mkdir()
    few = ["--layers", "64-4", "--epochs", "1", "--pretrain-only", "--no-pictures"]
    assert run(MPI.COMM_SELF, ["train", *few, "--threads", "1", "--run-dir", run_dir]) == 0
    for i, words in enumerate([
        ["export", run_dir, "{}.npz"], ["export", run_dir, "{}.safetensors"], ["prune", run_dir, "{}", "--keep", "0.5"],
        ["sample", run_dir, "--count", "2", "--steps", "1", "--out", "{}.npy"],
        ["reconstruct", run_dir, "--count", "2", "--out", "{}.npy"],
    ]):  # fmt: skip
        name = f"a\nb\x1b[31m\u2028{i}"
        capfd.readouterr()
        assert run(MPI.COMM_SELF, [word.format(name) for word in words]) == 0
        last = capfd.readouterr().out.splitlines()[-1]
        assert f"a\\nb\\x1b[31m\\u2028{i}" in last, words
        assert list(tmp_path.glob(f"{name.replace('[', '[[]')}*"))
    capfd.readouterr()
    assert run(MPI.COMM_SELF, ["diff", run_dir, "a\nb\x1b[31m\u20282"]) in (0, 1)
    assert "\x1b" not in capfd.readouterr().out


def test_a_name_that_closes_what_was_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p[").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["partition", "--layers", "6-4", "--parts", "2", "--method", "block", "--out", "p[/q].npz"]
    assert run(MPI.COMM_SELF, words) == 0
    assert (tmp_path / "p[" / "q].npz").is_file()
