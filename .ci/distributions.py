"""Whether a wheel and a source distribution hold what they must:   python .ci/distributions.py FILE.whl FILE.tar.gz

Everything that git knows below a folder must be there, so that nothing new is forgotten: in the wheel the two packages,
in the source distribution the tests, the documentation and the examples too.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

WHEEL = ("modelpar/", "partitioners/")
SOURCE = (*WHEEL, "tests/", "docs/", "examples/", "CHANGELOG.md", "README.md", "LICENSE", "pyproject.toml")
# Whatever git says.
CERTAIN = ("modelpar/py.typed", "partitioners/py.typed", "modelpar/data/embedded/")


def names(path: Path) -> set[str]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}  # without the folder of the version


def missing(path: Path, tracked: list[str]) -> list[str]:
    wanted = WHEEL if path.suffix == ".whl" else SOURCE
    there = names(path)
    certain = [name for name in CERTAIN if not any(found.startswith(name) for found in there)]
    return certain + [name for name in tracked if name.startswith(wanted) and name not in there]


def main(paths: list[Path]) -> int:
    tracked = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()
    if sorted(path.suffix for path in paths) != [".gz", ".whl"]:
        print(f"expected a wheel and a source distribution, but there are {[path.name for path in paths]}")
        return 1
    lacking = {path.name: missing(path, tracked) for path in paths}
    for name, files in lacking.items():
        print(f"{name}: {', '.join(files) or 'nothing'} is missing")
    return int(any(lacking.values()))


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
