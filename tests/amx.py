"""Kernels on tiles (AMX) where no tiles are: any command with emulated ones, whose instructions take microseconds each.

    python -m tests.amx python -m pytest tests/kernels

``amx.c`` is what makes it so; numba is told to compile for such a processor.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import llvmlite.binding

SOURCE = Path(__file__).with_suffix(".c")
FEATURES = ("amx-tile", "amx-int8", "amx-bf16")
COMPILER = os.environ.get("CC", "cc")


def obstacle() -> str:
    """Why nothing is emulated here; empty where it can be."""
    host = llvmlite.binding.get_host_cpu_features()
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the emulator of tiles is for Linux on x86-64"
    if host["amx-tile"]:
        return "this processor has tiles: all tests use them"
    if not host["avx512bw"]:
        return "kernels on tiles use AVX-512 too, which this processor has not"
    return "" if shutil.which(COMPILER) else f"no C compiler: {COMPILER}"


def build(folder: Path) -> Path:
    """Compile the emulator, and return its library."""
    library = folder / "libamx.so"
    options = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
    subprocess.run([COMPILER, *options, "-o", library, SOURCE, "-ldl", "-lm"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """The variables of a process that has these tiles."""
    features = [llvmlite.binding.get_host_cpu_features().flatten(), *(f"+{feature}" for feature in FEATURES)]
    return {"LD_PRELOAD": str(library), "NUMBA_CPU_FEATURES": ",".join(features)}


if __name__ == "__main__":
    if obstacle():
        sys.exit(obstacle())
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(subprocess.call(sys.argv[1:], env={**os.environ, **environment(build(Path(folder)))}))
