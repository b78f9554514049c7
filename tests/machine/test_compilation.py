"""Where compiled kernels are kept: whatever they depend on is in the folder's name, and a place that cannot be written
costs time but never a run.

Modules: modelpar/machine/caches
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from modelpar.machine import caches, compilation

ROOT = Path(__file__).parents[2]
REDUCED = """
import numpy as np
from modelpar.kernels import reductions
print(float(reductions.squared_error(np.ones((2, 3)), np.zeros((2, 3)))))
from modelpar.machine import compilation
print(compilation.folder())
"""


def run(code: str = REDUCED, *, cwd: Path, packages: Path = ROOT, **environment: str) -> tuple[list[str], str]:
    """(lines of stdout, stderr) of a program with nothing but these variables beside PATH."""
    changed = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=300, env=changed
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def compiled_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbc"))


@pytest.fixture
def chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Path | None, str]]:
    """``chosen(HOME=..., ...)`` -> (folder, what was said) in a process that has nothing but these variables."""

    def choose(**environment: str) -> tuple[Path | None, str]:
        for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "PMI_RANK", *caches.TEMPORARY):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(numba.config, "CACHE_DIR", environment.get("NUMBA_CACHE_DIR", ""))
        place = compilation.folder.__wrapped__()
        return place, capsys.readouterr().err

    return choose


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Any]:
    """A maker of one and the same kernel, not compiled so far, that is kept in ``tmp_path / "kept"``."""
    monkeypatch.setattr(compilation, "folder", lambda: tmp_path / "kept")
    (tmp_path / "kept").mkdir()

    def twice(x):  # type: ignore[no-untyped-def]
        return 2 * x

    return lambda: compilation.njit(cache=True)(twice)


compiles = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")

# where


def test_the_users_cache_is_the_first_choice(chosen, tmp_path: Path) -> None:
    place = tmp_path / ".cache" / "modelpar" / "compiled" / compilation.key()
    assert chosen(HOME=str(tmp_path)) == (place, "")
    assert chosen(XDG_CACHE_HOME=str(tmp_path / ".cache"), HOME="/proc/nonexistent") == (place, "")


def test_a_chosen_folder_gets_a_subfolder(chosen, tmp_path: Path) -> None:
    below = tmp_path / "chosen" / "below"
    place, printed = chosen(HOME=str(tmp_path), NUMBA_CACHE_DIR=str(below))
    assert (place, printed) == (below / f"modelpar-{compilation.key()}", "")
    assert not (tmp_path / ".cache").exists()


HOMES = {  # what the environment says of the user's cache, where nothing can be written by anybody, not even root
    "no such home": {"HOME": "/proc/nonexistent"},
    "a home in proc": {"HOME": "/proc"},
    "a cache in proc": {"XDG_CACHE_HOME": "/proc/1/fd/cache"},
    "a cache below a file": {"XDG_CACHE_HOME": "/etc/passwd/cache"},
    "a relative cache": {"XDG_CACHE_HOME": "cache", "HOME": "/proc/nonexistent"},
}


@pytest.mark.parametrize("home", HOMES.values(), ids=HOMES)
def test_else_it_is_the_temporary_folder(chosen, home: dict[str, str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / f"modelpar-{os.getuid()}"
    place, printed = chosen(**home, TMPDIR=str(tmp_path))
    assert place == own / "compiled" / compilation.key()
    assert own.stat().st_mode & 0o777 == 0o700
    assert printed.count("\n") == 1
    assert printed.startswith("modelpar: compiled kernels cannot be kept in ")
    assert printed.endswith(f"they are kept in {own / 'compiled'}\n")
    assert [path.name for path in tmp_path.iterdir()] == [own.name], "nothing else in the working directory"


def test_no_home_is_made(chosen, tmp_path: Path) -> None:
    absent, temporary = tmp_path / "absent", tmp_path / "temporary"
    temporary.mkdir()
    place, printed = chosen(HOME=str(absent), TMPDIR=str(temporary))
    assert place == temporary / f"modelpar-{os.getuid()}" / "compiled" / compilation.key()
    assert f"({absent} does not exist)" in printed
    assert not absent.exists()


@pytest.mark.parametrize("temporary", ["/proc", "/etc/passwd", "/proc/nonexistent/tmp"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_else_there_is_none_which_one_rank_tells(chosen, temporary: str, rank: str, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    place, printed = chosen(HOME="/proc/nonexistent", TMPDIR=temporary, PMI_RANK=rank)
    assert place is None
    assert printed.count("\n") == (rank == "0")
    if printed:
        assert "cannot be kept in /proc/nonexistent/.cache/modelpar/compiled (" in printed
        assert temporary in printed
        assert "NUMBA_CACHE_DIR" in printed


def test_a_chosen_folder_that_cannot_be_written_is_named(chosen, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file, usual = tmp_path / "file" / "cache", tmp_path / ".cache" / "modelpar" / "compiled"
    place, printed = chosen(HOME=str(tmp_path), NUMBA_CACHE_DIR=str(file))
    assert place == usual / compilation.key()
    assert printed == (
        f"modelpar: compiled kernels cannot be kept in {file} (Not a directory); they are kept in {usual}\n"
    )


def test_a_user_without_a_home_has_no_folder_called_tilde(chosen, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a number that no file of users knows
    monkeypatch.chdir(tmp_path)
    place, printed = chosen(TMPDIR=str(tmp_path))
    assert place == tmp_path / f"modelpar-{os.getuid()}" / "compiled" / compilation.key()
    assert "(no home is known)" in printed
    assert len(list(tmp_path.iterdir())) == 1


def test_a_temporary_folder_of_others_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "user_folder", lambda: None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    own = tmp_path / f"modelpar-{os.getuid()}"
    own.mkdir()
    own.chmod(0o777)
    assert caches.first_writable("compiled")[0] is None
    own.chmod(0o700)
    assert caches.first_writable("compiled") == (own / "compiled", {Path("~/compiled"): "no home is known"})
    (own / "compiled").rmdir()
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    place, why = caches.first_writable("compiled")
    assert place is None
    assert "another user" in list(why.values())[-1]


def test_without_any_place_kernels_are_compiled_all_the_same(tmp_path: Path) -> None:
    (value, place), printed = run(cwd=tmp_path, HOME="/proc/nonexistent", TMPDIR="/proc")
    assert (value, place) == ("6.0", "None")
    assert printed.count("\n") == (not numba.config.DISABLE_JIT)
    assert not list(tmp_path.iterdir())


# what is found there


@compiles
def test_what_was_compiled_is_loaded_and_the_users_own_functions_stay_where_they_are(kernel, tmp_path: Path) -> None:
    before = numba.config.CACHE_DIR
    assert kernel()(3) == 6
    (file,) = compiled_files(tmp_path / "kept")
    stamp = file.stat().st_mtime_ns
    again = kernel()
    assert again(4) == 8
    assert (sum(again.stats.cache_hits.values()), file.stat().st_mtime_ns) == (1, stamp)
    assert before == numba.config.CACHE_DIR


@compiles
@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_damaged_files_are_made_anew(kernel, damage: bytes, tmp_path: Path, capsys) -> None:
    assert kernel()(3) == 6
    files = [*compiled_files(tmp_path), *tmp_path.rglob("*.nbi")]
    for path in files:
        path.write_bytes(damage)
    assert kernel()(3) == 6
    assert all(path.read_bytes() != damage for path in files)
    last = kernel()
    assert (last(3), sum(last.stats.cache_hits.values())) == (6, 1)
    assert not capsys.readouterr().err


@compiles
def test_a_folder_that_goes_while_it_is_used_is_made_again(kernel, tmp_path: Path, capsys) -> None:
    made = kernel()
    assert made(3) == 6
    shutil.rmtree(tmp_path / "kept")
    assert made(3.5) == 7.0
    assert compiled_files(tmp_path)
    assert not capsys.readouterr().err


@compiles
def test_a_disk_that_is_full_is_said_once(kernel, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    monkeypatch.setattr(compilation, "_reports", lambda: True)
    compilation._reported.cache_clear()
    assert (kernel()(3), kernel()(4)) == (6, 8)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "No space left on device" in printed
    compilation._reported.cache_clear()


# what the name tells


@compiles
def test_a_change_of_an_inner_function_is_seen(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "modelpar", tree / "modelpar", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np\nfrom modelpar.kernels.sampling import philox\nout, none = np.empty(2), np.empty(0)\n"
        "philox.box_muller(np.ones(2, np.uint32), np.ones(2, np.uint32), out, out.copy())\nprint(out.tolist())"
    )
    (before,), _ = run(code, cwd=tmp_path, packages=tree, HOME=str(tmp_path))
    file = (
        tree / "modelpar" / "kernels" / "sampling" / "elementary.py"
    )  # compiled into philox, whose file stays what it is
    file.write_text(file.read_text().replace("return exponent * _LN2_HIGH", "return 4 * exponent * _LN2_HIGH"))
    (after,), _ = run(code, cwd=tmp_path, packages=tree, HOME=str(tmp_path))
    assert before != after


def test_a_change_of_any_source_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [tmp_path / f"{i}-{path.name}" for i, path in enumerate(compilation.sources())]
    for copy, path in zip(copies, compilation.sources(), strict=True):
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(compilation, "sources", lambda: copies)
    keys = {compilation.key.__wrapped__()}
    for n, copy in enumerate(copies, 2):
        copy.write_bytes(copy.read_bytes() + b"#")
        keys.add(compilation.key.__wrapped__())
        assert len(keys) == n, copy


@pytest.mark.parametrize(
    ("name", "value"),
    [("CPU_NAME", "generic"), ("CPU_FEATURES", "+avx2"), ("OPT", 1), ("BOUNDSCHECK", 1), ("LOOP_VECTORIZE", 0)],
)
def test_another_processor_or_setting_is_another_folder(name: str, value: object, monkeypatch) -> None:
    monkeypatch.setattr(numba.config, name, value)
    assert compilation.key.__wrapped__() != compilation.key()


@pytest.mark.parametrize("part", ["numba.__version__", "llvmlite.__version__", "np.__version__", "sys.version"])
def test_another_version_is_another_folder(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"modelpar.machine.compilation.{part}", "0.0")
    assert compilation.key.__wrapped__() != compilation.key()


def test_every_module_with_kernels_is_in_the_name() -> None:
    known = set(compilation.sources())
    package = ROOT / "modelpar"
    with_kernels = {path for path in package.rglob("*.py") if "compilation import njit" in path.read_text()}
    assert with_kernels <= known
    assert len(with_kernels) > 15
    for path in known - {package / "machine" / "compilation.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "numba":
                assert "njit" not in [name.name for name in node.names], f"{path} must take njit from compilation"


def test_what_kernels_use_of_other_modules_is_in_the_name_too() -> None:
    """A constant that is imported from elsewhere is frozen into compiled code."""
    package = ROOT / "modelpar"
    known = set(compilation.sources())
    for path in known - {package / "machine" / "compilation.py"}:
        tree = ast.parse(path.read_text())
        origin = {
            alias.asname or alias.name: node.module
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("modelpar.")
            for alias in node.names
        }
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list):
            for name in {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} & origin.keys():
                file = ROOT.joinpath(*origin[name].split("."))
                assert file.with_suffix(".py") in known or file.is_dir(), f"{path.name}: {name} of {origin[name]}"


def test_old_folders_go_and_the_newest_few_stay(tmp_path: Path) -> None:
    names = [f"{n:020x}" for n in range(9)]
    now = time.time()
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kernel.nbc").touch()
        os.utime(tmp_path / name, (now - 1e6 * age, now - 1e6 * age))
    (tmp_path / "something else").mkdir()
    compilation._remove_others(tmp_path / names[0])
    assert {path.name for path in tmp_path.iterdir()} == {*names[: compilation.KEPT + 1], "something else"}
