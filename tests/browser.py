"""A real browser without a window, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT = "there is no Chromium (Debian: apt-get install chromium)"


def browse(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What Chromium prints; its console is in stderr.   home: a folder for its profile"""
    own = [f"--user-data-dir={home / 'browser'}", "--headless=new", "--no-sandbox", "--disable-gpu"]
    command = [str(CHROMIUM), *own, "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
