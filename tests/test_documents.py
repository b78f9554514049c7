"""Every block of the README and of the documentation runs as it stands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import extent, jobs, pages

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if any(b.language in pages.RUN for b in pages.blocks(page.read_text()))]
LIMIT = 300  # seconds for one page


def run_page(page: Path, cwd: Path, limit: float = LIMIT) -> jobs.Outcome:
    """In ``cwd``, with this interpreter's commands first and the tree beside the tests, installed or not."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return jobs.run([sys.executable, ROOT / "tests" / "pages.py", page], limit=limit, cwd=cwd, PYTHONPATH=path)


@pytest.mark.parametrize("page", extent.quick(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path).check()


PAGE = """
Text.

```python
x = 41
```

<!-- not run: it would fail -->
```python
x = 1 / 0
```

```text
neither is this
```

```console
$ printf %s \\
    7 > seven
anything printed
$ cat seven
7
```

    ```bash
    test "$(cat seven)" = 7
    ```

```python
assert x == 41 and open("seven").read() == "7"
```
"""


def test_blocks_of_a_page() -> None:
    result = list(pages.blocks(PAGE))
    assert [b.language for b in result] == ["python", "python", "text", "console", "bash", "python"]
    assert [b.not_run for b in result] == [None, "it would fail", None, None, None, None]
    assert [b.line for b in result][:2] == [5, 10]
    assert result[4].code == 'test "$(cat seven)" = 7\n'
    assert pages.commands(result[3].code) == "printf %s \\\n    7 > seven\ncat seven\n"


def test_a_page_runs_in_order(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    run_page(page, tmp_path, limit=60).check()
    assert (tmp_path / "seven").read_text() == "7"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("```python\nx = 1\nassert x == 2\n```\n", "line 3"),
        ("```bash\nfalse\ntrue\n```\n", "line 2: this block ended with status 1"),
        ("```console\n$ false | true\n$ true\n```\n", "line 2: this block ended with status 1"),
    ],
)
def test_a_failing_block_fails_its_page(block: str, expected: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(block)
    outcome = run_page(page, tmp_path, limit=60)
    assert outcome.returncode == 1
    assert expected in outcome.output
