"""Searches are compiled wherever they are installed, and kept where nobody else can write."""

from __future__ import annotations

import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest
from numba.core import caching

from partitioners import compilation


def twice(x: int) -> int:
    return 2 * x


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither beside the sources nor in the user's cache directory is room; partitioners alone are used."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserProvidedCacheLocator])
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.delitem(sys.modules, "modelpar", raising=False)
    for name in compilation.RANKS:
        monkeypatch.delenv(name, raising=False)
    compilation._spare_folder.cache_clear()
    yield
    compilation._spare_folder.cache_clear()


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
@pytest.mark.parametrize("kind", ["spare", "missing", "file", "open to others", "other rank"])
def test_searches_run_without_a_place_for_them(
    kind: str, nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "none" if kind == "missing" else tmp_path
    monkeypatch.setenv("TMPDIR", str(folder))
    place = folder / f"partitioners-{compilation.os.getuid()}"
    if kind == "file":
        place.touch()
    elif kind == "open to others":
        place.mkdir()
        place.chmod(0o777)
    elif kind == "other rank":
        monkeypatch.setenv("PMI_RANK", "1")
    made = [compilation.njit(nogil=True)(twice) for _ in range(2)]
    assert [one(21) for one in made] == [42, 42]
    assert numba.config.CACHE_DIR == ""
    kept = kind in ("spare", "other rank")
    assert bool(list(place.rglob("*.nbi")) if place.is_dir() else []) == kept
    printed = capfd.readouterr().err
    assert printed.count("\n") == (0 if kind == "other rank" else 1)
    if kind != "other rank":
        assert (str(place) in printed) == kept
        assert ("NUMBA_CACHE_DIR" in printed) != kept


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_a_cache_of_other_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba itself looks at the file of the function only, which is the same here."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    hits = []
    for stamp in ("one", "one", "two"):
        monkeypatch.setattr(compilation, "_stamp", lambda stamp=stamp: stamp)
        compiled = compilation.njit(nogil=True)(twice)
        assert compiled(21) == 42
        hits.append(sum(compiled.stats.cache_hits.values()))
    assert hits == [0, 1, 0]


def test_the_stamp_is_of_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of the package counts: with one of them changed the stamp is another one."""
    read, stamps = Path.read_bytes, {compilation._stamp.__wrapped__()}
    files = sorted(Path(compilation.__file__).parent.glob("*.py"))
    for changed in files:
        monkeypatch.setattr(Path, "read_bytes", lambda path, changed=changed: read(path) + b" " * (path == changed))
        stamps.add(compilation._stamp.__wrapped__())
    assert len(stamps) == 1 + len(files)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_no_folder_is_made_where_no_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba would make one called ``~`` in the working directory."""

    def nobody(*_: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserWideCacheLocator])
    monkeypatch.setattr(compilation, "_spare_folder", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert compilation.njit(nogil=True)(twice)(21) == 42
    assert not list(tmp_path.iterdir())
