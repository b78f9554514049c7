"""The embedded data set: 1797 handwritten digits of 8 x 8 pixels, grey values 0 to 16.

UCI Optdigits (Alpaydin and Kaynak 1998), test part; see ``embedded/README.md`` for origin and licence.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelpar.data.arrays import open_npz
from modelpar.data.dataset import Source
from modelpar.formats.archive import Archive

FILE = Path(__file__).with_name("embedded") / "optdigits.npz"


def open_digits() -> Source:
    """The digits and their labels, without a test set of their own."""
    return replace(open_npz(Archive(FILE)), scale=16.0)
