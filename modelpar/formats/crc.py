"""CRC-32 of a part of a file, and of parts that follow each other: several ranks check one file together."""

from __future__ import annotations

import zlib
from pathlib import Path

from modelpar.files.regular import open_regular

_POLYNOMIAL = 0xEDB88320  # of zip and gzip, the highest power in the lowest bit
_CHUNK = 1 << 19  # bytes read at a time: they stay in the cache


def crc_of(path: Path, start: int, stop: int) -> int:
    """Of the bytes ``start`` to ``stop`` - 1 of a file.  Raises OSError, EOFError where it has fewer."""
    crc, room = 0, memoryview(bytearray(min(max(stop - start, 0), _CHUNK)))
    with open_regular(path) as file:
        file.seek(start)
        while start < stop:
            n = file.raw.readinto(room[: stop - start])  # type: ignore[attr-defined]
            if not n:
                raise EOFError
            crc, start = zlib.crc32(room[:n], crc), start + n
    return crc


def combined(first: int, second: int, n_second: int) -> int:
    """Of two parts, from those of each and the bytes of the second: ``first`` times x^(8 n), plus ``second``, modulo
    the polynomial (as zlib's crc32_combine, which Python does not have)."""
    return _times(_power(8 * n_second), first) ^ second


def _times(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _power(n: int) -> int:
    """x^n"""
    result, square = 1 << 31, 1 << 30  # 1 and x
    while n:
        if n & 1:
            result = _times(square, result)
        square, n = _times(square, square), n >> 1
    return result
